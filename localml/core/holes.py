"""Giving the beginning of a file back to the disk while its offsets stay: holes punched into it (fallocate(2))."""

from __future__ import annotations

import ctypes
import errno
import os

_KEEP_SIZE, _PUNCH_HOLE = 1, 2
_CANNOT = (errno.EOPNOTSUPP, errno.ENOSYS)
_libc = ctypes.CDLL(None, use_errno=True)


def punch(fd: int, offset: int, length: int) -> bool:
    """Make ``length`` bytes from ``offset`` a hole, which takes no room and reads as zeros; the size stays.

    Whole blocks in it are given back, of blocks that lie in it in part the bytes become zeros.

    Args:
        fd: open for writing; appending (``O_APPEND``) goes on as before.
        offset: in bytes, not negative.
        length: in bytes; what lies behind the end is nothing. None or less: nothing is done.

    Returns:
        False when this file system or kernel makes no holes; the file is as it was then.

    Raises:
        OSError: the disk failed, or the file is not open for writing.
    """
    if length <= 0:
        return True
    where, size = ctypes.c_int64(offset), ctypes.c_int64(length)
    while _libc.fallocate64(fd, _PUNCH_HOLE | _KEEP_SIZE, where, size):
        number = ctypes.get_errno()
        if number in _CANNOT:
            return False
        if number != errno.EINTR:
            raise OSError(number, os.strerror(number))
    return True


def on_disk(fd: int) -> int:
    """Bytes that a file takes on the disk, holes left out."""
    return os.fstat(fd).st_blocks * 512
