"""Notebook services of users: which notebook that is, what its kernels use, its end and its plan."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import jsonschema
import pytest
from helpers.cloudml import over
from helpers.rig import wait_until
from helpers.wmla import WmlaClient

from localml.client import Client
from localml.core.instances import tools
from localml.core.people.rights import MemberRole
from localml.core.people.scopes import Scope
from localml.core.series.uses import CPU, MEMORY
from localml.core.subjects import Subject
from localml.core.work.specs import WorkloadSpec
from localml.core.work.states import Kind
from localml.core.work.workloads import Submission
from localml.dialects.wmla.schemas.notebooks import NotebookKernel, NotebookService
from localml.dialects.wmla.translate.ids import app_id
from localml.platform import Platform
from localml.server import Server

ALL = "/notebooks/runningservices"

# answers like a Jupyter server with two kernels, one of which is too old to say what it uses
JUPYTER = """
import http.server, json, os
NOW = "2026-01-01T00:00:00.000000Z"
KERNEL = {"last_activity": NOW, "connections": 1, "execution_state": "busy"}
USAGE = "/api/metrics/v1/kernel_usage/get_usage/"
ANSWERS = {
    "/api/status": {"started": NOW, "last_activity": NOW, "connections": 1, "kernels": 2},
    "/api/kernels": [{"id": "k1", "name": "python3", **KERNEL}, {"id": "k2", "name": "ir", **KERNEL}],
    "/api/terminals": [],
    USAGE + "k1": {"content": {"kernel_cpu": 150.0, "kernel_memory": 3 << 20, "pid": 7}},
    USAGE + "k2": {"content": {"reason": "not_supported", "kernel_version": None}},
}

if os.environ.get("KERNELS") == "1":
    del ANSWERS["/api/kernels"][1:]

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        path = self.path.partition("?")[0]
        allowed = self.headers.get("Authorization") == "token " + os.environ["JUPYTER_TOKEN"]
        self.send_response(200 if allowed and path in ANSWERS else 404 if allowed else 403)
        self.end_headers()
        self.wfile.write(json.dumps(ANSWERS.get(path)).encode() if allowed else b"{}")

    def log_message(self, *_):
        pass

address = (os.environ["LOCALML_LISTEN"], int(os.environ["LOCALML_PORT_HTTP"]))
http.server.ThreadingHTTPServer(address, Handler).serve_forever()
"""


@pytest.fixture
def native(server: Server) -> Iterator[Client]:
    """The administrator's own client; afterwards there is no notebook."""
    with Client(server.url, server.platform.credentials.token) as one:
        yield one
        admin = server.platform.identity.user("admin")
        for found in server.platform.instances.list():
            server.platform.instances.delete(found.row.id or 0, admin)


def begin(native: Client, name: str, **given: Any) -> Any:
    """A notebook that answers as a Jupyter server does."""
    made = native.tools.start_notebook(name=name, image="any", command=["python3", "-c", JUPYTER], **given)
    return native.tools.wait_ready(made, 60)


def check(found: Any, model: Any) -> None:
    jsonschema.validate(found, {**model.model_json_schema(), "additionalProperties": False})


def test_a_users_notebook_is_its_service(native: Client, live: WmlaClient, server: Server) -> None:
    began = time.time() * 1000
    made = begin(native, "lab", resources={"gpu": 1})
    answer = live.get("/notebooks/admin/runningservices")
    assert answer.status == 200, answer.data
    found = answer.json
    check(found, NotebookService)
    assert (found["userName"], found["podStatus"], found["podReason"], found["podMessage"]) == (
        "admin",
        "Running",
        "",
        "",
    )
    assert (found["resourcePlan"], found["resourcePlanPath"]) == ("default", "/default")
    assert (found["kernels"], found["gpuUsed"]) == (2, 1)
    assert began - 1000 <= found["podCreateTime"] <= found["podStartTime"] <= time.time() * 1000 + 1000
    attempts = server.platform.workloads.attempts(made.workload_id)
    assert found["podName"] == attempts[0].name
    assert live.get(ALL).json == [live.get("/notebooks/admin/runningservices").json]


def test_its_kernels_and_what_they_use(
    native: Client, live: WmlaClient, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = begin(native, "lab", resources={"gpu": 1})
    monkeypatch.setattr(tools, "NOTEBOOK_IMAGES", ("any",))  # as if it were ours
    answer = live.get("/notebooks/admin/runningkernels")
    assert answer.status == 200, answer.data
    one, other = answer.json
    check(one, NotebookKernel)
    check(other, NotebookKernel)
    assert (one["kernelName"], one["userName"], one["status"]) == ("python3", "admin", "busy")
    assert (one["cpuUsed"], one["memoryUsed"], one["gpuUsed"]) == (1.5, 3.0, 1.0)
    assert one["jobId"] == app_id(server.platform, made.workload_id)
    assert one["createTime"] == live.get("/notebooks/admin/runningservices").json["podCreateTime"]
    assert other["kernelName"] == "ir"
    assert not {"cpuUsed", "memoryUsed"} & set(other)  # it does not say
    (application,) = live.get("/scheduler/applications", applicationid=one["jobId"]).json
    assert (application["type"], application["state"]) == ("NOTEBOOK", "RUNNING")


def test_kernels_of_other_images_are_not_asked(native: Client, live: WmlaClient) -> None:
    begin(native, "lab")  # to ask them would count as use of them
    for one in live.get("/notebooks/admin/runningkernels").json:
        check(one, NotebookKernel)
        assert not {"cpuUsed", "memoryUsed"} & set(one)


def test_the_only_kernel_uses_what_the_notebook_does(native: Client, live: WmlaClient, server: Server) -> None:
    made = begin(native, "lab", env={"KERNELS": "1"})
    of, now = Subject.workload(made.workload_id), time.time()
    for at, seconds in ((now + 20, 10.0), (now + 25, 20.0)):
        server.platform.samples.add_many(of, [(CPU, seconds, at)], replica="main-0", cumulative=True, measured=True)
    server.platform.samples.flush()
    (kernel,) = live.get("/notebooks/admin/runningkernels").json
    assert kernel["cpuUsed"] == 2.0


def test_what_was_measured_of_it_is_what_it_uses(native: Client, live: WmlaClient, server: Server) -> None:
    made = begin(native, "lab")
    now, of = time.time(), Subject.workload(made.workload_id)
    samples = server.platform.samples
    for at, seconds in ((now + 20, 10.0), (now + 25, 20.0)):
        samples.add_many(of, [(CPU, seconds, at)], replica="main-0", cumulative=True, measured=True)
        samples.add_many(of, [(MEMORY, float(100 << 20), at)], replica="main-0", measured=True)
    samples.flush()
    found = live.get("/notebooks/admin/runningservices").json
    assert (found["cpuUsed"], found["memoryUsed"]) == (2, 100.0)
    assert isinstance(found["cpuUsed"], int)
    assert isinstance(found["gpuUsed"], int)


def test_stopping_it_and_starting_it_again(native: Client, live: WmlaClient) -> None:
    made = begin(native, "lab")
    assert live.put("/notebooks/admin/stopservice").json == {"result": "ok", "message": ""}
    native.wait("lab", 60)
    stopped = live.get("/notebooks/admin/runningservices")
    assert (stopped.status, stopped.json["podStatus"], stopped.json["kernels"]) == (200, "Succeeded", 0)
    assert live.get("/notebooks/admin/runningkernels").json == []
    assert live.get(ALL).json == []
    again = live.put("/notebooks/admin/stopservice")
    assert (again.status, again.json["result"]) == (200, "error")
    assert "lab does not run: it is stopped" in again.json["message"]
    native.tools.wait_ready(native.tools.start(native.tools.notebook(made.id)), 60)
    assert live.get("/notebooks/admin/runningservices").json["podStatus"] == "Running"


def test_another_plan_is_that_of_its_next_start(native: Client, live: WmlaClient, server: Server) -> None:
    live.post("/resplans/resplan", {"name": "team"})
    made = begin(native, "lab")
    before = live.get("/notebooks/admin/runningservices").json
    answer = live.put("/notebooks/admin", {**before, "resourcePlan": "team", "userName": "eve", "kernels": 99})
    assert answer.status == 200, answer.data
    check(answer.json, NotebookService)
    assert (answer.json["resourcePlan"], answer.json["resourcePlanPath"]) == ("team", "/wmla/team")
    assert (answer.json["userName"], answer.json["kernels"], answer.json["podStatus"]) == ("admin", 2, "Running")
    assert answer.json["podMessage"] == "runs in /default until its next start, and in /wmla/team from then on"
    assert server.platform.workloads.row(made.workload_id).pool == "default"
    assert live.delete("/resplans/resplan/team").status == 409  # a notebook is in it
    native.tools.wait_ready(native.tools.restart(native.tools.notebook(made.id)), 60)
    after = live.get("/notebooks/admin/runningservices").json
    assert (after["resourcePlan"], after["podMessage"]) == ("team", "")
    assert live.get("/resplans/resplan/team").json["requestcpu"] == "0.25"
    assert live.put("/notebooks/admin", {"resourcePlan": "/wmla/default"}).json["resourcePlan"] == "default"


def test_the_service_is_the_newest_that_runs(native: Client, live: WmlaClient) -> None:
    one, two = begin(native, "one"), begin(native, "two")

    def is_it(made: Any) -> bool:
        return f"-{made.workload_id}-" in live.get("/notebooks/admin/runningservices").json["podName"]

    assert is_it(two)
    assert len(live.get(ALL).json) == 2
    assert live.put("/notebooks/admin/stopservice").json["result"] == "ok"
    assert is_it(one)
    assert live.put("/notebooks/admin/stopservice").json["result"] == "ok"
    wait_until(lambda: live.get(ALL).json == [], 60)
    assert is_it(two)


def test_one_that_does_not_answer_has_no_kernels_that_anybody_knows(native: Client, live: WmlaClient) -> None:
    made = native.tools.start_notebook(name="mute", image="any", command=["sleep", "600"])
    wait_until(lambda: live.get(ALL).json[0]["podStatus"] == "Running", 60)
    assert live.get("/notebooks/admin/runningservices").json["kernels"] == 0
    answer = live.get("/notebooks/admin/runningkernels")
    assert (answer.status, "does not answer" in answer.json["error"]) == (500, True)
    assert made.name == "mute"


# -- what is refused ---------------------------------------------------------------------------------


@pytest.fixture
def waiting(platform: Platform, new_user: Callable[[str], WmlaClient]) -> Iterator[str]:
    """The name of a user whose notebook waits, on the platform that starts nothing."""
    new_user("ann")
    ann = platform.identity.user("ann")
    spec = WorkloadSpec.model_validate({"roles": [{"image": "own", "command": ["x"]}], "until_stopped": True})
    made = platform.instances.create(Submission("lab", spec, ann, "cloudml", Kind.NOTEBOOK))
    yield "ann"
    platform.instances.delete(made.row.id or 0, ann)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({}, "resourcePlan: is required"),
        ({"resourcePlan": ""}, "resourcePlan: is required"),
        ({"resourcePlan": None}, "resourcePlan: is required"),
        ({"resourcePlan": "nobody"}, "resourcePlan: there is no resource plan 'nobody'"),
        ({"resourcePlan": 5}, "resourcePlan"),
        ([], ""),
        (b"", "body"),
        (b"{", "body"),
    ],
)
def test_a_change_that_is_none_is_refused(body: Any, words: str, waiting: str, client: WmlaClient) -> None:
    answer = client.put(f"/notebooks/{waiting}", body)
    assert answer.status == 400, answer.data
    assert words in answer.json["error"]
    assert client.get(f"/notebooks/{waiting}/runningservices").json["resourcePlan"] == "default"


def test_one_that_waits_is_pending_whatever_api_made_it(waiting: str, client: WmlaClient) -> None:
    found = client.get(f"/notebooks/{waiting}/runningservices").json
    assert (found["podStatus"], found["podName"], found["kernels"]) == ("Pending", "lab", 0)
    assert "podStartTime" not in found
    assert client.get(f"/notebooks/{waiting}/runningkernels").json == []
    assert [one["userName"] for one in client.get(ALL).json] == [waiting]
    assert client.put(f"/notebooks/{waiting}/stopservice").json["result"] == "ok"


def test_who_has_none_and_who_is_nobody(client: WmlaClient, new_user: Callable[[str], WmlaClient]) -> None:
    bob = new_user("bob")
    for who, name in ((client, "bob"), (bob, "bob"), (client, "nobody")):
        for path in ("runningservices", "runningkernels"):
            assert who.get(f"/notebooks/{name}/{path}").status == 404
        assert who.put(f"/notebooks/{name}", {"resourcePlan": "default"}).status == 400
    assert client.get(ALL).json == []
    stopped = client.put("/notebooks/bob/stopservice")
    assert (stopped.status, stopped.json["result"]) == (200, "error")
    assert "bob has no notebook" in stopped.json["message"]
    assert client.put("/notebooks/nobody/stopservice").status == 400


def test_others_notebooks_are_for_administrators(
    waiting: str, nobody: WmlaClient, platform: Platform, new_user: Callable[[str], WmlaClient]
) -> None:
    eve, ann = new_user("eve"), new_user(waiting)
    for name in (waiting, "nobody", "admin"):
        for answer in (
            eve.get(f"/notebooks/{name}/runningservices"),
            eve.get(f"/notebooks/{name}/runningkernels"),
            eve.put(f"/notebooks/{name}", {"resourcePlan": "default"}),
            eve.put(f"/notebooks/{name}/stopservice"),
        ):
            assert answer.status == 403, answer.data
    assert eve.get(ALL).status == 403
    for path in (ALL, f"/notebooks/{waiting}/runningservices", f"/notebooks/{waiting}/runningkernels"):
        assert nobody.get(path).status == 401
    assert ann.get(f"/notebooks/{waiting}/runningservices").status == 200
    assert ann.put(f"/notebooks/{waiting}", {"resourcePlan": "default"}).status == 200
    reads = platform.identity.create_token(platform.identity.user(waiting), scope=Scope.of(["workload:read"]))
    assert nobody.call("GET", f"/notebooks/{waiting}/runningservices", X_Auth_Token=reads).status == 200
    assert nobody.call("PUT", f"/notebooks/{waiting}/stopservice", X_Auth_Token=reads).status == 403
    assert platform.instances.list(name="lab")[0].live


def test_a_colleagues_notebook_in_a_shared_workspace_is_not_ones_own(
    platform: Platform, new_user: Callable[[str], WmlaClient], waiting: str
) -> None:
    new_user("eve")
    shared = platform.identity.user(waiting).workspace
    platform.workspaces.set_member(shared, "eve", MemberRole.VIEWER)
    try:
        assert new_user("eve").get("/notebooks/eve/runningservices").status == 404
    finally:
        platform.workspaces.remove_member(shared, "eve")


def test_a_user_sees_its_own_live(native: Client, server: Server) -> None:
    begin(native, "lab")
    server.platform.identity.create_user("una", "secret1")
    una = WmlaClient(over(server.url), "una", "secret1")
    assert una.get("/notebooks/una/runningservices").status == 404
    assert una.get("/notebooks/admin/runningkernels").status == 403
