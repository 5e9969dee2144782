"""A folder of objects as a zip file, made while it is sent: neither it nor any object is ever held as a whole."""

from __future__ import annotations

import time
import zipfile
import zlib
from collections.abc import Iterator
from typing import BinaryIO

from localml.core.errors import Code, LocalmlError, not_found
from localml.objects.access import BucketsFor
from localml.objects.buckets import ObjectInfo

_BLOCK = 1 << 18
_LARGE = 1 << 30
"""Bytes from which an entry has 64-bit sizes: long before they could be needed, as what does not compress grows."""
_SAMPLE, _WORTH = 1 << 16, 0.9
"""Bytes of an object that are tried, and what is left of them where it is worth the time."""
_FIRST, _LAST = (1980, 1, 1, 0, 0, 0), (2107, 12, 31, 23, 59, 58)
"""What the format can say of a time."""


def zip_blocks(view: BucketsFor, uri: str) -> Iterator[bytes]:
    """The objects below a folder as a zip, in blocks; what is written while it is read has the size that it had first.

    Objects that are gone when it is their turn are left out.

    Raises:
        LocalmlError: before the first block; ``NOT_FOUND`` when there is no such folder, or nothing in it.
    """
    base = uri.rstrip("/")
    found = [one for one in view.list(uri, recursive=True) if not one.is_folder]
    if not found:
        raise not_found("object", f"{base}/")
    return _blocks(view, found, len(base) + 1)


def _blocks(view: BucketsFor, found: list[ObjectInfo], start: int) -> Iterator[bytes]:
    sink = _Sink()
    with zipfile.ZipFile(sink, "w") as archive:
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
    block = file.read(min(left, _BLOCK))
    entry._compresslevel = _level(block)  # type: ignore[attr-defined]  # of an entry it has no other name before 3.13
    with archive.open(entry, "w", force_zip64=one.size >= _LARGE) as target:
        while block:
            target.write(block)
            left -= len(block)
            if sink.size >= _BLOCK:
                yield sink.taken()
            block = file.read(min(left, _BLOCK))


def _level(block: bytes) -> int:
    """How hard to press what begins so: not at all what is pressed already, as weights and images are."""
    return 1 if len(zlib.compress(block[:_SAMPLE], 1)) < len(block[:_SAMPLE]) * _WORTH else 0


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
