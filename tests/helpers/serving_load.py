"""Requests at full rate to a served :func:`helpers.models.times` model, and a judgement of every answer."""

from __future__ import annotations

import itertools
import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import urllib3


@dataclass(frozen=True)
class Served:
    """A right answer: the factor of the version that gave it, and when its request went out and was answered."""

    factor: float
    sent: float
    answered: float


class Load:
    """Threads that ask without a pause, each over one connection that it keeps.

    No two requests are alike and an answer shows both the request and the version, so what a wrong version, another
    request or a broken replica answers is a failure like any other.

    Args:
        url: where to infer.
        factors: of the versions that may answer.
    """

    def __init__(self, url: str, token: str, factors: set[float], threads: int = 8) -> None:
        self._url = urlsplit(url)
        self._headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        self._factors = factors
        self._numbers = itertools.count(1)
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._run) for _ in range(threads)]
        self.served: list[Served] = []
        self.failures: list[str] = []
        self.connections = 0

    def __enter__(self) -> Load:
        for one in self._threads:
            one.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for one in self._threads:
            one.join()

    def wait_for(self, condition: Callable[[], Any], what: str, deadline: float) -> None:
        """Return when the condition holds; fail at the deadline (monotonic), or as soon as a request has failed."""
        while not condition():
            assert not self.failures, f"waiting for {what}: {self.failures[:5]}"
            assert time.monotonic() < deadline, f"did not come about: {what}"
            self._over.wait(0.02)

    def wait_served(self, count: int, deadline: float) -> None:
        """Return when so many requests in all have been answered."""
        self.wait_for(lambda: len(self.served) >= count, f"{count} answers", deadline)

    def _run(self) -> None:
        host = self._url.hostname or ""
        pool = urllib3.HTTPConnectionPool(host, self._url.port, maxsize=1, block=True, retries=False, timeout=60.0)
        with pool:
            while not self._over.is_set():
                number = next(self._numbers)
                try:
                    self._ask(pool, number)
                except Exception as error:
                    self.failures.append(f"request {number}: {error!r}")
            self.connections += pool.num_connections

    def _ask(self, pool: urllib3.HTTPConnectionPool, number: int) -> None:
        tensor = {"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [number, 1]}
        body = json.dumps({"inputs": [tensor]}).encode()
        sent = time.monotonic()
        answer = pool.urlopen("POST", self._url.path, body=body, headers=self._headers)
        answered = time.monotonic()
        assert answer.status == 200, f"{answer.status} {answer.data[:200]!r}"
        product, factor = answer.json()["outputs"][0]["data"]
        assert factor in self._factors, f"no version answers {answer.data[:200]!r}"
        assert product == factor * number, f"another request's answer: {answer.data[:200]!r}"
        self.served.append(Served(factor, sent, answered))
