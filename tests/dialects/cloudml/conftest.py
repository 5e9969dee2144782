"""A platform that runs nothing, and signed clients of it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from flask import Flask
from helpers.cloudml import SignedClient, into, put_trainer
from helpers.models import times
from helpers.people import tree_of

from localml.config import Config
from localml.core.clock import ManualClock
from localml.core.people.rights import MemberRole
from localml.core.work.workloads import Query
from localml.dialects.cloudml import create_app
from localml.engines.fake.engine import FakeEngine
from localml.platform import Platform

MODEL = "fds://cloud-ml-test/linear/model"
TRAINER = "fds://cloud-ml-test/linear/trainer-1.0.0.tar.gz"


@pytest.fixture(scope="module")
def engine() -> FakeEngine:
    return FakeEngine()


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory, engine: FakeEngine) -> Iterator[Platform]:
    config = Config(tmp_path_factory.mktemp("data"), engine="fake", gpus="simulated:2", cpus=8, memory=16 << 30, port=0)
    opened = Platform(config, engine=engine, clock=ManualClock(1487571399.0))
    tree_of(opened).create("cloud-ml-test", everyone=MemberRole.MEMBER)
    put_trainer(opened.buckets, TRAINER)
    with opened.buckets.open(f"{MODEL}/model.onnx", "wb") as file:
        file.write(times(2))
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def app(platform: Platform) -> Flask:
    return create_app(platform)


@pytest.fixture
def client(platform: Platform, app: Flask) -> Iterator[SignedClient]:
    """The administrator's; afterwards all jobs are deleted."""
    given = platform.credentials
    yield SignedClient(given.access_key, given.secret_key, into(app))
    for row in platform.workloads.page(Query(dialect="cloudml", limit=1000)).items:
        platform.workloads.delete(row.id or 0, platform.identity.user("admin"))
    for endpoint in platform.endpoints.list(None, "cloudml"):
        platform.endpoints.delete(endpoint.row.id or 0, platform.identity.user("admin"))


@pytest.fixture
def stranger(platform: Platform, app: Flask) -> SignedClient:
    """Somebody of another organisation, who is no administrator."""
    known = {user.name: user for user in platform.identity.users()}
    user = known.get("eve") or platform.identity.create_user("eve", "secret", org="elsewhere")
    return SignedClient(*platform.identity.create_key(user), into(app))
