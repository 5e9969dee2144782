"""``sleep`` processes of this test run, known among all that the machine has."""

from __future__ import annotations

import os

import psutil

OWN = os.getpid()
"""What this run's ask for behind the point: ``sleep 7001.{OWN}``."""


def alive(*seconds: str) -> list[list[str]]:
    """Command lines of this run's sleepers of so many seconds that live."""
    wanted = {f"{one}.{OWN}" for one in seconds}
    found = [p.info["cmdline"] for p in psutil.process_iter(["cmdline"]) if p.info["cmdline"]]
    return [words for words in found if words[0] == "sleep" and words[-1] in wanted]
