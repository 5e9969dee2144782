"""Carrying a container's output into its files, beside the bare Docker SDK's reading of the same log.

What is carried is read for metrics meanwhile, as a server does.
"""

from __future__ import annotations

import statistics
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench.rows import Row, folder, skipped, timed
from bench.server import IMAGE, platform, submission

_SHARE = 0.8
_SHORT = "a line of output as long as many are, more or less, in 60 B"
_LONG = "x" * 4000
_METRICS = "epoch=3 step=12345 loss=0.234567 acc=0.912345 lr=0.001 time=12s"


def pumped(quick: bool) -> Iterator[Row]:
    """An ended container's output, in short lines, in long ones, and in lines that all are metrics.

    The floor is the faster of the SDK's two ways, ``logs(stream=True)`` and ``logs(stream=False)``, without the times
    that a pump needs.
    """
    from localml.engines.docker import DockerEngine, docker_available

    if reason := docker_available():
        yield skipped("output of a container into its files", reason)
        return
    size, rounds = (16 << 20, 3) if quick else (64 << 20, 5)
    engine = DockerEngine(f"bench{uuid.uuid4().hex[:8]}")
    try:
        for what, line in (("short", _SHORT), ("long", _LONG), ("metric", _METRICS)):
            yield _row(engine, what, line, size, rounds)
    finally:
        for name in engine.list():
            engine.remove(name)
        engine.remove_network(engine._networks.shared)
        engine.close()


def _row(engine: Any, what: str, line: str, size: int, rounds: int) -> Row:
    from localml.engines.base import ReplicaPlan
    from localml.engines.docker.daemon import open_client

    name, api = f"flood-{what}", open_client(600)
    script = f"yes '{line}' | head -c {size}"
    engine.start(ReplicaPlan(name, engine.resolve_image(IMAGE), ("/bin/sh", "-c", script)))
    api.wait(name)
    ways: dict[str, Callable[[], float]] = {
        "stream": lambda: timed(lambda: sum(map(len, api.logs(name, stream=True)))),
        "whole": lambda: timed(lambda: len(api.logs(name))),
        "pump": lambda: _pump(engine, name, size),
    }
    turns = [{way: act() for way, act in ways.items()} for _ in range(rounds)]
    api.close()
    median = {way: statistics.median(turn[way] for turn in turns) for way in ways}
    share = min(median["stream"], median["whole"]) / median["pump"]
    rate = {way: f"{size / (1 << 20) / seconds:.1f}" for way, seconds in median.items()}
    title = f"{size >> 20} MiB of output in {what} lines into the files"
    floor = f"SDK {rate['stream']} MiB/s as a stream, {rate['whole']} whole"
    return Row(title, f"{rate['pump']} MiB/s ({share:.2f})", f">= {_SHARE} of the SDK", floor, share >= _SHARE)


def _pump(engine: Any, name: str, size: int) -> float:
    from localml.control.jobs.pumps import LogPumps
    from localml.core.logs.files import LogStore

    done = threading.Event()
    with folder() as path, _reading(path, name) as (number, nudge):
        store = LogStore(path)
        begin = time.perf_counter()
        pumps = LogPumps(engine, store, done=done.set, changed=nudge, tell=lambda *_: True)
        pumps.ensure(number, name)
        done.wait()
        spent = time.perf_counter() - begin
        pumps.close()
        if store.size(number, name, "stdout") != size:
            raise RuntimeError(f"{store.size(number, name, 'stdout'):,} bytes were kept of {size:,}")
    return spent


@contextmanager
def _reading(path: Path, name: str) -> Iterator[tuple[int, Callable[[int], None]]]:
    """A job with this container whose output is read for metrics: its id, and what to call when something came."""
    from localml.core.work.tables import Attempt

    with platform(path, "fake", start=False) as one:
        number = one.workloads.submit(submission(one, "flood"))
        row = Attempt(workload_id=number, role="main", index=0, number=1, name=name, created_at=time.time())
        one.db.write(lambda session: session.add(row))
        one.metrics_watch.start()
        yield number, one.metrics_watch.nudge
