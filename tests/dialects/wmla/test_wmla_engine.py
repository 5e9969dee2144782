"""What the vendor's command line asks of the scheduler beyond the document, with the requests that it sends."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from flask import Flask
from helpers.rig import wait_until
from helpers.wmla import BASE, OVER, WmlaClient, packed

from localml.core.work.specs import Resources, Role, WorkloadSpec
from localml.core.work.states import Kind
from localml.core.work.workloads import Query, Submission
from localml.dialects.wmla.translate.ids import app_id
from localml.dialects.wmla.translate.states import ACTIVE_WORDS, FINAL_WORDS
from localml.platform import Platform

APPS = "/scheduler/engine/applications"
ACTIVE, FINAL = ",".join(ACTIVE_WORDS), ",".join(FINAL_WORDS)
PATIENCE_S = 60.0


@pytest.fixture(autouse=True)
def clean(platform: Platform) -> Iterator[None]:
    yield
    for row in platform.workloads.page(Query(limit=1000)).items:
        platform.workloads.delete(row.id or 0, platform.identity.user("admin"))


def submit(platform: Platform, name: str, **given: Any) -> int:
    resources = Resources(cpu=2, memory=512 << 20)
    role = Role(name="worker", image="i", command=("true",), resources=resources, count=2)
    wanted: dict[str, Any] = {"dialect": "wmla", "pool": "wmla/team", "request": {"appName": name}, **given}
    return platform.workloads.submit(
        Submission(f"exec-{name}", WorkloadSpec(roles=(role,)), platform.identity.user("admin"), **wanted)
    )


def test_applications_in_the_engines_words(client: WmlaClient, platform: Platform) -> None:
    number = submit(platform, "a")
    answer = client.get(f"{APPS}?start=0&length=10000&sort=-submit_time&state={ACTIVE}")
    assert answer.status == 200, answer.data
    (found,) = answer.json
    assert found["id"] == app_id(platform, number)
    assert (found["name"], found["type"], found["state"]) == ("a", "BATCH", "PENDING_JOB_SCHEDULER")
    assert (found["consumer"], found["submit_user"], found["tag"]) == ("/wmla/team", "admin", "/wmla/team/admin")
    assert (found["submit_time"], found["start_time"], found["end_time"]) == (platform.clock.now(), None, None)
    assert (found["task12n_num"], found["task12n_resreq"]) == (2, "ngpus=0,mem=512,ncpus=2")
    assert (found["used_gpu"], found["used_cpu"], found["used_mem"], found["priority"]) == (0.0, 0.0, 0.0, 0)
    assert client.get(f"{APPS}/{found['id']}").json == [found]
    assert client.get(f"{APPS}?state={FINAL}").json == []
    assert client.get(f"{APPS}/nothing").status == 404


@pytest.mark.parametrize("sort", ["submit_time", "id", "name", "type", "state", "submit_user", "end_time", "used_cpu"])
def test_they_are_sorted_and_parted(sort: str, client: WmlaClient, platform: Platform) -> None:
    for name in ("a", "b", "c"):
        submit(platform, name)

    def names(**query: Any) -> list[str]:
        answer = client.get(APPS, **query)
        assert answer.status == 200, answer.data
        return [one["name"] for one in answer.json]

    assert names(sort=sort) == ["a", "b", "c"]
    assert names(sort=f"-{sort}") == ["c", "b", "a"]
    assert names(sort=sort, start=1, length=1) == ["b"]
    assert client.get(APPS, start=3).status == 416
    for wrong in ("nothing", "-", "a,b"):
        assert client.get(APPS, sort=wrong).status == 400


def test_an_application_is_stopped(
    client: WmlaClient, platform: Platform, new_user: Callable[[str], WmlaClient]
) -> None:
    task, lab = submit(platform, "a"), submit(platform, "n", kind=Kind.NOTEBOOK, dialect="native")
    eve = new_user("eve")
    for number in (task, lab):
        path = f"/scheduler/applications/{app_id(platform, number)}/stop"
        assert eve.put(path).status == 404
        assert (client.put(path).status, client.put(path).json) == (200, {})
        assert platform.workloads.row(number).desired == "stop"
    assert client.put("/scheduler/applications/nothing/stop").status == 404
    assert eve.get(APPS).json == []


def test_a_notebook_that_is_stopped_can_be_started_again(client: WmlaClient, platform: Platform) -> None:
    admin = platform.identity.user("admin")
    spec = WorkloadSpec(roles=(Role(image="i", command=("x",)),), until_stopped=True)
    made = platform.instances.create(Submission("lab", spec, admin, "native", Kind.NOTEBOOK))
    assert client.put(f"/scheduler/applications/{app_id(platform, made.row.workload_id)}/stop").status == 200
    assert [one.reason for one in platform.instances.events(made.row.id or 0)] == ["Created", "StopRequested"]


def test_there_is_no_kubernetes(client: WmlaClient, nobody: WmlaClient) -> None:
    for kind in ("pod", "paralleljob"):
        assert client.get("/scheduler/kubernetesobjects", type=kind).json == {"items": []}
        assert client.get("/scheduler/kubernetesobjects", type=kind, name="x").status == 404
    for path in (APPS, f"{APPS}/x", "/scheduler/kubernetesobjects"):
        assert nobody.get(path).status == 401


def test_the_document_does_not_have_them(app: Flask) -> None:
    paths = app.test_client().get(f"{BASE}/openapi.json").get_json()["paths"]
    assert not [
        one for one in paths if "engine" in one or "kubernetes" in one or (one.endswith("/stop") and "sched" in one)
    ]


def test_what_the_command_line_does_with_a_task(live: WmlaClient) -> None:
    assert live.get("/conf").json["MSD_ENABLED"].lower() == "true"
    program = "import time\nprint('began', flush=True)\ntime.sleep(600)"
    made = live.start("--exec-start Python --model-main main.py", packed({"main.py": program}, "m", gz=True)).json
    wait_until(lambda: live.get(f"{APPS}/{made['appId']}").json[0]["state"] == "RUNNING", PATIENCE_S)
    log = f"/scheduler/applications/{made['appId']}/executor/1/logs/stdout"
    wait_until(lambda: live.get(log).data == b"began\n", PATIENCE_S)
    tree = live.get("/resplans/resplantree").json
    (node,) = [one for one in tree["childTreeDto"] if f"/{tree['id']}/{one['id']}" == node_of(live, made)]
    assert node["path"] == node_of(live, made)
    assert live.put(f"/scheduler/applications/{made['appId']}/stop").status == 200
    wait_until(lambda: live.get(f"{APPS}/{made['appId']}").json[0]["state"] in OVER, PATIENCE_S)
    assert live.delete(f"/execs/{made['id']}").status == 204


def node_of(live: WmlaClient, made: Any) -> str:
    return str(live.get(f"{APPS}/{made['appId']}").json[0]["consumer"])
