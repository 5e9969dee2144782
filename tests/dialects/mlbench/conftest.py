"""Live servers: one for each module and engine, cleaned after each test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from helpers.mlbench import Dashboard, open_dashboard


@pytest.fixture(scope="module")
def fake_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dashboard]:
    one = open_dashboard(tmp_path_factory.mktemp("data"), "fake")
    yield one
    one.server.close()


@pytest.fixture
def dashboard(fake_server: Dashboard) -> Iterator[Dashboard]:
    """Replicas do nothing and run until they are told to end."""
    yield fake_server
    fake_server.clean()
