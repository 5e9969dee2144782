"""What an archive may hold: limits, names, links. Pure rules, shared by looking into an archive and unpacking it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from localml.core.errors import Code, LocalmlError
from localml.core.limits import BYTES_PER_MEMBER, FREE_MEMBERS, MOST_MEMBERS

MAX_DEPTH = 100
MAX_NAME = 255
MAX_PATH = 3072
MAX_LINKS_FOLLOWED = 40


@dataclass(frozen=True, slots=True)
class Limits:
    """How much an archive may unpack to.

    ``files`` counts everything that is made, folders included; beyond ``files_from`` there is one for every
    ``bytes_per_file`` bytes of the archive that were read so far. ``size`` is in bytes. ``ratio`` is how many bytes one
    byte of the archive may become; it is looked at once ``ratio_from`` bytes are unpacked, so that small archives
    of zeros pass. All are counted while unpacking: what an archive's headers claim is not believed.
    """

    files: int = MOST_MEMBERS
    files_from: int = FREE_MEMBERS
    bytes_per_file: int = BYTES_PER_MEMBER
    size: int = 20 << 30
    ratio: float = 250.0
    ratio_from: int = 256 << 20


@dataclass(frozen=True, slots=True)
class ArchiveInfo:
    """An archive that keeps all rules.

    ``kind`` is ``tar``, ``tar.gz``, ``tar.bz2``, ``tar.xz`` or ``zip``; ``files`` counts files and links, ``size``
    their bytes unpacked; ``top_names`` are the sorted names at its top.
    """

    kind: str
    files: int
    size: int
    top_names: tuple[str, ...]


class MemberKind(StrEnum):
    """What a member of an archive makes."""

    FILE = "file"
    FOLDER = "folder"
    SYMLINK = "symlink"
    HARDLINK = "hardlink"


def refused(name: str, why: str, code: Code = Code.INVALID) -> LocalmlError:
    """The failure that names a member; names that are no Unicode text are shown escaped."""
    shown = name[:200].encode("utf-8", "backslashreplace").decode()
    return LocalmlError(code, f"archive: member {shown!r} {why}", field="archive", details={"member": shown})


def corrupt(why: object) -> LocalmlError:
    """The failure of an archive that cannot be read to its end."""
    shown = str(why).encode("utf-8", "backslashreplace").decode()
    return LocalmlError(Code.INVALID, f"archive: is truncated or corrupt: {shown}", field="archive")


class Meter:
    """Counts what is unpacked against the limits.

    Args:
        packed: how many bytes of the archive have been used so far.
    """

    def __init__(self, limits: Limits, packed: Callable[[], int]) -> None:
        self._limits = limits
        self._packed = packed
        self._made = 0
        self._streamed = 0
        self.size = 0

    def made(self, name: str, count: int = 1) -> None:
        """Count files, links or folders that the member makes."""
        self._made += count
        if self._made > self._limits.files:
            raise refused(name, f"is one too many: at most {self._limits.files} are unpacked", Code.TOO_LARGE)
        if self._made > self._limits.files_from and self._made * self._limits.bytes_per_file > self._packed():
            each = (
                f"{self._made} in {self._packed()} bytes of the archive, at most one in {self._limits.bytes_per_file}"
            )
            raise refused(name, f"is one too many: {each}", Code.TOO_LARGE)

    def announced(self, count: int) -> None:
        """Look at how many members there will be, where an archive says so before them."""
        if count > self._limits.files:
            words = f"archive: holds {count} members, at most {self._limits.files} are unpacked"
            raise LocalmlError(Code.TOO_LARGE, words, field="archive")

    def wrote(self, name: str, count: int) -> None:
        """Count bytes of a member's content."""
        self.size += count
        if self.size > self._limits.size:
            raise refused(name, f"is too much: at most {self._limits.size} bytes are unpacked", Code.TOO_LARGE)
        self._check_ratio(self.size, name)

    def streamed(self, count: int) -> None:
        """Count bytes that came out of a decompressor, headers and padding included."""
        self._streamed += count
        if self._streamed > self._limits.size + 4096 * (self._limits.files + 16):
            raise LocalmlError(Code.TOO_LARGE, "archive: unpacks to more than is allowed", field="archive")
        self._check_ratio(self._streamed, "")

    def _check_ratio(self, unpacked: int, name: str) -> None:
        if unpacked > self._limits.ratio_from and unpacked > self._limits.ratio * max(self._packed(), 1):
            raise refused(name, f"unpacks to over {self._limits.ratio:g} times its packed size", Code.TOO_LARGE)


def clean_name(name: str) -> str:
    """The relative path that a member's name stands for, without empty parts and ``.``; empty for the top itself.

    Raises:
        LocalmlError: ``INVALID`` for absolute names, ``..``, NUL, and names that no file can have.
    """
    if name.startswith("/"):
        raise refused(name, "has an absolute name")
    if "\0" in name:
        raise refused(name, "has a NUL byte in its name")
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if ".." in parts:
        raise refused(name, "has '..' in its name")
    try:
        sizes = [len(part.encode("utf-8", "surrogateescape")) for part in parts]
    except UnicodeEncodeError:
        raise refused(name, "has a name that is no text") from None
    if len(parts) > MAX_DEPTH:
        raise refused(name, f"lies more than {MAX_DEPTH} folders deep")
    if max(sizes, default=0) > MAX_NAME or sum(sizes) + len(sizes) > MAX_PATH:
        raise refused(name, "has a name that is too long")
    return "/".join(parts)


class Tree:
    """The files, folders and links that the members so far make. A later member of the same name wins, as with tar."""

    def __init__(self, meter: Meter) -> None:
        self._meter = meter
        self.folders: set[str] = set()
        self.files: set[str] = set()
        self.links: dict[str, str] = {}

    def add(self, name: str, kind: MemberKind, target: str = "") -> tuple[str, MemberKind, str]:
        """Take in a member.

        Returns:
            Its path, what it makes, and its target: for a hard link the path of a file that is there. A hard link
            to a symbolic link makes the same symbolic link.
        """
        path = clean_name(name)
        if not path:
            if kind is not MemberKind.FOLDER:
                raise refused(name, "has no name")
            return path, kind, ""
        self._add_folders(name, path.rpartition("/")[0])
        if kind is MemberKind.FOLDER:
            self._add_folders(name, path)
            return path, kind, ""
        if path in self.folders:
            raise refused(name, "has the name of a folder")
        self._meter.made(name)
        if kind is MemberKind.HARDLINK:
            kind, target = self._hard_link(name, target)
        if kind is MemberKind.SYMLINK:
            self.files.discard(path)
            self.links[path] = target
        else:
            self.links.pop(path, None)
            self.files.add(path)
        return path, kind, target

    def check_links(self) -> None:
        """Refuse symbolic links that leave the tree at any step, taken together with all other links."""
        for path, target in self.links.items():
            self._check_link(path, target)

    def top_names(self) -> tuple[str, ...]:
        """The sorted names at the top."""
        everything = (*self.folders, *self.files, *self.links)
        return tuple(sorted({path.partition("/")[0] for path in everything}))

    def _add_folders(self, name: str, path: str) -> None:
        parts = path.split("/") if path else []
        for depth in range(1, len(parts) + 1):
            folder = "/".join(parts[:depth])
            if folder in self.links:
                raise refused(name, f"would be written through the link {folder!r}")
            if folder in self.files:
                raise refused(name, f"lies below {folder!r}, which is a file")
            if folder not in self.folders:
                self._meter.made(name)
                self.folders.add(folder)

    def _hard_link(self, name: str, target: str) -> tuple[MemberKind, str]:
        found = clean_name(target)
        if found in self.links:
            if found.rpartition("/")[0] != clean_name(name).rpartition("/")[0]:
                raise refused(name, "is a hard link to a symbolic link of another folder")
            return MemberKind.SYMLINK, self.links[found]
        if found not in self.files:
            raise refused(name, "is a hard link to a file that the archive does not hold before it")
        return MemberKind.HARDLINK, found

    def _check_link(self, path: str, target: str) -> None:
        if not target or "\0" in target:
            raise refused(path, "is a link without a usable target")
        place = path.split("/")[:-1]
        ahead = target.split("/")[::-1]
        followed = 0
        if target.startswith("/"):
            raise refused(path, "is a link to an absolute path")
        while ahead:
            part = ahead.pop()
            if part in ("", "."):
                continue
            if part == "..":
                if not place:
                    raise refused(path, "is a link that leads out of the archive")
                place.pop()
                continue
            place.append(part)
            further = self.links.get("/".join(place))
            if further is None:
                continue
            followed += 1
            if followed > MAX_LINKS_FOLLOWED or further.startswith("/"):
                raise refused(path, "is a link that leads in a circle or out of the archive")
            place.pop()
            ahead.extend(further.split("/")[::-1])
