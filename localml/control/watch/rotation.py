"""Files of the data directory that only ever grow: the server's and the gateway's own logs, and copies of the database
that were made before upgrades.

A log is open in the process that writes it, and what that writes goes to the file's end (``O_APPEND``): so its last
part is copied to ``NAME.1``, over the one before, and the file itself begins anew. Copies that somebody asked for
(``localml backup``) stay until somebody removes them.
"""

from __future__ import annotations

import logging
import os
from contextlib import ExitStack
from pathlib import Path

from localml.control.serving.gateway_process import LOG_NAME as GATEWAY_LOG
from localml.core.serving.routes_table import FOLDER as GATEWAY

SERVER_LOG = "server.log"
BACKUPS = "backups"
MOST_LOG = 16 << 20
"""Bytes of a log above which it begins anew."""
KEPT_BACKUPS = 5
"""Copies from before upgrades that stay, the newest ones."""
_BEFORE = "before-*.db"


def rotate_logs(data: Path) -> None:
    """Let logs that have become long begin anew."""
    for path in (data / SERVER_LOG, data / GATEWAY / GATEWAY_LOG):
        if path.exists() and path.stat().st_size > MOST_LOG:
            _rotate(path)


def _rotate(path: Path) -> None:
    """What this process would say meanwhile waits; of what another one says a line may be lost."""
    target = path.with_name(f"{path.name}.1")
    with ExitStack() as held:
        for handler in logging.getLogger().handlers:
            handler.acquire()
            held.callback(handler.release)
        with path.open("rb+") as file, target.open("wb") as copy:
            os.fchmod(copy.fileno(), 0o600)
            file.seek(-MOST_LOG // 2, os.SEEK_END)
            file.readline()
            while block := file.read(1 << 20):
                copy.write(block)
            file.truncate(0)


def thin_backups(data: Path) -> None:
    """Remove the oldest copies of before upgrades; their names end with the time."""
    found = sorted((data / BACKUPS).glob(_BEFORE), key=lambda path: path.stat().st_mtime)
    for path in found[:-KEPT_BACKUPS]:
        path.unlink(missing_ok=True)
