"""Submitting, finding and listing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.rig import ME, Rig, job
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import text, update

from localml.core.errors import Code, LocalmlError
from localml.core.work import listing
from localml.core.work.listing import SORTS, Query
from localml.core.work.states import Kind, State
from localml.core.work.tables import Workload
from localml.core.work.workloads import Submission


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    one = Rig(tmp_path)
    yield one
    one.close()


@pytest.mark.parametrize("name", ["", "-a", "a b", "a/b", "x" * 129, "a\n", "ä"])
def test_names_that_are_refused(rig: Rig, name: str) -> None:
    with pytest.raises(LocalmlError, match=r"^name: ") as caught:
        rig.submit(name)
    assert (caught.value.code, caught.value.field) == (Code.INVALID, "name")


def test_a_name_is_taken_once_for_each_kind_dialect_and_version(rig: Rig) -> None:
    rig.submit("a")
    with pytest.raises(LocalmlError, match="'a' is already used") as caught:
        rig.submit("a")
    assert caught.value.code is Code.CONFLICT
    rig.submit("a", kind=Kind.NOTEBOOK)
    rig.submit("a", dialect="cloudml")
    rig.submit("a", version="2")
    with pytest.raises(LocalmlError, match="several workloads are named 'a'"):
        rig.workloads.named("a")


def test_what_a_submission_answers_is_what_is_stored(rig: Rig) -> None:
    given = Submission("a", job(gpu=1, priority=3), ME, dialect="openpai", request={"jobName": "a", "taskRoles": [1]})
    made = rig.workloads.queued(given)
    found = rig.workloads.get(made.row.id or 0)
    assert made.row.model_dump() == found.row.model_dump()
    assert (made.spec, made.request, made.images, made.attempts) == (found.spec, given.request, {}, [])


def test_a_dependency_must_exist_and_nothing_is_half_stored(rig: Rig) -> None:
    with pytest.raises(LocalmlError, match="depends_on"):
        rig.submit("a", job(depends_on=(99,)))
    assert rig.workloads.page(Query()).items == []
    rig.submit("a")


def test_a_dialect_that_refuses_over_quota_gets_the_numbers(rig: Rig) -> None:
    rig.pools.set_limits("cloudml/train", gpu=2)
    rig.submit("a", job(gpu=2), pool="cloudml/train", refuse_over_quota=True)
    with pytest.raises(LocalmlError) as caught:
        rig.submit("b", job(gpu=1), pool="cloudml/train", refuse_over_quota=True)
    assert caught.value.code is Code.QUOTA
    assert caught.value.message == "gpu: pool 'cloudml/train' has 2 in all, 2 in use; 1 more were asked for"
    rig.submit("c", job(gpu=1), pool="cloudml/train")
    assert rig.pools.get("cloudml").used.gpu == 3


def test_a_workload_is_found_by_name_or_number(rig: Rig) -> None:
    number = rig.submit("a", request={"job_name": "a"})
    assert rig.workloads.named("a").row.id == number
    assert rig.workloads.named(str(number)).request == {"job_name": "a"}
    assert rig.workloads.find(dialect="native", kind=Kind.JOB, name="a") is not None
    assert rig.workloads.find(dialect="native", kind=Kind.JOB, name="b") is None
    with pytest.raises(LocalmlError, match="workload 'b' does not exist"):
        rig.workloads.named("b")


def test_a_state_is_told_by_number(rig: Rig) -> None:
    number = rig.submit("a", job(1))
    assert rig.workloads.state(number) is State.QUEUED
    with pytest.raises(LocalmlError) as refused:
        rig.workloads.state(number + 1)
    assert refused.value.code is Code.NOT_FOUND


def test_stopping_twice_is_told_once(rig: Rig) -> None:
    number = rig.submit("a")
    rig.workloads.stop(number, ME)
    rig.workloads.stop(number, ME)
    assert rig.reasons(number) == ["Submitted", "StopRequested"]


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    rig = Rig(tmp_path_factory.mktemp("filled"))
    for n in range(60):
        rig.workloads.submit(Submission(f"job{n % 7}-{n}", job(priority=n % 3), ME, workspace=f"p{n % 2}"))

    def spread(session: object) -> None:
        for n in range(1, 61):
            session.execute(  # type: ignore[attr-defined]
                update(Workload)
                .where(Workload.id == n)
                .values(state=list(State)[n % 7], started_at=None if n % 4 else float(n % 9), ended_at=float(n % 5))
            )

    rig.db.write(spread)
    yield rig
    rig.close()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    sort=st.sampled_from(SORTS),
    descending=st.booleans(),
    limit=st.integers(1, 25),
    states=st.sets(st.sampled_from(State), max_size=3),
    workspace=st.sampled_from([None, "p0"]),
    contains=st.sampled_from([None, "job3", "%", "_"]),
    plan=st.sampled_from([(1000, 1000, 60_000), (1000, 3, 60_000), (0, 1000, 60_000), (0, 1000, 20), (0, 0, 20)]),
)
def test_pages_put_together_are_the_whole_list_in_order(
    filled: Rig,
    sort: str,
    descending: bool,
    limit: int,
    states: set[State],
    workspace: str | None,
    contains: str | None,
    plan: tuple[int, int, int],
) -> None:
    """However the rows are found: sorted, by a walk along an index, or by one that is given up."""
    query = {
        "sort": sort,
        "descending": descending,
        "states": tuple(states),
        "workspace": workspace,
        "contains": contains,
    }
    whole = filled.workloads.page(Query(**query, limit=1000)).items
    pages: list[Workload] = []
    after = None
    while True:
        with pytest.MonkeyPatch.context() as patch:
            for name, value in zip(("_FEW", "_SOME", "_STEPS"), plan, strict=True):
                patch.setattr(listing, name, value)
            page = filled.workloads.page(Query(**query, limit=limit, after=after))
        assert len(page.items) <= limit
        pages += page.items
        after = page.cursor
        if after is None:
            break
    assert [row.id for row in pages] == [row.id for row in whole]
    assert all(row.state in states for row in whole) or not states
    assert all(contains in row.name for row in whole if contains)
    values = [getattr(row, sort) for row in whole]
    some = [value for value in values if value is not None]
    assert some == sorted(some, reverse=descending)


def test_what_may_take_so_many_steps_is_given_up_for_more_only_however_often_it_is_asked(filled: Rig) -> None:
    numbers = "WITH RECURSIVE n(x) AS (VALUES (1) UNION ALL SELECT x + 1 FROM n WHERE x < {}) SELECT max(x) FROM n"
    short, long = text(numbers.format(300)), text(numbers.format(30_000))
    with filled.db.read() as session:
        for _ in range(20):
            with listing._at_most(session, 10_000) as given_up:
                assert session.execute(short).scalar() == 300
            assert not given_up
        with listing._at_most(session, 10_000) as given_up:
            session.execute(long).scalar()
        assert given_up


@pytest.mark.parametrize(
    ("query", "field"),
    [
        (Query(sort="spec"), "sort"),
        (Query(limit=0), "limit"),
        (Query(limit=1001), "limit"),
        (Query(after="nonsense"), "after"),
        (Query(after="W10="), "after"),
    ],
)
def test_bad_questions_name_what_is_wrong(filled: Rig, query: Query, field: str) -> None:
    with pytest.raises(LocalmlError) as caught:
        filled.workloads.page(query)
    assert caught.value.field == field


def test_a_cursor_belongs_to_its_order(filled: Rig) -> None:
    cursor = filled.workloads.page(Query(limit=5)).cursor
    with pytest.raises(LocalmlError, match="another order"):
        filled.workloads.page(Query(limit=5, sort="name", after=cursor))
