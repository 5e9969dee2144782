"""A server over the fake engine in this process, with few threads: what holds one of them is noticed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from localml.config import Config
from localml.control.serving.gateway_process import stop
from localml.platform import Platform
from localml.server import Server


@contextmanager
def small_server(folder: Path, threads: int) -> Iterator[Server]:
    """One that listens on a free port, its gateway too; both have ended afterwards."""
    config = Config(
        folder / "data",
        port=0,
        gateway_port=0,
        engine="fake",
        gpus="none",
        cpus=64,
        threads=threads,
        cache=folder / "cache",
    )
    one = Server(Platform(config))
    one.start()
    yield one
    one.close()
    stop(config.data, timeout=2)
