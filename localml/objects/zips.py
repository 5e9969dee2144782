"""A folder of objects as a zip file, made while it is sent: neither it nor any object is ever held as a whole."""

from __future__ import annotations

import time
import zipfile
from collections.abc import Iterator
from typing import BinaryIO

from localml.core.errors import Code, LocalmlError
from localml.objects.access import BucketsFor
from localml.objects.buckets import ObjectInfo

_BLOCK = 1 << 18
_LARGE = 1 << 30
"""Bytes from which an entry has 64-bit sizes: long before they could be needed, as what does not compress grows."""
_FIRST, _LAST = (1980, 1, 1, 0, 0, 0), (2107, 12, 31, 23, 59, 58)
"""What the format can say of a time."""


def zip_blocks(view: BucketsFor, uri: str) -> Iterator[bytes]:
    """The objects below a folder as a zip, in blocks; what is written while it is read has the size that it had first.

    Objects that are gone when it is their turn are left out.

    Raises:
        LocalmlError: before the first block, when there is no such folder.
    """
    base = uri.rstrip("/")
    found = [one for one in view.list(uri, recursive=True) if not one.is_folder]
    return _blocks(view, found, len(base) + 1)


def _blocks(view: BucketsFor, found: list[ObjectInfo], start: int) -> Iterator[bytes]:
    sink = _Sink()
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for one in found:
            try:
                file = view.open(one.uri)
            except LocalmlError as error:
                if error.code is not Code.NOT_FOUND:
                    raise
                continue
            with file:
                yield from _entry(archive, sink, file, one, one.uri[start:])
    yield sink.taken()


def _entry(archive: zipfile.ZipFile, sink: _Sink, file: BinaryIO, one: ObjectInfo, name: str) -> Iterator[bytes]:
    entry = zipfile.ZipInfo(name, _zip_time(one.modified))
    entry.compress_type, entry.external_attr = zipfile.ZIP_DEFLATED, 0o100644 << 16
    left = one.size
    with archive.open(entry, "w", force_zip64=one.size >= _LARGE) as target:
        while left and (block := file.read(min(left, _BLOCK))):
            target.write(block)
            left -= len(block)
            if sink.size >= _BLOCK:
                yield sink.taken()


def _zip_time(seconds: float) -> tuple[int, int, int, int, int, int]:
    year, month, day, hour, minute, second = time.gmtime(seconds)[:6]
    return max(_FIRST, min(_LAST, (year, month, day, hour, minute, second)))


class _Sink:
    """What is written, until it is taken; it cannot seek, so sizes stand behind each entry."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self.size = 0

    def write(self, data: bytes) -> int:
        self._parts.append(bytes(data))
        self.size += len(data)
        return len(data)

    def flush(self) -> None:
        """Nothing waits here."""

    def close(self) -> None:
        """What was written is still to be taken."""

    def taken(self) -> bytes:
        """All that came since the last time."""
        found = b"".join(self._parts)
        self._parts, self.size = [], 0
        return found
