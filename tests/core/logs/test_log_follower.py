"""Following: each step gives the news, costs no more than they do, and asks little of the database."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.outputs import append, big, counted
from helpers.rig import Rig, job

from localml.core.errors import LocalmlError
from localml.core.logs.follower import Follower
from localml.core.logs.sources import ALL, Position, Source
from localml.core.work.specs import WorkloadSpec


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    one = Rig(tmp_path)
    yield one
    one.close()


def started(rig: Rig) -> tuple[int, list[Source]]:
    number = rig.submit("a", job(None))
    rig.settle()
    return number, ALL.sources(rig.get(number).attempts)


def follower(rig: Rig, number: int, position: Position | None = None) -> Follower:
    return Follower(rig.logs, rig.workloads, number, ALL, position or Position())


def step(one: Follower) -> bytes:
    return b"".join(piece.data for piece in one.news())


def test_each_step_gives_what_came_since_the_last(rig: Rig) -> None:
    number, sources = started(rig)
    one = follower(rig, number)
    assert step(one) == b""
    append(rig.logs, sources[0], 1, b"a\nb")
    append(rig.logs, sources[1], 2, b"err\n")
    assert (step(one), one.over, str(one.position)) == (b"a\nberr\n", False, "3,4")
    append(rig.logs, sources[0], 3, b"c")
    assert (step(one), step(one)) == (b"c", b"")


def test_a_replica_that_comes_later_is_followed_too(rig: Rig) -> None:
    number = rig.submit("a", job(None))
    one = follower(rig, number)
    assert (step(one), one.newest) == (b"", 1)
    rig.settle()
    append(rig.logs, ALL.sources(rig.get(number).attempts)[0], 1, b"hello\n")
    assert step(one) == b"hello\n"


def test_what_was_written_before_the_end_comes_with_it(rig: Rig) -> None:
    number = rig.submit("a", job(1))
    rig.settle()
    append(rig.logs, ALL.sources(rig.get(number).attempts)[0], 1, b"bye")
    one = follower(rig, number)
    rig.clock.advance(5)
    rig.settle()
    assert (step(one), one.over) == (b"bye", True)


def test_a_line_behind_a_million_costs_its_bytes_and_no_spec(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    number, sources = started(rig)
    big(rig.logs, sources[0], b"a line of some length\n", 22_000_000, marks=1_000_000)
    one = follower(rig, number, Position.end(rig.logs, sources))
    assert step(one) == b""

    def refused(*_: object, **__: object) -> None:
        raise AssertionError("a step needs the state alone")

    monkeypatch.setattr(WorkloadSpec, "model_validate_json", refused)
    monkeypatch.setattr(rig.workloads, "attempts", refused)
    append(rig.logs, sources[0], 2_000_000, b"one more\n")
    with counted() as reads:
        assert step(one) == b"one more\n"
    assert reads.bytes == len(b"one more\n")


def test_a_workload_that_is_forgotten_ends_its_followers(rig: Rig) -> None:
    with pytest.raises(LocalmlError, match="workload"):
        follower(rig, 99).news()
