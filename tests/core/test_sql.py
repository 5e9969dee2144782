"""Rows read by the driver are those that SQLAlchemy reads."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers.rig import Rig, job
from sqlalchemy import select
from sqlmodel import SQLModel

from localml.core.capacity.pools import ensure
from localml.core.capacity.tables import GpuLease, GpuMark, NodeMark, Pool
from localml.core.events.tables import Event
from localml.core.sql import read_rows, reader_of, table_of
from localml.core.work.states import State
from localml.core.work.tables import Attempt, Workload, WorkloadDetail


@pytest.mark.parametrize("model", [Attempt, Event, GpuLease, GpuMark, NodeMark, Pool, Workload, WorkloadDetail])
def test_whole_tables(tmp_path: Path, model: type[SQLModel]) -> None:
    rig = Rig(tmp_path)
    rig.submit("ends", job(1, exit_code=3, gpu=0.5))
    rig.settle()
    rig.clock.advance(2)
    rig.settle()
    rig.submit("runs", job(None, gpu=2))
    rig.submit("waits", job(None, gpu=4))
    rig.settle()
    rig.db.write(lambda session: ensure(session, "limited/below"))
    rig.db.write(
        lambda session: session.add_all([GpuMark(gpu="GPU-3", reason="hot", at=1.5), NodeMark(node="n", at=2)])
    )
    columns = tuple(column.name for column in table_of(model).columns)
    with rig.db.read() as session:
        expected = [list(row) for row in session.connection().execute(select(table_of(model)))]
        assert list(read_rows(reader_of(session), model, columns)) == expected
    assert expected
    rig.close()


def test_a_condition_and_types(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    for name in ("one", "two"):
        rig.submit(name, job(None))
    with rig.db.read() as session:
        found = list(read_rows(reader_of(session), Workload, ("name", "state", "cleaned"), "name = 'two'"))
        same = list(read_rows(reader_of(session), Workload, ("name", "state", "cleaned"), "name = ?", ["two"]))
    assert found == same == [["two", State.QUEUED, False]]
    assert isinstance(found[0][1], State)
    assert found[0][2] is False
    rig.close()
