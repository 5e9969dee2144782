"""Sums that the database keeps: always those that counting anew gives."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest
from helpers.rig import Rig, job
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlmodel import Session, col, select

from localml.core.capacity.pools import Usage, usage_by_pool
from localml.core.logs.tables import LogFile
from localml.core.subjects import Noun
from localml.core.tallies import count_logs, count_workloads
from localml.core.work.specs import Resources
from localml.core.work.states import ACTIVE, State
from localml.core.work.tables import Workload, WorkloadDetail


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    one = Rig(tmp_path_factory.mktemp("rig"))
    yield one
    one.close()


def counted(session: Session) -> tuple[dict[tuple[str, str], int], dict[str, Usage], tuple[int, int]]:
    """The slow way."""
    found: dict[tuple[str, str], int] = {}
    used: dict[str, Usage] = {}
    for row in session.exec(select(Workload)):
        found[str(row.kind), str(row.state)] = found.get((str(row.kind), str(row.state)), 0) + 1
        if row.state in ACTIVE:
            used[row.pool] = used.get(row.pool, Usage()).plus(Usage(row.cpu, row.memory, row.gpu, 1))
    files = session.exec(select(LogFile).where(col(LogFile.pruned_at).is_(None))).all()
    return found, used, (len(files), sum(file.size for file in files))


def assert_true(rig: Rig) -> None:
    with rig.db.read() as session:
        counts, used, logs = counted(session)
        assert count_workloads(session) == counts
        assert count_logs(session) == logs
        kept = usage_by_pool(session)
        assert kept.keys() == used.keys()
        for pool, usage in used.items():
            assert kept[pool] == Usage(
                pytest.approx(usage.cpu), usage.memory, pytest.approx(usage.gpu), usage.workloads
            )


places = st.integers(0, 9)
states = st.sampled_from(list(State))
acts = st.one_of(
    st.tuples(st.just("submit"), st.sampled_from(["a", "b"]), st.sampled_from([0.1, 0.5, 4.0])),
    st.tuples(st.just("move"), places, states),
    st.tuples(st.just("fail"), places, states),
    st.tuples(st.just("pool"), places, st.sampled_from(["a", "b", "c"])),
    st.tuples(st.just("delete"), places, st.none()),
    st.tuples(st.just("file"), st.integers(0, 1000), st.none()),
    st.tuples(st.just("prune"), places, st.none()),
)
fresh = itertools.count()


@given(st.lists(acts, max_size=25))
@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
def test_they_hold_over_any_history(rig: Rig, history: list[tuple[str, Any, Any]]) -> None:
    for what, one, other in history:
        with suppress(Broken):
            DO[what](rig, one, other)
    assert_true(rig)


class Broken(Exception):
    """A write that fails after it has changed something."""


def submit(rig: Rig, pool: str, cpu: float) -> None:
    rig.submit(f"j{next(fresh)}", job(None, resources=Resources(cpu=cpu, memory=64 << 20)), pool=pool)


def file(rig: Rig, size: int, _: None) -> None:
    of = {"subject_kind": Noun.WORKLOAD, "subject_id": 1, "stream": "stdout", "path": f"p{next(fresh)}"}
    rig.db.write(lambda session: session.add(LogFile(**of, size=size)))


def change(rig: Rig, model: type[Workload] | type[LogFile], place: int, act: Callable[[Session, Any], None]) -> None:
    """Do something to one of the newest rows."""

    def write(session: Session) -> None:
        rows = session.exec(select(model).order_by(col(model.id).desc()).limit(10)).all()
        if rows:
            act(session, rows[place % len(rows)])

    rig.db.write(write)


def setting(name: str, value: Any) -> Callable[[Session, Any], None]:
    def act(session: Session, row: Any) -> None:
        setattr(row, name, value)
        session.add(row)

    return act


def failing(session: Session, row: Any) -> None:
    row.state = State.FAILED if row.state is not State.FAILED else State.QUEUED
    session.add(row)
    session.flush()
    raise Broken


def deleting(session: Session, row: Any) -> None:
    session.delete(session.get(WorkloadDetail, row.id))
    session.flush()
    session.delete(row)


DO: dict[str, Callable[[Rig, Any, Any], None]] = {
    "submit": submit,
    "file": file,
    "move": lambda rig, place, state: change(rig, Workload, place, setting("state", state)),
    "pool": lambda rig, place, pool: change(rig, Workload, place, setting("pool", pool)),
    "fail": lambda rig, place, _: change(rig, Workload, place, failing),
    "delete": lambda rig, place, _: change(rig, Workload, place, deleting),
    "prune": lambda rig, place, _: change(rig, LogFile, place, setting("pruned_at", 1.0)),
}
