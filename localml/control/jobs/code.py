"""The folders of code of what runs: each replica of each try gets a copy of its own, which goes with its container.

A program may write there, as it may beside its code on its own machine, and meets nothing that another one left. What
is to stay belongs into a bucket.
"""

from __future__ import annotations

import secrets
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from localml.core.errors import Code, LocalmlError
from localml.core.failpoints import FAILPOINTS
from localml.core.trees import remove_tree
from localml.core.work.code import FOLDER, CodeArchives
from localml.engines.base import EngineError
from localml.objects import unpack

_MAKING = ".making"


class CodeFolders:
    """Makes and removes them. Safe to use from many threads, and to repeat after a crash.

    Args:
        data: the data directory.
    """

    def __init__(self, data: Path) -> None:
        self.archives = CodeArchives(data)
        self._folder = data.resolve() / FOLDER / "runs"

    def ready(
        self, attempt: str, workspace: str, code: str | None, files: Mapping[str, str] | None = None, below: str = ""
    ) -> Path:
        """The folder of an attempt, by its name; complete when this returns.

        Args:
            code: None: nothing but the files.
            files: path -> text, of files that are written into it.
            below: where in it these paths begin.

        Raises:
            EngineError: the archive is gone, or the disk is full; a link of the code leads a file elsewhere.
        """
        place = self._folder / attempt
        if place.exists():
            return place
        making = self._folder / f"{attempt}{_MAKING}"
        try:
            self.drop(making.name)  # of a start that was cut short
            if code is None:
                making.mkdir(parents=True)
            else:
                self._unpack(workspace, code, making)
            for name, text in (files or {}).items():
                _write(making, making / below / name, text)
            _open_to_all(making)
            FAILPOINTS.hit("after-unpack")
            making.rename(place)
            FAILPOINTS.hit("after-copy")
        except (LocalmlError, OSError) as error:
            raise EngineError(f"{'its files' if code is None else 'its code'} cannot be unpacked: {error}") from error
        return place

    @contextmanager
    def opened(self, workspace: str, code: str) -> Iterator[Path]:
        """What is in an archive, in a folder for as long as the block lasts.

        Raises:
            LocalmlError: ``NOT_FOUND``, ``STORAGE``.
        """
        place = self._folder / f"{secrets.token_hex(8)}{_MAKING}"
        try:
            self._unpack(workspace, code, place)
            yield place
        finally:
            self.drop(place.name)

    def _unpack(self, workspace: str, code: str, place: Path) -> None:
        archive = self.archives.use(workspace, code)
        try:
            unpack(archive.path, place)
        except LocalmlError as error:
            if error.code is Code.INVALID:  # it was whole once: the disk has damaged it, and it is to be sent again
                archive.path.unlink(missing_ok=True)
            raise

    def drop(self, attempt: str) -> None:
        """Remove an attempt's folder; nothing if it has none."""
        with suppress(FileNotFoundError):
            remove_tree(self._folder / attempt)

    def sweep(self, attempts: Collection[str]) -> None:
        """Remove what an earlier server left, but for these attempts."""
        if self._folder.is_dir():
            for name in {one.name for one in self._folder.iterdir()} - set(attempts):
                self.drop(name)


def _write(top: Path, path: Path, text: str) -> None:
    """Write a file in place of what code has there; never where a link in it leads."""
    if not path.parent.resolve().is_relative_to(top.resolve()):
        raise OSError(f"a link in the code leads {path.name} elsewhere")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    path.write_text(text, encoding="utf-8", errors="surrogatepass")


def _open_to_all(folder: Path) -> None:
    """Whatever user an image runs as may read and write; on this machine only the server's is let in."""
    for path in (folder, *folder.rglob("*")):
        if not path.is_symlink():
            mode = path.stat().st_mode
            path.chmod(0o777 if path.is_dir() or mode & 0o100 else 0o666)
