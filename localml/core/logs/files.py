"""Where output lies on disk, and how it is read back."""

from __future__ import annotations

import struct
from pathlib import Path

MARK = struct.Struct("<Qd")
"""Record of the side file: offset in bytes, seconds since the epoch."""


class LogStore:
    """Where output lies: ``<data>/logs/<workload>/<attempt name>.<stream>``."""

    def __init__(self, data: Path) -> None:
        self._data = data

    def relative(self, workload_id: int, attempt_name: str, stream: str) -> str:
        """Path below the data directory."""
        return f"logs/{workload_id}/{attempt_name}.{stream}"

    def path(self, workload_id: int, attempt_name: str, stream: str) -> Path:
        """Absolute path of one stream's file."""
        return self._data / self.relative(workload_id, attempt_name, stream)

    def size(self, workload_id: int, attempt_name: str, stream: str) -> int:
        """Bytes kept so far."""
        try:
            return self.path(workload_id, attempt_name, stream).stat().st_size
        except FileNotFoundError:
            return 0

    def read(self, workload_id: int, attempt_name: str, stream: str, offset: int, limit: int) -> bytes:
        """At most ``limit`` bytes from ``offset``; empty at the end or when there is no file."""
        try:
            with self.path(workload_id, attempt_name, stream).open("rb") as file:
                file.seek(offset)
                return file.read(limit)
        except FileNotFoundError:
            return b""

    def tail(self, workload_id: int, attempt_name: str, stream: str, limit: int) -> bytes:
        """The last ``limit`` bytes."""
        size = self.size(workload_id, attempt_name, stream)
        return self.read(workload_id, attempt_name, stream, max(0, size - limit), limit)

    def marks(self, workload_id: int, attempt_name: str, stream: str) -> list[tuple[int, float]]:
        """(offset, time) of the chunks as they were written: what lies at ``offset`` was written at ``time``."""
        path = self.path(workload_id, attempt_name, stream).with_suffix(f".{stream}.idx")
        try:
            raw = path.read_bytes()
        except FileNotFoundError:
            return []
        whole = len(raw) // MARK.size * MARK.size
        return [(offset, at) for offset, at in MARK.iter_unpack(raw[:whole])]

    def merged(self, workload_id: int, attempt_name: str) -> list[tuple[float, str, bytes]]:
        """(time, stream, bytes) of both streams in the order of their writing."""
        pieces: list[tuple[float, int, str, bytes]] = []
        for order, stream in enumerate(("stdout", "stderr")):
            size = self.size(workload_id, attempt_name, stream)
            data = self.read(workload_id, attempt_name, stream, 0, size)
            marks = [mark for mark in self.marks(workload_id, attempt_name, stream) if mark[0] < len(data)]
            if not marks or marks[0][0] != 0:
                marks.insert(0, (0, marks[0][1] if marks else 0.0))
            bounds = [offset for offset, _ in marks] + [len(data)]
            for (start, at), end in zip(marks, bounds[1:], strict=True):
                if end > start:
                    pieces.append((at, order, stream, data[start:end]))
        pieces.sort(key=lambda piece: (piece[0], piece[1]))
        return [(at, stream, data) for at, _, stream, data in pieces]
