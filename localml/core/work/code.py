"""Folders of code that workloads run: one archive for each content, kept by workspace, whose members may all run it.

An archive is named by the SHA-256 of its bytes, so the same code is sent and kept once. It goes when nothing that is
not over needs it and nothing was begun with it for as long as the rules say.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from sqlalchemy import select
from sqlmodel import col

from localml.core.errors import Code, LocalmlError, invalid
from localml.core.ports import Store
from localml.core.studies.tables import Study
from localml.core.work.specs import CODE
from localml.core.work.tables import Attempt, Workload, WorkloadDetail

FOLDER = "code"
"""Below the data directory."""
CODE_IN_CONTAINER = "/code"
_SETTLED_S = 3600.0
"""An archive is that old at least before it goes: who sends one is about to submit something."""


@dataclass(frozen=True, slots=True)
class CodeArchive:
    """An archive that is kept; ``size`` in bytes, ``used_at`` when something was last submitted with it."""

    path: Path
    size: int
    used_at: float


class CodeArchives:
    """The archives of an installation.

    Args:
        data: the data directory.
    """

    def __init__(self, data: Path) -> None:
        self._folder = data / FOLDER / "archives"

    def path(self, workspace: str, code: str) -> Path:
        """Where an archive is or would be.

        Raises:
            LocalmlError: ``INVALID`` for what names no content.
        """
        if not CODE.fullmatch(code):
            raise invalid("code", f"must be 'sha256:' and 64 hexadecimal digits, not {code[:80]!r}")
        return self._folder / quote(workspace, safe="") / f"{code.removeprefix('sha256:')}.tar"

    def find(self, workspace: str, code: str) -> CodeArchive | None:
        """The archive of this content in a workspace, if there is one."""
        return _looked_at(self.path(workspace, code))

    def keep(self, file: Path, workspace: str, code: str) -> CodeArchive:
        """Take in a complete file of this content; another one of the same content is as good."""
        place = self.path(workspace, code)
        place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        file.replace(place)
        return self.use(workspace, code)

    def use(self, workspace: str, code: str) -> CodeArchive:
        """The archive that is about to be used, and so stays for a while.

        Raises:
            LocalmlError: ``NOT_FOUND`` when there is none.
        """
        place = self.path(workspace, code)
        try:
            os.utime(place)
        except FileNotFoundError:
            words = f"code: {code} is not kept in this workspace (any more); send the folder again"
            raise LocalmlError(Code.NOT_FOUND, words, field="code") from None
        found = _looked_at(place)
        assert found is not None
        return found


def unused(store: Store, data: Path, now: float, *, older_than: float = 0.0) -> Iterator[CodeArchive]:
    """Archives that nothing needs which is not over, and that were not used for so many seconds; the oldest first."""
    found = [one for path in (data / FOLDER / "archives").glob("*/*.tar") if (one := _looked_at(path)) is not None]
    old = [one for one in found if one.used_at <= now - max(older_than, _SETTLED_S)]
    needed = _needed(store) if old else set()
    for one in sorted(old, key=lambda archive: archive.used_at):
        if one.path.stem not in needed:
            yield one


def drop(
    found: Iterator[CodeArchive], enough: Callable[[int], bool] = lambda _: False, *, dry_run: bool = False
) -> tuple[int, int]:
    """Remove archives until that is enough, told the bytes so far; how many went, or would, and their bytes."""
    count = size = 0
    for one in found:
        if enough(size):
            break
        now = _looked_at(one.path)
        if now is None or now.used_at > one.used_at:
            continue  # somebody is about to submit with it
        if not dry_run:
            one.path.unlink(missing_ok=True)
        count, size = count + 1, size + one.size
    return count, size


def kept_attempts(store: Store) -> set[str]:
    """Names of the attempts of which the engine may still hold something, and which have their folders."""
    with store.read() as session:
        return set(session.execute(select(col(Attempt.name)).where(col(Attempt.removed).is_(False))).scalars())


def _needed(store: Store) -> set[str]:
    """The contents that what is not over runs, or will run, in whatever workspace."""
    spec = col(WorkloadDetail.spec)
    live = select(spec).join(Workload).where(col(Workload.ended_at).is_(None), spec.contains('"code":"sha256:'))
    searches = select(col(Study.spec)).where(col(Study.ended_at).is_(None))
    with store.read() as session:
        specs = [*session.execute(live).scalars(), *session.execute(searches).scalars()]
    return {found[0].removeprefix("sha256:") for text in specs for found in CODE.finditer(text)}


def _looked_at(path: Path) -> CodeArchive | None:
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return CodeArchive(path, found.st_size, found.st_mtime)
