"""The files of a folder of this machine, as they are copied elsewhere. Links are followed; what is left out is told.

A link to a folder that it lies in is not followed, and no folder is gone through more often than :data:`MOST_COPIES`
times: a few links that cross would be a tree without end.
"""

from __future__ import annotations

import errno
import os
import stat
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from localml.client.types import LeftOut

OF_ALL_FILES = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EPIPE)
"""What is wrong with the disk, and so for each file of a folder."""
MOST_COPIES = 16
"""How often one folder is copied, to each place from which a link leads to it."""
AROUND = "a link to a folder that it lies in"
TOO_OFTEN = f"a link to a folder that was copied {MOST_COPIES} times by now"
_KINDS = ((stat.S_ISFIFO, "a pipe"), (stat.S_ISSOCK, "a socket"))


@dataclass(frozen=True, slots=True)
class Local:
    """A file, or a folder whose ``relative`` name ends in a slash. ``size`` in bytes."""

    path: Path
    relative: str
    size: int = 0


@dataclass(slots=True)
class Tree:
    """What a folder holds, sorted: its files and those of its folders that hold no file themselves."""

    found: list[Local] = field(default_factory=list)
    left_out: list[LeftOut] = field(default_factory=list)

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(one.size for one in self.found)


_Identity = tuple[int, int]


@dataclass(frozen=True, slots=True)
class _Folder:
    path: Path
    relative: str  # empty, or with a slash at its end
    above: tuple[_Identity, ...]  # those that it lies in, and itself


def walk(folder: Path) -> Tree:
    """All that is below a folder.

    Raises:
        OSError: the folder itself cannot be read.
    """
    tree = Tree()
    times: Counter[_Identity] = Counter()
    waiting = [_Folder(folder, "", (_identity(folder.stat()),))]
    os.listdir(folder)
    while waiting:
        waiting += reversed(_enter(waiting.pop(), tree, times))
    return tree


def _enter(folder: _Folder, tree: Tree, times: Counter[_Identity]) -> list[_Folder]:
    """Add a folder's files to the tree; gives the folders in it."""
    try:
        names = sorted(os.listdir(folder.path))
    except OSError as error:
        tree.left_out.append(left_out(folder.path, _words(error)))
        return []
    deeper: list[_Folder] = []
    before = len(tree.found)
    for name in names:
        path = folder.path / name
        try:
            if inner := _take(path, folder, tree, times):
                deeper.append(inner)
        except OSError as error:
            tree.left_out.append(left_out(path, _words(error)))
    if folder.relative and len(tree.found) == before:
        tree.found.append(Local(folder.path, folder.relative))
    return deeper


def _take(path: Path, folder: _Folder, tree: Tree, times: Counter[_Identity]) -> _Folder | None:
    """Add one entry of a folder to the tree; gives it if it is a folder to be entered."""
    info = path.stat()
    relative = folder.relative + path.name
    reason = _reason(path, info, folder, times)
    if reason is not None:
        tree.left_out.append(left_out(path, reason))
    elif stat.S_ISDIR(info.st_mode):
        times[_identity(info)] += 1
        return _Folder(path, f"{relative}/", (*folder.above, _identity(info)))
    else:
        tree.found.append(Local(path, relative, info.st_size))
    return None


def _reason(path: Path, info: os.stat_result, folder: _Folder, times: Counter[_Identity]) -> str | None:
    """Why something is left out, if it is."""
    try:
        path.name.encode()
    except UnicodeEncodeError:
        return "its name is not UTF-8"
    if stat.S_ISDIR(info.st_mode):
        if _identity(info) in folder.above:
            return AROUND
        return TOO_OFTEN if times[_identity(info)] >= MOST_COPIES else None
    if stat.S_ISREG(info.st_mode):
        return None
    return next((words for fits, words in _KINDS if fits(info.st_mode)), "a device")


def left_out(path: Path, reason: str) -> LeftOut:
    """Something that is not copied; of a name that is not UTF-8 the bytes are shown."""
    return LeftOut(str(path).encode(errors="surrogateescape").decode(errors="backslashreplace"), reason)


def _identity(info: os.stat_result) -> _Identity:
    return info.st_dev, info.st_ino


def _words(error: OSError) -> str:
    return "a link that leads nowhere" if error.errno == errno.ENOENT else error.strerror or str(error)
