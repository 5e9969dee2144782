"""pytest plugin: a localml server as a fixture. Installed with localml, it needs no configuration.

>>> def test_training(localml):                                 # doctest: +SKIP
...     job = localml.client.run(["python", "-c", "print(42)"], gpus=1, wait=True)
...     assert localml.client.text(job.id) == "42\\n"
>>> def test_my_own_code(localml):                              # doctest: +SKIP
...     job = localml.client.run(["python", "train.py"], code="src", wait=True, timeout=600)
...     assert job.state == "succeeded", localml.client.text(job.id)

Jobs are child processes of yours, whichever user starts them; 64 cores are given out, and GPUs are simulated;
``localml_gpus`` in pytest's configuration says how many (or what else ``localml up --gpus`` takes). Nothing of localml
is imported until a test asks for a fixture.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from localml.client import Client
    from localml.platform import Platform
    from localml.server import Server
    from localml.testing_guard import Guard

DEFAULT_GPUS = "simulated:2"
CPUS = 64
"""Cores that the server reserves from: what starts together in a test does so on every machine."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the ini option."""
    parser.addini(
        "localml_gpus",
        "GPUs of the localml fixtures, as in 'localml up --gpus'; a number simulates so many",
        default="",
    )


class Localml:
    """A running server.

    Attributes:
        url: where it listens.
        client: speaks its own API as the administrator.
        platform: the services behind it, for tests that look inside.
    """

    def __init__(self, server: Server, guard: Guard) -> None:
        from localml.client import Client

        self._server = server
        self._guard = guard
        self.platform: Platform = server.platform
        self.url: str = server.url
        self.client: Client = Client(server.url, server.platform.credentials.token)

    def env(self, dialect: str) -> dict[str, Any]:
        """Endpoint and credentials for a vendor's client, as ``localml env DIALECT --format json`` gives them."""
        return self.client.env(dialect)

    def close(self) -> None:
        """Stop what still runs, then the server."""
        from localml.control.serving.gateway_process import stop

        self.client.close()
        self.platform.reconciler.close()  # what waited for the GPUs of those that are ended now would begin
        _stop_all(self.platform)
        self._server.close()
        stop(self.platform.data, timeout=2)
        self._guard.close()


def start(data: Path, gpus: str = DEFAULT_GPUS) -> Localml:
    """Start a server in this process, with the process engine and on a free port.

    Its work ends with this process, whatever kills it (:mod:`localml.testing_guard`).
    """
    with _no_collections():
        return _start(data, gpus)


def _start(data: Path, gpus: str) -> Localml:
    from localml.config import load
    from localml.platform import Platform
    from localml.server import Server
    from localml.testing_guard import Guard

    settings = {"engine": "process", "gpus": gpus, "cpus": CPUS, "port": 0, "gateway_port": 0, "trust_users": True}
    platform = Platform(load({}, data=data, **settings))
    try:
        server = Server(platform)
    except BaseException:
        platform.close()
        raise
    guard = Guard(platform.data)
    server.start()
    return Localml(server, guard)


@contextmanager
def _no_collections() -> Iterator[None]:
    """What is imported and made here stays; to look for garbage in it would take an eighth of the time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _stop_all(platform: Platform) -> None:
    """End all replicas: child processes would outlive the tests otherwise."""
    from localml.engines.base import Phase

    for name, seen in platform.engine.list().items():
        if seen.phase is not Phase.EXITED:
            platform.engine.stop(name, 0)


def _gpus(config: pytest.Config) -> str:
    given = str(config.getini("localml_gpus")).strip()
    return f"simulated:{given}" if given.isdigit() else given or DEFAULT_GPUS


@pytest.fixture(scope="session")
def localml(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Localml]:
    """One server for the whole run; its workloads stay from test to test."""
    running = start(tmp_path_factory.mktemp("localml"), _gpus(request.config))
    yield running
    running.close()


@pytest.fixture
def localml_fresh(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Localml]:
    """A server of the test's own, empty."""
    running = start(tmp_path / "localml", _gpus(request.config))
    yield running
    running.close()
