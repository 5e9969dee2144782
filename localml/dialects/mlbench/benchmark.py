"""The benchmark of a run that names none: linear regression by synchronous SGD with an all-reduce over TCP or MPI.

A program of its own, of the standard library only (and mpi4py where MPI has started it): its text is given to the
Python of every worker, and nothing of localml is there. Over TCP the first worker adds up what the others send it and
sends the sum back. The numbers are drawn from a fixed seed, so that two runs on the same number of workers give the
same weights.
"""

from __future__ import annotations

import base64
import json
import os
import random
import socket
import time
import urllib.error
import urllib.parse
import urllib.request
from array import array
from datetime import UTC, datetime
from typing import TextIO

FEATURES, POINTS, EPOCHS, STEPS, RATE = 8, 256, 10, 20, 0.1
GOAL = 1e-3
PATIENCE_S = 120.0


class Reducer:
    """Sums over all workers: one connection from each of the others to the first."""

    def __init__(self, rank: int, world: int, address: str, port: int) -> None:
        self.rank = rank
        self.streams: list[TextIO] = []
        if world > 1 and rank == 0:
            with socket.create_server(("", port)) as server:
                server.settimeout(PATIENCE_S)
                self.streams = [server.accept()[0].makefile("rw") for _ in range(world - 1)]
        elif world > 1:
            self.streams = [_connect(address, port).makefile("rw")]

    def sum(self, values: list[float]) -> list[float]:
        """The element-wise sum of the workers' lists of numbers; all get the same."""
        if self.rank != 0:
            self._send(self.streams[0], values)
            return [float(one) for one in json.loads(self.streams[0].readline())]
        lists = [values] + [json.loads(stream.readline()) for stream in self.streams]
        total = [sum(column) for column in zip(*lists, strict=True)]
        for stream in self.streams:
            self._send(stream, total)
        return total

    @staticmethod
    def _send(stream: TextIO, values: list[float]) -> None:
        stream.write(json.dumps(values) + "\n")
        stream.flush()


def _connect(address: str, port: int) -> socket.socket:
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            return socket.create_connection((address, port), timeout=PATIENCE_S)
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


class MpiReducer:
    """Sums over all workers by MPI."""

    def __init__(self, rank: int, world: int) -> None:
        from mpi4py import MPI

        self.workers = MPI.COMM_WORLD
        if (self.workers.Get_rank(), self.workers.Get_size()) != (rank, world):
            raise RuntimeError(f"MPI has other ranks than the run: {self.workers.Get_rank()} is not {rank} of {world}")

    def sum(self, values: list[float]) -> list[float]:
        """The element-wise sum of the workers' lists of numbers; all get the same."""
        total = array("d", bytes(8 * len(values)))
        self.workers.Allreduce(array("d", values), total)
        return total.tolist()


class Dashboard:
    """Posts metrics as the vendor's client does; says once when the dashboard cannot be reached from here."""

    def __init__(self, url: str, run_id: str, rank: int) -> None:
        parts = urllib.parse.urlsplit(url)
        credentials = base64.b64encode(f"{parts.username}:{parts.password}".encode()).decode()
        self.headers = {"Authorization": f"Basic {credentials}"}
        self.url = url.replace(parts.netloc, parts.netloc.rpartition("@")[2], 1)  # which is what urlopen can take
        self.run_id, self.rank = run_id, rank

    def post(self, name: str, value: float, epoch: int) -> None:
        print(f"{name} @ {self.rank}: {value:.6g} (epoch {epoch})", flush=True)
        if not self.url:
            return
        fields = {
            "run_id": self.run_id,
            "name": f"{name} @ {self.rank}",
            "cumulative": "False",
            "date": str(datetime.now(UTC).replace(tzinfo=None)),
            "value": str(value),
            "metadata": f"{{rank: {self.rank}, epoch: {epoch}}}",
        }
        data = urllib.parse.urlencode(fields).encode()
        try:
            request = urllib.request.Request(f"{self.url}/api/metrics/", data, self.headers)
            urllib.request.urlopen(request, timeout=5).close()
        except (urllib.error.URLError, OSError) as error:
            print(f"metrics are only printed: {self.url} cannot be reached ({error})", flush=True)
            self.url = ""


def data(rank: int) -> list[tuple[list[float], float]]:
    """One worker's points: inputs, and what the same secret weights make of them."""
    draw = random.Random(1)
    secret = [draw.uniform(-1, 1) for _ in range(FEATURES)]
    draw = random.Random(1000 + rank)
    rows = [[draw.uniform(-1, 1) for _ in range(FEATURES)] for _ in range(POINTS)]
    return [(row, sum(w * x for w, x in zip(secret, row, strict=True))) for row in rows]


def gradient(weights: list[float], points: list[tuple[list[float], float]]) -> tuple[list[float], float]:
    """Mean gradient and loss of the squared error over one worker's points."""
    slope, loss = [0.0] * FEATURES, 0.0
    for inputs, target in points:
        error = sum(w * x for w, x in zip(weights, inputs, strict=True)) - target
        loss += error * error
        for column, x in enumerate(inputs):
            slope[column] += 2 * error * x
    return [one / len(points) for one in slope], loss / len(points)


def _reducer(rank: int, world: int) -> Reducer | MpiReducer:
    if "LOCALML_MPI_ADDRESSES" in os.environ:
        return MpiReducer(rank, world)
    return Reducer(rank, world, os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]))


def main() -> int:
    """Train; 0 when the goal was reached."""
    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    reducer = _reducer(rank, world)
    dashboard = Dashboard(os.environ.get("MLBENCH_DASHBOARD_URL", ""), os.environ["MLBENCH_RUN_ID"], rank)
    points = data(rank)
    weights = [0.0] * FEATURES
    loss, begin = 0.0, time.monotonic()
    for epoch in range(EPOCHS):
        for _ in range(STEPS):
            slope, loss = gradient(weights, points)
            total = reducer.sum([*slope, loss])
            weights = [w - RATE * one / world for w, one in zip(weights, total, strict=False)]
            loss = total[-1] / world
        dashboard.post("train_loss", loss, epoch)
    dashboard.post("total_train_time", time.monotonic() - begin, EPOCHS)
    print(f"trained on {world} workers, loss {loss:.2e}", flush=True)
    return 0 if loss < GOAL else 1


if __name__ == "__main__":
    raise SystemExit(main())
