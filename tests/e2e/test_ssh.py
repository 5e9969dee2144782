"""OpenSSH's client in the containers of jobs: as OpenPAI's answer says, and through ``localml ssh``."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import socket
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers.cloudml import over
from helpers.docker_image import tiny_image
from helpers.openpai import UNTIL_STOPPED, PaiClient, role
from helpers.ports import free_port
from helpers.rig import wait_until
from helpers.ssh import OpenSsh, ended, first_line, ok

from localml.cli.app import run as run_cli
from localml.config import Config
from localml.core.work.workloads import Query
from localml.platform import Platform
from localml.server import Server

EVERYTHING = Query(deleted=True, limit=1000)
SECONDS = 60


class Live:
    """A server on a real socket, and what a client of it knows."""

    def __init__(self, folder: Path, engine: str) -> None:
        self.engine = engine
        self.folder = folder
        self.image = tiny_image() if engine == "docker" else None
        self.open()

    def open(self) -> None:
        """Start, or start again over the same data."""
        config = Config(
            self.folder / "data",
            cache=self.folder / "cache",
            engine=self.engine,
            gpus="none",
            cpus=64,
            memory=64 << 30,
            port=0,
        )
        self.platform = Platform(config)
        self.server = Server(self.platform)
        self.server.start()
        self.pai = PaiClient(over(self.server.url), self.platform.credentials.token)

    def job(self, name: str, command: str = UNTIL_STOPPED, count: int = 1) -> dict[str, Any]:
        """A job that runs; the answer to how it is reached."""
        rest = {} if self.image is None else {"image": self.image}
        self.pai.submit(name, role("main", command, count), **rest)
        wait_until(lambda: self.pai.status(name)["state"] == "RUNNING", SECONDS)
        wait_until(lambda: len(self.access(name)["containers"]) == count, SECONDS)
        return self.access(name)

    def access(self, name: str) -> dict[str, Any]:
        answer = self.pai.get(f"/jobs/{name}/ssh")
        assert answer.status == 200, answer.data
        found: dict[str, Any] = answer.json
        return found

    def key(self, access: dict[str, Any]) -> bytes:
        """Follow the link to the private key."""
        link = access["keyPair"]["privateKeyDirectDownloadLink"]
        assert link.startswith(self.server.url)
        answer = self.pai.get(link.removeprefix(self.server.url).removeprefix("/api/v1"))
        assert answer.status == 200, answer.data
        return answer.data

    def end(self, name: str) -> None:
        assert self.pai.put(f"/jobs/{name}/executionType", {"value": "STOP"}).status == 200
        wait_until(lambda: self.pai.status(name)["state"] == "STOPPED", SECONDS)

    def close(self) -> None:
        admin = self.platform.identity.user("admin")
        for row in self.platform.workloads.page(EVERYTHING).items:
            self.platform.workloads.delete(row.id or 0, admin)
        done = lambda: all(row.cleaned for row in self.platform.workloads.page(EVERYTHING).items)  # noqa: E731
        wait_until(done, SECONDS)
        self.server.close()


ENGINES = ["process", pytest.param("docker", marks=pytest.mark.docker)]


@pytest.fixture(scope="module", params=ENGINES)
def live(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    server = Live(tmp_path_factory.mktemp("ssh"), request.param)
    yield server
    server.close()


@pytest.fixture(scope="module")
def job(live: Live) -> dict[str, Any]:
    """A gang of two that runs as long as the server."""
    return live.job("gang", count=2)


@pytest.fixture
def enter(live: Live, tmp_path: Path) -> Callable[..., OpenSsh]:
    """Makes the client of one of a job's containers."""

    def make(access: dict[str, Any], index: int = 0, key: bytes | None = None) -> OpenSsh:
        one = access["containers"][index]
        folder = tmp_path / f"client-{one['id']}"
        return OpenSsh(folder, one["sshIp"], one["sshPort"], live.key(access) if key is None else key)

    return make


@pytest.fixture
def ssh(job: dict[str, Any], enter: Callable[..., OpenSsh]) -> OpenSsh:
    return enter(job)


@pytest.fixture
def inside(ssh: OpenSsh) -> Iterator[str]:
    """A folder in the container, gone afterwards."""
    folder = ok(ssh("mktemp -d /tmp/ssh-test-XXXXXX")).decode().strip()
    yield folder
    ok(ssh(f"rm -rf {folder}"))


# -- the answer --------------------------------------------------------------------------------------


def test_each_container_has_an_address_and_the_job_has_a_key_pair(live: Live, job: dict[str, Any]) -> None:
    status = live.pai.status("gang")
    ids = [one["containerId"] for one in status["taskRoles"]["main"]["taskStatuses"]]
    assert [one["id"] for one in job["containers"]] == ids
    assert all(one["sshIp"] == "127.0.0.1" and one["sshPort"].isdigit() for one in job["containers"])
    assert len({one["sshPort"] for one in job["containers"]}) == 2
    assert live.access("gang") == job
    pair = job["keyPair"]
    shown = [one.name for one in live.platform.buckets.list(pair["folderPath"])]
    assert shown == [pair["publicKeyFileName"]]  # every job can read the buckets, so the private key is not there
    assert b"PRIVATE KEY" in live.key(job)


def test_a_job_that_does_not_run_is_not_reached(live: Live) -> None:
    live.pai.submit("short", role("main", "true"), **({} if live.image is None else {"image": live.image}))
    wait_until(lambda: live.pai.status("short")["state"] == "SUCCEEDED", SECONDS)
    assert live.access("short")["containers"] == []


# -- commands and shells -----------------------------------------------------------------------------


def test_a_command_runs_in_the_container(ssh: OpenSsh, live: Live) -> None:
    done = ssh('echo "$LOCALML_NAME in $(pwd)"; echo warned >&2; exit 7')
    workdir = "/" if live.engine == "docker" else str(live.folder)
    assert (done.returncode, done.stderr) == (7, b"warned\n")
    assert done.stdout.startswith(f"gang in {workdir}".encode())
    if live.engine == "docker":
        assert ok(ssh("ls /bin/busybox; ls /usr 2>/dev/null; true")) == b"/bin/busybox\n"


def test_the_port_chooses_the_container_of_a_gang(job: dict[str, Any], enter: Callable[..., OpenSsh]) -> None:
    assert [ok(enter(job, index)("echo $LOCALML_INDEX")) for index in (0, 1)] == [b"0\n", b"1\n"]


def test_a_shell_takes_lines(ssh: OpenSsh) -> None:
    done = ssh(given=b"cd /tmp\npwd\nexit 3\n")
    assert (done.returncode, done.stdout) == (3, b"/tmp\n")


def test_a_shell_has_a_terminal(ssh: OpenSsh) -> None:
    done = ssh("-tt", given=b"stty size; echo term=$TERM; tty; exit 5\n")
    assert done.returncode == 5
    assert re.search(rb"\d+ \d+\r\n", done.stdout)
    assert re.search(rb"^/dev/pts/\d+\r$", done.stdout, re.MULTILINE)
    assert b"term=" + os.environ.get("TERM", "").encode() in done.stdout


def test_any_bytes_go_through_in_both_directions(ssh: OpenSsh) -> None:
    data = os.urandom(5_000_000)
    done = ssh("tee /dev/stderr", given=data)
    assert (done.returncode, done.stdout == data, done.stderr == data) == (0, True, True)


def test_the_language_comes_along_and_nothing_else(ssh: OpenSsh, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LC_TEST", "de")
    monkeypatch.setenv("LOCALML_NAME", "another")
    done = ssh("-oSendEnv=LC_TEST", "-oSendEnv=LOCALML_NAME", "echo $LC_TEST $LOCALML_NAME")
    assert ok(done) == b"de gang\n"


def test_many_sessions_at_a_time(ssh: OpenSsh) -> None:
    started = [ssh.begin(f"read line; echo {number} $line") for number in range(8)]
    for number, process in enumerate(started):
        out, _ = process.communicate(b"go\n", timeout=SECONDS)
        assert out == f"{number} go\n".encode()


def test_a_command_ends_when_its_client_leaves(ssh: OpenSsh, live: Live) -> None:
    process = ssh.begin("echo ready; sleep 4321")
    assert first_line(process) == b"ready\n"
    running = "ps -ef 2>/dev/null | grep '[s]leep 4321' || ps | grep '[s]leep 4321'"
    assert b"4321" in ssh(running).stdout
    process.kill()
    process.communicate(timeout=SECONDS)
    wait_until(lambda: ssh(running).stdout == b"", SECONDS)


# -- who may -----------------------------------------------------------------------------------------


def test_only_the_jobs_own_key_opens_it(live: Live, job: dict[str, Any], enter: Callable[..., OpenSsh]) -> None:
    other = live.job("other")
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(live.folder / "mine")], check=True)
    for key in (live.key(other), (live.folder / "mine").read_bytes()):
        done = enter(job, key=key)("true")
        assert (done.returncode, b"Permission denied (publickey)" in done.stderr) == (255, True), done.stderr
    assert ok(enter(other)("echo $LOCALML_NAME")) == b"other\n"
    live.end("other")
    (live.folder / "mine").unlink()


def test_all_containers_identify_themselves_with_the_same_host_key(
    live: Live, job: dict[str, Any], enter: Callable[..., OpenSsh]
) -> None:
    known = set()
    for index in (0, 1):
        client = enter(job, index)
        ok(client("true"))
        known.add((client.folder / "known_hosts").read_text().split(maxsplit=1)[1])
    assert len(known) == 1
    said = live.platform.ssh.info(live.platform.workloads.named("gang").row.id or 0).host_key
    assert known == {f"{said}\n"}


# -- files -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("flags", [(), ("-O",)], ids=["sftp", "old protocol"])
def test_scp_copies_both_ways(ssh: OpenSsh, inside: str, tmp_path: Path, flags: tuple[str, ...]) -> None:
    sent, back = tmp_path / "a file", tmp_path / "back"
    sent.write_bytes(os.urandom(3_000_001))
    sent.chmod(0o750)
    os.utime(sent, (1_500_000_000, 1_500_000_000))
    ok(ssh.scp("-p", *flags, str(sent), f":{inside}/copy"))
    digest = hashlib.md5(sent.read_bytes()).hexdigest()
    assert ok(ssh(f"md5sum {inside}/copy")).decode().split()[0] == digest
    assert ok(ssh(f"stat -c '%a %Y' {inside}/copy")) == b"750 1500000000\n"
    ok(ssh.scp("-p", *flags, f":{inside}/copy", str(back)))
    assert back.read_bytes() == sent.read_bytes()
    assert (stat.S_IMODE(back.stat().st_mode), back.stat().st_mtime) == (0o750, 1_500_000_000)


def test_scp_copies_folders(ssh: OpenSsh, inside: str, tmp_path: Path) -> None:
    names = ["plain", "with blank", "ünï", "-dash", ".hidden", "line\nbreak"]
    (tmp_path / "tree" / "deep").mkdir(parents=True)
    for name in names:
        (tmp_path / "tree" / "deep" / name).write_text(name * 3)
    ok(ssh.scp("-r", str(tmp_path / "tree"), f":{inside}"))
    ok(ssh.scp("-r", f":{inside}/tree", str(tmp_path / "back")))
    found = {file.name: file.read_text() for file in (tmp_path / "back" / "deep").iterdir()}
    assert found == {name: name * 3 for name in names}


def test_sftp_handles_files_as_on_any_machine(ssh: OpenSsh, inside: str, tmp_path: Path) -> None:
    (tmp_path / "f").write_text("content")
    listed = ok(
        ssh.sftp(
            f"cd {inside}",
            "pwd",
            "mkdir folder",
            f"put {tmp_path}/f folder/f",
            "rename folder/f folder/g",
            "ln -s g folder/link",
            "ln folder/g folder/hard",
            "chmod 600 folder/g",
            "ls -ln folder",
            f"get folder/link {tmp_path}/back",
            "rm folder/link",
            "rm folder/hard",
            "rm folder/g",
            "rmdir folder",
            "ls -la",
        )
    ).decode()
    assert f"Remote working directory: {inside}" in listed
    assert re.search(r"^-rw-------.* 7 .*folder/g$", listed, re.MULTILINE)
    assert re.search(r"^lrwxrwxrwx.*folder/link", listed, re.MULTILINE)
    assert (tmp_path / "back").read_text() == "content"
    assert ok(ssh(f"ls -A {inside}")) == b""


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("get nothing here", b"not found"),
        ("rm nothing", b"No such file"),
        ("rmdir full", b"Failure"),
        ("rename nothing full/c", b"No such file"),
        ("cd full/a", b"not a directory"),
        ("put {}/f missing/f", b"No such file"),
    ],
)
def test_sftp_says_what_is_wrong(ssh: OpenSsh, inside: str, tmp_path: Path, line: str, said: bytes) -> None:
    (tmp_path / "f").write_text("content")
    ok(ssh(f"cd {inside} && mkdir full && touch full/a full/b"))
    done = ssh.sftp(f"cd {inside}", line.format(tmp_path))
    assert done.returncode != 0
    assert said.lower() in (done.stderr + done.stdout).lower()


def test_transfers_are_resumed(ssh: OpenSsh, inside: str, tmp_path: Path) -> None:
    whole = os.urandom(200_003)
    (tmp_path / "whole").write_bytes(whole)
    (tmp_path / "part").write_bytes(whole[:70_001])
    ok(ssh.sftp(f"put {tmp_path}/part {inside}/up", f"reput {tmp_path}/whole {inside}/up"))
    ok(ssh.sftp(f"reget {inside}/up {tmp_path}/part"))
    assert (tmp_path / "part").read_bytes() == whole
    assert ok(ssh(f"md5sum {inside}/up")).decode().split()[0] == hashlib.md5(whole).hexdigest()


def test_a_full_disk_is_told(ssh: OpenSsh, tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"x" * 100_000)
    done = ssh.sftp(f"put {tmp_path}/f /dev/full")
    assert done.returncode != 0


# -- forwarding --------------------------------------------------------------------------------------


def _asked(port: int, data: bytes) -> bytes:
    """What comes back; nothing when the connection is refused on the other side, which resets this one."""
    with socket.create_connection(("127.0.0.1", port), timeout=SECONDS) as peer:
        try:
            peer.sendall(data)
            peer.shutdown(socket.SHUT_WR)
            return b"".join(iter(lambda: peer.recv(65536), b""))
        except OSError as error:
            if error.errno not in (errno.ECONNRESET, errno.EPIPE, errno.ENOTCONN):  # what a reset looks like, and when
                raise
            return b""


@pytest.mark.parametrize("address", ["127.0.0.1", "0.0.0.0"])
def test_ports_of_the_container_are_forwarded(live: Live, enter: Callable[..., OpenSsh], address: str) -> None:
    there, here = free_port(), free_port()
    serve = f"exec httpd -f -p {address}:{there} -h www"
    if live.engine == "process":
        serve = f"exec {sys.executable} -m http.server {there} --bind {address} -d www"
    client = enter(live.job("server", f"mkdir www; yes forwarded | head -c 300000 > www/f; {serve}"))
    process = client.begin(f"-L{here}:localhost:{there}", "echo ready; cat")
    try:
        assert first_line(process) == b"ready\n"
        wait_until(lambda: _asked(here, b"GET /f HTTP/1.0\r\n\r\n").endswith(b"forwarded\n" * 30_000), SECONDS)
    finally:
        ended(process)
        live.end("server")
        live.platform.workloads.delete(live.platform.workloads.named("server").row.id or 0, _admin(live))


def _admin(live: Live) -> Any:
    return live.platform.identity.user("admin")


def test_a_port_on_which_nothing_listens_is_refused(ssh: OpenSsh, live: Live) -> None:
    here, nowhere = free_port(), free_port()
    process = ssh.begin(f"-L{here}:localhost:{nowhere}", "echo ready; cat")
    assert first_line(process) == b"ready\n"
    assert _asked(here, b"hello") == b""
    assert ended(process)[0] == 0


@pytest.mark.docker
def test_forwarding_does_not_lead_to_this_machine(live: Live, ssh: OpenSsh) -> None:
    if live.engine != "docker":
        pytest.skip("without isolation the machine's network is the job's")
    here = free_port()
    port = live.server.url.rpartition(":")[2]  # our own server, which listens on this machine's loopback
    process = ssh.begin(f"-L{here}:127.0.0.1:{port}", "echo ready; cat")
    assert first_line(process) == b"ready\n"
    assert _asked(here, b"GET / HTTP/1.0\r\n\r\n") == b""
    assert ended(process)[0] == 0


# -- the end -----------------------------------------------------------------------------------------


def test_it_ends_with_the_job(live: Live, enter: Callable[..., OpenSsh]) -> None:
    access = live.job("ending")
    client = enter(access)
    seconds = f"1234.{os.getpid()}"  # nobody else's
    process = client.begin(f"echo ready; sleep {seconds}")
    assert first_line(process) == b"ready\n"
    live.end("ending")
    assert ended(process)[0] != 0
    wait_until(lambda: b"refused" in client("true").stderr, SECONDS)
    assert live.access("ending")["containers"] == []
    wait_until(lambda: not live.platform.buckets.exists(access["keyPair"]["folderPath"]), SECONDS)
    number = str(live.platform.workloads.named("ending").row.id)
    wait_until(lambda: number not in json.loads((live.folder / "data" / "ssh" / "ports.json").read_text()), SECONDS)
    wait_until(lambda: not subprocess.run(["pgrep", "-f", seconds], capture_output=True, check=False).stdout, SECONDS)


def test_a_restarted_server_opens_the_same_doors_for_the_same_key(
    live: Live, job: dict[str, Any], enter: Callable[..., OpenSsh]
) -> None:
    clients = [enter(job, index) for index in (0, 1)]
    hosts = [ok(client("echo $LOCALML_INDEX")) for client in clients]
    live.server.close()
    assert b"refused" in clients[0]("true").stderr
    live.open()
    for client, answer in zip(clients, hosts, strict=True):
        wait_until(lambda one=client: one("true").returncode == 0, SECONDS)  # the doors are opened without a question
        assert ok(client("echo $LOCALML_INDEX")) == answer  # and known_hosts knows them
    assert ok(enter(live.access("gang"), 1)("true")) == b""  # with a fresh download of the key
    assert live.access("gang")["containers"] == job["containers"]


# -- localml ssh -------------------------------------------------------------------------------------


@pytest.fixture
def cli(
    live: Live, job: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]
) -> Callable[..., tuple[int, str, str]]:
    monkeypatch.setenv("LOCALML_DATA", str(live.folder / "data"))

    def call(*arguments: str) -> tuple[int, str, str]:
        capfdbinary.readouterr()
        code = run_cli(list(arguments))
        sys.stdout.flush()
        out, err = capfdbinary.readouterr()
        return code, out.decode(), err.decode()

    return call


def test_the_command_runs_in_the_replica_that_is_named(cli: Callable[..., tuple[int, str, str]]) -> None:
    assert cli("ssh", "gang", "main/1", "--", "sh", "-c", 'echo "$LOCALML_INDEX  x"; exit 4')[:2] == (4, "1  x\n")
    assert cli("ssh", "gang", "--", "echo $LOCALML_INDEX") == (0, "0\n", "main/0, one of: main/0, main/1\n")
    code, _, err = cli("ssh", "gang", "main/7", "--", "true")
    assert (code, "main/7 does not run" in err, "main/0, main/1" in err) == (1, True, True)


def test_key_and_configuration_can_be_kept(cli: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
    folder = tmp_path / "to keep"
    code, out, _ = cli("ssh", "gang", "--save", str(folder))
    assert (code, len(out.splitlines())) == (0, 2)
    assert stat.S_IMODE((folder / "key").stat().st_mode) == 0o600
    command = ["ssh", "-F", str(folder / "config"), "main-1", "echo $LOCALML_INDEX"]
    assert subprocess.run(command, capture_output=True, timeout=SECONDS, check=True).stdout == b"1\n"


def test_programs_get_it_as_json(cli: Callable[..., tuple[int, str, str]], job: dict[str, Any]) -> None:
    code, out, _ = cli("ssh", "gang", "--json")
    ports = [str(door["port"]) for door in json.loads(out)["doors"]]
    assert (code, ports) == (0, [one["sshPort"] for one in job["containers"]])


def test_what_does_not_run_is_told(cli: Callable[..., tuple[int, str, str]], live: Live) -> None:
    rest = {} if live.image is None else {"image": live.image}
    if live.pai.get("/jobs/over").status == 404:
        live.pai.submit("over", role("main", "true"), **rest)
    wait_until(lambda: live.pai.status("over")["state"] == "SUCCEEDED", SECONDS)
    code, _, err = cli("ssh", "over")
    assert (code, err) == (1, "error: over does not run any more: succeeded\n")


def test_it_is_for_the_owner_and_administrators(live: Live, job: dict[str, Any]) -> None:
    from localml.client import Client, ClientError

    with Client(live.server.url, live.platform.credentials.token) as admin:
        if "eve" not in [user["name"] for user in admin.users()]:
            eve = admin.create_user("eve", "secret")["token"]
        else:
            eve = admin.create_token("eve")
        number = admin.ssh("gang") and live.platform.workloads.named("gang").row.id
    with Client(live.server.url, eve) as client, pytest.raises(ClientError) as caught:
        client.ssh(number or 0)
    assert caught.value.code in ("forbidden", "not_found")
