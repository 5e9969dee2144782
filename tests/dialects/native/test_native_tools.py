"""Notebooks and TensorBoards through our own API and client, with a small stand-in for Jupyter in a real process."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from urllib.request import Request, urlopen

import jsonschema
import pytest
from helpers.native import Http
from helpers.rig import wait_until

from localml.client.errors import ClientError
from localml.control.watch.jupyter import Activity
from localml.control.watch.tensorboard import Use
from localml.core.catalog import runtimes_dir
from localml.core.errors import Code, LocalmlError
from localml.core.instances.tools import Tensorboard
from localml.core.work.workloads import Full
from localml.dialects.native.schemas import tools as tool_schemas
from localml.testing import Localml

# the gate of our TensorBoards before an application that only says hello
BOARD = """
import os
from wsgiref.simple_server import make_server
from localml_tensorboard.gate import Gate

def hello(environ, start_response):
    start_response("200 OK", [("Content-Length", "5")])
    return [b"hello"]

listen, port = os.environ["LOCALML_LISTEN"], int(os.environ["LOCALML_PORT_HTTP"])
make_server(listen, port, Gate(hello, os.environ.get("LOCALML_TOKEN", ""), port)).serve_forever()
"""
# one of somebody else's
FOREIGN = """
import http.server, os
address = (os.environ["LOCALML_LISTEN"], int(os.environ["LOCALML_PORT_HTTP"]))
http.server.ThreadingHTTPServer(address, http.server.SimpleHTTPRequestHandler).serve_forever()
"""

# answers like a Jupyter server, to those who have the token; its kernel says what it is told by the environment
JUPYTER = """
import http.server, json, os
NOW = os.environ["LAST_ACTIVITY"]
ANSWERS = {
    "/api/status": {"started": NOW, "last_activity": NOW, "connections": 1, "kernels": 1},
    "/api/kernels": [{"id": "k1", "name": "python3", "last_activity": NOW, "connections": 1,
                      "execution_state": os.environ.get("KERNEL", "idle")}],
    "/api/terminals": [],
    "/api/metrics/v1": {"rss": 50 << 20, "limits": {"memory": {"rss": 1 << 30}}, "cpu_percent": 12.5},
}

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        path = self.path.partition("?")[0]
        allowed = self.headers.get("Authorization") == "token " + os.environ["JUPYTER_TOKEN"]
        known = path in ANSWERS
        body = json.dumps(ANSWERS.get(path)).encode()
        self.send_response(200 if allowed and known else 404 if allowed else 403)
        self.end_headers()
        self.wfile.write(body if allowed else b"{}")

    def log_message(self, *_):
        pass

address = (os.environ["LOCALML_LISTEN"], int(os.environ["LOCALML_PORT_HTTP"]))
http.server.ThreadingHTTPServer(address, Handler).serve_forever()
"""


def body(name: str, *, minutes_ago: float = 0, **members: object) -> dict[str, object]:
    last = time.strftime("%Y-%m-%dT%H:%M:%S.000000Z", time.gmtime(time.time() - 60 * minutes_ago))
    env = {"LAST_ACTIVITY": last, **members.pop("env", {})}  # type: ignore[dict-item]
    return {"name": name, "image": "own", "command": ["python3", "-c", JUPYTER], "env": env, **members}


@pytest.fixture
def lab(admin: Http, localml: Localml) -> Iterator[str]:
    assert admin("POST", "/notebooks", body("lab", token="open-sesame", resources={"gpu": 1})).status == 201
    localml.client.tools.wait_ready(localml.client.tools.notebook("lab"), 60)
    yield "lab"
    admin("DELETE", "/workloads/lab")


def test_a_notebook_is_started_opened_looked_at_and_stopped(lab: str, admin: Http, localml: Localml) -> None:
    found = admin("GET", "/notebooks/lab").json
    jsonschema.validate(found, {**tool_schemas.ToolFull.model_json_schema(), "additionalProperties": False})
    assert (found["state"], found["kind"], found["ready"], found["gpu"]) == ("running", "notebook", True, 1)
    assert found["url"] == found["base_url"] + "/lab?token=open-sesame"
    [kernel] = found["activity"]["kernels"]
    assert (kernel["name"], kernel["state"]) == ("python3", "idle")
    assert (found["activity"]["memory"], found["activity"]["cpu_percent"]) == (50 << 20, 12.5)
    assert [one["name"] for one in admin("GET", "/notebooks").json["tools"]] == ["lab"]
    admin("POST", "/workloads/lab/stop")
    assert admin("GET", "/workloads/lab/wait?timeout=60").json["state"] == "stopped"
    ended = admin("GET", "/notebooks/lab").json
    assert (ended["url"], ended["ready"], ended["activity"]) == (None, False, None)
    assert ended["token"] == "open-sesame"


def test_the_token_appears_in_no_answer_about_the_workload_nor_in_the_database(
    lab: str, admin: Http, localml: Localml
) -> None:
    assert b"open-sesame" not in admin("GET", "/workloads/lab").data
    for file in localml.platform.data.glob("*.db*"):
        assert b"open-sesame" not in file.read_bytes()


def test_an_ended_notebook_is_started_again_under_its_name(lab: str, admin: Http) -> None:
    assert admin("POST", "/notebooks", body("lab")).status == 409
    admin("POST", "/workloads/lab/stop")
    admin("GET", "/workloads/lab/wait?timeout=60")
    assert admin("POST", "/notebooks", body("lab")).status == 201
    assert len(admin("GET", "/notebooks").json["tools"]) == 1


def test_a_notebook_is_stopped_and_started_under_one_id_name_and_address(
    lab: str, admin: Http, localml: Localml
) -> None:
    tools = localml.client.tools
    first = tools.notebook("lab")
    assert (first.run, first.pending) == (1, False)
    stopped = tools.stop(first)
    assert stopped.pending is False
    localml.client.wait("lab", 60)
    assert admin("POST", f"/notebooks/{first.id}/start").status == 200
    again = tools.wait_ready(tools.notebook(first.id), 60)
    assert (again.id, again.name, again.run, again.url) == (first.id, "lab", 2, first.url)
    assert again.workload_id != first.workload_id
    assert tools.start(again).run == 2  # it runs
    assert [one["name"] for one in admin("GET", "/workloads?kind=notebook").json["workloads"]] == ["lab"]

    # at once: the next run waits for the end of this one
    asked = tools.restart(again)
    assert asked.pending is True
    third = tools.wait_ready(asked, 60)
    assert (third.run, third.url) == (3, first.url)
    events = admin("GET", "/notebooks/lab/events").json["events"]
    assert [one["reason"] for one in events] == ["Created", "StopRequested", "StartRequested", "RestartRequested"]


def test_settings_change_with_the_next_start_and_the_others_stay(lab: str, admin: Http, localml: Localml) -> None:
    tools = localml.client.tools
    changed = tools.change(tools.notebook("lab"), resources={"cpu": 1}, idle_limit=3600)
    assert (changed.idle_limit, changed.gpu) == (None, 1)  # what runs goes on as it is
    tools.stop(changed)
    localml.client.wait("lab", 60)
    assert tools.notebook("lab").idle_limit == 3600
    started = tools.start_notebook(name="lab", time_limit=7200)
    spec = localml.platform.workloads.get(started.workload_id).spec
    resources = spec.roles[0].resources
    assert (resources.gpu, resources.cpu, spec.idle_limit, spec.time_limit) == (1, 1, 3600, 7200)
    assert spec.roles[0].env["LAST_ACTIVITY"]
    assert tools.notebook("lab").token == "open-sesame"


@pytest.mark.parametrize(
    ("members", "field"),
    [({"idle_limit": -1}, "idle_limit"), ({"name": "x"}, "name"), ({"resources": {"gpu": 64}}, "gpu")],
)
def test_a_change_that_is_refused_names_the_member(
    lab: str, admin: Http, members: dict[str, object], field: str
) -> None:
    refused = admin("PATCH", "/notebooks/lab", members)
    assert (refused.status in (400, 422), refused.json["error"]["field"]) == (True, field)
    assert admin("GET", "/notebooks/lab").json["gpu"] == 1


def test_a_start_with_settings_that_cannot_be_keeps_the_old_ones(lab: str, admin: Http) -> None:
    admin("POST", "/notebooks/lab/stop")
    admin("GET", "/workloads/lab/wait?timeout=60")
    refused = admin("POST", "/notebooks", body("lab", resources={"gpu": 64}, pool="other"))
    assert (refused.status, refused.json["error"]["field"]) == (422, "gpu")
    assert admin("GET", "/notebooks/lab").json["gpu"] == 1
    assert admin("POST", "/notebooks/lab/start").status == 200


def test_a_deleted_notebook_is_gone_and_its_name_free(lab: str, admin: Http, localml: Localml, bob: Http) -> None:
    assert bob("DELETE", "/notebooks/lab").status == 404
    assert admin("DELETE", "/notebooks/lab").status == 200
    for path in ("/notebooks/lab", "/notebooks/lab/start"):
        assert admin("POST" if path.endswith("start") else "GET", path).status == 404
    new = admin("POST", "/notebooks", body("lab"))
    assert (new.status, new.json["run"]) == (201, 1)


def test_other_people_see_neither_notebook_nor_token(lab: str, admin: Http, bob: Http) -> None:
    assert bob("GET", "/notebooks/lab").status == 404
    assert bob("GET", "/notebooks").json == {"tools": []}


def test_a_sealed_token_of_somebody_else_is_refused_at_once(lab: str, localml: Localml, bob: Http) -> None:
    full = localml.platform.workloads.named("lab")
    sealed = full.spec.roles[0].sealed_env
    answer = bob("POST", "/workloads", {"spec": {"roles": [{"command": ["env"], "sealed_env": sealed}]}})
    assert (answer.status, answer.json["error"]["field"]) == (400, "sealed_env")


@pytest.fixture
def all_answer(localml: Localml, monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Until it is set, the server does not learn how idle anything is, however long the starts take."""
    ready, idle = threading.Event(), localml.platform.idle

    def look(full: Full) -> Activity | Use | None:
        if not ready.is_set():
            raise LocalmlError(Code.UNAVAILABLE, "the test has not begun")
        return idle.look(full)

    monkeypatch.setattr(idle, "_look", look)
    return ready


def test_an_idle_notebook_is_stopped_by_itself(admin: Http, localml: Localml, all_answer: threading.Event) -> None:
    made = admin("POST", "/notebooks", body("idle", idle_limit=1)).json
    other = admin("POST", "/notebooks", body("busy", idle_limit=1, env={"KERNEL": "busy"})).json
    for tool in (made, other):
        localml.client.tools.wait_ready(localml.client.tools.notebook(tool["id"]), 60)
    all_answer.set()

    def stopped() -> bool:
        localml.platform.idle.check()
        return str(localml.platform.workloads.row(made["id"]).desired) == "stop"

    wait_until(stopped)
    ended = admin("GET", f"/workloads/{made['id']}/wait?timeout=60").json
    assert (ended["state"], ended["message"][:4]) == ("stopped", "idle")
    assert admin("GET", f"/workloads/{other['id']}").json["desired"] == "run"
    admin("DELETE", f"/workloads/{other['id']}")


@pytest.fixture
def board(admin: Http, localml: Localml) -> Iterator[Callable[..., str]]:
    """Starts TensorBoards with a program in place of the real one."""
    names: list[str] = []

    def start(name: str, program: str, *, token: str | None = None, idle_limit: float = 1) -> str:
        wanted = Tensorboard("logs", token=token, idle_limit=idle_limit)
        spec = localml.platform.tools.tensorboard(1, wanted)
        path = {"PYTHONPATH": str(runtimes_dir() / "tensorboard")}
        update = {"image": "", "command": ("python3", "-c", program), "env": path}
        spec = spec.model_copy(update={"roles": (spec.roles[0].model_copy(update=update),)})
        members = {"name": name, "kind": "tensorboard", "spec": spec.model_dump(mode="json")}
        assert admin("POST", "/workloads", members).status == 201
        names.append(name)
        return name

    yield start
    for name in names:
        localml.client.delete(name)


def test_tensorboards_that_nobody_looks_at_are_stopped_and_those_that_do_not_tell_are_not(
    board: Callable[..., str], localml: Localml, all_answer: threading.Event
) -> None:
    ours, opened, foreign = board("ours-tb", BOARD), board("open-tb", BOARD, token=""), board("foreign-tb", FOREIGN)
    platform, tools = localml.platform, localml.client.tools
    tools.wait_ready(tools.tensorboard(foreign), 60)
    tools.wait_ready(tools.tensorboard(ours), 60)
    tools.wait_ready(tools.tensorboard(opened), 60)
    all_answer.set()

    def stopped() -> bool:
        platform.idle.check()
        # asking whether it answers is no use, even where no token is needed
        tools.tensorboard(opened)
        return all(str(platform.workloads.named(name).row.desired) == "stop" for name in (ours, opened))

    wait_until(stopped)
    ended = localml.client.wait(ours, 60)
    assert (ended.state, ended.message) == ("stopped", "idle for 1s: nobody looked at it")
    found = tools.tensorboard(foreign)
    assert (found.state, found.ready, found.idle_limit) == ("running", True, 1)


def test_requests_keep_a_tensorboard_and_the_question_is_none(board: Callable[..., str], localml: Localml) -> None:
    platform, tools = localml.platform, localml.client.tools
    found = tools.wait_ready(tools.tensorboard(board("asked", BOARD, idle_limit=3600)), 60)
    assert found.activity is not None
    assert 0 <= found.activity["idle_for"] < 60
    full = platform.workloads.named("asked")
    before = platform.idle.look(full)
    assert before is not None
    assert before.last == before.started
    with urlopen(Request(f"{found.base_url}/", headers={"Authorization": f"Bearer {found.token}"}), timeout=60) as page:
        assert page.read() == b"hello"
    after = platform.idle.look(full)
    assert after is not None
    assert before.last < after.last <= platform.clock.now()
    assert not after.busy
    assert platform.idle.look(full) == after


@pytest.mark.parametrize(
    ("path", "members", "field"),
    [
        ("/notebooks", {"token": "two words"}, "token"),
        ("/notebooks", {"idle_limit": 0}, "idle_limit"),
        ("/notebooks", {"folder": "../up"}, "mounts"),
        ("/notebooks", {"unknown": 1}, "unknown"),
        ("/tensorboards", {}, "logdir"),
        ("/tensorboards", {"logdir": "fds://b/x", "idle_limit": -1}, "idle_limit"),
        ("/tensorboards", {"logdir": "fds://b/x", "idle_limit": 60, "image": "own"}, "idle_limit"),
        ("/tensorboards", {"logdir": "fds://b/x", "idle_limit": 60, "command": ["x"]}, "idle_limit"),
        ("/tensorboards", {"logdir": "fds://b/../../etc"}, "logdir"),
    ],
)
def test_a_bad_request_names_the_member(path: str, members: dict[str, object], field: str, admin: Http) -> None:
    refused = admin("POST", path, members)
    assert (refused.status, refused.json["error"]["field"]) == (400, field)


def test_a_tensorboard_serves_the_folder_it_was_given(admin: Http, localml: Localml) -> None:
    script = (
        "import http.server, os, functools\n"
        "folder = os.path.join(os.environ['LOCALML_BUCKETS'], os.environ['LOCALML_LOGDIR'])\n"
        "handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=folder)\n"
        "address = (os.environ['LOCALML_LISTEN'], int(os.environ['LOCALML_PORT_HTTP']))\n"
        "http.server.ThreadingHTTPServer(address, handler).serve_forever()\n"
    )
    with localml.platform.buckets.open("fds://runs/one/events", "wb") as file:
        file.write(b"points")
    members = {"name": "board", "image": "own", "command": ["python3", "-c", script], "logdir": "fds://runs/one"}
    made = localml.client.tools.wait_ready(localml.client.tools.start_tensorboard(**members), 60)
    assert made.source == "fds://runs/one"
    with urlopen(f"{made.base_url}/events", timeout=60) as answer:
        assert answer.read() == b"points"
    admin("DELETE", f"/workloads/{made.id}")


def test_a_tensorboard_looks_at_another_folder_after_its_next_start(admin: Http, localml: Localml) -> None:
    tools = localml.client.tools
    made = tools.start_tensorboard("fds://runs/one", name="moving", image="own", command=["sleep", "600"])
    assert tools.change(made, logdir="fds://runs/two").source == "fds://runs/two"
    again = tools.restart(made)
    wait_until(lambda: tools.tensorboard("moving").run == 2)
    role = localml.platform.workloads.get(tools.tensorboard("moving").workload_id).spec.roles[0]
    assert (role.env["LOCALML_LOGDIR"], role.command) == ("runs/two", ("sleep", "600"))
    assert tools.delete(again).id == made.id
    assert admin("GET", "/tensorboards/moving").status == 404


def test_waiting_for_a_notebook_that_fails_says_why(localml: Localml) -> None:
    localml.client.drain(reason="so that it does not begin")
    try:
        made = localml.client.tools.start_notebook(name="broken", image="localml/notebook:latest", command=["x"])
        localml.client.stop(made.id)
    finally:
        localml.client.undrain()
    with pytest.raises(ClientError, match="broken stopped: stopped by admin"):
        localml.client.tools.wait_ready(made, 60)
    assert json.loads(json.dumps(localml.client.tools.notebook("broken").activity)) is None
