"""Where output lies on disk, and how it is read back: bytes at offsets, and when they were written."""

from __future__ import annotations

import os
import struct
from bisect import bisect_right
from collections.abc import Callable, Iterator
from pathlib import Path

MARK = struct.Struct("<Qd")
"""Record of the side file: offset in bytes, seconds since the epoch."""
Mark = tuple[int, float]
"""What lies at that offset, and behind it up to the next mark, was written at that time."""
BASE = struct.Struct("<Q")
"""Content of the file that says where a stream's output begins by now: an offset in bytes."""
_PAGE = 256
"""Marks read at a time."""


def read_at(path: Path, offset: int, size: int) -> bytes:
    """At most ``size`` bytes from ``offset``, and no byte more from the disk; empty at the end or without a file."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return b""
    try:
        return os.pread(fd, size, offset)
    finally:
        os.close(fd)


def size_of(path: Path) -> int:
    """Bytes in a file; 0 when there is none."""
    try:
        return os.stat(path).st_size
    except FileNotFoundError:
        return 0


def base_of(path: Path) -> int:
    """Where a stream's output begins by now; what was before was given back to the disk and reads as zeros."""
    raw = read_at(base_file(path), 0, BASE.size)
    return int(BASE.unpack(raw)[0]) if len(raw) == BASE.size else 0


def side_file(path: Path) -> Path:
    """Where the marks of a stream's file lie."""
    return path.with_name(f"{path.name}.idx")


def base_file(path: Path) -> Path:
    """Where it is said where a stream's file begins; there is none when it begins at 0."""
    return path.with_name(f"{path.name}.base")


class Marks:
    """A stream's side file. It is searched by bisection and read page by page, for it may hold millions of marks."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._count = size_of(path) // MARK.size  # a record that is torn at the end counts for nothing

    def __len__(self) -> int:
        return self._count

    @property
    def latest(self) -> float:
        """The time of the last mark; 0 when there is none."""
        return next((at for _, at in self._page(max(0, self._count - 1), self._count)), 0.0)

    def upto(self, offset: int) -> int:
        """How many marks lie at an offset or before it."""
        low, high = 0, self._count
        while high - low > _PAGE:
            middle = (low + high) // 2
            page = self._page(middle, middle + 1)
            if page and page[0][0] <= offset:
                low = middle
            else:
                high = middle
        return low + bisect_right(self._page(low, high), offset, key=lambda mark: mark[0])

    def forwards(self, offset: int) -> Iterator[Mark]:
        """The mark that says when an offset was written, and those behind it; the first when none says it."""
        for low in range(max(0, self.upto(offset) - 1), self._count, _PAGE):
            yield from self._page(low, min(low + _PAGE, self._count))

    def backwards(self, offset: int) -> Iterator[Mark]:
        """The mark that says when an offset was written, and those before it, the nearest first."""
        for high in range(max(1, self.upto(offset)), 0, -_PAGE):
            yield from reversed(self._page(max(0, high - _PAGE), high))

    def _page(self, low: int, high: int) -> list[Mark]:
        """Empty when the file was removed meanwhile."""
        raw = read_at(self._path, low * MARK.size, (high - low) * MARK.size)
        return list(MARK.iter_unpack(raw[: len(raw) // MARK.size * MARK.size]))


class LogStore:
    """Where output lies: ``<data>/logs/<workload>/<attempt name>.<stream>``.

    Args:
        most: asked how many bytes of output a workload keeps of each stream; None: all of them.
    """

    def __init__(self, data: Path, most: Callable[[int], int | None] = lambda _: None) -> None:
        self._data = data
        self.most = most

    def relative(self, workload_id: int, attempt_name: str, stream: str) -> str:
        """Path below the data directory."""
        return f"logs/{workload_id}/{attempt_name}.{stream}"

    def path(self, workload_id: int, attempt_name: str, stream: str) -> Path:
        """Absolute path of one stream's file."""
        return self._data / self.relative(workload_id, attempt_name, stream)

    def size(self, workload_id: int, attempt_name: str, stream: str) -> int:
        """Bytes written so far, those that are gone by now included: the offset of the next one."""
        return size_of(self.path(workload_id, attempt_name, stream))

    def base(self, workload_id: int, attempt_name: str, stream: str) -> int:
        """The offset of the first byte that is still there."""
        return base_of(self.path(workload_id, attempt_name, stream))

    def kept(self, workload_id: int, attempt_name: str, stream: str) -> int:
        """Bytes that are there."""
        path = self.path(workload_id, attempt_name, stream)
        return max(0, size_of(path) - base_of(path))  # of what is being removed one may be gone already

    def read(self, workload_id: int, attempt_name: str, stream: str, offset: int, limit: int) -> bytes:
        """At most ``limit`` bytes from ``offset``; empty at the end or when there is no file. What is gone is zeros."""
        return read_at(self.path(workload_id, attempt_name, stream), offset, limit)

    def tail(self, workload_id: int, attempt_name: str, stream: str, limit: int) -> bytes:
        """The last ``limit`` bytes of those that are there."""
        size, base = self.size(workload_id, attempt_name, stream), self.base(workload_id, attempt_name, stream)
        return self.read(workload_id, attempt_name, stream, max(base, size - limit), limit)

    def marks(self, workload_id: int, attempt_name: str, stream: str) -> Marks:
        """When what lies where was written."""
        return Marks(side_file(self.path(workload_id, attempt_name, stream)))
