"""Going back to a backup: our own API answers as it did then, byte for byte, and what came since is not lost."""

from __future__ import annotations

import json
import re
import shutil
import sqlite3
import tarfile
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from helpers.models import serving_server
from helpers.old_data import FOLDER, Callers, everything
from helpers.rig import wait_until

from localml.client import Client
from localml.core.errors import LocalmlError
from localml.store.database import FILE_NAME
from localml.store.restoring import restore
from localml.testing import Localml, start

EVENTS = "/events?limit=1000"
LISTS = ("/workloads?deleted=true&limit=1000", EVENTS, "/pools", "/users", "/models", "/endpoints")
MORE = ("/gpus", "/notebooks", "/tensorboards", "/buckets", "/workspaces", "/endpoints/life/samples")
OF_PEOPLE = ("/users/admin/tokens", "/users/bob/tokens", "/users/bob/keys")


PORT = re.compile(rb"(?<=127\.0\.0\.1):\d+")
"""Of a run of the server, not of the data."""


def started(data: Path) -> closing[Localml]:
    return closing(start(data, "simulated:2"))


def unpack(stored: Path, data: Path) -> None:
    with tarfile.open(stored) as tar:
        tar.extractall(data, **({"filter": "data"} if hasattr(tarfile, "data_filter") else {}))  # Python 3.11.4


def answers(server: Localml) -> dict[str, bytes]:
    """What our own API says of everything that is in a data directory."""
    call = Callers(server).native
    wait_until(lambda: server.client.endpoint("life").url is not None, 60)
    paths = [*LISTS, *MORE, *OF_PEOPLE, "/endpoints/life", "/endpoints/life/events"]
    for one in call("GET", LISTS[0]).json["workloads"]:
        at = f"/workloads/{one['id']}"
        paths += [at, f"{at}/events", f"{at}/samples", f"{at}/logs"]
    found = {path: call("GET", path) for path in paths}
    assert {path: one.status for path, one in found.items() if one.status != 200} == {}
    return {path: PORT.sub(b"", _without_starts(one) if path == EVENTS else one.data) for path, one in found.items()}


def _without_starts(answer: Any) -> bytes:
    """A start of the server adds an event of its own."""
    return json.dumps([one for one in answer.json["events"] if one["reason"] != "GatewayStarted"]).encode()


def test_our_own_api_answers_byte_for_byte_as_before(tmp_path: Path, long_form: bool) -> None:
    """Of a directory that has one of each thing: a stored one, in the long form one that is made now."""
    data = tmp_path / "data"
    if long_form:
        with serving_server(tmp_path) as server:
            everything(server)
    else:
        unpack(max(FOLDER.glob("schema-*.tar.gz")), data)
    with started(data) as server:
        before = answers(server)
        backup = Path(server.client.backup()["path"])
        change_everything(server.client)
    done = restore(data, Path(backup.name), time.time())
    assert (done.source, done.live > 0) == (backup, True)
    assert done.aside is not None
    assert (done.aside / "buckets" / "bobs-newer" / "data").read_bytes() == b"private"
    with started(data) as server:
        assert answers(server) == before


def change_everything(client: Client) -> None:
    client.undrain()
    client.wait("waits", 60)
    client.run(["echo", "since"], name="since", wait=True)
    client.delete("good")
    Client(client.url, client.create_token("bob")).put("s3://bobs-newer/data", b"private")
    client.create_user("new", "new's secret")
    client.set_password("bob", "another secret")
    client.set_limits("default/team", cpu=1)
    client.create_bucket("newer")
    client.delete_endpoint("life")
    client.create_token("admin", name="late")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A data directory in which one job ended."""
    with started(tmp_path / "data") as server:
        server.client.run(["echo", "first"], name="one", wait=True)
    return tmp_path / "data"


def backup_of(data: Path) -> Path:
    with started(data) as server:
        return Path(server.client.backup()["path"])


def test_numbers_are_not_given_again_and_output_since_is_set_aside(data: Path) -> None:
    backup = backup_of(data)
    with started(data) as server:
        since = server.client.run(["echo", "since"], name="since", wait=True)
        assert server.client.text(since.id) == "since\n"
    done = restore(data, backup, time.time())
    assert done.aside is not None
    assert (done.moved >= 1, done.live) == (True, 0)
    assert (done.aside / "logs" / str(since.id)).is_dir()
    with started(data) as server:
        assert [one.name for one in server.client.all()] == ["one"]
        assert server.client.text("one") == "first\n"
        later = server.client.run(["echo", "later"], name="later", wait=True)
        assert later.id == since.id + 1
        assert server.client.text(later.id) == "later\n"
    again = restore(data, done.aside / FILE_NAME, time.time())  # and back
    assert again.aside != done.aside
    with started(data) as server:
        assert {one.name for one in server.client.all()} == {"one", "since"}


def token_in(data: Path) -> str:
    return str(json.loads((data / "credentials.json").read_text())["token"])


def test_a_password_that_was_changed_since_is_as_before(data: Path) -> None:
    """The administrator's own too, whose file of credentials is made good by the start."""
    backup = backup_of(data)
    with started(data) as server:
        server.client.set_password("admin", "chosen since")
    restore(data, backup, time.time())
    with started(data) as server, Client(server.url, token_in(data)) as client:
        assert [one["name"] for one in client.users()] == ["admin"]


def test_a_running_server_keeps_its_data(data: Path) -> None:
    backup = backup_of(data)
    with started(data), pytest.raises(LocalmlError, match="is in use by"):
        restore(data, backup, time.time())


@pytest.mark.parametrize("schema", ["0003", "0004", "0005", "0006"])
def test_a_backup_of_an_older_version_is_taken(tmp_path: Path, schema: str) -> None:
    data = tmp_path / "data"
    unpack(FOLDER / f"schema-{schema}.tar.gz", data)
    backup = Path(shutil.copy2(data / FILE_NAME, tmp_path / "old.db"))
    with started(data) as server:
        names = {one.name for one in server.client.all(deleted=True)}
        server.client.create_bucket("since")
    done = restore(data, backup, time.time())
    assert done.aside is not None
    assert (done.aside / "buckets" / "since").is_dir()
    with started(data) as server:
        assert {one.name for one in server.client.all(deleted=True)} == names
        assert "since" not in [one.name for one in server.client.buckets()]


def damaged(path: Path) -> None:
    raw = bytearray(path.read_bytes())
    raw[8192:32768] = b"\xff" * (32768 - 8192)
    path.write_bytes(raw)


def of_another(path: Path) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as file:
        file.execute("UPDATE meta SET value = 'ffffffff' WHERE key = 'install'")


def newer(path: Path) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as file:
        file.execute("UPDATE alembic_version SET version_num = '9999'")


def empty(path: Path) -> None:
    path.write_bytes(b"")


def text(path: Path) -> None:
    path.write_text("words " * 1000)


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (damaged, "damaged|no database"),
        (of_another, "is of another installation"),
        (newer, "was written by a newer localml"),
        (empty, "is no database of localml"),
        (text, "is no database of localml"),
        (Path.unlink, "does not exist"),
    ],
)
def test_what_is_no_backup_changes_nothing(data: Path, spoil: Any, told: str) -> None:
    backup = backup_of(data)
    before = (data / FILE_NAME).read_bytes()
    spoil(backup)
    with pytest.raises(LocalmlError, match=told):
        restore(data, backup, time.time())
    assert (data / FILE_NAME).read_bytes() == before
    assert not list(data.glob("*.db.part"))


def test_another_directory_needs_the_secret(data: Path, tmp_path: Path) -> None:
    backup = backup_of(data)
    other = tmp_path / "other"
    other.mkdir()
    with pytest.raises(LocalmlError, match=r"has no secret\.key: copy it"):
        restore(other, backup, time.time())
    for name in ("secret.key", "credentials.json"):
        shutil.copy2(data / name, other / name)
    shutil.copytree(data / "logs", other / "logs")
    assert restore(other, backup, time.time()).aside is None
    with started(other) as server:
        assert server.client.text("one") == "first\n"
