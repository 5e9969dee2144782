"""Folders that jobs of several accounts of this machine write to, and the server beside them.

A shared folder belongs to a group, which all that is made in it gets, too (setgid), and whose members may write.
"""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from pathlib import Path

from localml.objects.files import folder_handle

_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_SHARED = stat.S_ISGID | 0o070


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
        if found.st_gid == group and found.st_mode & _SHARED == _SHARED and owner in (None, found.st_uid):
            return
        # Itself comes last, so that a walk which was cut short is begun anew.
        for _, _, files, place in os.fwalk(".", topdown=False, follow_symlinks=False, dir_fd=handle):
            for name in files:
                with suppress(OSError):  # a link or a socket, or it is gone
                    _share_file(name, place, group, owner)
            os.fchown(place, -1 if owner is None else owner, group)
            os.fchmod(place, stat.S_IMODE(os.fstat(place).st_mode) | _SHARED)


def _share_file(name: str, place: int, group: int, owner: int | None) -> None:
    handle = os.open(name, _READ, dir_fd=place)
    try:
        mode = os.fstat(handle).st_mode
        if stat.S_ISREG(mode):
            os.fchown(handle, -1 if owner is None else owner, group)
            os.fchmod(handle, stat.S_IMODE(mode) & 0o777 | (mode & 0o700) >> 3)
    finally:
        os.close(handle)
