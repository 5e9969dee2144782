"""Merging streams: nothing is lost, nothing comes twice, wherever reading stops and goes on, in both directions."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from helpers.outputs import append, big, counted, sources_of
from hypothesis import given
from hypothesis import strategies as st

from localml.core.logs.files import MARK, LogStore, side_file
from localml.core.logs.reader import (
    behind,
    last_bytes,
    marked,
    pieces,
    tail,
    whole_lines,
    window,
    window_before,
)
from localml.core.logs.sources import Position

MIB = 1 << 20
SOURCES = sources_of((0, 1), (1, 1), (0, 2), (1, 2))
CHUNKS = st.lists(
    st.tuples(
        st.integers(0, 7), st.binary(min_size=1, max_size=12) | st.sampled_from([b"\n", b"ab\n", b"a\nb\n", b"c"])
    ),
    max_size=24,
)


def written(folder: Path, chunks: list[tuple[int, bytes]]) -> tuple[LogStore, list[bytes]]:
    """Two tries of two replicas with two streams each, written to in the order of ``chunks``."""
    store, contents = LogStore(folder), [b""] * 8
    for at, (number, data) in enumerate(chunks):
        append(store, SOURCES[number], float(at // 2), data)
        contents[number] += data
    return store, contents


def expected(chunks: list[tuple[int, bytes]]) -> list[bytes]:
    """All lines in order: by tries, then by the time of their newlines (two chunks share one), then by source."""
    found: list[bytes] = []
    for attempt in (1, 2):
        parts: dict[int, bytes] = {}
        timed = [(at // 2, *chunk) for at, chunk in enumerate(chunks) if SOURCES[chunk[0]].attempt == attempt]
        for _, number, data in sorted(timed, key=lambda one: one[:2]):
            *lines, rest = (parts.pop(number, b"") + data).split(b"\n")
            found += lines
            if rest:
                parts[number] = rest
        found += [parts[number] for number in sorted(parts)]
    return found


def all_lines(store: LogStore) -> list[bytes]:
    shown = b"".join(piece.data for piece in whole_lines(store, SOURCES, Position()))
    assert not shown or shown.endswith(b"\n")
    return shown.split(b"\n")[:-1]


@given(CHUNKS, st.integers(1, 9))
def test_parts_of_any_size_make_the_whole(chunks: list[tuple[int, bytes]], limit: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        store, contents = written(Path(folder), chunks)
        position, got, order = Position(), [b""] * 8, list[tuple[int, bytes]]()
        while part := list(pieces(store, SOURCES, position, limit)):
            assert sum(len(piece.data) for piece in part) <= limit
            for piece in part:
                got[piece.number] += piece.data
                order += [(piece.number, bytes([one])) for one in piece.data]
                position.offsets[piece.number] = piece.end
            position = Position.parse(str(position))
        assert got == contents
        at_once = [(piece.number, bytes([one])) for piece in pieces(store, SOURCES, Position()) for one in piece.data]
        assert order == at_once


@given(CHUNKS)
def test_lines_come_in_the_order_of_their_newlines(chunks: list[tuple[int, bytes]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        store, contents = written(Path(folder), chunks)
        assert all_lines(store) == expected(chunks)
        position = Position([0] * 8)
        for piece in whole_lines(store, SOURCES, position.copy()):
            position.offsets[piece.number] = piece.end
        assert position.offsets == [len(content) for content in contents]


@given(CHUNKS, st.integers(1, 5))
def test_windows_forwards_and_backwards_give_the_same_lines(chunks: list[tuple[int, bytes]], count: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        store, _ = written(Path(folder), chunks)
        wanted, forwards, backwards = expected(chunks), list[bytes](), list[bytes]()
        position = Position()
        while (found := window(store, SOURCES, position, count, over=True)).lines:
            assert len(found.lines) <= count
            assert behind(store, SOURCES, len(forwards)).offsets == [*found.start.offsets, *[0] * 8][:8]
            forwards += found.lines
            position = Position.parse(str(found.end))
        while (found := window_before(store, SOURCES, position, count)).lines:
            assert len(found.lines) == min(count, len(wanted) - len(backwards))
            backwards = found.lines + backwards
            position = Position.parse(str(found.start))
        assert forwards == backwards == wanted


@given(CHUNKS, st.integers(0, 6))
def test_the_tail_is_the_end_of_the_whole(chunks: list[tuple[int, bytes]], wanted: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        store, _ = written(Path(folder), chunks)
        start = tail(store, SOURCES, wanted)
        shown = b"".join(piece.data for piece in whole_lines(store, SOURCES, start))
        whole = all_lines(store)
        assert shown.split(b"\n")[:-1] == whole[max(0, len(whole) - wanted) :]


@given(
    st.lists(st.tuples(st.integers(0, 3), st.binary(max_size=20), st.floats(0, 100)), max_size=8),
    st.integers(0, 8),
    st.integers(0, 15),
)
def test_no_byte_is_lost_whatever_a_side_file_says(
    chunks: list[tuple[int, bytes, float]], kept: int, torn: int
) -> None:
    """Clocks that step back, marks that were lost, and half a mark."""
    with tempfile.TemporaryDirectory() as folder:
        store, contents = LogStore(Path(folder)), [b""] * 4
        for number, data, at in chunks:
            append(store, SOURCES[number], at, data)
            contents[number] += data
        index = side_file(store.path(1, SOURCES[0].name, SOURCES[0].stream))
        if index.exists():
            index.write_bytes(index.read_bytes()[: kept * MARK.size + torn])
        got = [b""] * 4
        for piece in pieces(store, SOURCES[:4], Position()):
            got[piece.number] += piece.data
        assert got == contents
        whole = sum(content.count(b"\n") + (content[-1:] not in (b"", b"\n")) for content in contents)
        for count in range(whole + 1):
            start = tail(store, SOURCES[:4], count)
            shown = [content[at:] for content, at in zip(contents, start.offsets, strict=True)]
            unfinished = sum(part[-1:] not in (b"", b"\n") for part in shown)
            assert b"".join(shown).count(b"\n") + unfinished == count


def test_marked_lines_begin_with_their_replica(tmp_path: Path) -> None:
    store, _ = written(tmp_path, [(0, b"a\nb"), (2, b"c\n")])
    assert b"".join(map(marked, whole_lines(store, SOURCES, Position()))) == b"[main-0] a\n[main-1] c\n[main-0] b\n"


def test_a_line_that_is_not_over_yet_is_not_given(tmp_path: Path) -> None:
    store, _ = written(tmp_path, [(0, b"a\nhalf")])
    found = window(store, SOURCES, Position(), 9, over=False)
    assert (found.lines, str(found.end)) == ([b"a"], "2,0,0,0,0,0,0,0")
    assert window(store, SOURCES, found.end, 9, over=False).lines == []
    assert window(store, SOURCES, found.end, 9, over=True).lines == [b"half"]


def test_a_line_without_end_is_given_in_parts(tmp_path: Path) -> None:
    store, line = LogStore(tmp_path), b"x" * 300_000
    append(store, SOURCES[0], 1, line + b"\nlast\n")
    parts = list(whole_lines(store, SOURCES, Position()))
    assert b"".join(part.data for part in parts) == line + b"\nlast\n"
    assert max(len(part.data) for part in parts) < 200_000
    assert tail(store, SOURCES, 2).offsets[0] == 0
    assert window(store, SOURCES, Position(), 2, over=True).end.offsets[0] == len(line) + 6


def test_a_log_that_is_removed_while_it_is_read_ends(tmp_path: Path) -> None:
    store = LogStore(tmp_path)
    append(store, SOURCES[0], 1, b"x\n" * MIB)
    reading = pieces(store, SOURCES, Position())
    assert next(reading).end == 1 << 16
    store.path(1, SOURCES[0].name, SOURCES[0].stream).unlink()
    assert list(reading) == []


def test_marks_that_are_removed_while_they_are_read_end(tmp_path: Path) -> None:
    store = LogStore(tmp_path)
    big(store, SOURCES[0], b"x\n", MIB, marks=1000)
    marks = SOURCES[0].marks(store)
    reading = marks.forwards(0)
    assert next(reading) == (0, 0.0)
    side_file(store.path(1, SOURCES[0].name, "stdout")).unlink()
    assert len(list(reading)) == 255
    assert (marks.upto(9), marks.latest, list(marks.forwards(9)), list(marks.backwards(9))) == (0, 0.0, [], [])


def test_the_last_bytes_are_shared_and_begin_with_a_line(tmp_path: Path) -> None:
    store = LogStore(tmp_path)
    append(store, SOURCES[0], 1, b"12345\n" * 1000)
    append(store, SOURCES[1], 1, b"short\n")
    append(store, SOURCES[2], 1, b"1234567\n" * 1000)
    offsets = last_bytes(store, SOURCES[:4], 1006).offsets
    assert [size - offset for size, offset in zip((6000, 6, 8000, 0), offsets, strict=True)] == [498, 6, 496, 0]
    assert last_bytes(store, SOURCES[:4], 1 << 20).offsets == [0, 0, 0, 0]


@pytest.mark.parametrize("replicas", [1, 4])
def test_the_last_ten_lines_of_a_gibibyte_read_less_than_a_mebibyte(tmp_path: Path, replicas: int) -> None:
    """With a million marks. Most of the files are holes: nobody may read there."""
    store, sources = LogStore(tmp_path), sources_of(*((index, 1) for index in range(replicas)))
    for source in sources:
        big(store, source, b"0123456789" * 20 + b"\n", 1 << 30, marks=1_000_000 // replicas)
    with counted() as reads:
        start = tail(store, sources, 10)
        found = list(whole_lines(store, sources, start))
    assert sum(piece.data.count(b"\n") for piece in found) == 10
    assert 0 < reads.bytes < MIB // 4


def test_files_of_older_lines_are_not_read_for_the_last_ones(tmp_path: Path) -> None:
    store, sources = LogStore(tmp_path), sources_of(*((index, 1) for index in range(100)))
    for place, source in enumerate(sources):
        append(store, source, float(place), b"x" * 99 + b"\n" + b"y" * 9899 + b"\n")
    with counted() as reads:
        offsets = tail(store, sources, 3).offsets
    assert [number for number, offset in enumerate(offsets) if 0 < offset < 10_000] == [198]
    assert offsets[199] == 0
    assert reads.bytes < 100_000


def test_going_on_behind_a_million_marks_reads_the_news_alone(tmp_path: Path) -> None:
    store, sources = LogStore(tmp_path), sources_of((0, 1))
    big(store, sources[0], b"a line\n", 1 << 28, marks=1_000_000, end=b"new\n")
    end = Position.end(store, sources)
    with counted() as reads:
        found = list(pieces(store, sources, Position([end.offsets[0] - 4, 0])))
    assert [piece.data for piece in found] == [b"new\n"]
    assert reads.bytes == 4


def test_half_a_mark_is_passed_over(tmp_path: Path) -> None:
    store = LogStore(tmp_path)
    append(store, SOURCES[0], 5.0, b"out\n")
    append(store, SOURCES[1], 4.0, b"err\n")
    with side_file(store.path(1, SOURCES[1].name, "stderr")).open("ab") as index:
        index.write(b"\xff" * 9)
    assert all_lines(store) == [b"err", b"out"]


def test_bytes_of_one_stream_are_read_where_they_lie(tmp_path: Path) -> None:
    store = LogStore(tmp_path)
    append(store, SOURCES[0], 1.0, b"one\n")
    append(store, SOURCES[0], 3.0, b"three\n")
    name = SOURCES[0].name
    assert store.tail(1, name, "stdout", 6) == b"three\n"
    assert store.read(1, name, "stdout", 4, 3) == b"thr"
    assert store.read(1, "nobody", "stdout", 0, 3) == b""


def bar(states: int) -> bytes:
    """What a progress bar wrote: one line, whose states are parted by carriage returns."""
    return b"".join(b"\r%7d/%d" % (number, states) for number in range(states + 1))


@pytest.mark.parametrize("ended", [b"\n", b"\r\n", b""])
@pytest.mark.parametrize("states", [1 << 16, 1 << 20])
def test_of_a_long_bar_the_newest_states_are_the_last_line(tmp_path: Path, states: int, ended: bytes) -> None:
    """One of 16 MiB, too; what is before a bar is found behind it."""
    store = LogStore(tmp_path)
    append(store, SOURCES[0], 1, b"before\n" + bar(states) + ended)
    start = tail(store, SOURCES, 1)
    shown = b"".join(piece.data for piece in pieces(store, SOURCES, start))
    assert shown.endswith(b"\r%7d/%d" % (states, states) + ended)
    assert len(shown) <= 1 << 16
    assert shown.lstrip().split(b"/")[1].startswith(b"%d\r" % states)  # it begins with a whole state
    if states < 1 << 18:
        assert tail(store, SOURCES, 2).offsets[0] == 0


def test_the_last_bytes_of_a_bar_begin_with_a_state(tmp_path: Path) -> None:
    store = LogStore(tmp_path)
    append(store, SOURCES[0], 1, bar(100_000))
    start = last_bytes(store, SOURCES[:1], 50_000).offsets[0]
    assert store.read(1, SOURCES[0].name, "stdout", start - 1, 1) == b"\r"


def test_a_bar_without_end_is_given_in_whole_states(tmp_path: Path) -> None:
    store = LogStore(tmp_path)
    append(store, SOURCES[0], 1, bar(100_000))
    parts = [piece.data for piece in whole_lines(store, SOURCES, Position(), over=False)]
    assert len(parts) > 5
    assert all(part.endswith(b"\r") for part in parts)
