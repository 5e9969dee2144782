"""A live server on a real socket: jobs that really train, clients that really keep their connection."""

from __future__ import annotations

import http.client
import json
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from helpers.cloudml import SignedClient, over, put_trainer, signed
from helpers.rig import wait_until

from localml.config import Config
from localml.core.work.workloads import Query
from localml.platform import Platform
from localml.server import Server

EVERYTHING = Query(deleted=True, limit=1000)
TRAINER = "fds://code/trainer.tar.gz"
PROGRAM = """
import json, os, socket, sys, time

config = json.loads(os.environ["TF_CONFIG"])
me, cluster = config["task"], config["cluster"]
assert {name: len(hosts) for name, hosts in cluster.items()} == {"master": 1, "worker": 1, "ps": 1}
address = cluster[me["type"]][me["index"]]

def connect(where):
    host, _, port = where.rpartition(":")
    deadline = time.monotonic() + 60
    while True:
        try:
            return socket.create_connection((host, int(port)), timeout=5)
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)

def gradient(w, points):
    return sum(2 * (w * x - 3 * x) * x for x in points) / len(points)

if me["type"] == "ps":
    # keeps the weight, applies what it is sent, and serves until it is stopped
    server = socket.create_server(("", int(address.rpartition(":")[2])))
    weight = 0.0
    while True:
        caller, _ = server.accept()
        with caller, caller.makefile("rw") as stream:
            for line in stream:
                weight -= 0.1 * float(line)
                stream.write(f"{weight}\\n")
                stream.flush()
else:
    points = {"master": (1.0, 2.0), "worker": (0.5, 1.5)}[me["type"]]
    weight = 0.0
    with connect(cluster["ps"][0]).makefile("rw") as stream:
        for step in range(int(sys.argv[1].partition("=")[2])):
            stream.write(f"{gradient(weight, points)}\\n")
            stream.flush()
            weight = float(stream.readline())
    print(f"trained {me['type']} weight={weight:.3f}", flush=True)
    assert abs(weight - 3) < 0.01
"""


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., tuple[Server, SignedClient]]]:
    opened: list[Server] = []

    def start(**settings: object) -> tuple[Server, SignedClient]:
        config = Config(tmp_path / "data", port=0, gpus="none", cache=tmp_path / "cache", **settings)  # type: ignore[arg-type]
        platform = Platform(config)
        server = Server(platform)
        opened.append(server)
        server.start()
        given = platform.credentials
        return server, SignedClient(given.access_key, given.secret_key, over(server.url))

    yield start
    for server in opened:
        _delete_all(server.platform)
        server.close()


def _delete_all(platform: Platform) -> None:
    for row in platform.workloads.page(EVERYTHING).items:
        platform.workloads.delete(row.id or 0, platform.identity.user("admin"))
    wait_until(lambda: all(row.cleaned for row in platform.workloads.page(EVERYTHING).items), 60)


def _state(client: SignedClient, name: str) -> str:
    return str(client.get(f"/train/{name}").json["state"])


def _trains(client: SignedClient, platform: Platform) -> None:
    put_trainer(platform.buckets, TRAINER, PROGRAM)
    request = {
        "job_name": "linear",
        "module_name": "trainer.task",
        "trainer_uri": TRAINER,
        "job_args": "--steps=200",
        "framework": "python",
        "ps_count": 1,
        "worker_count": 2,
    }
    answer = client.post("/train", request)
    assert answer.status == 200, answer.data
    wait_until(lambda: _state(client, "linear") in ("completed", "failed"), 90)
    logs = client.get("/train/linear/logs").json["logs"]
    assert _state(client, "linear") == "completed", logs
    lines = logs.splitlines()
    assert "[master-0] trained master weight=3.000" in lines
    assert "[worker-0] trained worker weight=3.000" in lines
    events = client.get("/train/linear/events").json["data"]
    assert events[0]["reason"] == "Submitted"
    assert len(events) > 2
    assert client.delete("/train/linear").status == 200
    assert client.get("/train/linear").status == 404


@pytest.mark.slow
def test_a_distributed_job_trains_with_members_that_reach_each_other(serve) -> None:  # type: ignore[no-untyped-def]
    server, client = serve(engine="process")
    _trains(client, server.platform)


@pytest.mark.docker
@pytest.mark.slow
def test_a_distributed_job_trains_in_containers(serve) -> None:  # type: ignore[no-untyped-def]
    import docker

    daemon = docker.from_env()
    try:
        if not daemon.images.list("localml/base:latest"):
            pytest.skip("the image localml/base is not built (localml images build)")
    finally:
        daemon.close()
    server, client = serve(engine="docker")
    _trains(client, server.platform)


WAITS = """
import os, time
print("one", flush=True)
while not os.path.exists(os.environ["LOCALML_BUCKETS"] + "/code/go"):
    time.sleep(0.02)
print("two", end="")
"""


def test_a_followed_log_comes_line_by_line_until_the_job_ends(serve) -> None:  # type: ignore[no-untyped-def]
    server, client = serve(engine="process")
    buckets = server.platform.buckets
    put_trainer(buckets, TRAINER, WAITS)
    request = {"job_name": "talk", "module_name": "trainer.task", "trainer_uri": TRAINER, "framework": "python"}
    assert client.post("/train", request).status == 200
    path = "/cloud_ml/v1/train/talk/logs"
    connection = http.client.HTTPConnection(urlsplit(server.url).netloc, timeout=60)
    connection.request("GET", f"{path}?follow=True", headers=signed(client.access, client.secret, path))
    answer = connection.getresponse()
    assert answer.headers["Content-Type"].startswith("text/plain")
    assert b"one\n" in iter(answer.readline, b"")  # arrives while the job runs
    buckets.open("fds://code/go", "wb").close()
    assert answer.read().splitlines()[-1:] == [b"two"]
    connection.close()
    assert _state(client, "talk") == "completed"
    assert client.get("/train/talk/logs?lines=1").json["logs"] == "two"
    followed = client.get("/train/talk/logs?lines=1&follow=True").data.splitlines()
    assert followed[1:] == [b"two"], "the last complete line, and what follows it"


def test_requests_as_the_vendors_client_sends_them_keep_their_connection(serve) -> None:  # type: ignore[no-untyped-def]
    """Signed GETs announce a chunked body and send an empty one; DELETE has Content-Length 0."""
    server, client = serve(engine="fake")
    put_trainer(server.platform.buckets, TRAINER)
    body = json.dumps({"job_name": "a", "module_name": "m", "trainer_uri": TRAINER}).encode()
    chunked = "Transfer-Encoding: chunked\r\n", b"0\r\n\r\n"
    steps = [
        ("GET", "/cloud_ml/v1/train", b"", *chunked, 200),
        ("POST", "/cloud_ml/v1/train", body, f"Content-Length: {len(body)}\r\n", body, 200),
        ("GET", "/cloud_ml//v1/train/a", b"", *chunked, 200),
        ("GET", "/cloud_ml/v1/train/b", b"", *chunked, 404),
        ("PUT", "/cloud_ml/v1/train", body, f"Content-Length: {len(body)}\r\n", body, 405),
        ("DELETE", "/cloud_ml/v1/train/a", b"", "Content-Length: 0\r\n", b"", 200),
        ("GET", "/cloud_ml/v1/train", b"", *chunked, 200),
    ]
    host = urlsplit(server.url).netloc
    with socket.create_connection((host.split(":")[0], int(host.split(":")[1])), timeout=60) as line:
        for method, path, signed_body, extra, sent, status in steps:
            headers = signed(client.access, client.secret, path, signed_body)
            head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
            line.sendall(f"{method} {path} HTTP/1.1\r\nHost: {host}\r\n{extra}{head}\r\n".encode() + sent)
            answer = http.client.HTTPResponse(line, method=method)
            answer.begin()
            found = json.loads(answer.read())
            assert (answer.status, answer.will_close) == (status, False), (method, path, found)


def test_many_clients_get_each_their_own_job(serve) -> None:  # type: ignore[no-untyped-def]
    server, client = serve(engine="fake")
    put_trainer(server.platform.buckets, TRAINER)
    found: list[str] = []

    def submit(name: str) -> None:
        request = {"job_name": name, "module_name": "m", "trainer_uri": TRAINER}
        found.append(client.post("/train", request).json["job_name"])

    threads = [threading.Thread(target=submit, args=(f"job-{number}",)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(found) == sorted(f"job-{number}" for number in range(16))
    assert {one["job_name"] for one in client.get("/train").json["data"]} == set(found)
