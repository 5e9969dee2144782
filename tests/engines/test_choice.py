"""Which engine runs the jobs, and what is said when it is not the one that one would expect."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from localml.config import Config
from localml.core.clock import ManualClock
from localml.core.errors import Code, LocalmlError
from localml.core.work.engines import NOTHING, Holding, Memory, same_engine
from localml.engines.base import EngineUnreachable
from localml.engines.choice import Chosen, choose_engine, container_ids, need_no_other


def choose(tmp_path: Path, engine: str, memory: Memory = NOTHING) -> Chosen:
    config = Config(data=tmp_path, engine=engine, cache=tmp_path)
    return choose_engine(config, "i", ManualClock(), memory)


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


def having(engine: str, *names: str) -> Memory:
    return Memory((Holding(engine, names, tuple(f"c-{name}" for name in names)),))


@pytest.mark.usefixtures("no_docker")
@pytest.mark.parametrize("asked", ["auto", "docker"])
@pytest.mark.parametrize(
    ("memory", "words"),
    [
        (having("docker:aa:bb", "train"), "it has work \\(train\\).*localml up --engine process --abandon docker"),
        (Memory(waits_for="docker:aa:bb"), "what waits is for it.*localml up --engine process"),
    ],
)
def test_docker_that_has_work_is_taken_also_while_it_does_not_answer(
    tmp_path: Path, asked: str, memory: Memory, words: str
) -> None:
    """Where it was asked for, too: at boot the daemon may come later."""
    chosen = choose(tmp_path, asked, memory)
    assert (chosen.engine.name, chosen.away, chosen.engine.identity) == ("docker", True, "docker:aa:bb")
    assert re.search(words, chosen.note)
    chosen.engine.close()


def test_child_processes_that_run_go_on_where_docker_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("localml.engines.docker.docker_available", lambda: None)
    chosen = choose(tmp_path, "auto", having("process", "train", "nb"))
    assert chosen.engine.name == "process"
    assert "it has work (train, nb); after that a start takes Docker" in chosen.note
    chosen.engine.close()


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("process", "process", True),
        ("process", "docker", False),
        ("docker", "docker:aa:bb", True),  # of an earlier version, or placed before it answered
        ("docker:aa:bb", "docker:aa:cc", True),  # its machine was renamed
        ("docker:aa:bb", "docker:cc:bb", True),  # it gives another id each time
        ("docker:aa:bb", "docker:cc:dd", False),
    ],
)
def test_which_identities_are_of_one_engine(one: str, other: str, same: bool) -> None:
    assert (same_engine(one, other), same_engine(other, one)) == (same, same)


def test_another_engine_is_refused_while_one_has_work(tmp_path: Path) -> None:
    engine = choose(tmp_path, "process").engine
    need_no_other(engine, having("process", "train"))
    with pytest.raises(LocalmlError, match=r"the docker engine has work \(train, nb\).*--abandon docker") as refused:
        need_no_other(engine, having("docker:aa:bb", "train", "nb"))
    assert (refused.value.code, refused.value.field) == (Code.CONFLICT, "engine")
    assert refused.value.details == {"engine": "docker", "workloads": ["train", "nb"]}
    engine.close()


def test_what_is_abandoned_must_be_an_engine(tmp_path: Path) -> None:
    with pytest.raises(LocalmlError, match="abandon: must be docker or process, not 'fake'"):
        Config(data=tmp_path, abandon="fake")
