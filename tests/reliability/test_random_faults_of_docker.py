"""The Docker daemon fails at random under a running server: no job is lost or runs twice, and nothing is left."""

from __future__ import annotations

import os
import secrets
import signal
import threading
import time
from pathlib import Path

import pytest
from helpers.docker_image import tiny_image
from helpers.engine_kits import wait_until
from helpers.faulty_daemon import (
    CLOSE_AFTER,
    CLOSE_BEFORE,
    HANG,
    HANG_AFTER,
    Risk,
    answer,
    cut,
    delay,
    faulty_daemon,
    stall,
)
from helpers.kill_jobs import KINDS, Jobs
from helpers.kill_loop import KillLoop
from helpers.private_daemon import remove_all
from helpers.server_process import servers

pytestmark = [pytest.mark.docker, pytest.mark.slow, pytest.mark.timeout(900)]

SEED = int(os.environ.get("RELIABILITY_SEED") or secrets.randbits(32))
"""Printed when a test fails; set the variable to repeat its choices."""

INTERNAL, INTERNAL_ACTED = answer(500, "internal error"), answer(500, "internal error", acted=True)
RISKS = [
    *[Risk(fault) for fault in (INTERNAL, INTERNAL_ACTED, CLOSE_BEFORE, CLOSE_AFTER, answer(503, "not now"))],
    *[Risk(fault, "GET") for fault in (cut(0), cut(40), cut(400), delay(0.5))],
    *[Risk(fault, ".*", "/events|/logs") for fault in (stall(0), stall(100))],
    Risk(answer(404, "No such container: it"), "GET|DELETE", "/containers/[^/]+"),
    Risk(answer(409, "removal of container it is already in progress"), "DELETE", "/containers/"),
    Risk(HANG, "GET", "/json|/logs"),
    Risk(HANG_AFTER, "POST", "/start"),
]
RARE = RISKS[-2:]
"""Each costs seconds."""
SOME = ("quick", "gpu", "gang", "failing", "quick", "writer", "gpus", "quick")


@pytest.mark.parametrize("turn", [0, *(pytest.param(turn, marks=pytest.mark.long) for turn in range(1, 4))])
def test_random_faults_lose_nothing(
    turn: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, long_form: bool
) -> None:
    seed = SEED + turn
    print(f"RELIABILITY_SEED={SEED}, turn {turn}")
    ledger = tmp_path / "ledger"
    ledger.mkdir()
    jobs = Jobs(ledger, image=tiny_image(), mounted="/ledger")
    risks = RISKS if long_form else [risk for risk in RISKS if risk not in RARE]
    with faulty_daemon(monkeypatch) as proxy, servers(tmp_path / "data", engine="docker", gpus="simulated:3") as found:
        loop = KillLoop(found, jobs, seed, lives=(0, 0), pace=0)
        server = found.start()
        try:
            proxy.by_chance(seed, 0.1, risks)
            for number in range(48 if long_form else 12):
                kind = KINDS[SOME[number % len(SOME)]]
                name = f"{kind.name}.{number}"
                loop.told.submitted[server.api.submit(name, jobs.spec(kind))] = name
            deadline = time.monotonic() + 600
            while left := loop.records.active():
                assert time.monotonic() < deadline, f"not over: {left}"
                threading.Event().wait(0.1)
            proxy.mend()
            wait_until(lambda: not loop.records.unfinished(), "a clean engine")
            assert server.end(signal.SIGTERM) == 0
            loop.check()
        except BaseException:
            print(found.tail(12_000))
            raise
        finally:
            proxy.mend()
            found.close()
            install = loop.records.install()
            containers, networks = remove_all(install)
    print(proxy.injected)
    assert containers == []
    assert set(networks) <= {f"lml-{install}-shared"}
