"""Holes give room back and keep offsets."""

import ctypes
import errno
import os
from pathlib import Path

import pytest

from localml.core import holes
from localml.core.holes import on_disk, punch

MIB = 1 << 20


def _file(folder: Path, flags: int = os.O_RDWR) -> int:
    path = folder / "log"
    path.write_bytes(os.urandom(4 * MIB))
    return os.open(path, flags)


def test_a_hole_gives_room_back_and_offsets_stay(tmp_path: Path) -> None:
    fd = _file(tmp_path, os.O_RDWR | os.O_APPEND)
    behind = os.pread(fd, MIB, 3 * MIB)
    before = on_disk(fd)
    assert punch(fd, 0, 3 * MIB)
    assert on_disk(fd) <= before - 3 * MIB + 4096
    assert os.fstat(fd).st_size == 4 * MIB
    assert os.pread(fd, MIB, 3 * MIB) == behind
    assert os.pread(fd, 10, MIB) == bytes(10)
    os.write(fd, b"on")
    assert os.pread(fd, 2, 4 * MIB) == b"on"
    os.close(fd)


def test_a_hole_beyond_two_gib(tmp_path: Path) -> None:
    fd = os.open(tmp_path / "log", os.O_RDWR | os.O_CREAT)
    os.pwrite(fd, b"x" * MIB, 5 << 30)
    before = on_disk(fd)
    assert punch(fd, 0, (5 << 30) + MIB // 2)
    assert on_disk(fd) <= before - MIB // 2 + 4096
    os.close(fd)


def test_nothing_to_do_is_done(tmp_path: Path) -> None:
    fd = _file(tmp_path)
    assert punch(fd, MIB, 0)
    assert punch(fd, MIB, -5)
    os.close(fd)


def test_a_file_system_without_holes_is_told_apart_from_a_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fd = _file(tmp_path, os.O_RDONLY)
    with pytest.raises(OSError, match="Bad file descriptor"):
        punch(fd, 0, MIB)

    class Refuses:
        @staticmethod
        def fallocate64(*_arguments: object) -> int:
            ctypes.set_errno(errno.EOPNOTSUPP)
            return -1

    monkeypatch.setattr(holes, "_libc", Refuses)
    assert not punch(fd, 0, MIB)
    os.close(fd)
