"""Giving the oldest part of a stream's output back to the disk: its offsets stay, what was before is a hole.

Where the rest begins stands in a small file beside it (``.base``), which is safely on disk before the hole is made.
So who reads bytes and then finds that their place still counts has read bytes, not the zeros of a hole; and a server
that is killed in between has told of a hole that is not there yet, which the next one makes.

A file system that makes no holes keeps all of it until the file itself goes; nothing is told then.
"""

from __future__ import annotations

import logging
import os
import threading
from pathlib import Path

from localml.core.holes import on_disk, punch
from localml.core.log_limits import Sparing
from localml.core.logs.files import BASE, MARK, Marks, base_file, base_of, read_at, side_file, size_of

log = logging.getLogger("localml.logs")
_sparing = Sparing(log, every=3600.0)
_LINE = 1 << 16
_one = threading.Lock()  # a stream's writer and who makes room may be at it at once: the note must only ever grow


def keep_last(path: Path, limit: int) -> int:
    """Give the beginning of a stream's file back, so that about its last ``limit`` bytes stay, from a line on.

    Returns:
        Bytes that the disk has got back; 0 where there is nothing to give, or no holes are made.

    Raises:
        OSError: the disk failed, or has no room for the few bytes of the note.
    """
    with _one:
        size, known = size_of(path), base_of(path)
        start = _line(path, size - limit, size) if size - limit > known else known
        if start <= 0:
            return 0
        try:
            fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return 0
        try:
            return _give_back(path, fd, known, start)
        finally:
            os.close(fd)


def _line(path: Path, offset: int, size: int) -> int:
    """Where the first line behind an offset begins, before the end; the offset itself where none is near."""
    at = read_at(path, offset, min(_LINE, size - offset - 1)).find(b"\n")
    return offset + max(0, at + 1)


def _give_back(path: Path, fd: int, known: int, start: int) -> int:
    before = on_disk(fd)
    if start > known:
        if not _makes_holes(path):
            _sparing.warning("holes", "the file system of %s makes no holes: output stays as long as its file", path)
            return 0
        _note(path, start)
    punch(fd, 0, start)
    _trim_marks(path, start)
    return max(0, before - on_disk(fd))


def _makes_holes(path: Path) -> bool:
    """Tried on the note, in which nothing is lost by it."""
    fd = os.open(base_file(path), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
    try:
        return punch(fd, BASE.size, 1)
    finally:
        os.close(fd)


def _note(path: Path, start: int) -> None:
    fd = os.open(base_file(path), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
    try:
        os.pwrite(fd, BASE.pack(start), 0)
        os.fsync(fd)
    finally:
        os.close(fd)


def _trim_marks(path: Path, start: int) -> None:
    """Marks of what is gone become zeros, which stand before all others; the one that the rest begins under stays."""
    gone = Marks(side_file(path)).upto(start) - 1
    try:
        fd = os.open(side_file(path), os.O_WRONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        punch(fd, 0, gone * MARK.size)
    finally:
        os.close(fd)
