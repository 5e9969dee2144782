"""A platform that runs nothing, one whose jobs run as processes, and clients of both."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from flask import Flask
from helpers.cloudml import into, over
from helpers.wmla import WmlaClient, wmla_server

from localml.config import Config
from localml.core.clock import ManualClock
from localml.dialects.wmla import create_app
from localml.engines.fake.engine import FakeEngine
from localml.platform import Platform
from localml.server import Server


@pytest.fixture(scope="module")
def clock() -> ManualClock:
    return ManualClock(1700000000.0)


@pytest.fixture(scope="module")
def engine(clock: ManualClock) -> FakeEngine:
    return FakeEngine(clock)


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory, engine: FakeEngine, clock: ManualClock) -> Iterator[Platform]:
    """Not started: nothing is driven, what is submitted waits."""
    config = Config(tmp_path_factory.mktemp("data"), engine="fake", gpus="simulated:2", cpus=8, memory=16 << 30, port=0)
    opened = Platform(config, engine=engine, clock=clock)
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def app(platform: Platform) -> Flask:
    return create_app(platform)


@pytest.fixture
def nobody(app: Flask) -> WmlaClient:
    """Without credentials."""
    return WmlaClient(into(app))


@pytest.fixture
def client(platform: Platform, app: Flask) -> WmlaClient:
    """The administrator's."""
    return WmlaClient(into(app), "admin", platform.credentials.password)


@pytest.fixture
def new_user(platform: Platform, app: Flask) -> Callable[[str], WmlaClient]:
    """The client of somebody who is no administrator, and is made if there is nobody of that name."""

    def make(name: str) -> WmlaClient:
        if name not in {user.name for user in platform.identity.users()}:
            platform.identity.create_user(name, "secret1")
        return WmlaClient(into(app), name, "secret1")

    return make


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server whose jobs run as processes."""
    with wmla_server(tmp_path_factory.mktemp("live")) as one:
        yield one


@pytest.fixture(scope="module")
def live(server: Server) -> WmlaClient:
    """The administrator's client of that server."""
    return WmlaClient(over(server.url), "admin", server.platform.credentials.password)
