"""Named places where the process can be told to die, for the kill tests.

``LOCALML_FAILPOINT=after-create`` kills the process (SIGKILL, no clean-up) the first time it passes that point;
``after-create:3`` the third time. Without the variable a hit costs one attribute test.
"""

from __future__ import annotations

import os
import signal
import threading

JOBS = (
    "after-intent",
    "after-create",
    "after-start",
    "before-commit",
    "after-commit",
    "after-mark",
    "after-output",
    "before-remove",
)
"""Points that every workload passes which writes something."""

DRAINING = ("after-exit",)
"""Points that only workloads pass whose output takes longer than their program."""

CODE = ("after-unpack", "after-copy")
"""Points that only workloads with code pass: all of it is unpacked, and it has its name."""

SERVING = ("after-replica", "after-table")
"""Points that only endpoints pass."""

NAMES = JOBS + DRAINING + CODE + SERVING


class Failpoints:
    """Counts hits and kills the process when the armed point's count is reached."""

    def __init__(self, armed: str | None) -> None:
        self._name: str | None = None
        self._left = 0
        self._lock = threading.Lock()
        if armed:
            name, _, count = armed.partition(":")
            if name not in NAMES:
                raise ValueError(f"LOCALML_FAILPOINT: unknown point {name!r}; known: {', '.join(NAMES)}")
            self._name, self._left = name, int(count or 1)

    def hit(self, name: str) -> None:
        """Die here if this point is armed and its count is reached."""
        if name != self._name:
            return
        with self._lock:
            self._left -= 1
            if self._left > 0:
                return
        os.kill(os.getpid(), signal.SIGKILL)


FAILPOINTS = Failpoints(os.environ.get("LOCALML_FAILPOINT"))
