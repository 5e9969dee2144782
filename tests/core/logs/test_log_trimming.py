"""A service's output is kept once and only its last part: offsets stay, and whoever reads is told what is missing."""

from __future__ import annotations

import tempfile
import threading
from contextlib import closing
from pathlib import Path

import pytest
from helpers.counts import count
from helpers.outputs import sources_of
from hypothesis import given, settings
from hypothesis import strategies as st

from localml.core.holes import on_disk
from localml.core.logs import trimming
from localml.core.logs.files import LogStore, base_file, side_file
from localml.core.logs.reader import Lines, last_bytes, pieces, tail, whole_lines
from localml.core.logs.sources import Position, Source
from localml.core.logs.trimming import keep_last
from localml.core.logs.writer import LogWriter

SOURCES = sources_of((0, 1))
OUT, ERR = SOURCES
MIB = 1 << 20
LINE = b"line %08d of what a service says all day long, and nobody reads until it fails\n"


def written(store: LogStore, lines: range, at: float = 1000.0) -> None:
    with closing(LogWriter(store, 1, OUT.name)) as writer:
        for number in lines:
            writer.append("stdout", LINE % number, at + number)


def path_of(store: LogStore, source: Source = OUT) -> Path:
    return store.path(1, source.name, source.stream)


def disk(path: Path) -> int:
    with path.open("rb") as file:
        return on_disk(file.fileno())


def test_a_service_that_writes_for_ever_keeps_its_last_output_and_its_offsets(tmp_path: Path) -> None:
    store, whole = LogStore(tmp_path, most=lambda _: MIB), b"".join(LINE % number for number in range(100_000))
    count("bytes of output", len(whole))
    written(store, range(60_000))
    written(store, range(60_000, 100_000))  # another server goes on where the first one ended
    assert OUT.size(store) == len(whole)
    assert store.kept(1, OUT.name, "stdout") <= MIB
    assert disk(path_of(store)) + disk(side_file(path_of(store))) <= 2 * MIB
    base = OUT.base(store)
    assert len(whole) - MIB <= base <= len(whole) - MIB // 2
    given = b"".join(piece.data for piece in pieces(store, SOURCES, Position()))
    assert given == whole[base:]
    assert given.startswith(b"line ")


def test_who_asks_for_what_is_gone_is_told_how_much_and_gets_the_rest(tmp_path: Path) -> None:
    store = LogStore(tmp_path)
    written(store, range(10_000))
    size = OUT.size(store)
    assert keep_last(path_of(store), size // 2) > size // 3
    base = OUT.base(store)
    first, *others = pieces(store, SOURCES, Position([100, 0]))
    assert first.gone == base - 100
    assert first.notice() == b"[localml] %d bytes of older output are kept no more\n" % (base - 100)
    assert {piece.gone for piece in others} == {0}
    assert Position.start(store, SOURCES).offsets == [base, 0]
    behind = list(pieces(store, SOURCES, Position([base, 0])))
    assert (behind[0].gone, behind[0].data) == (0, first.data)


def test_the_last_lines_and_bytes_never_reach_into_the_hole(tmp_path: Path) -> None:
    store = LogStore(tmp_path)
    written(store, range(1000))
    keep_last(path_of(store), 10 * len(LINE % 0))
    base, size = OUT.base(store), OUT.size(store)
    assert tail(store, SOURCES, 3).offsets == [size - 3 * len(LINE % 0), 0]
    assert tail(store, SOURCES, 5000).offsets == [base, 0]
    assert last_bytes(store, SOURCES, 1 << 30).offsets == [base, 0]
    lines = b"".join(piece.data for piece in whole_lines(store, SOURCES, Position()))
    assert lines == b"".join(LINE % number for number in range(1000 - (size - base) // len(LINE % 0), 1000))
    assert store.tail(1, OUT.name, "stdout", 1 << 20) == lines


def test_half_a_line_before_the_gap_is_a_line_of_its_own(tmp_path: Path) -> None:
    store = LogStore(tmp_path)
    with closing(LogWriter(store, 1, OUT.name)) as writer:
        writer.append("stdout", b"half", 1.0)
        lines, (half,) = Lines(), pieces(store, SOURCES, Position())
        assert list(lines.feed(half)) == []
        writer.append("stdout", b" of it" + b"x" * 9000 + b"\nlast\n", 2.0)
    keep_last(path_of(store), 5)
    (rest,) = pieces(store, SOURCES, Position([half.end, 0]))
    assert [(one.data, one.gone) for one in lines.feed(rest)] == [(b"half\n", 0), (b"last\n", 9007)]


def test_what_is_given_back_while_it_is_read_is_skipped_not_read_as_zeros(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = LogStore(tmp_path)
    written(store, range(20_000))
    read = LogStore.read

    def late(self: LogStore, number: int, name: str, stream: str, offset: int, limit: int) -> bytes:
        if offset > 0:
            keep_last(path_of(store), 100_000)
        return read(self, number, name, stream, offset, limit)

    monkeypatch.setattr(LogStore, "read", late)
    found = list(pieces(store, SOURCES, Position()))
    assert not any(b"\0" in piece.data for piece in found)
    assert sum(len(piece.data) + piece.gone for piece in found) == OUT.size(store)
    monkeypatch.setattr(LogStore, "read", read)
    end = OUT.size(store)
    monkeypatch.setattr(LogStore, "read", late)
    keep_last(path_of(store), 50_000)
    assert tail(store, SOURCES, 100_000).offsets[0] == OUT.base(store) < end


def test_a_server_that_dies_between_note_and_hole_lost_nothing_that_it_still_tells_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = LogStore(tmp_path)
    written(store, range(10_000))
    whole = path_of(store).read_bytes()

    def dies(*_: object) -> bool:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(trimming, "_makes_holes", lambda _: True)
        patch.setattr(trimming, "punch", dies)
        with pytest.raises(KeyboardInterrupt):
            keep_last(path_of(store), 100_000)
    base = OUT.base(store)
    assert b"".join(piece.data for piece in pieces(store, SOURCES, Position())) == whole[base:]
    assert keep_last(path_of(store), 100_000) > 400_000
    assert OUT.base(store) == base


def test_where_no_holes_are_made_all_of_it_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(trimming, "punch", lambda *_: False)
    store = LogStore(tmp_path, most=lambda _: MIB // 4)
    written(store, range(10_000))
    assert OUT.base(store) == 0
    assert b"".join(piece.data for piece in pieces(store, SOURCES, Position())) == path_of(store).read_bytes()
    assert "makes no holes" in caplog.text


def test_a_stream_without_a_file_has_nothing_to_give(tmp_path: Path) -> None:
    store = LogStore(tmp_path)
    assert keep_last(path_of(store, ERR), 10) == 0
    assert not base_file(path_of(store, ERR)).exists()


CHUNKS = st.lists(
    st.one_of(
        st.tuples(st.integers(0, 1), st.binary(min_size=1, max_size=40).map(lambda data: data.replace(b"\0", b"\n"))),
        st.tuples(st.integers(0, 1), st.integers(1, 60)),
    ),
    max_size=25,
)


@settings(max_examples=150)
@given(CHUNKS, st.integers(0, 80), st.integers(0, 80))
def test_whatever_is_written_and_given_back_each_byte_is_given_or_counted(
    steps: list[tuple[int, bytes | int]], first: int, second: int
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        store, whole = LogStore(Path(folder)), [b"", b""]
        with closing(LogWriter(store, 1, OUT.name)) as writer:
            for at, (number, step) in enumerate(steps):
                if isinstance(step, int):
                    keep_last(path_of(store, SOURCES[number]), step)
                else:
                    writer.append(SOURCES[number].stream, step, float(at))
                    whole[number] += step
        start = [min(first, len(whole[0])), min(second, len(whole[1]))]
        offsets = list(start)
        for piece in pieces(store, SOURCES, Position(list(start))):
            offsets[piece.number] += piece.gone
            assert piece.data == whole[piece.number][offsets[piece.number] : piece.end]
            offsets[piece.number] = piece.end
        assert offsets == [len(one) for one in whole]
        for number, source in enumerate(SOURCES):
            kept = store.read(1, source.name, source.stream, source.base(store), 10_000)
            assert kept == whole[number][source.base(store) :]


def test_two_that_give_back_at_once_never_take_the_note_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What one made a hole of, the other must not tell of as if it were there."""
    store = LogStore(tmp_path)
    written(store, range(20_000))
    whole, makes_holes = path_of(store).read_bytes(), trimming._makes_holes
    others: list[threading.Thread] = []

    def beside(path: Path) -> bool:
        if not others:
            others.append(threading.Thread(target=keep_last, args=(path, 20_000)))
            others[0].start()
            others[0].join(0.3)
        return makes_holes(path)

    monkeypatch.setattr(trimming, "_makes_holes", beside)
    keep_last(path_of(store), 500_000)
    others[0].join()
    base = OUT.base(store)
    assert len(whole) - base <= 20_000
    assert b"".join(piece.data for piece in pieces(store, SOURCES, Position())) == whole[base:]
