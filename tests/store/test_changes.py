"""What commits are told to have changed: all of it, at once, and nothing that was not committed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlmodel import Session, select

from localml.core.capacity.tables import NodeMark, Pool
from localml.store.database import Database
from localml.store.schema import prepare


@pytest.fixture
def db(tmp_path: Path) -> Iterator[Database]:
    one = Database(prepare(tmp_path))
    yield one
    one.close()


def add(name: str) -> Pool:
    return Pool(name=name)


def test_rows_that_come_change_and_go_are_told_when_the_write_returns(db: Database) -> None:
    told: list[int] = []
    changes = db.follow({"pool": "id", "node_mark": "node"}, lambda: told.append(1))
    db.write(lambda session: session.add_all([add("a"), NodeMark(node="n", at=1)]))
    (number,) = changes.take()["pool"]
    assert changes.take() == {"pool": set(), "node_mark": set()}

    def change(session: Session) -> None:
        pool = session.get(Pool, number)
        assert pool is not None
        pool.gpu = 2
        session.add(pool)

    db.write(change)
    assert changes.take()["pool"] == {number}
    db.write(lambda session: session.delete(session.get(NodeMark, "n")))
    assert changes.take() == {"pool": set(), "node_mark": {"n"}}
    assert len(told) == 3


def test_a_row_that_gets_another_key_is_told_under_both(db: Database) -> None:
    db.write(lambda session: session.add(NodeMark(node="old", at=1)))
    changes = db.follow({"node_mark": "node"})
    db.write(lambda session: session.connection().exec_driver_sql("UPDATE node_mark SET node = 'new'") and None)
    assert changes.take() == {"node_mark": {"old", "new"}}


def test_a_write_that_fails_tells_nothing_and_its_neighbours_everything(db: Database) -> None:
    changes = db.follow({"pool": "name"})

    def fail(session: Session) -> None:
        session.add(add("lost"))
        session.flush()
        raise ValueError("no")

    futures = [db.submit(lambda session: session.add(add("one"))), db.submit(fail)]
    futures.append(db.submit(lambda session: session.add(add("two"))))
    with pytest.raises(ValueError, match="no"):
        futures[1].result()
    futures[2].result()
    assert changes.take() == {"pool": {"one", "two"}}


def test_what_nobody_follows_is_not_told(db: Database) -> None:
    changes = db.follow({"node_mark": "node"})
    db.write(lambda session: session.add(add("a")))
    assert changes.take() == {"node_mark": set()}


def test_what_could_not_be_used_is_given_again(db: Database) -> None:
    changes = db.follow({"pool": "name"})
    db.write(lambda session: session.add(add("a")))
    changes.put_back(changes.take())
    db.write(lambda session: session.add(add("b")))
    assert changes.take() == {"pool": {"a", "b"}}


def test_a_later_follower_takes_the_place_of_an_earlier_one(db: Database) -> None:
    first = db.follow({"pool": "name"})
    second = db.follow({"pool": "id", "node_mark": "node"})
    db.write(lambda session: session.add(add("a")))
    with db.read() as session:
        number = session.exec(select(Pool.id)).one()
    assert first.take() == {"pool": set()}
    assert second.take()["pool"] == {number}


def test_a_raw_reading_sees_one_moment(db: Database) -> None:
    with db.read_raw() as connection:
        before = connection.execute("SELECT count(*) FROM pool").fetchone()
        db.write(lambda session: session.add(add("a")))
        assert connection.execute("SELECT count(*) FROM pool").fetchone() == before
    with db.read_raw() as connection:
        assert connection.execute("SELECT count(*) FROM pool").fetchone() == (before[0] + 1,)


@pytest.mark.parametrize(
    "statement",
    [
        "INSERT INTO node_mark (node, reason, at) VALUES ('n', '', 1) ON CONFLICT (node) DO UPDATE SET reason = 'x'",
        "UPDATE OR ABORT node_mark SET reason = 'x'",
        "INSERT OR REPLACE INTO node_mark (node, reason, at) VALUES ('n', 'x', 1)",
    ],
)
def test_writes_that_say_what_to_do_in_conflicts_are_told_like_others(db: Database, statement: str) -> None:
    db.write(lambda session: session.add(NodeMark(node="n", at=1)))
    changes = db.follow({"node_mark": "node"})
    db.write(lambda session: session.connection().exec_driver_sql(statement) and None)
    assert changes.take() == {"node_mark": {"n"}}
