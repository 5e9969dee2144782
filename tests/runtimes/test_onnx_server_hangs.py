"""A run that does not end is given up: its request is told, and a new worker takes the next one."""

from __future__ import annotations

import asyncio
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from helpers.onnx_bench import PATIENCE, ROOT, Server, serving, wait_for

sys.path.insert(0, str(ROOT))
from onnx_server import link, wire

HANGING = """
import pathlib
class Hanging:
    def load(self, path):
        self.outside = pathlib.Path(pathlib.Path(path, "outside").read_text())
    def predict(self, inputs):
        if (inputs["x"] < 0).any():
            (self.outside / "entered").touch()
            while True:
                pass
        return {"y": inputs["x"] * 2}
"""
LIMIT = 3.0


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "kernel.py").write_text(HANGING)
    (folder / "outside").write_text(str(tmp_path))
    return folder


def ask(server: Server, x: float) -> httpx.Response:
    return server.infer({"name": "x", "datatype": "FP32", "shape": [1], "data": [x]})


def test_a_run_that_hangs_is_given_up_and_a_new_worker_takes_the_next_request(folder: Path) -> None:
    with serving(folder, "--run-timeout-ms", str(LIMIT * 1000)) as server, ThreadPoolExecutor(2) as clients:
        before = server.workers()
        assert ask(server, 1).json()["outputs"][0]["data"] == [2.0]
        start = time.monotonic()
        hanging = clients.submit(ask, server, -1)
        wait_for((folder.parent / "entered").exists, "the run that hangs")
        behind = clients.submit(ask, server, 2)
        given_up = hanging.result()
        assert given_up.status_code == 504
        assert given_up.json()["error"] == (
            "the request was given up, and its worker process killed, as a run took longer than 3 s"
        )
        assert LIMIT <= time.monotonic() - start < PATIENCE
        # What waited behind it did no harm: it may be sent again.
        assert (behind.result().status_code, behind.result().headers["retry-after"]) == (503, "1")
        assert "killed, as a run took longer than 3 s" in behind.result().json()["error"]
        wait_for(server.ready, "a new worker")
        assert ask(server, 3).json()["outputs"][0]["data"] == [6.0]
        wait_for(lambda: len(server.workers()) == 1, "the old worker's end")
        assert server.workers() != before
        assert server.metric("onnx_server_worker_restarts_total") == 1
        assert server.metric('onnx_server_requests_total{model="m",status="504"}') == 1
        assert server.stop() == 0


def test_a_server_whose_run_hangs_ends_all_the_same(folder: Path) -> None:
    with serving(folder, "--run-timeout-ms", str(LIMIT * 1000)) as server, ThreadPoolExecutor(1) as clients:
        hanging = clients.submit(ask, server, -1)
        wait_for((folder.parent / "entered").exists, "the run that hangs")
        assert server.stop() == 0
        assert hanging.result().status_code == 504


class Process:
    """Stands for a worker's process and its socket: takes everything, and answers when it is told to."""

    def __init__(self) -> None:
        self.killed = False

    def kill(self) -> None:
        self.killed = True

    def write(self, data: bytes) -> None:
        pass


def test_many_short_runs_are_never_taken_for_a_long_one() -> None:
    async def scenario() -> None:
        process, limit = Process(), 0.3
        worker = link.Worker(limit)
        worker._process = worker._transport = process  # type: ignore[assignment]
        worker.data_received(wire.pack("hello"))
        answers: list[Any] = []
        end = time.monotonic() + 3 * limit
        while time.monotonic() < end:
            worker.run(wire.Batch((), ["text"]), answers.append)
            await asyncio.sleep(0.01)
            worker.data_received(wire.pack(["answer"]))
        assert (process.killed, set(map(str, answers))) == (False, {"['answer']"})

        deaths: list[str] = []
        overran: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        worker.watch(deaths.append)
        start = time.monotonic()
        worker.run(wire.Batch((), ["text"]), overran.set_result)
        assert isinstance(await overran, link.RunTimeout)
        assert (process.killed, len(deaths)) == (True, 1)
        assert time.monotonic() - start >= limit

    asyncio.run(scenario())
