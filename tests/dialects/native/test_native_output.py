"""Merging streams: nothing is lost, nothing comes twice, wherever reading stops and goes on."""

from __future__ import annotations

import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from localml.core.logs.files import MARK, LogStore
from localml.dialects.native.translate.output import Lines, Position, Source, pieces, tail_position

CHUNKS = st.lists(
    st.tuples(st.integers(0, 3), st.binary(min_size=1, max_size=12) | st.sampled_from([b"\n", b"ab\n", b"a\nb\n"])),
    max_size=20,
)


def written(folder: Path, chunks: list[tuple[int, bytes]]) -> tuple[LogStore, list[Source], list[bytes]]:
    """Two replicas with two streams each, written to in the order of ``chunks``."""
    store = LogStore(folder)
    sources = [
        Source(1, f"r{replica}", stream, f"main-{replica}", 1) for replica in (0, 1) for stream in ("stdout", "stderr")
    ]
    contents = [b""] * 4
    for at, (number, data) in enumerate(chunks):
        path = store.path(1, sources[number].name, sources[number].stream)
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab") as file, path.with_suffix(path.suffix + ".idx").open("ab") as marks:
            marks.write(MARK.pack(len(contents[number]), float(at)))
            file.write(data)
        contents[number] += data
    return store, sources, contents


@settings(max_examples=60, deadline=None)
@given(CHUNKS, st.integers(1, 9))
def test_parts_of_any_size_make_the_whole(chunks: list[tuple[int, bytes]], limit: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        store, sources, contents = written(Path(folder), chunks)
        position, got = Position(), [b""] * 4
        while True:
            part = list(pieces(store, sources, position, limit))
            for piece in part:
                got[piece.number] += piece.data
                position.offsets[piece.number] = piece.end
            position = Position.parse(str(position))
            if not part:
                break
        assert got == contents


@settings(max_examples=60, deadline=None)
@given(CHUNKS)
def test_marked_lines_are_whole_and_complete(chunks: list[tuple[int, bytes]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        store, sources, contents = written(Path(folder), chunks)
        lines = Lines(Position())
        shown = b"".join(lines.feed(piece) for piece in pieces(store, sources, Position(), 1 << 20)) + lines.rest()
        wanted = [
            f"[{source.replica}] ".encode() + line
            for source, content in zip(sources, contents, strict=True)
            for line in content.removesuffix(b"\n").split(b"\n")
            if content
        ]
        assert sorted(shown.removesuffix(b"\n").split(b"\n")) == sorted(wanted or [b""])
        lines.position.fit(4)
        assert lines.position.offsets == [len(content) for content in contents]


@settings(max_examples=60, deadline=None)
@given(CHUNKS, st.integers(0, 6))
def test_the_tail_has_that_many_lines(chunks: list[tuple[int, bytes]], wanted: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        store, sources, contents = written(Path(folder), chunks)
        position = tail_position(store, sources, wanted)
        there = sum(content.removesuffix(b"\n").count(b"\n") + 1 for content in contents if content)
        shown = 0
        for content, offset in zip(contents, position.offsets, strict=True):
            assert offset == 0 or offset == len(content) or content[offset - 1 : offset] == b"\n"
            shown += content[offset:].removesuffix(b"\n").count(b"\n") + 1 if content[offset:] else 0
        assert shown == min(wanted, there)
