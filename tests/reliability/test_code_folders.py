"""Copies of code: a try's own, through crashes and retries, and nobody else's."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path

import pytest
from helpers.counts import count
from helpers.rig import wait_until
from helpers.server_process import Running, servers

from localml.client import Client, ClientError
from localml.config import load
from localml.core.failpoints import CODE
from localml.platform import Platform
from localml.server import Server

WAITS = "cat kept; echo begun > begun; while [ ! -e go ]; do sleep 0.05; done; cat kept begun"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "kept").write_text("kept\n")
    return folder


def client_of(server: Running) -> Client:
    token = json.loads((server.data / "credentials.json").read_text())["token"]
    return Client(json.loads((server.data / "server.json").read_text())["url"], token)


def test_a_killed_server_takes_no_code_from_what_runs_and_leaves_none_behind(tmp_path: Path, project: Path) -> None:
    data = tmp_path / "data"
    with servers(data, gpus="none") as found:
        with client_of(found.start()) as client:
            job = client.run(["sh", "-c", WAITS], code=project)
            runs = data / "code" / "runs"
            wait_until(lambda: bool(list(runs.glob("*/begun"))))
        found.close()
        for stray in ("of-no-record", "cut-short.making"):
            (runs / stray / "deep").mkdir(parents=True)
        [folder] = [path.parent for path in runs.glob("*/begun")]
        with client_of(found.start()) as client:
            assert [path.name for path in runs.iterdir()] == [folder.name]
            (folder / "go").touch()
            assert client.wait(job.id, 60).state == "succeeded"
            assert client.text(job.id) == "kept\nkept\nbegun\n"
            client.delete(job.id)
            wait_until(lambda: not list(runs.iterdir()))


@pytest.mark.parametrize("point", [*CODE, "after-intent", "after-create", "after-start", "before-remove"])
def test_a_death_anywhere_leaves_one_whole_copy_and_then_none(tmp_path: Path, project: Path, point: str) -> None:
    ledger = tmp_path / "ledger"
    with servers(tmp_path / "data", gpus="none") as found:
        server = found.start(failpoint=point)
        with client_of(server) as client, suppress(ClientError):  # the answer may be lost with the server
            client.run(["sh", "-c", f"cat kept >> {ledger}; pwd"], name="one", code=project)
            client.delete(client.wait("one", 60).id)
        wait_until(lambda: server.poll() is not None)
        count("kills of processes")
        with client_of(found.start()) as client:
            [job] = client.all(deleted=True)
            assert client.wait(job.id, 60).state == "succeeded"
            client.delete(job.id)
            wait_until(lambda: not list((tmp_path / "data" / "code" / "runs").iterdir()))
            assert ledger.read_text() == "kept\n"


def test_a_try_meets_nothing_that_an_earlier_one_left(tmp_path: Path, project: Path) -> None:
    with servers(tmp_path / "data", gpus="none") as found, client_of(found.start()) as client:
        spec = {
            "roles": [{"command": ["sh", "-c", "ls; touch left; exit $((1 - $LOCALML_ATTEMPT / 3))"]}],
            "retries": {"limit": 2, "backoff": 0},
            "code": client.send_code(project),
        }
        done = client.wait(client.submit(spec).id, 60)
        assert (done.state, done.attempt) == ("succeeded", 3)
        assert client.text(done.id, attempt="all") == "kept\n" * 3


def test_an_archive_that_the_disk_damaged_is_sent_again(tmp_path: Path, project: Path) -> None:
    """The job that needed it ends with the reason, and leaves no half of a copy."""
    with servers(tmp_path / "data", gpus="none") as found, client_of(found.start()) as client:
        code = client.send_code(project)
        [archive] = (tmp_path / "data" / "code" / "archives").glob("*/*.tar")
        client.run(["sh", "-c", "cat kept"], code=code, wait=True, timeout=60)
        archive.write_bytes(archive.read_bytes()[:700])
        broken = client.run(["sh", "-c", "cat kept"], code=code, wait=True, timeout=60)
        assert (broken.state, "its code cannot be unpacked: archive: is truncated" in broken.message) == (
            "failed",
            True,
        )
        assert not list((tmp_path / "data" / "code" / "runs").glob("*.making"))
        again = client.run(["sh", "-c", "cat kept"], code=project, wait=True, timeout=60)
        assert (again.state, client.text(again.id)) == ("succeeded", "kept\n")


def test_a_colleagues_job_finds_no_code(tmp_path: Path, project: Path) -> None:
    config = load({}, data=tmp_path / "data", engine="process", gpus="none", port=0, gateway_port=0)
    server = Server(Platform(config))
    server.start()
    admin = Client(server.url, server.platform.credentials.token)
    try:
        if reason := server.platform.engine.capabilities.exposes:
            pytest.skip(reason)
        users = []
        for name in ("alice", "bob"):
            admin.create_user(name, f"{name}'s password")
            users.append(Client(server.url, admin.create_token(name)))
        alice, bob = users
        job = alice.run(["sh", "-c", WAITS], code=project)
        runs = tmp_path / "data" / "code" / "runs"
        wait_until(lambda: bool(list(runs.glob("*/begun"))))
        [folder] = runs.iterdir()
        tried = f"ls {runs}; ls {runs.parent}/archives; cat {folder}/kept; touch {folder}/go; true"
        spied = bob.run(["sh", "-c", f"({tried}) 2>&1"], wait=True, timeout=60)
        assert spied.state == "succeeded", spied.message
        assert len(bob.text(spied.id).splitlines()) == 4, bob.text(spied.id)  # a complaint each, and nothing else
        assert all("No such file" in line or "denied" in line for line in bob.text(spied.id).splitlines())
        assert not (folder / "go").exists()
        assert os.stat(folder).st_uid == config.uids + server.platform.identity.user("alice").id
        alice.stop(job.id)
        alice.wait(job.id, 60)
        for one in users:
            one.close()
    finally:
        admin.close()
        server.close()
