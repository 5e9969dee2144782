"""A platform that runs nothing, and clients of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from flask import Flask
from helpers.cloudml import into
from helpers.openpai import PaiClient

from localml.config import Config
from localml.core.clock import ManualClock
from localml.core.work.workloads import Query
from localml.dialects.openpai import create_app
from localml.engines.fake.engine import FakeEngine
from localml.platform import Platform


@pytest.fixture(scope="module")
def clock() -> ManualClock:
    return ManualClock(1530000000.0)


@pytest.fixture(scope="module")
def engine(clock: ManualClock) -> FakeEngine:
    return FakeEngine(clock)


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory, engine: FakeEngine, clock: ManualClock) -> Iterator[Platform]:
    config = Config(tmp_path_factory.mktemp("data"), engine="fake", gpus="simulated:2", cpus=8, memory=16 << 30, port=0)
    opened = Platform(config, engine=engine, clock=clock)
    opened.pools.set_limits("openpai/vc1", cpu=16, gpu=1)
    opened.pools.set_limits("openpai/vc2")
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def app(platform: Platform) -> Flask:
    return create_app(platform)


@pytest.fixture
def nobody(app: Flask) -> PaiClient:
    """Without a token."""
    return PaiClient(into(app))


@pytest.fixture
def client(platform: Platform, nobody: PaiClient) -> Iterator[PaiClient]:
    """The administrator's; afterwards all jobs and all other users are gone."""
    yield PaiClient(nobody.send, platform.credentials.token)
    admin = platform.identity.user("admin")
    for row in platform.workloads.page(Query(dialect="openpai", limit=1000)).items:
        platform.workloads.delete(row.id or 0, admin)
    if platform.buckets.exists("hdfs://h/Output"):
        platform.buckets.delete("hdfs://h/Output", recursive=True)
    for user in platform.identity.users():
        if user.name != "admin":
            platform.identity.remove_user(user.name)


@pytest.fixture
def new_user(client: PaiClient, nobody: PaiClient) -> Callable[..., PaiClient]:
    """Makes a user and gives its client."""

    def make(name: str, **rest: object) -> PaiClient:
        answer = client.put("/user", {"username": name, "password": "secret1", "modify": False, **rest})
        assert answer.status == 201, answer.data
        return nobody.login(name, "secret1")

    return make
