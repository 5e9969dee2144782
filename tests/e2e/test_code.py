"""A folder of code in jobs of users, in boxes of the process engine and in containers, and what images bring along."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from helpers.docker_image import tiny_image
from helpers.rig import wait_until

from localml.client import Client, ClientError
from localml.config import Config
from localml.platform import Platform
from localml.server import Server


@dataclass
class Live:
    """A server, and an ordinary user of it."""

    server: Server
    user: Client
    image: str

    @property
    def runs(self) -> Path:
        """Where copies of code are."""
        return self.server.platform.data / "code" / "runs"


@pytest.fixture(scope="module", params=["process", pytest.param("docker", marks=pytest.mark.docker)])
def live(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    image = tiny_image() if request.param == "docker" else ""
    folder = tmp_path_factory.mktemp("code")
    config = Config(
        folder / "data", engine=request.param, gpus="none", cpus=64, memory=64 << 30, port=0, gateway_port=0
    )
    server = Server(Platform(config))
    if request.param == "process" and (reason := server.platform.engine.capabilities.exposes):
        server.close()
        pytest.skip(reason)
    server.start()
    admin = Client(server.url, server.platform.credentials.token)
    admin.create_user("bob", "bob's password")
    user = Client(server.url, admin.create_token("bob"))
    yield Live(server, user, image)
    for one in admin.all():
        admin.delete(one.id)
    for one in admin.all(deleted=True):
        wait_until(lambda number=one.id: server.platform.workloads.row(number).cleaned, 60)
    user.close()
    admin.close()
    server.close()


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "note").write_text("deep")
    (tmp_path / "go").write_text(
        "#!/bin/sh\ncat sub/note; echo $LOCALML_CODE; echo x > new && echo y >> sub/note && cat new"
    )
    (tmp_path / "go").chmod(0o700)
    return tmp_path


def test_a_job_runs_and_writes_in_its_own_copy(live: Live, project: Path) -> None:
    for _ in range(2):
        job = live.user.run(["./go"], code=project, image=live.image, entrypoint="", wait=True, timeout=60)
        text = live.user.text(job.id)
        assert job.state == "succeeded", (job.message, text)
        first, last = text.splitlines()
        assert (first.startswith("deep/"), last) == (True, "x")
        if live.image:
            assert first == "deep/code"
        live.user.delete(job.id)
    assert (project / "sub" / "note").read_text() == "deep"
    wait_until(lambda: not list(live.runs.iterdir()), 60)


@pytest.mark.parametrize("where", ["sub", "/code/sub", "./sub/"])
def test_a_work_directory_lies_in_the_code(live: Live, project: Path, where: str) -> None:
    job = live.user.run(
        ["/bin/sh", "-c", "cat note"],
        code=project,
        workdir=where,
        image=live.image,
        entrypoint="",
        wait=True,
        timeout=60,
    )
    assert live.user.text(job.id) == "deep", job.message


@pytest.mark.docker
def test_an_images_entry_point_is_kept_as_docker_run_does(tmp_path: Path) -> None:
    """The tiny image's is ``/bin/sh -c``; a job of an API that replaces it, as the vendors' do, still does."""
    config = Config(tmp_path, engine="docker", gpus="none", cpus=64, memory=64 << 30, port=0, gateway_port=0)
    server = Server(Platform(config))
    server.start()
    client = Client(server.url, server.platform.credentials.token)
    image = tiny_image()
    try:
        kept = client.run(["echo $((6 * 7))"], image=image, wait=True, timeout=60)
        other = client.run(["a", "b"], image=image, entrypoint="/bin/echo", wait=True, timeout=60)
        none = client.run(["/bin/echo", "c"], image=image, entrypoint="", wait=True, timeout=60)
        own = client.run([], image=image, wait=True, timeout=60)
        plain = client.submit({"roles": [{"command": ["/bin/echo", "d"], "image": image}]})
        client.wait(plain.id, 60)
        texts = [client.text(one.id) for one in (kept, other, none, own, plain)]
        assert texts == ["42\n", "a b\n", "c\n", "the image itself\n", "d\n"]
        for one in (kept, other, none, own, plain):
            client.delete(one.id)
        wait_until(
            lambda: all(server.platform.workloads.row(one.id).cleaned for one in (kept, other, none, own, plain))
        )
    finally:
        client.close()
        server.close()


def test_files_of_a_running_container_are_copied_out_and_in(live: Live, project: Path, tmp_path_factory: Any) -> None:
    there = tmp_path_factory.mktemp("copied")
    spec = {
        "roles": [
            {"command": ["/bin/sh", "-c", "echo $LOCALML_INDEX > who; sleep 600"], "image": live.image, "count": 2}
        ],
        "code": live.user.send_code(project),
    }
    job = live.user.submit(spec, name="copies")
    wait_until(lambda: [one.state for one in live.user.get(job.id).replicas] == ["running"] * 2, 60)
    (there / "big").write_bytes(bytes(range(256)) * 20_000)
    done = live.user.copy_in(job.id, there / "big", "big")
    assert (done.files, done.size) == (1, 5_120_000)
    live.user.copy_out(job.id, "big", there / "back")
    assert (there / "back").read_bytes() == (there / "big").read_bytes()
    for index in (0, 1):
        wait_until(lambda index=index: _out(live, job.id, index, there) == f"{index}\n", 60)
    live.user.copy_out(job.id, "sub", there)
    assert (there / "sub" / "note").read_text() == "deep"
    with pytest.raises(ClientError, match="No such file") as missing:
        live.user.copy_out(job.id, "nowhere", there)
    assert (missing.value.code, missing.value.message) == ("not_found", "nowhere: No such file or directory")
    with pytest.raises(ClientError, match=r"^nowhere/deep/big: No such file"):
        live.user.copy_in(job.id, there / "big", "nowhere/deep/big")
    with pytest.raises(ClientError, match="main/7 does not run; there are: main/0, main/1"):
        live.user.copy_out(job.id, "who", there, replica="main/7")
    live.user.stop(job.id)
    live.user.wait(job.id, 60)
    with pytest.raises(ClientError, match=r"^copies does not run any more: stopped$"):
        live.user.copy_out(job.id, "who", there)


def test_a_copy_that_a_program_s_end_breaks_off_says_so(live: Live, tmp_path: Path) -> None:
    role = {"command": ["/bin/sh", "-c", "mkfifo pipe; echo made; sleep 600"], "image": live.image}
    job = live.user.submit({"roles": [role]}, name="ends-meanwhile")
    wait_until(lambda: live.user.get(job.id).state == "running", 60)
    next(live.user.follow(job.id))
    with ThreadPoolExecutor(1) as others:
        copied = others.submit(live.user.copy_out, job.id, "pipe", tmp_path / "pipe")  # nobody writes into it
        live.user.stop(job.id)
        with pytest.raises(ClientError, match=r"^ends-meanwhile does not run any more: stop(ped|ping)$"):
            copied.result(60)


def _out(live: Live, number: int, index: int, there: Path) -> str:
    """What a replica has written; empty as long as it has not."""
    (there / "who").unlink(missing_ok=True)
    with suppress(ClientError):
        live.user.copy_out(number, "who", there / "who", replica=f"main/{index}")
        return (there / "who").read_text()
    return ""


def test_files_of_the_spec_lie_where_the_job_starts(live: Live) -> None:
    role = {"image": live.image, "command": ["/bin/sh", "-c", "cat config.json; echo own > config.json; echo $PWD"]}
    spec = {"roles": [role], "files": {"config.json": "{}\n"}}
    job = live.user.wait(live.user.submit(spec, name="files").id, 60)
    text = live.user.text(job.id)
    assert (job.state, text.splitlines()[0]) == ("succeeded", "{}"), (job.message, text)
    assert not live.image or text == "{}\n/code\n"
    live.user.delete(job.id)
