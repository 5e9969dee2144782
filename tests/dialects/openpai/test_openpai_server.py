"""A live server on a real socket: tasks that check from inside what they were told, and talk to each other."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from docker.errors import ImageNotFound
from helpers.cloudml import over
from helpers.docker_image import tiny_image
from helpers.openpai import UNTIL_STOPPED, PaiClient, role
from helpers.registry import NAME as registry_name
from helpers.registry import PASSWORD, SAYS, USER, private_registry
from helpers.rig import wait_until

from localml.config import Config
from localml.core.work.workloads import Query
from localml.engines.docker.daemon import open_client
from localml.platform import Platform
from localml.server import Server

EVERYTHING = Query(deleted=True, limit=1000)
OVER = ("SUCCEEDED", "FAILED", "STOPPED")
FS = "hdfs://localml:9000"


class Live(PaiClient):
    """A client of a live server, and the platform behind it."""

    platform: Platform

    def finish(self, name: str, seconds: float = 60) -> dict[str, Any]:
        """Wait for the end of a job; its status."""
        wait_until(lambda: self.status(name)["state"] in OVER, seconds)
        return self.status(name)

    def log(self, name: str, role: str = "main", index: int = 0, stream: str = "stdout") -> str:
        found = self.platform.workloads.find(dialect="openpai", kind="job", name=name)  # type: ignore[arg-type]
        assert found is not None
        last = [one for one in found.attempts if (one.role, one.index) == (role, index)][-1]
        return self.platform.logs.tail(found.row.id or 0, last.name, stream, 1 << 20).decode()


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., Live]]:
    opened: list[Server] = []

    def start(**settings: Any) -> Live:
        values = {"port": 0, "gpus": "none", "cpus": 32, "memory": 64 << 30, **settings}
        platform = Platform(Config(tmp_path / "data", cache=tmp_path / "cache", **values))
        server = Server(platform)
        opened.append(server)
        server.start()
        client = Live(over(server.url))
        client.token = client.login(platform.credentials.user, platform.credentials.password).token
        client.platform = platform
        return client

    yield start
    for server in opened:
        admin = server.platform.identity.user("admin")
        for row in server.platform.workloads.page(EVERYTHING).items:
            server.platform.workloads.delete(row.id or 0, admin)
        wait_until(lambda one=server: all(row.cleaned for row in one.platform.workloads.page(EVERYTHING).items), 60)
        server.close()


def remove_image(name: str) -> None:
    client = open_client()
    try:
        client.remove_image(name, force=True)
    except ImageNotFound:
        pass
    finally:
        client.close()


def put(client: Live, uri: str, text: str) -> None:
    with client.platform.buckets.open(uri, "wb") as file:
        file.write(text.encode())


CHECK_ALL = r"""
set -e
env | grep '^PAI_' | sort
cat code/data.txt
[ "$PWD" = "$PAI_WORK_DIR" ]
echo saved > "$LOCALML_BUCKETS/hdfs/results/$PAI_CURRENT_TASK_ROLE_NAME-$PAI_CURRENT_TASK_ROLE_CURRENT_TASK_INDEX"
"""


def variables(log: str) -> dict[str, str]:
    return dict(line.split("=", 1) for line in log.splitlines() if line.startswith("PAI_"))


def check_variables(client: Live, image: str | None, host: Callable[[str, int], str]) -> None:
    put(client, f"{FS}/src/code/data.txt", "the code's data\n")
    roles = [
        role("ps", CHECK_ALL, 2, portList=[{"label": "rpc", "beginAt": 0, "portNumber": 2}], minFailedTaskCount=2),
        role("wo.rk~er", CHECK_ALL, 1, memoryMB=200, shmMB=100, minSucceededTaskCount=None),
    ]
    job = {
        "image": image,
        "dataDir": "$PAI_DEFAULT_FS_URI/data",
        "outputDir": "/results",
        "codeDir": "${PAI_DEFAULT_FS_URI}/src/code/",
        "jobEnvs": {"MINE": "%{index} is mine", "NUMBER": 3, "FLAG": True, "PAI_USER_NAME": "me"},
    }
    client.submit("vars~1", *roles, **job)
    status = client.finish("vars~1")
    logs = {(name, i): client.log("vars~1", name, i) for name, i in (("ps", 0), ("ps", 1), ("wo.rk~er", 0))}
    assert status["state"] == "SUCCEEDED", (status, logs, client.log("vars~1", "ps", 0, "stderr"))
    ps0, ps1, worker = (variables(log) for log in logs.values())
    http = {who: found["PAI_CONTAINER_HOST_http_PORT_LIST"] for who, found in (("0", ps0), ("1", ps1))}
    common = {
        "PAI_DEFAULT_FS_URI": FS,
        "PAI_JOB_NAME": "vars~1",
        "PAI_JOB_VC_NAME": "default",
        "PAI_USER_NAME": "admin",
        "PAI_DATA_DIR": f"{FS}/data",
        "PAI_OUTPUT_DIR": f"{FS}/results",
        "PAI_CODE_DIR": f"{FS}/src/code/",
        "PAI_JOB_TASK_COUNT": "3",
        "PAI_JOB_TASK_ROLE_COUNT": "2",
        "PAI_JOB_TASK_ROLE_LIST": "ps,wo.rk~er",
        "PAI_TASK_ROLE_ps_HOST_LIST": f"{host('ps', 0)}:{http['0']},{host('ps', 1)}:{http['1']}",
    }
    for found in (ps0, ps1, worker):
        assert common.items() <= found.items()
    expected = {
        "PAI_CURRENT_TASK_ROLE_NAME": "ps",
        "PAI_CURRENT_TASK_ROLE_TASK_COUNT": "2",
        "PAI_CURRENT_TASK_ROLE_CPU_COUNT": "1",
        "PAI_CURRENT_TASK_ROLE_MEM_MB": "100",
        "PAI_CURRENT_TASK_ROLE_SHM_MB": "64",
        "PAI_CURRENT_TASK_ROLE_GPU_COUNT": "0",
        "PAI_CURRENT_TASK_ROLE_MIN_FAILED_TASK_COUNT": "2",
        "PAI_CURRENT_TASK_ROLE_MIN_SUCCEEDED_TASK_COUNT": "null",
        "PAI_CURRENT_TASK_ROLE_CURRENT_TASK_INDEX": "1",
        "PAI_CONTAINER_HOST_IP": host("ps", 1),
    }
    assert expected.items() <= ps1.items()
    assert (worker["PAI_CURRENT_TASK_ROLE_SHM_MB"], worker["PAI_CURRENT_TASK_ROLE_MEM_MB"]) == ("100", "200")
    lists = {part.partition(":")[0]: part.partition(":")[2] for part in ps0["PAI_CONTAINER_HOST_PORT_LIST"].split(";")}
    assert lists == {label: ps0[f"PAI_CONTAINER_HOST_{label}_PORT_LIST"] for label in ("rpc", "http", "ssh")}
    assert [len(lists[label].split(",")) for label in ("rpc", "http", "ssh")] == [2, 1, 1]
    shown = status["taskRoles"]["ps"]["taskStatuses"][0]["containerPorts"]
    assert shown == lists
    assert "the code's data" in logs["ps", 0]
    kept = sorted(one.name for one in client.platform.buckets.list(f"{FS}/results"))
    assert kept == ["ps-0", "ps-1", "wo.rk~er-0"]


def test_every_variable_is_set_and_true(serve: Callable[..., Live]) -> None:
    check_variables(serve(engine="process"), None, lambda role, index: "127.0.0.1")


@pytest.mark.docker
def test_every_variable_is_set_and_true_in_containers(serve: Callable[..., Live]) -> None:
    check_variables(serve(engine="docker"), tiny_image(), lambda role, index: f"{role}-{index}")


SERVE_PYTHON = "exec python3 -m http.server --directory {folder} $PAI_CONTAINER_HOST_http_PORT_LIST"
FETCH_PYTHON = """
exec python3 - <<END
import os, sys, time, urllib.request
for n in range(600):
    try:
        url = "http://" + os.environ["PAI_TASK_ROLE_server_HOST_LIST"] + "/word"
        print(urllib.request.urlopen(url, timeout=5).read(), flush=True)
        while not os.path.exists(os.environ["LOCALML_BUCKETS"] + "/hdfs/go"):
            time.sleep(0.02)
        sys.exit()
    except OSError:
        time.sleep(0.05)
sys.exit(1)
END
"""
SERVE_BUSYBOX = "exec busybox httpd -f -h {folder} -p $PAI_CONTAINER_HOST_http_PORT_LIST"
FETCH_BUSYBOX = """
until wget -q -O - http://$PAI_TASK_ROLE_server_HOST_LIST/word; do busybox usleep 50000; done
until [ -e $LOCALML_BUCKETS/hdfs/go ]; do busybox usleep 50000; done
"""


def check_ports(client: Live, image: str | None, server: str, fetch: str) -> None:
    """One task serves, another one and this process fetch from where they are told."""
    put(client, f"{FS}/www/word", "hello\n")
    server = server.format(folder="$LOCALML_BUCKETS/hdfs/www")
    client.submit("web", role("server", server), role("client", fetch, minSucceededTaskCount=1), image=image)
    wait_until(lambda: client.status("web")["state"] in ("RUNNING", "FAILED"), 60)
    told = client.status("web")["taskRoles"]["server"]["taskStatuses"][0]
    address = (told["containerIp"], int(told["containerPorts"]["http"]))
    wait_until(lambda: _fetch(address).endswith(b"hello\n"))
    wait_until(lambda: "hello" in client.log("web", "client"))
    put(client, f"{FS}/go", "")
    assert client.finish("web")["state"] == "SUCCEEDED"


def _fetch(address: tuple[str, int]) -> bytes:
    try:
        with socket.create_connection(address, timeout=5) as line:
            line.sendall(b"GET /word HTTP/1.0\r\n\r\n")
            return b"".join(iter(lambda: line.recv(4096), b""))
    except OSError:
        return b""


def test_tasks_and_users_reach_a_port_where_they_are_told_that_it_is(serve: Callable[..., Live]) -> None:
    check_ports(serve(engine="process"), None, SERVE_PYTHON, FETCH_PYTHON)


@pytest.mark.docker
def test_tasks_and_users_reach_a_port_of_a_container(serve: Callable[..., Live]) -> None:
    check_ports(serve(engine="docker"), tiny_image(), SERVE_BUSYBOX, FETCH_BUSYBOX)


def test_a_chosen_port_is_had_and_a_taken_one_fails_the_job_with_words(serve: Callable[..., Live]) -> None:
    client = serve(engine="process")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        number = taken.getsockname()[1]
        asked = role("main", "echo $PAI_CONTAINER_HOST_api_PORT_LIST", portList=[{"label": "api", "beginAt": number}])
        client.submit("taken", asked)
        status = client.finish("taken")
        assert status["state"] == "FAILED"
        assert f"port api: {number} is in use on this machine" in status["appExitDiagnostics"]
    client.submit("free", asked)
    assert client.finish("free")["state"] == "SUCCEEDED"
    assert client.log("free") == f"{number}\n"


@pytest.mark.docker
def test_tasks_may_have_the_same_chosen_port_each_in_its_own_container(serve: Callable[..., Live]) -> None:
    client = serve(engine="docker")
    ports = [{"label": "api", "beginAt": 8000, "portNumber": 2}]
    command = f"echo $PAI_CONTAINER_HOST_api_PORT_LIST; {UNTIL_STOPPED}"
    client.submit("twins", role("main", command, 2, portList=ports), image=tiny_image())
    wait_until(lambda: client.status("twins")["state"] == "RUNNING", 60)
    outside = [one["containerPorts"]["api"] for one in client.status("twins")["taskRoles"]["main"]["taskStatuses"]]
    assert len({port for text in outside for port in text.split(",")}) == 4
    wait_until(lambda: all(client.log("twins", index=index) == "8000,8001\n" for index in (0, 1)))


def test_sixteen_tasks_start_and_end_as_one(serve: Callable[..., Live]) -> None:
    client = serve(engine="process")
    client.platform.buckets.make_folder(f"{FS}/here")
    meet = """
    touch $LOCALML_BUCKETS/hdfs/here/$PAI_CURRENT_TASK_ROLE_CURRENT_TASK_INDEX
    until [ $(ls $LOCALML_BUCKETS/hdfs/here | wc -l) = 16 ]; do sleep 0.05; done
    """
    client.submit("many", role("main", meet, 16))
    status = client.finish("many")
    tasks = status["taskRoles"]["main"]["taskStatuses"]
    assert status["state"] == "SUCCEEDED", status
    assert [one["taskState"] for one in tasks] == ["SUCCEEDED"] * 16
    assert len({one["containerPorts"]["http"] for one in tasks}) == 16
    client.submit(
        "end", role("main", "[ $PAI_CURRENT_TASK_ROLE_CURRENT_TASK_INDEX != 7 ] || exit 5; " + UNTIL_STOPPED, 16)
    )
    status = client.finish("end")
    assert (status["state"], status["appExitCode"]) == ("FAILED", 5)
    assert all(one["taskState"] == "FAILED" for one in status["taskRoles"]["main"]["taskStatuses"])


FIRST_FAILS = "[ $LOCALML_ATTEMPT = 2 ] || exit 3; echo second; "
INDEX = "$PAI_CURRENT_TASK_ROLE_CURRENT_TASK_INDEX"


@pytest.mark.parametrize(
    ("job", "state", "retries"),
    [
        ({"roles": [role("a", FIRST_FAILS)], "retryCount": 1}, "SUCCEEDED", 1),
        ({"roles": [role("a", FIRST_FAILS)], "retryCount": 0}, "FAILED", 0),
        ({"roles": [role("a", f"exit {INDEX}", 2, minFailedTaskCount=2), role("b", "true")]}, "SUCCEEDED", 0),
        ({"roles": [role("a", f"exit {INDEX}", 2, minFailedTaskCount=None)]}, "SUCCEEDED", 0),
        ({"roles": [role("a", "true", minSucceededTaskCount=1), role("b", UNTIL_STOPPED)]}, "SUCCEEDED", 0),
        ({"roles": [role("a", "exit 1"), role("b", UNTIL_STOPPED, 2)]}, "FAILED", 0),
        (
            {"roles": [role("a", "true", 2), role("b", UNTIL_STOPPED)], "killAllOnCompletedTaskNumber": 2},
            "SUCCEEDED",
            0,
        ),
    ],
    ids=["retry", "no retry", "one may fail", "all may fail", "one is enough", "one failure ends all", "kill all"],
)
def test_retries_and_completion_are_as_the_vendors_runtime_has_them(
    serve: Callable[..., Live], job: dict[str, Any], state: str, retries: int
) -> None:
    client = serve(engine="process")
    client.submit("job", *job.pop("roles"), **job)
    status = client.finish("job")
    assert (status["state"], status["retries"], status["jobStatus"]["retries"]) == (state, retries, retries), status
    assert status["completedTime"] == str(status["jobStatus"]["completedTime"])


def test_nobody_else_runs_the_job_of_who_was_removed(serve: Callable[..., Live]) -> None:
    """It would run in the name of whoever starts it: the administrator's, say."""
    client = serve(engine="fake")
    assert client.put("/user", {"username": "left", "password": "secret1"}).status == 201
    client.login("left", "secret1").submit("theirs", role("main", "true"))
    assert client.put("/jobs/theirs/executionType", {"value": "STOP"}).status == 200
    stopped = client.finish("theirs")
    client.platform.identity.remove_user("left")
    answer = client.put("/jobs/theirs/executionType", {"value": "START"})
    assert (answer.status, "left" in answer.json["message"]) == (500, True)
    assert client.status("theirs") == stopped


def test_a_job_is_stopped_and_started_again(serve: Callable[..., Live]) -> None:
    client = serve(engine="process")
    command = f"cat $LOCALML_BUCKETS/hdfs/flag || {{ {UNTIL_STOPPED}; }}"
    client.submit("again", role("main", command))
    wait_until(lambda: client.status("again")["state"] == "RUNNING")
    assert client.status("again")["executionType"] == "START"
    assert client.put("/jobs/again/executionType", {"value": "START"}).status == 200  # it runs already
    assert client.put("/jobs/again/executionType", {"value": "STOP"}).status == 200
    stopped = client.finish("again")
    assert (stopped["state"], stopped["executionType"]) == ("STOPPED", "STOP")
    put(client, f"{FS}/flag", "went on")
    assert client.put("/jobs/again/executionType", {"value": "START"}).status == 200
    assert client.finish("again")["state"] == "SUCCEEDED"
    assert client.log("again") == "went on"
    assert [one["name"] for one in client.get("/jobs").json] == ["again"]
    assert len(client.platform.workloads.page(EVERYTHING).items) == 2  # the first run is still among the records


def test_an_owner_reads_the_log_where_the_answer_says_that_it_is(serve: Callable[..., Live]) -> None:
    client = serve(engine="process")
    assert client.put("/user", {"username": "bob", "password": "secret1"}).status == 201
    bob = client.login("bob", "secret1")
    bob.submit("talk", role("main", "echo hello"))
    client.finish("talk")
    url = bob.status("talk")["taskRoles"]["main"]["taskStatuses"][0]["containerLog"]
    assert httpx.get(url, timeout=60).status_code == 401
    assert httpx.get(url, auth=("bob", "secret1"), timeout=60).text == "hello\n"
    tracked = httpx.get(bob.status("talk")["appTrackingUrl"], timeout=60)
    assert tracked.json()["state"] == "SUCCEEDED"


@pytest.mark.docker
def test_a_job_without_gpus_sees_none_whatever_its_image_says(serve: Callable[..., Live]) -> None:
    client = serve(engine="docker")
    look = "echo $NVIDIA_VISIBLE_DEVICES; ls /dev | grep -c nvidia; true"
    client.submit("cpu", role("main", look), image=tiny_image(), jobEnvs={"NVIDIA_VISIBLE_DEVICES": "all"})
    assert client.finish("cpu")["state"] == "SUCCEEDED"
    assert client.log("cpu") == "void\n0\n"


@pytest.mark.docker
def test_a_private_image_is_pulled_with_the_credentials_of_the_auth_file(serve: Callable[..., Live]) -> None:
    client = serve(engine="docker")
    with private_registry() as registry:
        image = f"{registry}/{registry_name}"
        put(client, f"{FS}/auth/wrong", f"{registry}\n{USER}\nnot-it\n")
        put(client, f"{FS}/auth/right", f"{registry}\n{USER}\n{PASSWORD}\n")
        client.submit("wrong", role("main", f"echo {SAYS}"), image=image, authFile="/auth/wrong")
        refused = client.finish("wrong")
        assert refused["state"] == "FAILED"
        assert f"image {image} is not on this machine and pulling it failed" in refused["appExitDiagnostics"]
        try:
            client.submit("right", role("main", f"echo {SAYS}"), image=image, authFile="/auth/right")
            assert client.finish("right")["state"] == "SUCCEEDED"
            assert client.log("right") == f"{SAYS}\n"
        finally:
            remove_image(image)
    assert PASSWORD.encode() not in b"".join(path.read_bytes() for path in client.platform.data.glob("localml.db*"))
