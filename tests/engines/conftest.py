"""Fixtures: one kit for each engine."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from helpers.engine_kits import BoxedKit, EngineKit, FakeKit, ProcessKit, docker_kit


@pytest.fixture(params=["process", "boxed", "fake", pytest.param("docker", marks=pytest.mark.docker)])
def engine_kit(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[EngineKit]:
    kits: dict[str, Callable[[], EngineKit]] = {
        "process": lambda: ProcessKit(tmp_path / "replicas"),
        "boxed": lambda: BoxedKit(tmp_path / "replicas"),
        "fake": FakeKit,
        "docker": docker_kit,
    }
    kit = kits[request.param]()
    yield kit
    kit.close()


@pytest.fixture
def process_kit(tmp_path: Path) -> Iterator[ProcessKit]:
    kit = ProcessKit(tmp_path / "replicas")
    yield kit
    kit.close()
