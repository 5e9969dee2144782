"""Migrations: from empty to the models and back, and a backup before every one."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from alembic import command
from alembic.script import ScriptDirectory

from localml.core.errors import LocalmlError
from localml.store import schema
from localml.store.database import FILE_NAME
from localml.store.schema import HEAD, alembic_config, create, current, prepare


def columns(path: Path) -> dict[str, set[tuple[object, ...]]]:
    """table -> (name, type, not null, primary key) of its columns, and its indexes."""
    with sqlite3.connect(path) as file:
        tables = [row[0] for row in file.execute("SELECT name FROM sqlite_master WHERE type='table'")]
        found = {
            name: {(row[1], row[2], row[3], row[5]) for row in file.execute(f"PRAGMA table_info('{name}')")}
            for name in tables
            if not name.startswith(("sqlite_", "alembic_"))
        }
        found["triggers"] = {
            (row[0].split(" ", 2)[2],) for row in file.execute("SELECT sql FROM sqlite_master WHERE type='trigger'")
        }
        found["indexes"] = {
            ("".join(row[0].replace('"', "").split()),)
            for row in file.execute("SELECT sql FROM sqlite_master WHERE type='index' AND sql IS NOT NULL")
        }
    return found


def test_a_new_file_has_all_tables_whatever_else_was_imported(tmp_path: Path) -> None:
    migrated, alone = tmp_path / "migrated.db", tmp_path / "alone"
    command.upgrade(alembic_config(migrated), "head")
    alone.mkdir()
    code = "import sys, pathlib; from localml.store.schema import prepare; prepare(pathlib.Path(sys.argv[1]))"
    subprocess.run([sys.executable, "-c", code, str(alone)], check=True)
    assert set(columns(alone / FILE_NAME)) == set(columns(migrated))


def test_migrating_from_empty_gives_what_the_models_say(tmp_path: Path) -> None:
    migrated, made = tmp_path / "migrated.db", tmp_path / "made.db"
    config = alembic_config(migrated)
    command.upgrade(config, "head")
    command.check(config)
    create(made)
    command.check(alembic_config(made))
    assert columns(migrated) == columns(made)
    assert current(migrated) == current(made) == HEAD


def test_the_newest_revision_is_the_one_that_the_code_expects(tmp_path: Path) -> None:
    assert ScriptDirectory.from_config(alembic_config(tmp_path / "x.db")).get_heads() == [HEAD]


def test_every_migration_can_be_taken_back(tmp_path: Path) -> None:
    path = tmp_path / "one.db"
    config = alembic_config(path)
    command.upgrade(config, "head")
    command.downgrade(config, "base")
    assert set(columns(path)) == {"indexes", "triggers"}
    assert columns(path)["indexes"] == set()


def test_an_old_file_is_backed_up_and_upgraded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = prepare(tmp_path)
    upgraded = []
    monkeypatch.setattr(schema, "HEAD", "next")
    monkeypatch.setattr(command, "upgrade", lambda config, to: upgraded.append((config.attributes["path"], to)))
    prepare(tmp_path)
    assert upgraded == [(path, "head")]
    (backup,) = (tmp_path / "backups").iterdir()
    assert current(backup) == HEAD


def test_a_file_of_a_newer_version_is_refused_untouched(tmp_path: Path) -> None:
    path = prepare(tmp_path)
    with sqlite3.connect(path) as file:
        file.execute("UPDATE alembic_version SET version_num = 'future'")
    with pytest.raises(LocalmlError, match="newer localml"):
        prepare(tmp_path)
    assert not (tmp_path / "backups").exists()


def test_a_strange_database_is_refused(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / FILE_NAME) as file:
        file.execute("CREATE TABLE mine (x)")
    with pytest.raises(LocalmlError, match="is not a localml database"):
        prepare(tmp_path)
