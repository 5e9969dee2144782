"""Folders that jobs of several accounts of this machine write to, and the server beside them.

A shared folder belongs to a group, which all that is made in it gets, too (setgid), and whose members may write: also
what programs make there whose umask would not let them, where the file system keeps access lists.
"""

from __future__ import annotations

import errno
import os
import stat
import struct
from contextlib import suppress
from pathlib import Path

from localml.objects.files import folder_handle

_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_SHARED = stat.S_ISGID | 0o070
_DEFAULT_LIST = "system.posix_acl_default"
_NOBODY = 0xFFFFFFFF
_GROUP_WRITES = struct.pack("<IHHIHHIHHI", 2, 0x01, 7, _NOBODY, 0x04, 7, _NOBODY, 0x20, 5, _NOBODY)
"""An access list of Linux (version 2; tag, rights and id of owner, group and others). What is made in a folder that has
it, and in those that are made there, may be written by its group, whatever the umask of who makes it."""


def share(root: Path, folder: Path, *, group: int, owner: int | None = None) -> None:
    """Make a folder, and all that is in it, shared; nothing is done when it is. Links are never followed.

    Args:
        root: a folder above it that jobs cannot replace.
        group: its group from now on.
        owner: whose it is from now on, if that changes.

    Raises:
        OSError: it cannot be, or there is a link on the way.
    """
    with folder_handle(root, folder.relative_to(root).parts) as handle:
        found = os.fstat(handle)
        shared = found.st_gid == group and found.st_mode & _SHARED == _SHARED and owner in (None, found.st_uid)
        if shared and (owner is not None or _stays_shared(handle)):
            return
        # Itself comes last, so that a walk which was cut short is begun anew.
        for _, _, files, place in os.fwalk(".", topdown=False, follow_symlinks=False, dir_fd=handle):
            for name in files:
                with suppress(OSError):  # a link or a socket, or it is gone
                    _share_file(name, place, group, owner)
            os.fchown(place, -1 if owner is None else owner, group)
            os.fchmod(place, stat.S_IMODE(os.fstat(place).st_mode) | _SHARED)
            if owner is None:
                _stay_shared(place)


def _stays_shared(folder: int) -> bool:
    """Whether what will be made in it is its group's to write, or nothing can be done for that."""
    try:
        return os.getxattr(folder, _DEFAULT_LIST) == _GROUP_WRITES
    except OSError as error:
        return error.errno != errno.ENODATA


def _stay_shared(folder: int) -> None:
    with suppress(OSError):  # a file system without access lists
        os.setxattr(folder, _DEFAULT_LIST, _GROUP_WRITES)


def _share_file(name: str, place: int, group: int, owner: int | None) -> None:
    handle = os.open(name, _READ, dir_fd=place)
    try:
        mode = os.fstat(handle).st_mode
        if stat.S_ISREG(mode):
            os.fchown(handle, -1 if owner is None else owner, group)
            os.fchmod(handle, stat.S_IMODE(mode) & 0o777 | (mode & 0o700) >> 3)
    finally:
        os.close(handle)
