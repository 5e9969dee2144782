"""pytest plugin: a localml server as a fixture. Installed with localml, it needs no configuration.

>>> def test_training(localml):                                 # doctest: +SKIP
...     job = localml.client.run(["python", "-c", "print(42)"], gpus=1, wait=True)
...     assert localml.client.text(job.id) == "42\\n"
>>> def test_my_own_code(localml):                              # doctest: +SKIP
...     job = localml.client.run(["python", "train.py"], code="src", wait=True, timeout=600)
...     assert job.state == "succeeded", localml.client.text(job.id)

Jobs are child processes of yours, whichever user starts them; 64 cores are given out, and GPUs are simulated;
``localml_gpus`` in pytest's configuration says how many (or what else ``localml up --gpus`` takes). Whatever image a
job names, it runs in the Python of the tests, with what is installed there, and the summary says so; ``localml_images``
names runtimes instead, a line ``PATTERN = RUNTIME`` for each (``localml/* = train-sklearn``), which are built when
first used. Runtimes with programs of their own (MPI, servers of models) always are. Nothing of localml is imported
until a test asks for a fixture.
"""

from __future__ import annotations

import gc
from collections.abc import Iterable, Iterator, Mapping
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
DEFAULT_IMAGES = ("* = host",)
_MAPPED = "localml_mapped"
_NAMED_IMAGES = "SELECT DISTINCT json_extract(value, '$.image') FROM workload_detail, json_each(spec, '$.roles')"
_STASH = pytest.StashKey[dict[str, list[str]]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the ini option."""
    parser.addini(
        "localml_gpus",
        "GPUs of the localml fixtures, as in 'localml up --gpus'; a number simulates so many",
        default="",
    )
    parser.addini(
        "localml_images",
        "what images stand for in the localml fixtures: lines PATTERN = RUNTIME; by default the host's Python",
        type="linelist",
        default=list(DEFAULT_IMAGES),
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

    def hosted_images(self) -> set[str]:
        """The images that jobs named so far and that this process's Python stood for."""
        from localml.core.catalog import HOST

        with self.platform.db.read_raw() as connection:
            named = {row[0] for row in connection.execute(_NAMED_IMAGES)} - {None, "", HOST}
        stands_for, images = self.platform.catalog.stands_for, self.platform.config.images
        return {one for one in named if stands_for(one, images) == HOST}

    def close(self) -> None:
        """Stop what still runs, then the server."""
        from localml.control.serving.gateway_process import stop

        self.client.close()
        self.platform.reconciler.close()  # what waited for the GPUs of those that are ended now would begin
        _stop_all(self.platform)
        self._server.close()
        stop(self.platform.data, timeout=2)
        self._guard.close()


def start(data: Path, gpus: str = DEFAULT_GPUS, images: Mapping[str, str] | None = None) -> Localml:
    """Start a server in this process, with the process engine and on a free port.

    Its work ends with this process, whatever kills it (:mod:`localml.testing_guard`).

    Args:
        images: what images stand for (:attr:`localml.config.Config.images`); by default this process's Python.
    """
    with _no_collections():
        return _start(data, gpus, _pairs(DEFAULT_IMAGES) if images is None else images)


def _start(data: Path, gpus: str, images: Mapping[str, str]) -> Localml:
    from localml.config import load
    from localml.core.catalog import load_catalog
    from localml.platform import Platform
    from localml.server import Server
    from localml.testing_guard import Guard

    runtimes = [one for one in load_catalog().runtimes() if not one.launcher]  # these bring what this Python has not
    own = {f"{one.image}{tag}": one.name for one in runtimes for tag in ("", ":*")}
    given = {"engine": "process", "gpus": gpus, "cpus": CPUS, "port": 0, "gateway_port": 0, "trust_users": True}
    platform = Platform(load({}, data=data, images={**own, **images}, **given))
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


def _pairs(lines: Iterable[str]) -> dict[str, str]:
    """Patterns and what they stand for."""
    parts = [line.rpartition("=") for line in lines]
    if wrong := [name or value for name, sign, value in parts if not (name.strip() and sign and value.strip())]:
        raise pytest.UsageError(f"localml_images: must be lines PATTERN = RUNTIME, not {wrong[0]!r}")
    return {name.strip(): value.strip() for name, _, value in parts}


@contextmanager
def _running(config: pytest.Config, data: Path) -> Iterator[Localml]:
    running = start(data, _gpus(config), _pairs(config.getini("localml_images")))
    yield running
    _note_mapped(config, running.hosted_images())
    running.close()


def _note_mapped(config: pytest.Config, images: set[str]) -> None:
    """Kept for the summary; a worker of pytest-xdist hands it on when it ends."""
    kept = getattr(config, "workeroutput", None)
    kept = config.stash.setdefault(_STASH, {}) if kept is None else kept
    kept[_MAPPED] = sorted({*kept.get(_MAPPED, ()), *images})


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any, error: object) -> None:
    """What a worker of pytest-xdist has to say."""
    _note_mapped(node.config, set(getattr(node, "workeroutput", {}).get(_MAPPED, ())))


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Say once which images the tests' own Python stood for."""
    if images := config.stash.get(_STASH, {}).get(_MAPPED):
        names = ", ".join(images)
        terminalreporter.write_line(
            f"localml: these images ran in the Python of the tests (localml_images names runtimes instead): {names}"
        )


@pytest.fixture(scope="session")
def localml(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Localml]:
    """One server for the whole run; its workloads stay from test to test."""
    with _running(request.config, tmp_path_factory.mktemp("localml")) as running:
        yield running


@pytest.fixture
def localml_fresh(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Localml]:
    """A server of the test's own, empty."""
    with _running(request.config, tmp_path / "localml") as running:
        yield running
