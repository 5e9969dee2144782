"""Writing a replica's output: its two streams' files, and side files that say when."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from localml.core.failpoints import FAILPOINTS
from localml.core.logs.files import MARK, LogStore, Marks, base_of, side_file, size_of
from localml.core.logs.sources import STREAMS
from localml.core.logs.trimming import keep_last

_GAP_S = 0.01
"""What was written so soon after a mark needs none of its own, so that short lines do not each cost one."""
_BLOCK = 1 << 16
_TICK_S = 1e-6


class _File:
    """One stream's file and its side file, open at their ends."""

    def __init__(self, path: Path) -> None:
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        path.parent.mkdir(parents=True, exist_ok=True)
        self.index = os.open(side_file(path), flags, 0o640)
        try:
            self.fd = os.open(path, flags, 0o640)
        except OSError:
            os.close(self.index)
            raise
        self.size = os.fstat(self.fd).st_size
        self.marked, self.at = 0, 0.0
        self.path, self.base = path, base_of(path)
        # a crash took bytes that marks are about, or left half a mark
        os.ftruncate(self.index, Marks(side_file(path)).upto(self.size - 1) * MARK.size)

    def mark(self, at: float) -> None:
        os.write(self.index, MARK.pack(self.size, at))
        self.marked, self.at = self.size, at

    def write(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            written = os.write(self.fd, view)
            self.size += written
            view = view[written:]

    def keep(self, most: int) -> None:
        """Of more than so many bytes the last three quarters of them stay, so that this is seldom done."""
        if self.size - self.base > most:
            with suppress(OSError):  # what cannot be given back now is with the next part
                keep_last(self.path, most - most // 4)
            self.base = max(base_of(self.path), self.size - most + most // 4)

    def close(self) -> None:
        os.close(self.fd)
        os.close(self.index)


class LogWriter:
    """Appends to the files of one replica, and notes when. Files are made with the first byte: many a stream has none.

    A stream gets a mark when the other one wrote in between, 10 ms after its last mark, or 64 KiB behind it: so the
    order of the two streams is kept exactly, that of replicas to 10 ms, and side files stay small. Marks only ever
    grow, even if the clock steps back. Of a workload that keeps its last output only the beginning goes as it grows.

    Raises:
        OSError: the disk is full, or cannot be written.
    """

    def __init__(self, store: LogStore, workload_id: int, name: str) -> None:
        self._paths = {stream: store.path(workload_id, name, stream) for stream in STREAMS}
        self._place = store.path(workload_id, name, "place")
        self._files: dict[str, _File] = {}
        self._last: str | None = None
        self._most = store.most(workload_id)
        self._latest = max(Marks(side_file(path)).latest for path in self._paths.values())

    def size(self, stream: str) -> int:
        """Bytes in a stream's file."""
        file = self._files.get(stream)
        return size_of(self._paths[stream]) if file is None else file.size

    def append(self, stream: str, data: bytes, at: float) -> None:
        """Add bytes that were written at ``at``."""
        file = self._files.get(stream)
        if file is None:
            file = self._files[stream] = _File(self._paths[stream])
        if stream != self._last or at - file.at >= _GAP_S or file.size - file.marked >= _BLOCK:
            self._latest = max(at, self._latest + _TICK_S)
            file.mark(self._latest)
            self._last = stream
            FAILPOINTS.hit("after-mark")
        file.write(data)
        FAILPOINTS.hit("after-output")
        if self._most is not None:
            file.keep(self._most)

    @property
    def place(self) -> str:
        """The engine's note of how far its log was read; empty when there is none."""
        try:
            return self._place.read_text()
        except FileNotFoundError:
            return ""

    def note(self, place: str) -> None:
        """Keep such a note, whole or not at all."""
        self._place.parent.mkdir(parents=True, exist_ok=True)
        fresh = self._place.with_name(f"{self._place.name}.new")
        fresh.write_text(place)
        fresh.replace(self._place)

    def sync(self) -> dict[str, int]:
        """Have what was written safely on disk; how much that is of each stream that has a file open."""
        for file in self._files.values():
            os.fdatasync(file.fd)
        return {stream: file.size for stream, file in self._files.items()}

    def close(self) -> None:
        """Close the files."""
        for file in self._files.values():
            file.close()
