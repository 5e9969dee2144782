"""What fuzzing found, each by itself."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from helpers.fuzz import Fuzzer
from helpers.fuzz_apis import APIS
from helpers.fuzz_world import Asked, FuzzWorld, Said

JOBS = "/api/v1/jobs"
TEXTS = {"cpuNumber": "1", "memoryMB": "100", "gpuNumber": "0", "taskNumber": "1", "minFailedTaskCount": "null"}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FuzzWorld]:
    made = FuzzWorld(tmp_path_factory.mktemp("data"))
    with made.log.listening():
        made.furnish()
        yield made
        made.close()


@pytest.fixture(scope="module")
def pai(world: FuzzWorld) -> Fuzzer:
    return Fuzzer(APIS["openpai"], world)


def send(fuzzer: Fuzzer, method: str, target: str, body: bytes = b"", kind: str = "application/json") -> Said:
    """The answer, which has nothing to complain of in it."""
    headers = fuzzer.world.headers_of(fuzzer.world.alice, fuzzer.api.name, target, body) | {"Content-Type": kind}
    said = fuzzer.world.exchange(Asked(method, target, headers, body))
    path = target.partition("?")[0].rstrip("/").replace("as-text", "{}")
    assert list(fuzzer.complaints(f"{method} {path}", said)) == []
    return said


def test_numbers_that_came_as_texts_are_numbers_in_the_config(pai: Fuzzer) -> None:
    """As the document's schema has it; whatever else was sent is shown as it was."""
    role = {"name": "main", "command": "run", **TEXTS, "portList": [{"label": "a", "beginAt": "0", "own": "7"}]}
    job = {"jobName": "as-text", "retryCount": "2", "image": "null", "own": {"a": ["1", None]}, "none": None}
    assert send(pai, "POST", JOBS, json.dumps(job | {"taskRoles": [role]}).encode()).status == 201
    said = send(pai, "GET", f"{JOBS}/as-text/config")
    found = json.loads(said.data)
    assert {name: value for name, value in found.items() if name != "taskRoles"} == job | {"retryCount": 2}
    numbers = {"cpuNumber": 1, "memoryMB": 100, "gpuNumber": 0, "taskNumber": 1, "minFailedTaskCount": None}
    ports = [{"label": "a", "beginAt": 0, "own": "7"}]
    assert found["taskRoles"] == [{"name": "main", "command": "run", **numbers, "portList": ports}]


@pytest.mark.parametrize("path", ["jobs", "jobs/as-text", "jobs/as-text/config", "virtual-clusters"])
def test_who_sends_too_much_to_what_only_shows_has_not_made_the_server_fail(path: str, pai: Fuzzer) -> None:
    """The vendor's 500 of these is a server's failure."""
    assert send(pai, "GET", f"/api/v1/{path}", b" " * (2 << 20)).status == 413


@pytest.mark.parametrize("header", ["Basic \xff", "Basic YQ\xe9=", "Basic \xb2", "Bearer \xff", "Digest \xff"])
@pytest.mark.parametrize("name", APIS)
def test_credentials_that_are_no_text_are_wrong_credentials(name: str, header: str, world: FuzzWorld) -> None:
    fuzzer = Fuzzer(APIS[name], world)
    closed = next(one for one in fuzzer.documents[0].operations if one.startswith("POST") and "{}" not in one)
    method, _, path = closed.partition(" ")
    for target in (path, "/metrics"):
        said = world.exchange(Asked(method if target == path else "GET", target, {"Authorization": header}))
        assert world.log.take() == []
        assert said.status in (400, 401)


@pytest.mark.parametrize("index", ["²", "٣", "9" * 100, "0x1", "", "-1"])
def test_a_replica_whose_number_is_none_has_no_pod(index: str, world: FuzzWorld) -> None:
    """Python calls some of these digits, and makes no number of them."""
    points = {"replica": f"worker-{index}", "points": [{"name": "loss", "value": 1.0, "at": 5.0}]}
    world.do(world.alice, "POST", f"/localml/v1/workloads/{world.run['id']}/samples", points)
    fuzzer = Fuzzer(APIS["mlbench"], world)
    said = send(fuzzer, "GET", "/api/metrics/")
    assert said.status == 200
    assert set(json.loads(said.data)) <= {world.ids["pod"]}
