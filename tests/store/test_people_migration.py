"""What had a project before there were workspaces has one afterwards, under the id that vendors were answered."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from sqlmodel import col, select

from localml.core.clock import ManualClock
from localml.core.people.allow import Thing, may
from localml.core.people.identity import Caller, Identity
from localml.core.people.rights import Action, MemberRole, ThingKind
from localml.core.people.secrets import Vault, hash_token
from localml.core.people.workspaces import Workspaces
from localml.core.work.tables import Workload
from localml.store.database import FILE_NAME, Database
from localml.store.schema import HEAD, alembic_config, prepare

ADMIN, BOB, EVE, GONE = (letter * 32 for letter in "abcd")

USERS = (
    (1, "admin", 1, ADMIN, "default"),
    (2, "bob", 0, BOB, "research"),
    (3, "eve", 0, EVE, "research"),
    (4, "tom", 0, "e" * 32, ""),
)
THINGS = (
    (1, "native", BOB, "bob"),
    (2, "cloudml", "research", "bob"),
    (3, "openpai", "openpai", "eve"),
    (4, "cloudml", "former", "ann"),
    (5, "native", GONE, "ann"),
)


def insert(file: sqlite3.Connection, table: str, **values: Any) -> None:
    names = ", ".join(f'"{name}"' for name in values)
    file.execute(f'INSERT INTO "{table}" ({names}) VALUES ({", ".join("?" * len(values))})', list(values.values()))


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A data directory of the schema before workspaces."""
    path = tmp_path / FILE_NAME
    command.upgrade(alembic_config(path), "0003")
    with closing(sqlite3.connect(path)) as file:
        for number, name, admin, project, org in USERS:
            insert(
                file, "user", id=number, name=name, password_hash="", admin=admin, project=project, org=org,
                created_at=number,
            )  # fmt: skip
        insert(file, "token", hash=hash_token("bobs"), user_id=2, purpose="api", created_at=1)
        for number, dialect, project, owner in THINGS:
            row = {"dialect": dialect, "project": project, "owner": owner, "name": f"n{number}", "created_at": number}
            insert(
                file, "workload", id=number, kind="job", version="", pool="default", priority=0, desired="run",
                state="succeeded", message="", attempt=1, retries=0, cpu=0, memory=0, gpu=0, updated_at=1,
                queued_at=1, cleaned=1, **row,
            )  # fmt: skip
            insert(
                file, "endpoint", id=number, route=f"r{number}", pool="default", desired="stop", state="stopped",
                message="", spec="{}", scale=1, updated_at=1, **row,
            )  # fmt: skip
            del row["dialect"]
            insert(file, "model", id=number, description="", updated_at=1, **row)
        file.commit()
    return tmp_path


@pytest.fixture
def db(old: Path) -> Iterator[Database]:
    one = Database(prepare(old))
    yield one
    one.close()


def test_every_project_becomes_the_workspace_of_that_id(db: Database, old: Path) -> None:
    with closing(sqlite3.connect(old / FILE_NAME)) as file:
        found = {
            row[0]: row[1:] for row in file.execute("SELECT id, name, owner, personal, everyone, origin FROM workspace")
        }
        lost = "SELECT workspace FROM {} WHERE workspace NOT IN (SELECT id FROM workspace)"
        for table in ("user", "workload", "endpoint", "model"):
            assert file.execute(lost.format(f'"{table}"')).fetchall() == []
    assert found == {
        ADMIN: ("admin", "admin", 1, None, "native"),
        BOB: ("bob", "bob", 1, None, "native"),
        EVE: ("eve", "eve", 1, None, "native"),
        "e" * 32: ("tom", "tom", 1, None, "native"),
        "default": ("default", "admin", 0, None, "cloudml"),
        "research": ("research", "bob", 0, None, "cloudml"),
        "openpai": ("openpai", "admin", 0, "member", "openpai"),
        "former": ("former", "ann", 0, None, "cloudml"),
        GONE: ("ann", "ann", 1, None, "native"),
    }


def test_everybody_may_what_they_could(db: Database, old: Path) -> None:
    identity = Identity(db, Vault.open(old / "key"), ManualClock())
    admin, bob, eve, tom = identity.users()
    assert identity.by_token("bobs") == bob
    assert bob.roles == {
        BOB: MemberRole.OWNER, "research": MemberRole.EDITOR, "openpai": MemberRole.MEMBER
    }  # fmt: skip
    assert set(tom.roles) == {"e" * 32, "openpai"}

    with db.read() as session:
        rows = session.exec(select(Workload).order_by(col(Workload.id))).all()

    def touchable(caller: Caller) -> list[int]:
        return [row.id or 0 for row in rows if may(caller, Action.STOP, Thing.of(ThingKind.WORKLOAD, row))]

    assert touchable(admin) == [1, 2, 3, 4, 5]
    assert touchable(bob) == [1, 2]
    assert touchable(eve) == [2, 3]
    assert touchable(tom) == []
    names = [row.name for row in Workspaces(db, ManualClock()).visible(bob)]
    assert names == ["bob", "openpai", "research"]


def test_it_can_be_taken_back(db: Database, old: Path) -> None:
    path = old / FILE_NAME
    with closing(sqlite3.connect(path)) as file:
        living = "SELECT name, workspace, org FROM user WHERE removed_at IS NULL"
        after = file.execute(living).fetchall()
    db.close()
    command.downgrade(alembic_config(path), "0003")
    with closing(sqlite3.connect(path)) as file:
        assert file.execute("SELECT name, project, org FROM user").fetchall() == after
        assert file.execute("SELECT project FROM workload ORDER BY id").fetchall() == [(ws,) for _, _, ws, _ in THINGS]
    command.upgrade(alembic_config(path), HEAD)
