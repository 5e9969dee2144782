"""Where an installed algorithm's process runs: in a copy of its folder, and in a box if it is an ordinary user's."""

from __future__ import annotations

import os
import secrets
import shutil
import sys
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from localml.core.errors import Code, LocalmlError
from localml.core.trees import remove_tree
from localml.engines.base import Account, EngineError
from localml.engines.process.boxes import Boxes
from localml.hpo.base import Plugin

FOLDER = "algorithm-runs"
"""Below the data directory."""


@dataclass(frozen=True, slots=True)
class Run:
    """A process's folder. ``box`` are options of :mod:`localml.engines.process.box`; empty: it has none."""

    top: Path
    box: tuple[tuple[str, str], ...] = ()

    @property
    def folder(self) -> Path:
        """The copy of the algorithm's folder, in which it runs."""
        return self.top / "work"

    def end(self) -> None:
        """Remove all of it; nothing of it may run any more."""
        with suppress(OSError):
            remove_tree(self.top)


class Runs:
    """The folders of all processes.

    Args:
        data: the data directory, which one server has at a time: what is there when it begins is nobody's.
    """

    def __init__(self, data: Path) -> None:
        self._data = data
        self._folder = Path(os.path.realpath(data)) / FOLDER
        if self._folder.exists():
            with suppress(OSError):
                remove_tree(self._folder)

    def begin(self, plugin: Plugin, account: Account | None, python: str) -> Run:
        """A copy of an algorithm's folder that its process may write to.

        Raises:
            LocalmlError: ``UNAVAILABLE``: its files cannot be read; ``FORBIDDEN``: it must have a box, and there are
                none on this machine.
        """
        run = Run(self._folder / secrets.token_hex(8))
        try:
            (run.top / "tmp").mkdir(mode=0o755, parents=True)
            shutil.copytree(plugin.folder, run.folder, symlinks=True)
            return run if account is None else self._boxed(run, account, python)
        except (OSError, shutil.Error) as error:
            run.end()
            words = f"the files of the algorithm '{plugin.name}' cannot be read: {error}"
            raise LocalmlError(Code.UNAVAILABLE, words, field="algorithm") from error
        except BaseException:
            run.end()
            raise

    def _boxed(self, run: Run, account: Account, python: str) -> Run:
        for path in (run.top / "tmp", run.folder, *run.folder.rglob("*")):
            os.chown(path, account.uid, account.gid, follow_symlinks=False)
        seen = {"PYTHONPATH": os.pathsep.join(module_folders()), "VIRTUAL_ENV": str(Path(python).parent.parent)}
        try:
            return Run(run.top, tuple(self._boxes.options(run.top.name, account, seen, ())))
        except EngineError as error:
            raise LocalmlError(Code.FORBIDDEN, str(error), field="algorithm") from error

    @cached_property
    def _boxes(self) -> Boxes:
        self._folder.mkdir(mode=0o700, exist_ok=True)
        return Boxes(self._folder, (self._data,))


def module_folders() -> list[str]:
    """Where this process finds modules."""
    return [os.path.abspath(path) for path in sys.path if path and os.path.exists(path)]
