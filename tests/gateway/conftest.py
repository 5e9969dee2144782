"""One gateway for all tests that only need one; each test publishes a table of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.gateway import GatewayProcess, running


@pytest.fixture(scope="session")
def shared_gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    yield from running(tmp_path_factory.mktemp("gateway"))


@pytest.fixture
def gateway(shared_gateway: GatewayProcess) -> GatewayProcess:
    """It starts with an empty table, so that all counts are a test's own."""
    asyncio.run(shared_gateway.publish())
    return shared_gateway


@pytest.fixture
def own_gateway(tmp_path: Path) -> Iterator[GatewayProcess]:
    """For tests that end it or set it up in their own way."""
    yield from running(tmp_path / "data", "--drain", "60")
