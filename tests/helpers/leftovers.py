"""What still runs of tests that were killed, or of their jobs."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil

PATIENCE_S = 30.0
"""For all to end; what holds no grace ends at once, and the machine may be busy."""


def left(folder: Path, *marks: str) -> Iterator[psutil.Process]:
    """Processes that have a folder, or a mark, among their words, in their environment or as where they stand."""
    wanted = (str(folder), *marks)
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.status() == psutil.STATUS_ZOMBIE:
                continue
            environment = (f"{name}={value}" for name, value in process.environ().items())
            about = [*process.cmdline(), process.cwd(), *environment]
            if any(mark in one for one in about for mark in wanted):
                yield process


def nothing_is_left(folder: Path, *marks: str) -> None:
    """Wait for it; what is left otherwise is shown."""
    deadline, pause = time.monotonic() + PATIENCE_S, threading.Event()
    while found := list(left(folder, *marks)):
        if time.monotonic() > deadline:
            shown = []
            for process in found:
                with suppress(psutil.Error):
                    shown.append(f"{process.pid}: {' '.join(process.cmdline())[:200]}")
            raise AssertionError("\n".join(shown))
        pause.wait(0.05)
