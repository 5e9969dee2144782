"""One server per data directory: an advisory lock that dies with its holder, and a note of who that is."""

from __future__ import annotations

import fcntl
import json
import os
from pathlib import Path
from time import sleep
from typing import Any

from localml.core.errors import Code, LocalmlError

LOCK_NAME = "server.lock"
INFO_NAME = "server.json"
_TRIES = 25
_PAUSE_S = 0.01
"""Who asks for the holder takes the lock for a moment, too."""


class DataLock:
    """Holds the data directory for this process.

    Raises:
        LocalmlError: ``CONFLICT`` when another process holds it; the message names its process id and URL.
    """

    def __init__(self, data: Path) -> None:
        data.mkdir(parents=True, exist_ok=True)
        self._info = data / INFO_NAME
        self._fd = os.open(data / LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        if not self._acquire():
            os.close(self._fd)
            holder = read_info(data) or {}
            who = f"process {holder['pid']}" if "pid" in holder else "another process"
            where = f" ({holder['url']})" if holder.get("url") else ""
            raise LocalmlError(
                Code.CONFLICT,
                f"{data} is in use by {who}{where}; stop it with 'localml down'",
                details=holder,
            )
        self._info.unlink(missing_ok=True)  # of one that was killed

    def _acquire(self) -> bool:
        for left in reversed(range(_TRIES)):
            try:
                fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return True
            except BlockingIOError:
                if left:
                    sleep(_PAUSE_S)
        return False

    def publish(self, info: dict[str, Any]) -> None:
        """Write down how to reach this server, for the commands that look for it."""
        temporary = self._info.with_suffix(".part")
        temporary.write_text(json.dumps({"pid": os.getpid(), **info}))
        temporary.replace(self._info)

    def release(self) -> None:
        """Give the directory back."""
        self._info.unlink(missing_ok=True)
        os.close(self._fd)


def read_info(data: Path) -> dict[str, Any] | None:
    """What the holder wrote down; None when nobody did."""
    try:
        found = json.loads((data / INFO_NAME).read_text())
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def holder(data: Path) -> dict[str, Any] | None:
    """The note of the server that holds the directory; None when none does, whatever note lies there.

    The note is empty while the server starts or ends.
    """
    try:
        fd = os.open(data / LOCK_NAME, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return read_info(data) or {}
    finally:
        os.close(fd)
    return None
