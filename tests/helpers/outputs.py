"""Output as the log pumps write it, at times that a test says, and counts of what is read of it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

from localml.core.logs.files import MARK, LogStore, side_file
from localml.core.logs.sources import STREAMS, Source


def sources_of(*replicas: tuple[int, int]) -> list[Source]:
    """Both streams of attempts, each given as (index of the replica, number of the try)."""
    return [
        Source(1, f"r{index}-{attempt}", stream, f"main-{index}", attempt)
        for index, attempt in replicas
        for stream in STREAMS
    ]


def append(store: LogStore, source: Source, at: float, data: bytes) -> None:
    """Write bytes with a mark of their own."""
    path = store.path(source.workload_id, source.name, source.stream)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as file, side_file(path).open("ab") as marks:
        marks.write(MARK.pack(file.tell(), at))
        file.write(data)


def big(store: LogStore, source: Source, line: bytes, size: int, *, marks: int, end: bytes = b"") -> None:
    """A file of ``size`` bytes of which the last MiB is written, lines all over; its side file has ``marks`` marks."""
    path = store.path(source.workload_id, source.name, source.stream)
    path.parent.mkdir(parents=True, exist_ok=True)
    body = line * ((1 << 20) // len(line)) + end
    with path.open("wb") as file:
        file.truncate(size - len(body))
        file.seek(0, os.SEEK_END)
        file.write(body)
    step = size / marks
    with side_file(path).open("wb") as file:
        for low in range(0, marks, 10_000):
            file.write(b"".join(MARK.pack(int(n * step), float(n)) for n in range(low, min(low + 10_000, marks))))


class Reads:
    """How much was read."""

    def __init__(self) -> None:
        self.bytes = 0


@contextmanager
def counted() -> Iterator[Reads]:
    """Counts what is read of files in the meantime, by all threads of this process."""
    reads, pread, opened = Reads(), os.pread, Path.open

    def counting(fd: int, size: int, offset: int) -> bytes:
        data = pread(fd, size, offset)
        reads.bytes += len(data)
        return data

    def writing(path: Path, mode: str = "r", *rest: Any, **more: Any) -> Any:
        assert "r" not in mode, "a log is read by os.pread alone, so that what is read can be counted"
        return opened(path, mode, *rest, **more)

    with mock.patch("os.pread", counting), mock.patch.object(Path, "open", writing):
        yield reads
