"""Algorithms that somebody installed: a folder with ``optimizer.py``, kept below the data directory.

The folder is copied when it is installed, from an archive or from a folder of the server, so that it never changes.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from sqlalchemy import delete, func, select
from sqlalchemy.exc import IntegrityError
from sqlmodel import Session, col

from localml.core.clock import Clock
from localml.core.errors import Code, LocalmlError, invalid, not_found
from localml.core.limits import MOST_ALGORITHMS, need_at_most
from localml.core.people.allow import MACHINE, may
from localml.core.people.identity import Caller
from localml.core.people.rights import Action
from localml.core.ports import Store
from localml.core.studies.algorithms import built_in
from localml.core.studies.tables import OVER, Algorithm, Study
from localml.core.trees import remove_tree
from localml.core.work.specs import NAME

FOLDER = "algorithms"
"""Below the data directory."""
OPTIMIZER = "optimizer.py"
MOST_FILES = 10_000
MOST_BYTES = 256 << 20
"""Of an algorithm's folder: what it needs besides belongs into its ``requirements.txt``."""
_STAGED = ".staged-"
_CLASS = re.compile(rb"^class[ \t]+PluginOptimizer\b", re.MULTILINE)
_LARGEST_SOURCE = 4 << 20


@dataclass(frozen=True, slots=True)
class Installation:
    """An algorithm that somebody wants to install.

    Attributes:
        archive: a tar or zip of its folder, or of the folder's content; it counts where ``path`` is given, too.
        path: a folder on the server, for administrators.
        settings: what a vendor's request had besides, kept to be answered back.
    """

    name: str
    caller: Caller
    archive: Path | BinaryIO | None = None
    path: str | None = None
    log_level: str = "INFO"
    settings: dict[str, Any] = field(default_factory=dict)


class Algorithms:
    """The service over installed algorithms.

    Args:
        data: the data directory.
        unpack: unpacks an archive that came from somebody else into a new folder, within :data:`MOST_FILES` and
            :data:`MOST_BYTES`.
        admits: raises for a user whose programs nobody can be protected from here.
    """

    def __init__(
        self,
        store: Store,
        clock: Clock,
        data: Path,
        *,
        unpack: Callable[[Path | BinaryIO, Path], object],
        admits: Callable[[Caller], None] = lambda _: None,
    ) -> None:
        self._store = store
        self._clock = clock
        self._data = data
        self._unpack = unpack
        self._admits = admits
        self._sweep()

    def install(self, new: Installation) -> Algorithm:
        """Install an algorithm; it is complete, or not there.

        Raises:
            LocalmlError: ``INVALID`` (the name, neither archive nor path, no ``optimizer.py`` with the class
                ``PluginOptimizer``, an archive that breaks the rules), ``CONFLICT`` (the name is taken, or a built-in
                algorithm's), ``FORBIDDEN`` (a folder of the server, for who is no administrator; an owner who may run
                nothing here), ``TOO_LARGE``.
        """
        self._check(new)
        staged = self._data / FOLDER / f"{_STAGED}{secrets.token_hex(8)}"
        try:
            self._fill(new, staged)
            return self._record(new, _top(staged))
        finally:
            _remove(staged)

    def _check(self, new: Installation) -> None:
        if not NAME.fullmatch(new.name):
            raise invalid("name", "must be 1 to 128 letters, digits, . _ ~ - (no - at its start), not '.' or '..'")
        if built_in(new.name) is not None:
            raise LocalmlError(Code.CONFLICT, f"name: '{new.name}' is a built-in algorithm", field="name")
        if new.archive is None and not new.path:
            raise invalid("path", "give an archive of the algorithm's folder, or a folder of the server")
        if new.archive is None and not may(new.caller, Action.ADMINISTER, MACHINE):
            raise LocalmlError(Code.FORBIDDEN, "path: only administrators install folders of the server", field="path")
        self._admits(new.caller)
        with self._store.read() as session:
            _need_free(session, new.name)

    def _fill(self, new: Installation, staged: Path) -> None:
        staged.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if new.archive is not None:
            self._unpack(new.archive, staged)
            return
        source = Path(new.path or "")
        if not source.is_absolute() or not source.is_dir():
            raise invalid("path", f"must be a folder of the server, from /, and '{new.path}' is none")
        if not (source / OPTIMIZER).is_file():
            raise invalid("path", f"'{new.path}' has no {OPTIMIZER}")
        if self._data.resolve().is_relative_to(source.resolve()):
            raise invalid("path", "must not hold the server's own data")
        if not _fits(source):
            words = f"path: at most {MOST_FILES} files and {MOST_BYTES >> 20} MiB are an algorithm"
            raise LocalmlError(Code.TOO_LARGE, words, field="path")
        shutil.copytree(source, staged, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))

    def _record(self, new: Installation, folder: Path) -> Algorithm:
        kept = f"{FOLDER}/{new.name}-{secrets.token_hex(4)}"
        folder.rename(self._data / kept)

        def act(session: Session) -> int:
            _need_free(session, new.name)
            count = session.execute(select(func.count()).select_from(Algorithm)).scalar_one()
            need_at_most("name", count + 1, MOST_ALGORITHMS, "installed algorithms")
            row = Algorithm(
                name=new.name,
                owner=new.caller.name,
                owner_id=new.caller.id,
                folder=kept,
                uploaded=new.archive is not None,
                log_level=new.log_level,
                settings=new.settings,
                created_at=self._clock.now(),
            )
            session.add(row)
            try:
                session.flush()
            except IntegrityError:
                raise _taken(new.name) from None
            return row.id or 0

        try:
            self._store.write(act)
        except BaseException:
            _remove(self._data / kept)
            raise
        return self.get(new.name)

    def get(self, name: str) -> Algorithm:
        """An installed algorithm; ``NOT_FOUND`` when there is none of that name."""
        found = self.find(name)
        if found is None:
            raise not_found("algorithm", name)
        return found

    def find(self, name: str) -> Algorithm | None:
        """An installed algorithm, if there is one of that name."""
        with self._store.read() as session:
            return session.execute(select(Algorithm).where(col(Algorithm.name) == name)).scalar_one_or_none()

    def page(self) -> list[Algorithm]:
        """All that are installed, the oldest first."""
        with self._store.read() as session:
            return list(session.execute(select(Algorithm).order_by(col(Algorithm.id))).scalars())

    def folder(self, row: Algorithm) -> Path:
        """Where its files are."""
        return self._data / row.folder

    def delete(self, name: str) -> None:
        """Remove an installed algorithm and its files.

        Raises:
            LocalmlError: ``NOT_FOUND``; ``FORBIDDEN`` for a built-in one; ``WRONG_STATE`` while a study that is not
                over uses it, which is named.
        """
        if built_in(name) is not None and self.find(name) is None:
            raise LocalmlError(Code.FORBIDDEN, f"'{name}' is a built-in algorithm, which cannot be deleted")

        def act(session: Session) -> str:
            row: Algorithm | None = session.execute(
                select(Algorithm).where(col(Algorithm.name) == name)
            ).scalar_one_or_none()
            if row is None:
                raise not_found("algorithm", name)
            _need_unused(session, name)
            session.execute(delete(Algorithm).where(col(Algorithm.id) == row.id))
            return row.folder

        _remove(self._data / self._store.write(act))

    def _sweep(self) -> None:
        """Remove folders that a server left when it was killed while it installed or deleted."""
        kept = {row.folder for row in self.page()}
        for folder in (self._data / FOLDER).glob("*"):
            if f"{FOLDER}/{folder.name}" not in kept:
                _remove(folder)


def _fits(source: Path) -> bool:
    files = size = 0
    for path, folders, names in os.walk(source):
        files += len(names) + len(folders)
        size += sum(os.lstat(os.path.join(path, name)).st_size for name in names)
        if files > MOST_FILES or size > MOST_BYTES:
            return False
    return True


def _remove(folder: Path) -> None:
    with suppress(OSError):
        remove_tree(folder)


def _top(staged: Path) -> Path:
    """The folder with the optimizer: the archive's top, or the one folder that it has there.

    Raises:
        LocalmlError: ``INVALID`` if it is neither, or the file has no class ``PluginOptimizer``.
    """
    folders = [staged, *(path for path in staged.iterdir() if path.is_dir() and not path.is_symlink())]
    found = next((one for one in folders if _is_file(one / OPTIMIZER)), None)
    if found is None:
        raise invalid("file", f"has no {OPTIMIZER} at its top")
    source = found / OPTIMIZER
    if source.stat().st_size > _LARGEST_SOURCE or not _CLASS.search(source.read_bytes()):
        raise invalid("file", f"{OPTIMIZER} has no class PluginOptimizer")
    return found


def _is_file(path: Path) -> bool:
    return path.is_file() and not path.is_symlink()


def _need_free(session: Session, name: str) -> None:
    if session.execute(select(col(Algorithm.id)).where(col(Algorithm.name) == name)).scalar_one_or_none() is not None:
        raise _taken(name)


def _need_unused(session: Session, name: str) -> None:
    using = select(col(Study.name)).where(
        col(Study.ended_at).is_(None), col(Study.algorithm) == name, col(Study.state).not_in(OVER)
    )
    study = session.execute(using.limit(1)).scalar_one_or_none()
    if study is not None:
        raise LocalmlError(
            Code.WRONG_STATE, f"the algorithm '{name}' is used by the study '{study}', which is not over"
        )


def _taken(name: str) -> LocalmlError:
    return LocalmlError(Code.CONFLICT, f"name: an algorithm '{name}' exists already", field="name")
