"""Writing output: exact order of a replica's streams, small side files, and order after crashes and clocks' steps."""

from __future__ import annotations

import tempfile
from contextlib import closing
from pathlib import Path

from helpers.outputs import sources_of
from hypothesis import given
from hypothesis import strategies as st

from localml.core.logs.files import MARK, LogStore, side_file
from localml.core.logs.reader import pieces
from localml.core.logs.sources import Position
from localml.core.logs.writer import LogWriter

SOURCES = sources_of((0, 1))
NAME = SOURCES[0].name


def written(store: LogStore, chunks: list[tuple[int, bytes, float]]) -> None:
    with closing(LogWriter(store, 1, NAME)) as writer:
        for number, data, at in chunks:
            writer.append(SOURCES[number].stream, data, at)


def read(store: LogStore) -> bytes:
    return b"".join(piece.data for piece in pieces(store, SOURCES, Position()))


CHUNKS = st.lists(st.tuples(st.integers(0, 1), st.binary(min_size=1, max_size=9), st.floats(0, 1)), max_size=12)


@given(CHUNKS, CHUNKS)
def test_both_streams_come_back_in_the_order_of_writing_whatever_the_clock_says(
    before: list[tuple[int, bytes, float]], after: list[tuple[int, bytes, float]]
) -> None:
    """Also over a restart in between."""
    with tempfile.TemporaryDirectory() as folder:
        store = LogStore(Path(folder))
        written(store, before)
        written(store, after)
        assert read(store) == b"".join(data for _, data, _ in before + after)


def test_many_short_lines_share_a_mark(tmp_path: Path) -> None:
    store = LogStore(tmp_path)
    written(store, [(0, b"a line\n", 1000 + number / 10_000) for number in range(10_000)])  # all within a second
    marks = side_file(store.path(1, NAME, "stdout")).stat().st_size // MARK.size
    assert 90 <= marks <= 101
    assert len(store.marks(1, NAME, "stderr")) == 0


def test_times_of_a_busy_stream_are_known_to_10_ms(tmp_path: Path) -> None:
    store = LogStore(tmp_path)
    written(store, [(0, b"x", 1000 + number / 1000) for number in range(1000)])
    for number in range(0, 1000, 37):
        _, at = next(store.marks(1, NAME, "stdout").backwards(number))
        assert 0 <= 1000 + number / 1000 - at < 0.0101


def test_marks_whose_bytes_a_crash_took_are_forgotten(tmp_path: Path) -> None:
    """A crash of the machine: the side file is on disk, and the end of the output isn't."""
    store = LogStore(tmp_path)
    written(store, [(number % 2, b"1234567\n", float(number)) for number in range(2, 12)])
    path = store.path(1, NAME, "stdout")
    with path.open("r+b") as file:
        file.truncate(20)
    with side_file(path).open("ab") as index:
        index.write(b"half a")
    written(store, [(0, b"again\n", 20.0), (1, b"err\n", 21.0)])
    assert list(store.marks(1, NAME, "stdout").forwards(0)) == [(0, 2.0), (8, 4.0), (16, 6.0), (20, 20.0)]
    assert read(store).endswith(b"again\nerr\n")
    assert path.read_bytes() == b"1234567\n1234567\n1234again\n"
