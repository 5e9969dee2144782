"""Whose things become when owners get numbers: those of the users of today, and of those who had a name before."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from alembic import command

from localml.core.clock import ManualClock
from localml.core.people.identity import Identity
from localml.core.people.rights import MemberRole
from localml.core.people.secrets import Vault
from localml.core.people.workspaces import Workspaces
from localml.store.database import FILE_NAME, Database
from localml.store.schema import alembic_config, prepare

ADMIN, ANN, BOB, BEFORE = (letter * 32 for letter in "abcd")
USERS = ((1, "admin", ADMIN, 1.0), (2, "ann", ANN, 100.0), (4, "bob", BOB, 50.0))
WORKSPACES = (
    (ADMIN, "admin", "admin", 1, None, "native", 1.0),
    (ANN, "ann", "ann", 1, None, "native", 100.0),
    (BOB, "bob", "bob", 1, None, "native", 50.0),
    (BEFORE, "ann", "ann", 1, None, "native", 10.0),
    ("team", "team", "ann", 0, None, "native", 5.0),
    ("openpai", "openpai", "bob", 0, "member", "cloudml", 50.0),
)
JOBS = (  # number, dialect, workspace, owner, when, whose it becomes
    (1, "native", "team", "ann", 20.0, "the ann before"),
    (2, "native", "team", "ann", 120.0, "ann"),
    (3, "native", ANN, "ann", 99.9, "ann"),  # a clock that was put back: the workspace is hers alone
    (4, "native", "team", "admin", 0.5, "admin"),  # of whom there is one, always
    (5, "native", BEFORE, "ann", 11.0, "the ann before"),
    (6, "native", "team", "joe", 30.0, "joe"),
    (7, "openpai", "openpai", "bob", 60.0, "bob"),
    (8, "cloudml", "openpai", "bob", 61.0, "bob"),
)


def insert(file: sqlite3.Connection, table: str, **values: Any) -> None:
    names = ", ".join(f'"{name}"' for name in values)
    file.execute(f'INSERT INTO "{table}" ({names}) VALUES ({", ".join("?" * len(values))})', list(values.values()))


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A data directory of the schema before, in which two users had one name, one after the other."""
    path = tmp_path / FILE_NAME
    command.upgrade(alembic_config(path), "0004")
    with closing(sqlite3.connect(path)) as file:
        for one, name, own, at in USERS:
            insert(
                file, "user", id=one, name=name, password_hash="", admin=one == 1, workspace=own, org="", created_at=at
            )
        for place, name, owner, personal, everyone, origin, at in WORKSPACES:
            insert(
                file, "workspace", id=place, name=name, description="", owner=owner, personal=personal,
                everyone=everyone, origin=origin, created_at=at, updated_at=at,
            )  # fmt: skip
        for place, one in ((ADMIN, 1), (ANN, 2), (BOB, 4)):
            insert(file, "membership", workspace=place, user_id=one, role="owner", created_at=1.0)
        for number, dialect, place, owner, at, _ in JOBS:
            insert(
                file, "workload", id=number, kind="job", version="", pool="default", priority=0, desired="run",
                state="succeeded", message="", attempt=1, retries=0, cpu=0, memory=0, gpu=0, updated_at=1,
                queued_at=1, cleaned=1, dialect=dialect, workspace=place, owner=owner, name=f"n{number}", created_at=at,
            )  # fmt: skip
        file.commit()
    return tmp_path


@pytest.fixture
def db(old: Path) -> Iterator[Database]:
    one = Database(prepare(old))
    yield one
    one.close()


def ask(folder: Path, query: str) -> list[Any]:
    with closing(sqlite3.connect(folder / FILE_NAME)) as file:
        return file.execute(query).fetchall()


def test_a_thing_is_of_the_user_who_had_the_name_then(db: Database, old: Path) -> None:
    numbers = {"admin": 1, "ann": 2, "bob": 4}
    gone = dict(ask(old, "SELECT name, id FROM user WHERE removed_at IS NOT NULL"))
    assert set(gone) == {"ann", "joe"}
    assert min(gone.values()) > 4
    numbers |= {"the ann before": gone["ann"], "joe": gone["joe"]}
    owners = dict(ask(old, "SELECT id, owner_id FROM workload"))
    assert owners == {number: numbers[whose] for number, *_, whose in JOBS}
    assert dict(ask(old, "SELECT id, owner_id FROM workspace WHERE name IN ('ann', 'team')")) == {
        ANN: 2, BEFORE: gone["ann"], "team": gone["ann"]
    }  # fmt: skip
    assert ask(old, "SELECT workspace FROM user WHERE removed_at IS NOT NULL ORDER BY name") == [(BEFORE,), ("",)]


def test_those_who_are_gone_get_in_nowhere(db: Database, old: Path) -> None:
    identity = Identity(db, Vault.open(old / "key"), ManualClock(200.0))
    assert [one.name for one in identity.users()] == ["admin", "ann", "bob"]
    assert identity.number("joe") is None
    joe = identity.create_user("joe", "secret", org="")
    assert joe.id > max(number for (number,) in ask(old, "SELECT owner_id FROM workload"))


def test_openpais_jobs_leave_an_organisation_that_was_opened_for_them(db: Database, old: Path) -> None:
    identity = Identity(db, Vault.open(old / "key"), ManualClock(200.0))
    workspaces = Workspaces(db, ManualClock(200.0), changed=identity.forget)
    own = workspaces.ensure("openpai", owner=identity.user("admin"), everyone=MemberRole.MEMBER)
    assert own != "openpai"
    assert workspaces.get(own).everyone is MemberRole.MEMBER
    assert workspaces.get("openpai").everyone is None
    assert ask(old, "SELECT id, workspace FROM workload WHERE id IN (7, 8)") == [(7, own), (8, "openpai")]
    assert "openpai" not in identity.user("ann").roles


def test_it_can_be_taken_back_and_done_again(old: Path) -> None:
    tables = ("user", "workspace", "membership", "workload")
    before = {name: ask(old, f"SELECT * FROM {name} ORDER BY id") for name in tables if name != "membership"}
    path = prepare(old)
    after = ask(old, "SELECT id, owner_id FROM workload")
    command.downgrade(alembic_config(path), "0004")
    assert {name: ask(old, f"SELECT * FROM {name} ORDER BY id") for name in before} == before
    prepare(old)
    assert ask(old, "SELECT id, owner_id FROM workload") == after
