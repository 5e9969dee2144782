"""A server in a process of its own that may open few files, as ``localml up`` runs it."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from helpers.engine_kits import wait_until
from helpers.server_process import Api

_SERVE = """
import logging, sys
logging.basicConfig(level=logging.INFO)
from localml.config import load
from localml.platform import Platform
from localml.server import Server
where = {"data": sys.argv[1], "engine": sys.argv[2], "cpus": 64, "port": 0, "gateway_port": 0}
Server(Platform(load({}, gpus="none", images={"none": "host"}, **where))).run()
"""


class Limited:
    """That server, once it answers."""

    def __init__(self, data: Path, process: subprocess.Popen[bytes], log: Path) -> None:
        self.process = psutil.Process(process.pid)
        self._log = log
        note = data / "server.json"
        wait_until(lambda: process.poll() is not None or note.exists(), "a server that answers")
        assert process.poll() is None, self.log
        self.url: str = json.loads(note.read_text())["url"]
        self.port = int(self.url.rpartition(":")[2])
        self.token: str = json.loads((data / "credentials.json").read_text())["token"]
        self.api = Api(self.url, self.token)

    @property
    def log(self) -> str:
        """What it has said so far."""
        return self._log.read_text()

    @property
    def seconds(self) -> float:
        """Processor time that it has used."""
        used = self.process.cpu_times()
        return float(used.user + used.system)


@contextmanager
def limited(folder: Path, soft: int, hard: int, engine: str = "fake") -> Iterator[Limited]:
    """Run one with these limits of open files, and kill it afterwards."""
    data, log = folder / "data", folder / "server.log"

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

    with (
        log.open("wb") as output,
        subprocess.Popen(
            [sys.executable, "-c", _SERVE, str(data), engine],
            stdout=output,
            stderr=output,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            preexec_fn=limit,
        ) as process,
    ):
        try:
            made = Limited(data, process, log)
            yield made
            made.api.close()
        finally:
            process.kill()
