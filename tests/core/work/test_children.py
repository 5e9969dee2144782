"""Workloads that are children: trials, versions, runs, replicas."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers.rig import ME, Rig
from sqlalchemy import event, insert

from localml.core.errors import Code, LocalmlError
from localml.core.subjects import Noun, Parent, Subject
from localml.core.work.listing import Query
from localml.core.work.states import State
from localml.core.work.tables import Workload

STUDY, OTHER = Subject(Noun.STUDY, 3), Subject(Noun.JOB, 3)


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    one = Rig(tmp_path)
    yield one
    one.close()


def grow(rig: Rig, parent: Subject, count: int, **rest: Any) -> list[int]:
    """Children with the next indexes, all of one name."""
    first = rig.workloads.next_index(parent)
    return [rig.submit("trial", parent=Parent(parent, first + n), **rest) for n in range(count)]


def test_children_are_listed_and_counted_by_their_parent(rig: Rig) -> None:
    trials, versions = grow(rig, STUDY, 3), grow(rig, OTHER, 2, version="V0001")
    rig.submit("alone")
    page = rig.workloads.page(Query(parent=STUDY, limit=2))
    rest = rig.workloads.page(Query(parent=STUDY, limit=2, after=page.cursor))
    assert [row.id for row in page.items + rest.items] == trials[::-1]
    assert rig.get(versions[1]).row.parent == Parent(OTHER, 2)
    rig.workloads.delete(trials[0], ME)
    rig.settle()
    assert rig.workloads.children(STUDY) == {State.STOPPED: 1, State.RUNNING: 2}
    assert rig.workloads.children(Subject(Noun.STUDY, 4)) == {}


def test_a_childs_name_need_not_be_free_and_its_index_must(rig: Rig) -> None:
    (first,) = grow(rig, STUDY, 1)
    alone = rig.submit("trial")
    assert rig.workloads.named("trial").row.id == alone
    found = rig.workloads.find(dialect="native", kind=rig.get(alone).row.kind, name="trial")
    assert found is not None
    assert found.row.id == alone
    rig.workloads.delete(first, ME)
    with pytest.raises(LocalmlError, match="study 3 has a child with the index 1 already") as caught:
        rig.submit("another", parent=Parent(STUDY, 1))
    assert (caught.value.code, caught.value.field) == (Code.CONFLICT, "parent")
    assert rig.workloads.next_index(STUDY) == 2
    rig.workloads.delete(alone, ME)
    grow(rig, STUDY, 1)
    assert rig.workloads.named("trial").row.parent == Parent(STUDY, 2)


@pytest.mark.parametrize("count", [10, 2500])
def test_a_list_of_children_reads_no_others(rig: Rig, count: int) -> None:
    copy(rig, grow(rig, STUDY, 1)[0], count)
    copy(rig, rig.submit("other"), 3000)
    for ask in (
        lambda: rig.workloads.page(Query(parent=STUDY)),
        lambda: rig.workloads.children(STUDY),
        lambda: rig.workloads.next_index(STUDY),
    ):
        found = plans(rig, ask)
        assert found
        assert all("workload_parent" in plan for plan in found), found


def copy(rig: Rig, number: int, count: int) -> None:
    """Make a workload many."""
    values = rig.get(number).row.model_dump()
    del values["id"]
    index = values["parent_index"]
    rows = [
        {**values, "name": f"c{n}", "parent_index": None if index is None else index + n} for n in range(1, count + 1)
    ]
    rig.db.write(lambda session: session.execute(insert(Workload), rows) and None)


def plans(rig: Rig, ask: Callable[[], object]) -> list[str]:
    """How SQLite looks for workloads to answer a question."""
    seen: list[tuple[str, Any]] = []

    def note(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        seen.append((statement, parameters))

    event.listen(rig.db._readers, "before_cursor_execute", note)
    ask()
    event.remove(rig.db._readers, "before_cursor_execute", note)
    with sqlite3.connect(rig.db.path) as file:
        return [
            row[3]
            for statement, parameters in seen
            if statement.startswith("SELECT")
            for row in file.execute(f"EXPLAIN QUERY PLAN {statement}", parameters)
            if "workload" in row[3]
        ]
