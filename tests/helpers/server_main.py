"""Servers as ``localml up`` runs them, one after the other, each forked from this process.

A script, not a module: this process imports everything once, so that a server that a test kills is replaced within
a tenth of a second. Each line of JSON on stdin starts a server; two lines answer it, with its process number and,
once it has ended, its exit status (negative: the signal that ended it).
"""

from __future__ import annotations

import json
import logging
import os
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

from localml.config import load
from localml.core.errors import LocalmlError
from localml.core.failpoints import FAILPOINTS, Failpoints
from localml.dialects.native import create_app
from localml.platform import Platform
from localml.server import Server


def main() -> None:
    """Serve orders until stdin ends."""
    _warm_up()
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            os._exit(_serve(json.loads(line)))
        print(json.dumps({"pid": pid}), flush=True)
        # Told before it is reaped: until then its number is its own, and whoever has not heard of it yet may kill it.
        end = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        assert end is not None
        status = end.si_status if end.si_code == os.CLD_EXITED else -end.si_status
        print(json.dumps({"ended": pid, "status": status}), flush=True)
        os.waitpid(pid, 0)


def _warm_up() -> None:
    """Make one app of an empty platform, so that later ones find the JSON schemas of all models."""
    with tempfile.TemporaryDirectory() as folder:
        platform = Platform(load({}, data=folder, engine="fake", gpus="simulated:1", port=0))
        create_app(platform)
        platform.close()
    assert threading.active_count() == 1, "a process with threads cannot be forked safely"


def _serve(order: dict[str, Any]) -> int:
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    log = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.environ.update(order["environment"])
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(process)d %(name)s %(levelname)s %(message)s")
    Failpoints.__init__(FAILPOINTS, order["failpoint"])
    settings = {**order["settings"], "cache": Path(order["settings"]["cache"])}
    try:
        Server(Platform(load({}, **settings))).run()
    except LocalmlError as error:
        print(f"localml: {error}", file=sys.stderr, flush=True)
        return 1
    return 0


if __name__ == "__main__":
    main()
