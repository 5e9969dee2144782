"""A colleague who attacks from a job of the process engine: what the job reaches, and that it can work all the same."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import urllib3
from helpers.engine_kits import wait_until
from helpers.models import times
from helpers.native import sh
from helpers.openpai import role
from helpers.server_process import Api, servers

from localml.client import Client
from localml.client.errors import ClientError
from localml.config import DEFAULT_UIDS, load
from localml.engines.process.boxes import trouble
from localml.platform import Platform
from localml.server import Server

SECRETS = ("credentials.json", "secret.key", "localml.db", "localml.db-wal", "server.json")


class House:
    """A server with the process engine, an administrator and two users."""

    def __init__(self, data: Path, **settings: Any) -> None:
        config = load({}, data=data, engine="process", gpus="simulated:1", cpus=64, port=0, gateway_port=0)
        self.platform = Platform(replace(config, **settings))
        self.server = Server(self.platform)
        self.server.start()
        self.data = data
        self.admin = Client(self.server.url, self.platform.credentials.token)
        self.bob, self.alice = (self._user(name) for name in ("bob", "alice"))

    def _user(self, name: str) -> Client:
        if name not in {one["name"] for one in self.admin.users()}:
            self.admin.create_user(name, f"{name}'s password")
        return Client(self.server.url, self.admin.create_token(name))

    def uid(self, name: str) -> int:
        return DEFAULT_UIDS + self.platform.identity.user(name).id

    def run(self, who: Client, script: str, **members: Any) -> str:
        """The output of a job that succeeds."""
        job = who.run(["sh", "-c", script], wait=True, **members)
        text = who.text(job.id)
        assert job.state == "succeeded", (job.message, text)
        return text

    def begin(self, who: Client, script: str) -> Any:
        """A job that has written its first line, and that line."""
        job = who.run(["sh", "-c", script])
        lines = who.follow(job.id)
        first = next(iter(lines))
        return job, first.text.strip()

    def close(self) -> None:
        for client in (self.admin, self.bob, self.alice):
            client.close()
        self.platform.reconciler.close()  # what waits for those that are ended now would begin
        for name in self.platform.engine.list():
            self.platform.engine.remove(name)
        self.server.close()


def api_of(data: Path, token: str) -> Api:
    """Somebody's calls of the server that runs on a data directory."""
    return Api(json.loads((data / "server.json").read_text())["url"], token)


@contextmanager
def house(data: Path, **settings: Any) -> Iterator[House]:
    found = House(data, **settings)
    try:
        yield found
    finally:
        found.close()


@pytest.fixture
def boxes(tmp_path: Path) -> Iterator[House]:
    with house(tmp_path / "data") as found:
        if reason := found.platform.engine.capabilities.exposes:
            pytest.skip(reason)
        yield found


def test_a_job_reads_no_secret_of_the_installation(boxes: House) -> None:
    output = boxes.run(boxes.bob, f"cd {boxes.data}; for f in {' '.join(SECRETS)}; do cat $f; done 2>&1; ls -A; id -u")
    lines = output.splitlines()
    assert all("No such file" in line or "denied" in line for line in lines[: len(SECRETS)])
    assert lines[len(SECRETS) :] == ["buckets", "replicas", str(boxes.uid("bob"))]
    assert all((boxes.data / name).exists() for name in SECRETS[:3]), "there was something to read"


def test_no_secret_of_the_installation_is_anywhere_else(boxes: House) -> None:
    """Other ways to the same files: the processes of others, links of the kernel, memory."""
    server = os.getpid()
    ways = [f"/proc/{server}/{one}" for one in ("root", "cwd", "environ", "mem", "maps", "fd", "cmdline")]
    output = boxes.run(boxes.bob, f"for w in {' '.join(ways)}; do ls -d $w/ || cat $w; done 2>/dev/null; echo none")
    assert output == "none\n"


def test_a_job_reads_nothing_of_a_colleague(boxes: House) -> None:
    hers, pid = boxes.begin(boxes.alice, "echo $$; echo word > here; exec sleep 600")
    name = next(name for name in boxes.platform.engine.list() if f"-{hers.id}-" in name)
    folder = boxes.data / "replicas" / name
    tries = f"cat {folder}/work/here {folder}/stdout /proc/{pid}/environ /proc/{pid}/cwd/here; ls {folder.parent}"
    output = boxes.run(boxes.bob, f"({tries}; kill -9 {pid}) 2>/dev/null; echo on")
    assert output.splitlines()[1:] == ["on"], "what is before that is its own folder"
    assert name not in output
    assert boxes.alice.get(hers.id).state == "running"


def test_a_colleagues_bucket_is_not_there(boxes: House) -> None:
    boxes.alice.put("fds://hers/word", b"secret")
    boxes.bob.put("fds://his/word", b"known")
    script = "cd $LOCALML_BUCKETS; cat hers/word; echo x > hers/new; mkdir hers; ls; cat his/word"
    output = boxes.run(boxes.bob, f"({script}) 2>/dev/null").split()
    assert "secret" not in output
    assert "hers" not in output
    assert output[-2:] == ["his", "known"]
    assert [one.name for one in boxes.alice.objects("fds://hers/")] == ["word"]


def test_what_is_on_another_disk_is_hidden_all_the_same(tmp_path: Path, other_disk: Path) -> None:
    """Whose data directory is too small puts a link there."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "buckets").symlink_to(other_disk)
    with house(tmp_path / "data") as found:
        if reason := found.platform.engine.capabilities.exposes:
            pytest.skip(reason)
        found.alice.put("fds://hers/word", b"secret")
        found.bob.put("fds://his/word", b"known")
        output = found.run(found.bob, f"cat {other_disk}/hers/word 2> /dev/null; ls {other_disk} $LOCALML_BUCKETS/his")
        assert output.split() == [f"{other_disk}:", "hdfs", "his", f"{other_disk}/his:", "word"]


@pytest.fixture
def other_disk() -> Iterator[Path]:
    """A folder that everybody may enter, and that is no scratch."""
    with TemporaryDirectory(dir=next(one for one in ("/srv", "/opt", "/") if os.access(one, os.W_OK))) as made:
        Path(made).chmod(0o755)
        yield Path(made)


def test_a_data_directory_behind_a_link_is_as_good(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "data").symlink_to(tmp_path / "elsewhere")
    with house(tmp_path / "data") as found:
        if reason := found.platform.engine.capabilities.exposes:
            pytest.skip(reason)
        mounts = [{"source": "workspace:own", "target": "/work"}]
        found.bob.put("fds://his/word", b"known")
        script = "echo $LOCALML_MOUNTS; cat $LOCALML_BUCKETS/his/word; pwd; echo kept > kept"
        told, rest = found.run(found.bob, script, mounts=mounts, workdir="/work").split("}")
        place = json.loads(told + "}")["/work"]
        assert rest.split() == [f"known{place}"]
        assert (Path(place) / "kept").read_text() == "kept\n"


def test_folders_that_lie_very_deep_in_each_other_stop_nobody(boxes: House) -> None:
    """A job's own go with it, those in a common bucket are told of and can be deleted."""
    program = (
        "import os\nfor top in ('.', os.environ['LOCALML_BUCKETS'] + '/hdfs'):\n"
        " os.chdir(top); os.mkdir('deep'); os.chdir('deep')\n"
        " for _ in range(1200): os.mkdir('d'); os.chdir('d')\n os.chdir(os.environ['HOME'])"
    )
    job = boxes.bob.run(["python3", "-c", program], image="localml/base:latest", wait=True)
    assert job.state == "succeeded", boxes.bob.text(job.id)
    engine = boxes.platform.engine
    wait_until(lambda: not [name for name in engine.list() if f"-{job.id}-" in name], "the end of its folder")
    with pytest.raises(ClientError, match="folders more than 256 deep"):
        boxes.alice.objects("fds://hdfs/", recursive=True)
    assert [one.name for one in boxes.alice.objects("fds://hdfs/")] == ["deep"]
    boxes.platform.buckets_for(boxes.platform.identity.user("admin")).delete("fds://hdfs/deep", recursive=True)
    assert boxes.alice.objects("fds://hdfs/") == []


def test_a_job_does_not_learn_what_there_is_by_a_work_directory(boxes: House) -> None:
    boxes.alice.put("fds://hers/there/word", b"x")
    boxes.bob.put("fds://his/word", b"x")
    said = []
    for place in ("hers/there", "hers/missing"):
        job = boxes.bob.run(["pwd"], workdir=str(boxes.data / "buckets" / place), wait=True)
        said.append((job.state, Path(boxes.bob.text(job.id).strip()).name))
    assert said == [("succeeded", "work")] * 2
    own = boxes.data / "buckets" / "his"
    (own / "way").symlink_to(boxes.data / "buckets" / "hers" / "there")
    assert boxes.bob.text(boxes.bob.run(["pwd"], workdir=str(own / "way"), wait=True).id).strip().endswith("/work")
    assert boxes.bob.text(boxes.bob.run(["pwd"], workdir=str(own), wait=True).id).strip() == str(own)


def test_a_job_cannot_say_how_it_ended(boxes: House) -> None:
    forged = "kill -9 $PPID; echo '{}' > ../exit.json; rm -rf ../*; mv ../../* /tmp; sleep 0.1; exit 7"
    job = boxes.bob.run(["sh", "-c", f"({forged}) 2>/dev/null"], wait=True)
    assert (job.state, job.exit_code) == ("failed", 7)


def test_it_trains_on(boxes: House) -> None:
    """Its folder, objects that others put there and that it writes, Python, a network of its machine, the scratch."""
    boxes.bob.put("fds://set/in/numbers", b"1 2 3")
    program = (
        "import os, tempfile, getpass, socket, multiprocessing as m; b = os.environ['LOCALML_BUCKETS'];"
        "n = open(b + '/set/in/numbers').read().split(); os.makedirs(b + '/set/out', exist_ok=True);"
        "open(b + '/set/out/sum', 'w').write(str(sum(map(int, n)))); open('mine', 'w').write('x');"
        "open(b + '/set/in/numbers', 'a').write(' 4');"
        "tempfile.TemporaryFile().write(b'x'); socket.create_server(('127.0.0.1', 0)); m.Queue().put(1);"
        "print(os.getcwd() == os.environ['HOME'], getpass.getuser())"
    )
    job = boxes.bob.run(["python3", "-c", program], image="localml/base:latest", wait=True)
    assert boxes.bob.text(job.id) == f"True localml-{boxes.uid('bob')}\n"
    assert (boxes.data / "buckets/set/out/sum").read_text() == "6"
    assert (boxes.data / "buckets/set/in/numbers").read_text() == "1 2 3 4"


def test_it_works_also_where_the_server_makes_private_files(tmp_path: Path) -> None:
    """As the umask of many an administrator's shell has it."""
    before = os.umask(0o077)
    try:
        with house(tmp_path / "data") as found:
            if reason := found.platform.engine.capabilities.exposes:
                assert "no other user can run" not in reason
                pytest.skip(reason)
            found.bob.put("fds://his/word", b"known\n")
            found.bob.put("fds://his/model.onnx", times(2.0))
            model = found.bob.register("net", "fds://his/model.onnx")
            script = "cd $LOCALML_BUCKETS/his; cat word; mkdir -p new; echo x > new/made; umask"
            assert found.run(found.bob, script).split() == ["known", "0002"]
            files = found.data / "models" / "1" / "v1" / str(model.version)
            assert {oct(one.stat().st_mode & 0o055) for one in (files, *files.parents[:2])} == {"0o55"}
            assert {oct(one.stat().st_mode & 0o044) for one in files.iterdir()} == {"0o44"}
    finally:
        os.umask(before)


def test_what_one_makes_in_a_common_bucket_the_other_changes(boxes: House) -> None:
    for who, word in ((boxes.bob, "bob"), (boxes.admin, "admin"), (boxes.alice, "alice")):
        boxes.run(who, f"mkdir -p $LOCALML_BUCKETS/hdfs/{word} && cd $LOCALML_BUCKETS/hdfs && echo {word} >> common")
    for who in (boxes.admin, boxes.alice, boxes.bob):
        boxes.run(who, "cd $LOCALML_BUCKETS/hdfs && for d in bob admin alice; do echo x >> $d/file || exit 1; done")
    assert (boxes.data / "buckets/hdfs/common").read_text().split() == ["bob", "admin", "alice"]


def test_a_shell_in_a_job_is_no_way_out(boxes: House) -> None:
    job, _ = boxes.begin(boxes.bob, "echo ready; sleep 600")
    name = next(iter(boxes.platform.engine.list()))
    answer = boxes.platform.engine.exec(name, ("sh", "-c", f"id -u; cat {boxes.data}/credentials.json"))
    assert answer.stdout.decode().split() == [str(boxes.uid("bob"))]
    boxes.bob.stop(job.id)


def test_a_box_outlives_the_server_and_ends_when_it_is_told(tmp_path: Path) -> None:
    if reason := trouble():
        pytest.skip(reason)
    with servers(tmp_path / "data", trust_users=False) as running:
        first = running.start()
        first.api.post("/users", {"name": "bob", "password": "bob's password"})
        token = first.api.post("/users/bob/tokens", {"name": "t"})["token"]
        bob = api_of(running.data, token)
        number = bob.submit("long", sh("trap 'echo told; exit 9' TERM; id -u; sleep 600 & wait"))
        wait_until(lambda: bob.log(number), "its first line")
        bob.close()
        first.end(signal.SIGKILL)
        running.start()
        bob = api_of(running.data, token)
        assert bob.get(f"/workloads/{number}")["state"] == "running"
        bob.post(f"/workloads/{number}/stop")
        assert bob.wait_over(number)["state"] == "stopped"
        assert bob.log(number).split() == [str(DEFAULT_UIDS + 2).encode(), b"told"]
        bob.close()


def test_the_administrators_job_runs_as_the_server(boxes: House) -> None:
    assert boxes.run(boxes.admin, "id -u") == f"{os.getuid()}\n"


def test_where_nothing_keeps_them_apart_users_run_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("localml.engines.process.boxes.trouble", lambda: "the server does not run as root")
    with house(tmp_path / "data") as found:
        with pytest.raises(ClientError, match=r"bob may run nothing here.*--trust-users") as refused:
            found.bob.run(["true"])
        assert refused.value.code == "forbidden"
        assert found.run(found.admin, "echo runs") == "runs\n"
        found.admin.create_user("carol", "a password")


def test_who_may_run_nothing_is_told_why_by_vendors_apis_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("localml.engines.process.boxes.trouble", lambda: "the server does not run as root")
    with house(tmp_path / "data") as found:
        token = {"Authorization": f"Bearer {found.admin.create_token('bob')}"}
        job = {"jobName": "pai", "taskRoles": [role()]}
        run = {"name": "run", "image_name": "custom_image", "custom_image_name": "x", "custom_image_command": "true"}
        for path, body in (("/api/v1/jobs", job), ("/api/runs/", run)):
            answer = urllib3.request("POST", found.server.url + path, json=body, headers=token)
            assert (answer.status, "--trust-users" in answer.json()["message"]) == (403, True), answer.data


def test_what_waited_when_trust_ended_is_refused_when_it_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("localml.engines.process.boxes.trouble", lambda: "the server does not run as root")
    with house(tmp_path / "data", trust_users=True) as found:
        assert found.run(found.bob, "id -u") == f"{os.getuid()}\n"
        first = found.admin.run(["sleep", "600"], gpus=1)
        waits = found.bob.run(["true"], gpus=1)
    with house(tmp_path / "data") as found:
        found.admin.stop(first.id)
        job = found.bob.wait(waits.id)
        assert (job.state, "--trust-users" in job.message) == ("failed", True)


def test_an_endpoint_of_who_may_run_nothing_is_refused_when_it_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("localml.engines.process.boxes.trouble", lambda: "the server does not run as root")
    with house(tmp_path / "data") as found, pytest.raises(ClientError, match="bob may run nothing here"):
        found.bob.serve(None, name="net", image="their/server:1")
