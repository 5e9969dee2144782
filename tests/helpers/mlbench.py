"""Live servers with the MLBench API, and calls of it as clients make them."""

from __future__ import annotations

import http.client
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

import pytest

from helpers.rig import wait_until
from localml.config import Config
from localml.core.work.listing import Query
from localml.engines.fake.engine import FakeEngine
from localml.platform import Platform
from localml.server import Server

IMAGE = "localml/base:latest"
EVERYTHING = Query(deleted=True, limit=1000)


@dataclass(frozen=True)
class Answer:
    """An HTTP answer, redirects not followed."""

    status: int
    headers: Mapping[str, str]
    data: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.data)


class Dashboard:
    """A running server and a client of its MLBench API, by default the administrator's.

    Args:
        token: whose it is instead; empty for nobody's.
    """

    def __init__(self, server: Server, token: str | None = None) -> None:
        self.server = server
        self.platform: Platform = server.platform
        self.url = server.url
        self.token = server.platform.credentials.token if token is None else token

    def of(self, token: str) -> Dashboard:
        """The same server with somebody else's token."""
        return Dashboard(self.server, token)

    def call(self, method: str, path: str, body: Any = None, form: Any = None, **headers: str) -> Answer:
        """Send JSON (``body``; bytes as they are) or a form; ``path`` is below ``/api/``."""
        data = body if isinstance(body, bytes) else None if body is None else json.dumps(body).encode()
        if form is not None:
            data = urlencode(form, doseq=True).encode()
        kind = "application/x-www-form-urlencoded" if form is not None else "application/json"
        sent = {"Content-Type": kind} if data is not None else {}
        sent |= {"Authorization": f"Bearer {self.token}"} if self.token else {}
        sent |= {name.replace("_", "-"): value for name, value in headers.items()}
        connection = http.client.HTTPConnection(urlsplit(self.url).netloc, timeout=60)
        try:
            connection.request(method, f"/api/{path}", data, sent)
            found = connection.getresponse()
            return Answer(found.status, dict(found.getheaders()), found.read())
        finally:
            connection.close()

    def get(self, path: str, **query: Any) -> Any:
        """The JSON of an answer that must be 200."""
        answer = self.call("GET", path + (f"?{urlencode(query)}" if query else ""))
        assert answer.status == 200, (path, answer.status, answer.data)
        return answer.json

    def start(self, command: str = "sleep 600", workers: int = 2, **members: Any) -> dict[str, Any]:
        """A run of a command on all workers, sent as the vendor's client sends it."""
        form = {
            "name": "Name of the run",
            "num_workers": workers,
            "num_cpus": 0.5,
            "max_bandwidth": 1000,
            "gpu_enabled": "false",
            "light_target": "false",
            "run_all_nodes": "true",
            "image_name": "custom_image",
            "custom_image_name": IMAGE,
            "custom_image_command": command,
            "backend": "GLOO",
        }
        answer = self.call("POST", "runs/", form=form | members)
        assert answer.status == 200, answer.data
        found: dict[str, Any] = answer.json
        return found

    def pods(self, count: int = 2) -> list[str]:
        """Names of the pods, once so many run."""

        def running() -> list[str]:
            return [pod["name"] for pod in self.get("pods/") if pod["phase"] == "Running"]

        wait_until(lambda: len(running()) == count, 60)
        return sorted(running())

    def wait(self, run: int, seconds: float = 120) -> dict[str, Any]:
        """A run once it is over."""
        wait_until(lambda: self.get(f"runs/{run}")["state"] != "STARTED", seconds)
        found: dict[str, Any] = self.get(f"runs/{run}")
        return found

    def clean(self) -> None:
        """Delete all runs and wait until nothing is left of them."""
        admin = self.platform.identity.user("admin")
        for row in self.platform.workloads.page(EVERYTHING).items:
            self.platform.workloads.delete(row.id or 0, admin)
        wait_until(lambda: all(row.cleaned for row in self.platform.workloads.page(EVERYTHING).items), 60)


def open_dashboard(data: Path, engine: str, **settings: Any) -> Dashboard:
    """A server of its own on a free port; skips the test when the engine lacks what it needs."""
    if engine == "docker":
        need_image(IMAGE)
    settings = {"cache": data / "cache", **settings}
    config = Config(data, engine=engine, gpus="simulated:2", cpus=8, port=0, **settings)
    server = Server(Platform(config, engine=FakeEngine() if engine == "fake" else None))
    server.start()
    return Dashboard(server)


def need_image(image: str) -> None:
    """Skip the test when an image of ours is not built."""
    import docker

    daemon = docker.from_env()
    try:
        if not daemon.images.list(image):
            pytest.skip(f"the image {image} is not built (localml images build)")
    finally:
        daemon.close()
