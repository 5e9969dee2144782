"""Data directories of older versions: nothing in them is lost, and work goes on in them."""

from __future__ import annotations

import json
import re
import sqlite3
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from helpers.models import serving_server
from helpers.old_data import FOLDER, ask
from helpers.rig import wait_until

from localml.client import Client, ClientError
from localml.core.errors import LocalmlError
from localml.store.database import FILE_NAME
from localml.store.schema import HEAD, alembic_config, current, prepare
from localml.testing import Localml, start

SCHEMAS = ("0003", "0004", "0005", "0006", "0007")
"""Of which there is a directory."""
ASSETS = ("endpoint", "variant", "endpoint_replica", "model", "model_version", "pool", "pool_grant", "user", "token")
TABLES = (*ASSETS, "access_key", "workload", "workload_detail", "attempt", "gpu_lease", "event", "series", "sample")
CHANGES = {"why", "used", "after"}
"""Members that are of a run of the server, not of the data; as are ports."""
RENAMED = {"project": "workspace"}
"""Members of our own API that have another name since."""
LEFTS = 2
"""In the directory of schema 0004 the job of a user who was removed."""
PORT = re.compile(r"(?<=127\.0\.0\.1):\d+")


def unpack(folder: Path, schema: str) -> Path:
    """The directory of an old schema; returns it."""
    data = folder / "data"
    with tarfile.open(FOLDER / f"schema-{schema}.tar.gz") as tar:
        tar.extractall(data, **({"filter": "data"} if hasattr(tarfile, "data_filter") else {}))  # Python 3.11.4
    data.joinpath("secret.key").chmod(0o600)
    data.joinpath("credentials.json").chmod(0o600)
    return data


def rows(path: Path, *tables: str) -> dict[str, int]:
    """table -> how many rows."""
    with sqlite3.connect(path) as file:
        return {name: file.execute(f'SELECT count(*) FROM "{name}"').fetchone()[0] for name in tables}


def differences(old: Any, new: Any, at: str = "") -> Iterator[str]:
    """Where what is said now is not what was said then; members that came since are none."""
    if isinstance(old, dict) and isinstance(new, dict):
        for name in old.keys() - CHANGES:
            now = name if name in new else RENAMED.get(name, name)
            if now not in new:
                yield f"{at}/{name} is missing"
            else:
                yield from differences(old[name], new[now], f"{at}/{now}")
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for number, (one, other) in enumerate(zip(old, new, strict=True)):
            yield from differences(one, other, f"{at}/{number}")
    elif old != new:
        yield f"{at}: {old!r} is now {new!r}"


@pytest.mark.parametrize("schema", SCHEMAS)
def test_an_old_directory_is_backed_up_and_keeps_every_row(tmp_path: Path, schema: str) -> None:
    data = unpack(tmp_path, schema)
    path = data / FILE_NAME
    before = rows(path, *TABLES, "log_file", "gpu_mark", "node_mark", "meta", "sqlite_sequence")
    assert min(before.values()) > 0
    prepare(data)
    assert current(path) == HEAD
    with sqlite3.connect(path) as file:
        (gone,) = file.execute("SELECT count(*) FROM user WHERE removed_at IS NOT NULL").fetchone()
    came = gone if schema < "0005" else 0  # owners who were removed got a row then
    assert rows(path, *before) == before | {"user": before["user"] + came}
    (backup,) = (data / "backups").iterdir()
    assert current(backup) == schema
    assert rows(backup, *before) == before


@pytest.mark.parametrize("schema", SCHEMAS)
def test_a_damaged_file_is_left_as_it_was(tmp_path: Path, schema: str) -> None:
    data = unpack(tmp_path, schema)
    path = data / FILE_NAME
    with sqlite3.connect(path) as file:
        file.execute(f"UPDATE series SET {'workload_id' if schema == '0003' else 'subject_id'} = 999 WHERE id = 1")
        file.execute("UPDATE gpu_lease SET attempt_id = 999")
    before = dump(path)
    with pytest.raises(LocalmlError, match=r"not upgraded: it has rows that refer to none \(gpu_lease -> attempt\)"):
        prepare(data)
    assert current(path) == schema
    assert dump(path) == before


@pytest.mark.parametrize("schema", SCHEMAS)
def test_an_old_directory_can_be_migrated_back(tmp_path: Path, schema: str) -> None:
    data = unpack(tmp_path, schema)
    path = data / FILE_NAME
    before = dump(path)
    prepare(data)
    command.downgrade(alembic_config(path), schema)
    assert dump(path) == before


def dump(path: Path) -> dict[str, list[tuple[Any, ...]]]:
    """table -> its rows, with the columns in the order of their names."""
    with sqlite3.connect(path) as file:
        names = [row[0] for row in file.execute("SELECT name FROM sqlite_master WHERE type='table'")]
        found = {}
        for name in names:
            columns = sorted(f'"{row[1]}"' for row in file.execute(f"PRAGMA table_info('{name}')"))
            found[name] = sorted(file.execute(f'SELECT {", ".join(columns)} FROM "{name}"'), key=repr)
    return found


@pytest.fixture(scope="module", params=SCHEMAS)
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Localml]:
    """A server of this version with the old directory."""
    folder = tmp_path_factory.mktemp("old")
    unpack(folder, request.param)
    with serving_server(folder) as running:
        yield running


def test_every_api_says_what_it_said_before(server: Localml) -> None:
    old, new = (
        json.loads(PORT.sub(":0", text))
        for text in ((server.platform.data / "answers.json").read_text(), json.dumps(ask(server)))
    )
    events, now = (answers["native"]["/events"]["events"] for answers in (old, new))
    del now[len(events) :]  # what happened since
    for answers in (old, new):
        del answers["native"]["/endpoints/life/samples"]  # kept for 30 days
    assert "\n".join(differences(old, new)) == ""


def test_work_goes_on(server: Localml) -> None:
    client = server.client
    assert [(gpu.fenced, gpu.reason) for gpu in client.gpus()] == [(False, ""), (True, "GPU fell off the bus")]
    assert client.get("waits").state == "queued"
    client.undrain()
    assert client.wait("waits", 60).state == "succeeded"
    assert client.text("waits") == "late\n"
    assert client.run(["echo", "new"], name="new", wait=True).id > client.get("waits").id
    client.start_endpoint("life")
    wait_until(lambda: client.endpoint("life").state == "ready", 60)


def test_what_a_removed_user_left_is_not_that_of_the_next_of_its_name(tmp_path: Path) -> None:
    unpack(tmp_path, "0004")
    with serving_server(tmp_path) as server:
        client = server.client
        client.create_user("left", "another secret")
        another = Client(server.url, client.create_token("left"))
        assert [one for one in another.all(deleted=True) if one.owner == "left"] == []
        for ask in (another.get, another.text, another.events, another.stop, another.delete):
            with pytest.raises(ClientError, match=f"workload '{LEFTS}' does not exist"):
                ask(LEFTS)
        assert another.run(["echo", "mine"], name="lefts").owner == "left"
        assert [one.name for one in another.all(owner="left")] == ["lefts"]
        assert (client.get(LEFTS).owner, client.text(LEFTS)) == ("left", "lefts\n")
        bob = Client(server.url, client.create_token("bob"))
        assert [one.name for one in bob.all(owner="bob")] == ["bobs"]
        bob.delete("bobs")


def test_a_directory_of_the_first_schema_is_opened_and_works(tmp_path: Path) -> None:
    first_schema(tmp_path / "data")
    server = start(tmp_path / "data")
    try:
        client = server.client
        assert [(one.id, one.name, one.state) for one in client.all()] == [
            (8, "waits", "queued"),
            (7, "old", "succeeded"),
        ]
        assert client.text("old") == "hello\n"
        assert [one.reason for one in client.events("old")] == ["Submitted", "Succeeded"]
        assert client.samples("old") == {("", "loss"): [(1.5e9, 0.25), (1.5e9 + 1, 0.125)]}
        assert client.events()[0].message == "the machine takes no new work: moving house"
        assert [(one.name, one.gpu) for one in client.pools()] == [("default", 1.0)]
        client.undrain()
        assert client.wait("waits", 60).state == "succeeded"
        client.delete("old")
        assert client.prune(deleted_days=0, logs_days=0)["workloads"] == [7]
    finally:
        server.close()
    with sqlite3.connect(tmp_path / "data" / FILE_NAME) as file:
        assert file.execute("PRAGMA foreign_key_check").fetchall() == []
        assert file.execute("SELECT count(*) FROM sample").fetchone() == (0,)


def first_schema(data: Path) -> None:
    """A directory as the first version left it: a job that ended, one that waits, a drained machine."""
    (data / "logs" / "7").mkdir(parents=True)
    (data / "logs" / "7" / "lml-x-7-main-0-1.stdout").write_bytes(b"hello\n")
    path = data / FILE_NAME
    command.upgrade(alembic_config(path), "0001")
    spec = json.dumps({"roles": [{"name": "main", "command": ["echo", "late"]}]})
    common = "'job', 'native', 'p', 'admin'", "'', 'default', 0, 'run'", "'', 1, 0, 0, 0, 0, 1.5e9, 1.5e9, 1.5e9"
    columns = "kind, dialect, project, owner, name, version, pool, priority, desired, state, message, attempt, retries"
    columns += ", cpu, memory, gpu, created_at, updated_at, queued_at, id, ended_at, cleaned"
    workload = f"INSERT INTO workload ({columns}) VALUES ({common[0]}, %s, {common[1]}, %s, {common[2]}, %s)"
    with sqlite3.connect(path) as file:
        file.execute("INSERT INTO meta VALUES ('install', 'x')")
        file.execute("INSERT INTO node_mark VALUES ('local', 'moving house', 1.5e9)")
        file.execute("INSERT INTO pool (id, name, gpu) VALUES (1, 'default', 1)")
        file.execute(workload % ("'old'", "'succeeded'", "7, 1.5e9, 1"))
        file.execute(workload % ("'waits'", "'queued'", "8, NULL, 0"))
        file.executemany("INSERT INTO workload_detail VALUES (?, ?, NULL, NULL)", [(7, spec), (8, spec)])
        file.execute(
            "INSERT INTO attempt VALUES (3, 7, 'main', 0, 1, 'lml-x-7-main-0-1', 'local', 'ended', NULL, NULL, NULL,"
            " 1.5e9, 1.5e9, 1.5e9, 0, NULL, NULL, '', 1)"
        )
        file.execute("INSERT INTO log_file VALUES (1, 7, 3, 'stdout', 'logs/7/lml-x-7-main-0-1.stdout', 6, 1, NULL)")
        event = "INSERT INTO event VALUES (?, ?, 1.5e9, 'normal', ?, ?, 'localml', '')"
        file.execute(event, (1, 7, "Submitted", "submitted"))
        file.execute(event, (2, None, "Drained", "the machine takes no new work: moving house"))
        file.execute(event, (3, 7, "Succeeded", "it ended"))
        file.execute("INSERT INTO series VALUES (1, 7, '', 'loss', 0, 0, 0, 0, NULL)")
        file.executemany(
            "INSERT INTO sample VALUES (1, ?, ?, NULL, NULL)",
            [(1_500_000_000 * 10**6, 0.25), (1_500_000_001 * 10**6, 0.125)],
        )


def test_services_of_cloudml_are_open_to_this_machine_alone_from_now_on(tmp_path: Path) -> None:
    path = unpack(tmp_path, "0004") / FILE_NAME

    def specs() -> dict[tuple[int, str], dict[str, Any]]:
        with sqlite3.connect(path) as file:
            return {
                (row[0], row[1]): json.loads(row[2]) for row in file.execute("SELECT id, dialect, spec FROM endpoint")
            }

    before = specs()
    prepare(path.parent)
    for key, spec in specs().items():
        old = before[key]
        if key[1] == "cloudml":
            assert (old.pop("public"), spec.pop("open_here")) == (True, True)
        assert spec == old
