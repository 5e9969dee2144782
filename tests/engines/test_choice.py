"""Which engine runs the jobs, and what is said when it is not the one that one would expect."""

from __future__ import annotations

from pathlib import Path

import pytest

from localml.config import Config
from localml.core.catalog import load_catalog
from localml.core.clock import ManualClock
from localml.core.errors import Code, LocalmlError
from localml.engines.base import EngineUnreachable
from localml.engines.choice import Chosen, choose_engine, container_ids


def choose(tmp_path: Path, engine: str) -> Chosen:
    return choose_engine(Config(data=tmp_path, engine=engine, cache=tmp_path), "i", ManualClock(), load_catalog())


@pytest.fixture
def no_docker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("localml.engines.docker.docker_available", lambda: "nothing listens at the socket")


@pytest.mark.parametrize("name", ["fake", "process"])
def test_the_one_that_was_asked_for(tmp_path: Path, name: str) -> None:
    chosen = choose(tmp_path, name)
    assert (chosen.engine.name, chosen.note) == (name, "")
    chosen.engine.close()


@pytest.mark.usefixtures("no_docker")
def test_child_processes_stand_in_for_docker_and_say_so(tmp_path: Path) -> None:
    chosen = choose(tmp_path, "auto")
    assert chosen.engine.name == "process"
    assert "no Docker (nothing listens at the socket)" in chosen.note
    assert "child processes" in chosen.note
    chosen.engine.close()


@pytest.mark.usefixtures("no_docker")
def test_docker_that_was_asked_for_and_does_not_answer_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(LocalmlError, match="engine: nothing listens at the socket") as refused:
        choose(tmp_path, "docker")
    assert (refused.value.code, refused.value.field) == (Code.UNAVAILABLE, "engine")


def test_an_engine_that_does_not_answer_has_no_containers_to_compare_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = choose(tmp_path, "fake").engine

    def away() -> None:
        raise EngineUnreachable("away")

    monkeypatch.setattr(engine, "list", away)
    assert container_ids(engine) == []


def test_builds_never_go_where_the_process_happens_to_be(tmp_path: Path) -> None:
    assert Config(data=tmp_path).cache == tmp_path / "cache"
