"""Somebody else with an account on this machine, who has no credentials: what they get is in one table, and no more."""

from __future__ import annotations

import base64
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import urllib3
from helpers.gateway import running
from helpers.mlbench import Dashboard, open_dashboard
from helpers.rig import wait_until

from localml.config import load
from localml.core.errors import LocalmlError
from localml.core.people.scopes import Scope
from localml.core.serving.routes_table import EndpointRoute, RouteTable, write_routes
from localml.core.work.listing import Query
from localml.dialects import REGISTRY
from localml.dialects.kit.open import ALWAYS, ASKED_FOR, GATEWAY, PORTS, SERVER, TABLE, Group
from localml.engines.fake.engine import FakeEngine
from localml.platform import Platform
from localml.server import Dispatcher

METRIC = {"name": "loss", "date": "2020-01-01", "value": "1"}
MLBENCH = [
    ("GET", "pods/", None),
    ("GET", "metrics/", None),
    ("GET", "metrics/{run}/?metric_type=run", None),
    ("POST", "metrics/", {"run_id": "{run}", **METRIC}),
    ("GET", "runs/", None),
    ("POST", "runs/", {"name": "theirs"}),
    ("GET", "runs/{run}/", None),
    ("DELETE", "runs/{run}/", None),
]
"""Each operation, as (method, path, form)."""


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Dashboard]:
    """A server whose jobs are child processes, of the administrator."""
    one = open_dashboard(tmp_path / "data", "process", images={"any": "host"})
    yield one
    one.clean()
    one.server.close()


@pytest.fixture
def fake(tmp_path: Path) -> Iterator[Dashboard]:
    one = open_dashboard(tmp_path / "data", "fake")
    yield one
    one.server.close()


def user(platform: Platform, name: str) -> str:
    """A new user's token."""
    return platform.identity.create_token(platform.identity.create_user(name, f"the password of {name}"))


def tried(one: Dashboard, run: int) -> list[int]:
    """Statuses of every operation of MLBench."""
    found = []
    for method, path, form in MLBENCH:
        filled = None if form is None else {name: str(value).format(run=run) for name, value in form.items()}
        found.append(one.call(method, path.format(run=run), form=filled).status)
    return found


# -- MLBench -----------------------------------------------------------------------------------------


def test_nobody_reads_the_credentials_by_a_run_of_their_own(served: Dashboard) -> None:
    program = f"print(open({str(served.platform.data / 'credentials.json')!r}).read())"
    form = {
        "name": "attack",
        "num_workers": 1,
        "image_name": "custom_image",
        "custom_image_name": "any",
        "custom_image_command": f"{sys.executable} -c {shlex.quote(program)}",
        "run_all_nodes": "true",
    }
    answer = served.of("").call("POST", "runs/", form=form)
    assert (answer.status, answer.headers["WWW-Authenticate"]) == (401, 'Basic realm="localml"')
    assert served.get("runs/") == []


def test_without_credentials_nothing_of_mlbench_is_started_stopped_deleted_or_read(fake: Dashboard) -> None:
    number = fake.start()["id"]
    assert tried(fake.of(""), number) == [401] * len(MLBENCH)
    assert tried(fake.of("guessed"), number) == [401] * len(MLBENCH)
    assert [one["id"] for one in fake.get("runs/")] == [number]
    assert fake.get(f"metrics/{number}", metric_type="run") == {}


def test_mlbench_is_open_when_asked_for_and_only_to_this_machine(tmp_path: Path) -> None:
    one = open_dashboard(tmp_path / "data", "fake", open=("mlbench",))
    try:
        number = one.of("").start()["id"]
        assert one.of("").get("runs/")[0]["id"] == number
        assert one.platform.workloads.row(number).owner == "admin"
        assert one.of("guessed").call("GET", "runs/").status == 401
        assert one.of("").call("POST", "runs/", form={"name": "lured"}, Origin="http://evil.example").status == 403
        app = one.server.app.app("/api/runs")
        far = called_from(app, "192.0.2.7")
        assert (far("GET", "/api/runs/"), far("POST", "/api/runs/")) == (401, 401)
        assert called_from(app, "::ffff:127.0.0.1")("GET", "/api/runs/") == 200
    finally:
        one.clean()
        one.server.close()


def called_from(app: Any, address: str, body: Any = None) -> Any:
    """Calls an app as if from another address; answers the status."""

    def call(method: str, path: str, **headers: str) -> int:
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        where = {"REMOTE_ADDR": address}
        answer = app.test_client().open(path, method=method, headers=sent, json=body, environ_overrides=where)
        return int(answer.status_code)

    return call


@pytest.mark.parametrize("words", [{"open": ("openpai",)}, {"open": ("mlbench",), "closed": True}])
def test_what_cannot_be_opened_is_refused_at_the_start(words: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(LocalmlError, match=next(reversed(words))):
        load({}, data=tmp_path, **words)


def test_the_address_that_env_prints_carries_a_token_that_may_only_what_mlbench_needs(fake: Dashboard) -> None:
    url = _address(fake, fake.token)
    assert _address(fake, fake.token) == url  # the same each time, not one more token each time
    ada = user(fake.platform, "ada")
    hers = _address(fake, ada)
    name, _, token = hers.removeprefix("http://").partition("@")[0].partition(":")
    assert name == "ada"
    own = fake.of(token)
    run = own.start()
    row = fake.platform.workloads.row(run["id"])
    assert (row.owner, row.workspace) == ("ada", fake.platform.identity.user("ada").workspace)
    pool = urllib3.PoolManager()
    basic = {"Authorization": "Basic " + base64.b64encode(f"ada:{token}".encode()).decode()}
    assert pool.request("GET", f"{fake.url}/api/runs/{run['id']}", headers=basic).status == 200
    native = f"{fake.url}/localml/v1"
    for method, path in (("GET", "/users/ada/tokens"), ("POST", "/users/ada/tokens"), ("GET", "/env/mlbench")):
        answer = pool.request(method, native + path, headers=basic, json={} if method == "POST" else None)
        assert answer.status == 403, (path, answer.data)
    listed = [one.name for one in fake.platform.tokens.of("ada")]
    assert listed.count("mlbench") == 1
    fake.platform.tokens.revoke("ada", "mlbench")
    assert own.call("GET", "runs/").status == 401
    assert _address(fake, ada) != hers


def _address(one: Dashboard, token: str) -> str:
    answer = urllib3.request("GET", f"{one.url}/localml/v1/env/mlbench", headers={"Authorization": f"Bearer {token}"})
    found = answer.json()
    assert answer.status == 200, found
    assert found["variables"] == {"MLBENCH_DASHBOARD_URL": found["url"]}
    return str(found["url"])


def test_users_see_their_own_runs_and_administrators_all(fake: Dashboard) -> None:
    ada, bob = (fake.of(user(fake.platform, name)) for name in ("ada", "bob"))
    number = ada.start(name="secret project")["id"]
    pod = ada.pods()[0]
    assert (bob.get("runs/"), bob.get("pods/"), bob.get("metrics/")) == ([], [], {})
    metric = {"pod_name": pod, **METRIC}
    for method, path, form in [*MLBENCH, ("GET", f"metrics/{pod}/", None), ("POST", "metrics/", metric)]:
        if "{run}" not in path and form in (None, {"name": "theirs"}) and pod not in path:
            continue
        answers = []
        for run, name in ((str(number), pod), ("999999", pod.replace(f"-{number}-", "-999999-"))):
            filled = form and {key: str(value).replace("{run}", run).replace(pod, name) for key, value in form.items()}
            there = path.replace("{run}", run).replace(pod, name)
            answer = bob.call(method, there, form=filled)
            answers.append((answer.status, answer.data.decode().replace(run, "N")))
        assert answers[0] == answers[1], (method, path)
        assert answers[0][0] == 404, (method, path)
    busy = bob.call("POST", "runs/", form={"name": "mine"})
    assert (busy.status, "secret" in busy.json["message"], str(number) in busy.json["message"]) == (409, False, False)
    assert "secret project" in ada.call("POST", "runs/", form={"name": "mine"}).json["message"]
    assert [one["id"] for one in fake.get("runs/")] == [number]
    assert ada.call("DELETE", f"runs/{number}/").status == 204
    fake.clean()
    assert bob.start()["id"] > number


def test_a_token_with_a_scope_is_held_to_it(fake: Dashboard) -> None:
    number = fake.start()["id"]
    admin = fake.platform.identity.user("admin")
    reader = fake.of(fake.platform.identity.create_token(admin, scope=Scope.of(["workload:read"])))
    assert tried(reader, number) == [200, 200, 200, 403, 200, 403, 200, 403]
    fake.clean()


def test_what_runs_in_a_run_gets_the_address_with_a_token_of_this_run_alone(served: Dashboard) -> None:
    program = "import os; print(os.environ['MLBENCH_DASHBOARD_URL'], flush=True); import time; time.sleep(600)"
    ada = served.of(user(served.platform, "ada"))
    run = ada.start(f"{sys.executable} -c {shlex.quote(program)}", workers=1)["id"]
    wait_until(lambda: ada.get(f"runs/{run}")["job_metadata"]["stdout"], 60)
    url = str(ada.get(f"runs/{run}")["job_metadata"]["stdout"][0])
    name, _, token = url.removeprefix("http://").partition("@")[0].partition(":")
    assert url == f"http://ada:{token}@{served.url.removeprefix('http://')}"
    assert name == "ada"
    native = urllib3.request(
        "GET", f"{served.url}/localml/v1/workloads/{run}", headers={"Authorization": f"Bearer {served.token}"}
    )
    assert token not in native.data.decode()
    program = served.of(token)
    assert program.call("POST", "metrics/", form={"run_id": run, **METRIC}).status == 201
    assert [one["id"] for one in program.get("runs/")] == [run]
    assert program.call("DELETE", f"runs/{run}").status == 403
    assert program.call("POST", "runs/", form={"name": "more"}).status in (403, 404)
    assert ada.get(f"metrics/{run}", metric_type="run")["loss"][0]["value"] == "1"
    assert ada.call("DELETE", f"runs/{run}").status == 204
    wait_until(lambda: not served.get("pods/"), 60)
    assert program.call("POST", "metrics/", form={"run_id": run, **METRIC}).status == 401


# -- the table ---------------------------------------------------------------------------------------

GROUPS: list[tuple[dict[str, Any], str, frozenset[Group]]] = [
    ({}, "127.0.0.1", frozenset(Group) - ASKED_FOR),
    ({}, "::1", frozenset(Group) - ASKED_FOR),
    ({}, "192.0.2.7", ALWAYS),
    ({"host": "0.0.0.0"}, "127.0.0.1", frozenset(Group) - ASKED_FOR),
    ({"host": "0.0.0.0", "open": ("mlbench",)}, "172.17.0.2", ALWAYS),
    ({"open": ("mlbench",)}, "127.0.0.1", frozenset(Group)),
    ({"closed": True}, "127.0.0.1", ALWAYS),
]
"""(settings, where a request comes from, what is open to it)"""


@pytest.mark.parametrize(("settings", "address", "groups"), GROUPS)
def test_what_answers_without_credentials_is_what_the_table_lists(
    settings: dict[str, Any], address: str, groups: frozenset[Group], tmp_path: Path
) -> None:
    config = load({}, data=tmp_path / "data", engine="fake", gpus="none", port=0, **settings)
    platform = Platform(config, engine=FakeEngine())
    try:
        dispatcher = Dispatcher(platform)
        for one in REGISTRY:
            wanted = {row.operation for row in TABLE if row.api == one.name and row.group in groups}
            apps = [dispatcher.app(prefix) for prefix in one.prefixes[:1]]
            assert {name for app in apps for name in open_operations(app, address, platform)} == wanted, one.name
    finally:
        platform.close()


def open_operations(app: Any, address: str, platform: Platform) -> set[str]:
    """Names of all operations of an app that do not ask who calls, by trying each; name and password are in the body
    alone, where only the operation that takes them there looks."""
    given = {"username": "admin", "password": platform.credentials.password}
    call, found = called_from(app, address, given), set()
    for rule in app.url_map.iter_rules():
        values = dict.fromkeys(rule.arguments, 1)
        path = rule.build(values)[1]
        for method in rule.methods - {"HEAD", "OPTIONS"}:
            if call(method, path) not in (401, 405):
                found.add(rule.endpoint)
    return found


def test_the_servers_own_pages_are_in_the_table(fake: Dashboard) -> None:
    assert {row.operation for row in TABLE if row.api == SERVER} == {"/healthz"}
    answers = {path: urllib3.request("GET", fake.url + path) for path in ("/healthz", "/metrics", "/", "/ui", "/x")}
    assert {path: answer.status for path, answer in answers.items()} == {
        "/healthz": 200,
        "/metrics": 401,
        "/": 404,
        "/ui": 404,
        "/x": 404,
    }
    assert answers["/healthz"].json() == {"status": "ok"}


def test_the_gateways_pages_are_in_the_table(tmp_path: Path) -> None:
    names = ["/healthz", "ports of Cloud-ML's services", "endpoints made with --public"]
    assert [row.operation for row in TABLE if row.api == GATEWAY] == names  # tests/control/serving tells of the latter
    for gateway in running(tmp_path / "data"):
        write_routes(gateway.data, RouteTable(generation=7, endpoints=(EndpointRoute(name="net", token_hashes=()),)))
        wait_until(lambda stats=gateway.stats: stats().generation == 7, 60)
        statuses = {
            path: urllib3.request("GET", gateway.url + path).status
            for path in ("/healthz", "/metrics", "/endpoints/net/", "/v2/models/net", "/x")
        }
        assert statuses == {"/healthz": 200, "/metrics": 401, "/endpoints/net/": 401, "/v2/models/net": 401, "/x": 401}
        assert set(gateway.health()) == {"status", "generation"}


def test_each_row_has_its_reason_and_no_operation_is_there_twice() -> None:
    keys = [(row.api, row.operation) for row in TABLE]
    assert len(set(keys)) == len(keys)
    assert [row for row in TABLE if len(row.reason.split()) < 5] == []
    assert {row.group for row in TABLE} == set(Group)
    assert {row.api for row in TABLE} == {SERVER, GATEWAY, PORTS, *(one.name for one in REGISTRY if one.prefixes)}


# -- what is open shows no secret --------------------------------------------------------------------


def test_openpais_open_reads_show_nothing_that_is_sealed(served: Dashboard) -> None:
    platform = served.platform
    with platform.buckets.open("hdfs://any/auth.txt", "wb") as file:
        file.write(b"registry.example\nsomebody\nregistry-password\n")
    job = {
        "jobName": "secretive",
        "image": "any",
        "authFile": "hdfs://any/auth.txt",
        "taskRoles": [
            {"name": "main", "taskNumber": 1, "cpuNumber": 1, "memoryMB": 100, "gpuNumber": 0, "command": "sleep 600"}
        ],
    }
    bearer = {"Authorization": f"Bearer {served.token}"}
    made = urllib3.request("POST", f"{served.url}/api/v1/jobs", json=job, headers=bearer)
    assert made.status == 201, made.data
    number = platform.workloads.page(Query(dialect="openpai")).items[0].id or 0
    wait_until(lambda: platform.workloads.row(number).state == "running", 60)
    key = urllib3.request("GET", f"{served.url}/api/v1/jobs/secretive/ssh/privateKey", headers=bearer).data.decode()
    secrets = ["registry-password", platform.identity.run_token(number), *key.splitlines()[1:-1]]
    secrets += [platform.credentials.token, platform.credentials.password, platform.credentials.secret_key]
    paths = ["jobs", "jobs/secretive", "jobs/secretive/config", "jobs/secretive/ssh", "virtual-clusters"]
    paths += ["virtual-clusters/default"]
    for path in paths:
        answer = urllib3.request("GET", f"{served.url}/api/v1/{path}")
        assert answer.status == 200, (path, answer.data)
        assert [secret for secret in secrets if secret and secret in answer.data.decode()] == [], path
    assert urllib3.request("GET", f"{served.url}/api/v1/jobs/secretive/ssh/privateKey").status == 401
    platform.workloads.stop(number, platform.identity.user("admin"))
