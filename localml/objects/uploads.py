"""Files of requests while they arrive: below the data directory, and never left behind."""

from __future__ import annotations

import os
import secrets
from pathlib import Path
from typing import BinaryIO

from localml.objects.files import explained

FOLDER = "uploads"
"""Below the data directory, and so on the same file system as what an upload becomes: moving one copies nothing."""


class Uploads:
    """The folder of files that requests bring.

    Whoever makes one removes it when the request is over. What a killed server left is swept by the next one, which
    holds the data directory's lock by then, so nobody else writes here.
    """

    def __init__(self, data: Path) -> None:
        self._folder = data / FOLDER

    def sweep(self) -> int:
        """Remove what an earlier server left; returns how many files that were."""
        if not self._folder.is_dir():
            return 0
        found = list(self._folder.iterdir())
        for path in found:
            path.unlink(missing_ok=True)
        return len(found)

    def create(self, field: str) -> tuple[Path, BinaryIO]:
        """A new empty file that only this user reads, and its writer.

        Args:
            field: the request member that an error names.

        Raises:
            LocalmlError: ``STORAGE`` when the disk is full.
        """
        path = self._folder / secrets.token_hex(16)
        with explained("the upload", field):
            self._folder.mkdir(mode=0o700, exist_ok=True)
            handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        return path, open(handle, "wb", buffering=0)
