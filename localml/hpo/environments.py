"""Environments of algorithms that need more than localml itself: torch and scipy for one, whatever an installed one
asks for in its ``requirements.txt``. Each is made when it is first used, and kept in the cache.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from localml.core.errors import Code, LocalmlError
from localml.engines.base import EngineError
from localml.engines.runtimes.environments import READY, locked
from localml.engines.runtimes.wheels import PIP, lines_of

Progress = Callable[[str], None]
NEEDS: dict[str, dict[str, str]] = {"bayesian": {"torch": "torch==2.13.0", "scipy": "scipy==1.17.1"}}
"""Algorithm -> modules that it imports -> what is installed for them."""
_FOLDER = "algorithms"
_COMMENT = re.compile(r"(^|\s)#.*")
_VERSION = r"\s*(?:===?|~=|!=|<=?|>=?)\s*[A-Za-z0-9.*+!_-]+\s*"
_NAMED = re.compile(
    r"(?!\S*\.(?:whl|zip|tar|tgz|gz|bz2|xz)\b)[A-Za-z0-9][A-Za-z0-9._-]*\s*(?:\[[A-Za-z0-9._, -]*\])?\s*"
    rf"(?:{_VERSION}(?:,{_VERSION})*)?(?:;[A-Za-z0-9_.<>=!~,'\"() ]*)?"
)
"""A package and its versions."""
_KEPT_S = 60 * 86_400.0
"""How long an environment stays that is not used, once another one is made."""


class Environments:
    """Virtual environments of algorithms below ``cache/algorithms``, each named by what is in it.

    Args:
        cache: the cache folder; made when needed.
    """

    def __init__(self, cache: Path) -> None:
        self._folder = cache / _FOLDER

    def built_in(self, algorithm: str, progress: Progress) -> str:
        """The Python of a built-in algorithm: this process's own where that has all it needs.

        Raises:
            LocalmlError: ``UNAVAILABLE`` with pip's last lines.
        """
        needs = NEEDS.get(algorithm, {})
        if all(importlib.util.find_spec(module) for module in needs):
            return sys.executable
        return self._ensure(algorithm, "\n".join(needs.values()), (), progress)

    def installed(self, name: str, folder: Path, progress: Progress, *, wheels_only: bool = False) -> str:
        """The Python of an installed algorithm: this process's own where its folder has no ``requirements.txt``.

        Args:
            wheels_only: take no packages whose installation runs code, and none but from package indexes.

        Raises:
            LocalmlError: ``UNAVAILABLE`` with pip's last lines, ``INVALID`` for a file that is no text, or has what
                ``wheels_only`` does not allow.
        """
        wanted = (folder / "requirements.txt").resolve()
        if not wanted.is_relative_to(folder.resolve()):
            raise LocalmlError(Code.INVALID, f"{name}: its requirements.txt leads out of its folder", field="algorithm")
        try:
            text = wanted.read_text(encoding="utf-8")
        except FileNotFoundError:
            return sys.executable
        except (OSError, ValueError) as error:
            raise LocalmlError(Code.INVALID, f"{name}: its requirements.txt cannot be read: {error}") from error
        if wheels_only:
            return self._ensure(name, _named(name, text), ("--only-binary", ":all:"), progress)
        return self._ensure(name, text, (), progress)

    def _ensure(self, name: str, requirements: str, options: Sequence[str], progress: Progress) -> str:
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        key = hashlib.sha256("\0".join((version, requirements, *options)).encode()).hexdigest()[:16]
        folder = self._folder / key
        python = str(folder / "bin" / "python")
        if _used(folder):
            return python
        self._folder.mkdir(parents=True, exist_ok=True)
        with locked(folder) as lock:
            if not (folder / READY).is_file():
                try:
                    self._make(name, folder, requirements, options, partial(lines_of, held=(lock,)), progress)
                except EngineError as error:
                    shutil.rmtree(folder, ignore_errors=True)
                    raise LocalmlError(Code.UNAVAILABLE, str(error)) from error
                self._drop_old()
        return python

    def _drop_old(self) -> None:
        """Remove the environments that nothing was begun with for long."""
        for mark in self._folder.glob(f"*/{READY}"):
            if mark.stat().st_mtime < time.time() - _KEPT_S:
                with locked(mark.parent, wait=False) as lock:
                    if lock:
                        mark.unlink(missing_ok=True)
                        shutil.rmtree(mark.parent, ignore_errors=True)

    def _make(
        self,
        name: str,
        folder: Path,
        requirements: str,
        options: Sequence[str],
        run: Callable[..., None],
        progress: Progress,
    ) -> None:
        shutil.rmtree(folder, ignore_errors=True)
        failure = f"the environment of the algorithm '{name}' could not be made"
        progress(f"making the environment of the algorithm '{name}'")
        run([sys.executable, "-m", "venv", "--without-pip", str(folder)], progress, failure)
        wanted = folder / "requirements.txt"
        wanted.write_text(requirements, encoding="utf-8")
        python = str(folder / "bin" / "python")
        install = [*PIP, "--python", python, "install", "--no-input", "--progress-bar", "off", *options]
        run([*install, "--requirement", str(wanted)], progress, failure)
        with (folder / READY).open("w") as mark:
            os.fsync(mark.fileno())
        progress(f"the environment of the algorithm '{name}' is made")


def _named(algorithm: str, text: str) -> str:
    """The requirements as names and versions. Nothing else is passed on: pip reads options, addresses, paths, variables
    and other encodings in such files, with which it would build what it finds, as the server.

    Raises:
        LocalmlError: ``INVALID`` naming the line.
    """
    lines = [stripped for line in text.splitlines() if (stripped := _COMMENT.sub("", line).strip())]
    for line in lines:
        if not _NAMED.fullmatch(line):
            words = f"its requirements.txt may have packages and their versions, such as numpy>=2, not {line[:100]!r}"
            raise LocalmlError(Code.INVALID, f"{algorithm}: {words}; more is for administrators", field="algorithm")
    return "\n".join(lines)


def _used(folder: Path) -> bool:
    """Whether an environment is there; noted that it is used."""
    try:
        os.utime(folder / READY)
    except OSError:
        return False
    return True
