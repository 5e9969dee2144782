"""The launcher's own lines in the job's log, and its failures."""

from __future__ import annotations

import sys

EXIT_USAGE = 64
"""The job description is wrong (sysexits.h EX_USAGE)."""
EXIT_DATA = 65
"""The trainer package cannot be unpacked or installed (EX_DATAERR)."""
EXIT_NO_INPUT = 66
"""The trainer package is not there (EX_NOINPUT)."""


class LauncherError(Exception):
    """Ends the job with ``status``; the message is the last line of its log."""

    def __init__(self, message: str, status: int = EXIT_USAGE) -> None:
        super().__init__(message)
        self.status = status


def say(message: str) -> None:
    """Write a message to stderr, each line marked as the launcher's, so that it cannot be taken for the program's."""
    for line in message.splitlines() or [""]:
        print(f"[localml] {line}", file=sys.stderr, flush=True)
