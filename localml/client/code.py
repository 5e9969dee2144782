"""Packing a folder of code: what belongs to it, as one archive that is the same whenever its content is.

Patterns are git's, read by pathspec: ``.gitignore`` of the folder, of those below it and of those above it up to the
repository's top, and beside each ``.localmlignore``, whose lines come last and so win. A folder that is ignored is not
looked into.
"""

from __future__ import annotations

import hashlib
import os
import stat
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING

from localml.client.errors import ClientError
from localml.core.home import expanded
from localml.core.quantities import format_memory

if TYPE_CHECKING:
    from pathspec import GitIgnoreSpec

IGNORE_FILES = (".gitignore", ".localmlignore")
ALWAYS = (".git/", ".hg/", ".svn/", "__pycache__/", ".venv/", ".ipynb_checkpoints/")
"""Left out unless a ``.localmlignore`` takes it back (``!.venv/``): nobody means these by their code."""
_TIME = 315_532_800  # 1980, the first that zip files know: a time must not make another archive of the same files
_LARGEST = 3


@dataclass(frozen=True, slots=True)
class _Rules:
    """Patterns of one folder. Before they see a path of the packed one, ``strip`` characters go and ``add`` comes."""

    patterns: GitIgnoreSpec
    strip: int = 0
    add: str = ""

    def include(self, path: str) -> bool | None:
        """Whether they ignore it; None when they say nothing."""
        return self.patterns.check_file(self.add + path[self.strip :]).include


@dataclass(slots=True)
class Listing:
    """What is in a folder: ``paths`` relative to it, in order, and what is ``left_out`` though nothing ignores it."""

    paths: list[str] = field(default_factory=list)
    sizes: dict[str, int] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Packed:
    """A folder as an archive.

    Attributes:
        code: ``sha256:`` and the SHA-256 of the archive.
        files: how many there are, and ``size`` their bytes.
        left_out: links that lead out of the folder, pipes and the like, with the reason each.
        file: the archive, at its beginning; ``packed_size`` its bytes.
    """

    code: str
    files: int
    size: int
    left_out: tuple[str, ...]
    file: IO[bytes]
    packed_size: int


@contextmanager
def pack(folder: Path, limit: int) -> Iterator[Packed]:
    """The archive of a folder, for as long as the block lasts.

    Args:
        limit: bytes of its files, at most.

    Raises:
        ClientError: ``invalid``, ``too_large`` with the largest of what is in it.
    """
    top = Path(os.path.realpath(expanded(folder, "code")))
    if not top.is_dir():
        raise ClientError("invalid", f"code: {folder} is not a folder", field="code")
    try:
        found = listed(top)
    except OSError as error:
        raise _unreadable(folder, error) from error
    size = sum(found.sizes.values())
    if size > limit:
        raise _too_large(folder, found, size, limit)
    with tempfile.TemporaryFile() as file:
        try:
            _write(top, found, file)
        except OSError as error:
            raise _unreadable(folder, error) from error
        packed_size = file.tell()
        file.seek(0)
        code = f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"
        file.seek(0)
        yield Packed(code, len(found.sizes), size, tuple(found.left_out), file, packed_size)


def listed(top: Path) -> Listing:
    """What belongs to the code in a folder that is given without links."""
    found = Listing()
    _list(top, "", (_Rules(_patterns(ALWAYS)), *_above(top)), found)
    return found


def _list(top: Path, prefix: str, above: Sequence[_Rules], found: Listing) -> None:
    rules = (*above, *_rules_in(top / prefix, strip=len(prefix)))
    with os.scandir(top / prefix) as entries:
        inside = sorted(entries, key=lambda entry: entry.name)
    for entry in inside:
        path = prefix + entry.name
        folder = entry.is_dir(follow_symlinks=False)
        if _ignored(f"{path}/" if folder else path, rules):
            continue
        if folder:
            found.paths.append(f"{path}/")
            _list(top, f"{path}/", rules, found)
        elif why := _not_packed(top, entry):
            found.left_out.append(f"{path} {why}")
        else:
            found.paths.append(path)
            found.sizes[path] = 0 if entry.is_symlink() else entry.stat().st_size


def _not_packed(top: Path, entry: os.DirEntry[str]) -> str:
    """Why something that is no folder stays behind; empty when it does not."""
    if not entry.is_symlink():
        return "" if entry.is_file() else "is neither a file nor a folder"
    real = Path(os.path.realpath(entry.path))
    if os.path.isabs(os.readlink(entry.path)) or not real.is_relative_to(top):
        return f"is a link that leads out of the folder (to {real}); --mount shows such a thing to a job"
    return ""


def _ignored(path: str, rules: Sequence[_Rules]) -> bool:
    """By the last rules that say anything about it."""
    return next((found for one in reversed(rules) if (found := one.include(path)) is not None), False)


def _rules_in(folder: Path, *, strip: int = 0, add: str = "") -> Iterator[_Rules]:
    files = [folder / name for name in IGNORE_FILES if (folder / name).is_file()]
    lines = [line for file in files for line in file.read_text(errors="surrogateescape").splitlines()]
    if lines:
        yield _Rules(_patterns(lines), strip, add)


def _above(top: Path) -> tuple[_Rules, ...]:
    """Rules of the folders above, if the folder lies in a git repository; none where they ignore the folder itself, for
    it is asked for."""
    repository = next((one for one in (top, *top.parents) if (one / ".git").exists()), top)
    folders = [one for one in reversed(top.parents) if one.is_relative_to(repository)]
    rules = tuple(one for folder in folders for one in _rules_in(folder, add=f"{top.relative_to(folder).as_posix()}/"))
    return () if _ignored("", rules) else rules


def _patterns(lines: Sequence[str]) -> GitIgnoreSpec:
    from pathspec import GitIgnoreSpec

    return GitIgnoreSpec.from_lines(lines)


def _unreadable(folder: Path, error: OSError) -> ClientError:
    words = f"code: {error.filename or folder} cannot be read: {error.strerror or error}"
    return ClientError("invalid", words, field="code")


def _too_large(folder: Path, found: Listing, size: int, limit: int) -> ClientError:
    tops: dict[str, int] = {}
    for path, bytes_ in found.sizes.items():
        first, slash, _ = path.partition("/")
        tops[first + slash] = tops.get(first + slash, 0) + bytes_
    largest = sorted(tops.items(), key=lambda one: -one[1])[:_LARGEST]
    words = ", ".join(f"{name} {format_memory(bytes_)}" for name, bytes_ in largest)
    return ClientError(
        "too_large",
        f"code: {folder} holds {format_memory(size)} in {len(found.sizes)} files, at most {format_memory(limit)} are "
        f"sent; the largest: {words}. Name what is no code in a .localmlignore (as in a .gitignore), put data into a "
        "bucket (localml cp), or allow more (--code-limit)",
        field="code",
        details={"given": size, "limit": limit},
    )


def _write(top: Path, found: Listing, file: IO[bytes]) -> None:
    """A tar whose bytes follow from names, contents and whether a file may be run."""
    with tarfile.open(fileobj=file, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for path in found.paths:
            place = top / path
            member = tarfile.TarInfo(path.rstrip("/"))
            member.mtime = _TIME
            if place.is_symlink():
                member.type, member.linkname = tarfile.SYMTYPE, os.readlink(place)
                archive.addfile(member)
            elif path.endswith("/"):
                member.type, member.mode = tarfile.DIRTYPE, 0o755
                archive.addfile(member)
            else:
                with place.open("rb") as content:
                    info = os.fstat(content.fileno())
                    member.size, member.mode = info.st_size, 0o755 if info.st_mode & stat.S_IXUSR else 0o644
                    archive.addfile(member, content)
