"""Applications, what is asked of them, and their logs."""

from __future__ import annotations

import sqlite3
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import pytest
from helpers.cloudml import Answer
from helpers.wmla import WmlaClient
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import text

from localml.core.clock import ManualClock
from localml.core.events.records import record_event
from localml.core.people.scopes import Scope
from localml.core.series.uses import CPU, MEMORY
from localml.core.studies.tables import Study
from localml.core.subjects import Noun, Parent, Subject
from localml.core.work.specs import Resources, Role, WorkloadSpec
from localml.core.work.states import Kind, State
from localml.core.work.workloads import Query, Submission
from localml.dialects.wmla.translate.applications import PATHS, SORTS
from localml.dialects.wmla.translate.ids import app_id, submission_id
from localml.dialects.wmla.translate.logs import log
from localml.platform import Platform

APPS, STATISTIC = "/scheduler/applications", "/scheduler/applicationStatistic"


@pytest.fixture(autouse=True)
def clean(platform: Platform) -> Iterator[None]:
    yield
    for table in ("gpu_lease", "attempt", "workload_detail", "trial", "event", "study", "workload"):
        with closing(sqlite3.connect(platform.data / "localml.db")) as raw, raw:  # the writer looks at each row
            raw.execute(f"DELETE FROM {table}")


def write(platform: Platform, statement: Any) -> None:
    platform.db.write(lambda session: session.execute(statement))


def submit(platform: Platform, name: str, *, user: str = "admin", **given: Any) -> int:
    """A task as :mod:`localml.dialects.wmla.translate.tasks` makes it, of as many workers as asked for."""
    env = {"DLI_FRAMEWORK": given.pop("framework", "PyTorch"), "DLI_MODEL_MAIN": given.pop("model", "main.py")}
    env |= {"DLI_DATASET": given.pop("dataset", "")}
    resources = Resources(cpu=given.pop("cpu", 1), gpu=given.pop("gpu", 0))
    role = Role(
        name="worker",
        image="localml/python:latest",
        command=("true",),
        env=env,
        resources=resources,
        count=given.pop("workers", 1),
    )
    app = given.pop("app", None)
    request = {"args": "--exec-start PyTorch"} | ({"appName": app} if app else {})
    who = platform.identity.user(user)
    wanted = {"dialect": "wmla", "request": request, **given}
    return platform.workloads.submit(Submission(name, WorkloadSpec(roles=(role,)), who, **wanted))


def put(platform: Platform, number: int, **values: Any) -> None:
    """Set columns of a workload, as time does."""
    columns = ", ".join(f"{name} = :{name}" for name in values)
    write(platform, text(f"UPDATE workload SET {columns} WHERE id = :id").bindparams(id=number, **values))


def names(answer: Answer) -> list[str]:
    assert answer.status == 200, answer.data
    return [one["applicationname"] for one in answer.json]


@pytest.fixture
def some(platform: Platform, clock: ManualClock, new_user: Callable[[str], WmlaClient]) -> dict[str, int]:
    """Five applications of three kinds, in all manner of states."""
    new_user("eve")
    made = {"a": submit(platform, "a", app="alpha", framework="TensorFlow", dataset="mnist", cpu=2)}
    clock.advance(1)
    made["b"] = submit(platform, "b", workers=3, model="net.py", dataset="cifar")
    clock.advance(1)
    made["c"] = submit(platform, "c", user="eve", framework="Caffe")
    clock.advance(1)
    study = Study(
        dialect="wmla", workspace=platform.identity.user("admin").workspace, owner="admin", name="my-search", pool="p",
        spec="{}", algorithm="random", seed=1, created_at=1, updated_at=1,
    )  # fmt: skip

    def add(session: Any) -> int:
        session.add(study)
        session.flush()
        return study.id or 0

    parent = Parent(Subject(Noun.STUDY, platform.db.write(add)), 1)
    made["d"] = submit(platform, "d", kind=Kind.TRIAL, parent=parent)
    clock.advance(1)
    made["e"] = submit(platform, "e", dialect="native", kind=Kind.NOTEBOOK)
    now = clock.now()
    put(platform, made["a"], state="succeeded", started_at=now - 3, ended_at=now - 1, exit_code=0)
    put(platform, made["b"], state="running", started_at=now - 2.5, gpu=2.0)
    put(platform, made["d"], state="failed", started_at=now - 1, ended_at=now, exit_code=3, message="it broke")
    put(platform, made["e"], attempt=2)
    for at, seconds in ((now - 5, 1.0), (now, 3.0)):
        points = [(CPU, seconds, at), (MEMORY, 3 << 20, at)]
        for some_points, cumulative in ((points[:1], True), (points[1:], False)):
            of = Subject.workload(made["b"])
            platform.samples.add_many(of, some_points, replica="worker-0", cumulative=cumulative, measured=True)
    platform.samples.flush()
    submit(platform, "other", dialect="openpai")  # none of these
    return made


def test_tasks_trials_and_notebooks_are_applications_the_newest_first(
    client: WmlaClient, platform: Platform, some: dict[str, int], clock: ManualClock
) -> None:
    answer = client.get(APPS)
    assert names(answer) == ["e", "d", "c", "b", "alpha"]
    assert answer.headers["Content-Type"] == "application/json"
    found = {one["applicationname"]: one for one in answer.json}
    assert {name: one["state"] for name, one in found.items()} == {
        "alpha": "FINISHED",
        "b": "RUNNING",
        "c": "PENDING_JOB_SCHEDULER",
        "d": "ERROR",
        "e": "RECOVERING",
    }
    assert {name: one["type"] for name, one in found.items()} == {
        **dict.fromkeys(("alpha", "b", "c", "d"), "BATCH"),
        "e": "NOTEBOOK",
    }
    b = found["b"]
    assert b["applicationid"] == app_id(platform, some["b"])
    assert (b["slots"], b["demandslots"], b["hosts"], b["coresused"], b["memused"]) == (3, 3, 1, 3.0, 3.0)
    assert (b["username"], b["dltype"], b["model"], b["dataset"]) == ("admin", "PyTorch", "net.py", "cifar")
    assert b["apprunduration"] == 2.5
    assert "endtime" not in b
    assert b["schedulerUrl"].endswith(f"{APPS}?applicationid={b['applicationid']}")
    assert [one["id"] for one in b["task12n"]] == ["1", "2", "3"]  # what the vendor's command line counts
    d = found["d"]
    assert (d["tunningname"], d["appReason"], d["appFailureDetail"]) == (
        "my-search",
        "it broke",
        "it broke (exit code 3)",
    )
    assert (d["slots"], d["demandslots"], d["hosts"], d["coresused"], d["memused"]) == (0, 1, 0, 0.0, 0.0)
    assert d["endtime"] == int(clock.now() * 1000)
    assert found["alpha"]["submittedtime"] == int((clock.now() - 4) * 1000)
    assert "dataset" not in found["c"]


SORTED = {
    "applicationid": ["alpha", "b", "c", "d", "e"],
    "applicationname": ["alpha", "b", "c", "d", "e"],
    "type": ["alpha", "b", "c", "d", "e"],
    "state": ["d", "alpha", "c", "e", "b"],
    "slots": ["alpha", "c", "d", "e", "b"],
    "demandslots": ["alpha", "c", "d", "e", "b"],
    "hosts": ["alpha", "c", "d", "e", "b"],
    "coresused": ["alpha", "c", "d", "e", "b"],
    "memused": ["alpha", "c", "d", "e", "b"],
    "username": ["alpha", "b", "d", "e", "c"],
    "timestamp": ["alpha", "b", "c", "d", "e"],
    "submittedtime": ["alpha", "b", "c", "d", "e"],
    "schedulerUrl": ["alpha", "b", "c", "d", "e"],
    "endtime": ["b", "c", "e", "alpha", "d"],
    "apprunduration": ["c", "e", "d", "alpha", "b"],
    "model": ["alpha", "c", "d", "e", "b"],
    "dataset": ["c", "d", "e", "b", "alpha"],
    "dltype": ["c", "b", "d", "e", "alpha"],
    "tunningname": ["alpha", "b", "c", "e", "d"],
    "appReason": ["alpha", "b", "c", "e", "d"],
    "appFailureDetail": ["alpha", "b", "c", "e", "d"],
}


@pytest.mark.parametrize("field", SORTED)
def test_every_member_can_be_sorted_by_in_either_direction(
    field: str, client: WmlaClient, some: dict[str, int]
) -> None:
    up = SORTED[field]
    assert names(client.get(APPS, sort=field)) == up
    assert names(client.get(APPS, sort=f"-{field}")) == up[::-1]
    assert names(client.get(APPS, sort=field, order="DESC")) == up[::-1]
    assert names(client.get(APPS, sort=field, order="asc")) == up
    assert names(client.get(APPS, sort=f"-{field}", order="asc")) == up[::-1]  # the minus wins
    assert names(client.get(APPS, sort=field, order="sideways")) == up


def test_all_members_of_the_document_are_among_them() -> None:
    assert set(SORTED) == {*SORTS, *PATHS}


def test_the_order_alone_is_of_the_arrival(client: WmlaClient, some: dict[str, int]) -> None:
    assert names(client.get(APPS, order="asc")) == ["alpha", "b", "c", "d", "e"]
    assert names(client.get(APPS, order="desc")) == ["e", "d", "c", "b", "alpha"]


@pytest.mark.parametrize(
    "query",
    [
        *("sort=a,b", "sort=nothing", "sort=--state", "sort=state&sort=type", "sort=-", "sort=State", "sort=+state"),
        *("start=-1", "start=x", "start=1.5", "length=-1", "length=x", "start=٣", "length=1e3"),
    ],
)
def test_what_is_no_order_or_place_is_refused(query: str, client: WmlaClient, some: dict[str, int]) -> None:
    answer = client.call("GET", f"{APPS}?{query.replace('٣', '%D9%A3')}")
    assert answer.status == 400, answer.data
    assert answer.json["error"].startswith(query.partition("=")[0])


def test_parts_of_the_list(client: WmlaClient, some: dict[str, int]) -> None:
    assert names(client.get(APPS, start=1, length=2)) == ["d", "c"]
    assert names(client.get(APPS, start=4)) == ["alpha"]
    assert names(client.get(APPS, start=4, length=100)) == ["alpha"]
    assert names(client.get(APPS, length=0)) == []
    assert names(client.get(APPS, start=4, length=0)) == []
    assert names(client.get(APPS, start="", length="", state="", search="", sort="")) == ["e", "d", "c", "b", "alpha"]


@pytest.mark.parametrize("start", [5, 6, 10**17, 10**18, 10**30])
def test_an_index_behind_the_last_is_out_of_range(start: int, client: WmlaClient, some: dict[str, int]) -> None:
    for query in ({"start": start}, {"start": start, "length": 0}, {"start": start, "length": 10**30}):
        answer = client.get(APPS, **query)
        assert (answer.status, answer.json["field"]) == (416, "start")


def test_the_first_index_of_nothing_is_none_out_of_range(client: WmlaClient, some: dict[str, int]) -> None:
    assert names(client.get(APPS, state="KILLED", start=0)) == []
    assert client.get(APPS, state="KILLED", start=1).status == 416


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ({"applicationname": "alpha"}, ["alpha"]),
        ({"applicationname": "a"}, []),
        ({"applicationname": "b"}, ["b"]),
        ({"state": "RUNNING"}, ["b"]),
        ({"state": "running"}, ["b"]),
        ({"state": "RUNNING, error"}, ["d", "b"]),
        ({"state": "RECOVERING"}, ["e"]),
        ({"state": "PENDING_JOB_SCHEDULER"}, ["c"]),
        ({"state": "RECOVERING,PENDING_JOB_SCHEDULER"}, ["e", "c"]),
        ({"state": "NEW"}, []),
        ({"state": "nonsense"}, []),
        ({"search": "ALPH"}, ["alpha"]),
        ({"search": "eve"}, ["c"]),
        ({"search": "caffe"}, ["c"]),
        ({"search": "net.PY"}, ["b"]),
        ({"search": "cifar"}, ["b"]),
        ({"search": "broke"}, ["d"]),
        ({"search": "my-sea"}, ["d"]),
        ({"search": "notebook"}, ["e"]),
        ({"search": "recover"}, ["e"]),
        ({"search": "%"}, []),
        ({"search": "'"}, []),
        ({"search": "TensorFlow", "state": "FINISHED"}, ["alpha"]),
        ({"search": "TensorFlow", "state": "ERROR"}, []),
        ({"applicationid": "nothing"}, []),
        ({"driverid": "nothing"}, []),
    ],
    ids=str,
)
def test_filters_are_combined(
    query: dict[str, str], found: list[str], client: WmlaClient, some: dict[str, int]
) -> None:
    assert names(client.get(APPS, **query)) == found


def test_ids_find_their_application(client: WmlaClient, platform: Platform, some: dict[str, int]) -> None:
    app, driver = app_id(platform, some["b"]), submission_id(platform, some["b"])
    assert names(client.get(APPS, applicationid=app)) == ["b"]
    assert names(client.get(APPS, driverid=driver)) == ["b"]
    assert names(client.get(APPS, applicationid=app, driverid=driver)) == ["b"]
    assert names(client.get(APPS, applicationid=app, driverid=submission_id(platform, some["c"]))) == []
    assert names(client.get(APPS, applicationid=driver)) == []
    assert names(client.get(APPS, search=app)) == ["b"]
    assert names(client.get(APPS, search=app[:17].upper())) == ["b"]
    assert names(client.get(APPS, search=driver[-12:])) == ["b"]


def test_others_see_what_is_theirs(
    client: WmlaClient, nobody: WmlaClient, platform: Platform, some: dict[str, int], new_user: Any
) -> None:
    eve = new_user("eve")
    assert names(eve.get(APPS)) == ["c"]
    assert names(eve.get(APPS, applicationid=app_id(platform, some["b"]))) == []
    assert eve.get(APPS, start=1).status == 416
    assert [one["username"] for one in eve.get(STATISTIC).json] == ["eve"]
    for path in (APPS, STATISTIC, f"{APPS}/x/driver/logs/stdout"):
        assert nobody.get(path).status == 401
    scoped = platform.identity.create_token(platform.identity.user("eve"), scope=Scope.of(["pool:read"]))
    for path in (APPS, STATISTIC):
        assert nobody.call("GET", path, X_Auth_Token=scoped).status == 403


@pytest.mark.parametrize("request_", ["text", 5, [1], {"appName": 7}, {"x": float("inf")}, {"appName": ["a"]}], ids=str)
def test_whatever_a_request_was_the_list_is_answered(request_: Any, client: WmlaClient, platform: Platform) -> None:
    role = Role(image="i", command=("x",))
    admin = platform.identity.user("admin")
    platform.workloads.submit(Submission("odd", WorkloadSpec(roles=(role,)), admin, "wmla", request=request_))
    for query in ({}, {"sort": "applicationname"}, {"search": "i"}, {"applicationname": "odd"}):
        answer = client.get(APPS, **query)
        assert answer.status == 200, answer.data
        assert all(isinstance(one["applicationname"], str) for one in answer.json)


def test_a_deleted_application_is_none(client: WmlaClient, platform: Platform, some: dict[str, int]) -> None:
    platform.workloads.delete(some["a"], platform.identity.user("admin"))
    assert names(client.get(APPS)) == ["e", "d", "c", "b"]
    assert client.get(f"{APPS}/{app_id(platform, some['a'])}/driver/logs/stdout").status == 404


# -- statistics --------------------------------------------------------------------------------------


def test_statistics_sum_up_each_users_applications(client: WmlaClient, some: dict[str, int]) -> None:
    assert client.get(STATISTIC).json == [
        {
            "username": "admin",
            "cpuReq": 4.0,  # of three workers and a notebook
            "cpuUsed": 0.4,
            "gpuReq": 2.0,
            "gpuUsed": 2.0,
            "jobPending": 1,
            "jobRunning": 1,
        },
        {
            "username": "eve",
            "cpuReq": 1.0,
            "cpuUsed": 0.0,
            "gpuReq": 0.0,
            "gpuUsed": 0.0,
            "jobPending": 1,
            "jobRunning": 0,
        },
    ]


def test_statistics_are_of_what_the_filters_leave(client: WmlaClient, platform: Platform, some: dict[str, int]) -> None:
    def users(**query: Any) -> list[tuple[str, int, int]]:
        answer = client.get(STATISTIC, **query)
        assert answer.status == 200, answer.data
        return [(one["username"], one["jobPending"], one["jobRunning"]) for one in answer.json]

    assert users(state="RUNNING") == [("admin", 0, 1)]
    assert users(state="ERROR") == [("admin", 0, 0)]
    assert users(applicationname="alpha") == [("admin", 0, 0)]
    assert users(applicationid=app_id(platform, some["c"])) == [("eve", 1, 0)]
    assert users(applicationid="nothing") == []
    submit(platform, "f", user="eve", pool="wmla/team")
    for consumer in ("team", "/wmla/team", "wmla/team"):
        assert users(consumer=consumer) == [("eve", 1, 0)]
    assert users(consumer="nobody") == []
    assert users(start=1) == [("eve", 2, 0)]
    assert users(start=0, length=1) == [("admin", 1, 1)]
    assert users(length=0) == []
    for start in (2, 3, 10**30):
        assert client.get(STATISTIC, start=start).status == 416
    for query in ({"start": "-1"}, {"length": "x"}):
        assert client.get(STATISTIC, **query).status == 400


# -- logs --------------------------------------------------------------------------------------------


@pytest.fixture
def logged(platform: Platform, some: dict[str, int]) -> str:
    """The path of an application whose three workers wrote 30 lines each."""
    number = some["b"]
    columns = "workload_id, role, 'index', number, name, node, engine, state, message, created_at, removed"
    rows = f"INSERT INTO attempt ({columns})"
    for index in range(3):
        name = f"b-{number}-worker-{index}-1"
        row = text(f"{rows} VALUES (:w, 'worker', :i, 1, :n, 'local', '', 'running', '', 1, 0)")
        write(platform, row.bindparams(w=number, i=index, n=name))
        for stream in ("stdout", "stderr"):
            path = platform.logs.path(number, name, stream)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"".join(b"%s of %d: line %d\n" % (stream.encode(), index, n) for n in range(30)))
    return f"{APPS}/{app_id(platform, number)}"


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_the_newest_ten_lines_of_driver_and_executors(stream: str, logged: str, client: WmlaClient) -> None:
    def lines(path: str, **query: Any) -> list[str]:
        answer = client.get(f"{logged}/{path}", **query)
        assert answer.status == 200, answer.data
        assert answer.headers["Content-Type"].startswith("text/plain")
        return answer.data.decode().splitlines()

    last = [f"{stream} of 0: line {n}" for n in range(20, 30)]
    assert lines(f"driver/logs/{stream}") == last
    assert lines(f"executor/1/logs/{stream}") == last
    assert lines(f"executor/3/logs/{stream}") == [f"{stream} of 2: line {n}" for n in range(20, 30)]
    assert lines(f"executor/worker-1/logs/{stream}", lastlines=1) == [f"{stream} of 1: line 29"]
    assert len(lines(f"driver/logs/{stream}", lastlines=29)) == 29
    assert len(lines(f"driver/logs/{stream}", lastlines=10**17)) == 30
    for wrong in ("0", "-1", "x", "", "1.5", "9" * 30):
        assert lines(f"driver/logs/{stream}", lastlines=wrong) == last


def test_a_log_as_a_file(logged: str, client: WmlaClient) -> None:
    whole = b"".join(b"stdout of %d: line %d\n" % (1, n) for n in range(30))
    answer = client.get(f"{logged}/executor/2/logs/stdout/download", lastlines=2)
    assert (answer.status, answer.data) == (200, whole)
    assert answer.headers["Content-Type"] == "application/octet-stream"
    assert answer.headers["Content-Disposition"] == "attachment;filename=executor-2-stdout.log"
    answer = client.get(f"{logged}/driver/logs/stderr/download")
    assert answer.headers["Content-Disposition"] == "attachment;filename=driver-stderr.log"
    assert answer.data.startswith(b"stderr of 0: line 0\n")


def test_the_launchers_log_is_what_happened(logged: str, client: WmlaClient, platform: Platform) -> None:
    answer = client.get(f"{logged}/driver/logs/launcherlog")
    assert answer.data.decode().endswith("NORMAL Submitted: submitted by admin through the wmla API\n")
    number = platform.workloads.page(Query(name="b")).items[0].id or 0

    def tell(session: Any) -> None:
        for place in range(20):
            name = "" if place % 2 else f"b-{number}-worker-1-1"
            record_event(session, Subject.workload(number), f"R{place}", "x", now=1.0, replica=name)

    platform.db.write(tell)
    every = client.get(f"{logged}/driver/logs/launcherlog/download").data.decode().splitlines()
    assert len(every) == 21
    assert every[-2] == "1970-01-01T00:00:01Z NORMAL R18: [worker-1] x"
    assert len(client.get(f"{logged}/driver/logs/launcherlog").data.decode().splitlines()) == 10
    assert len(client.get(f"{logged}/executor/1/logs/launcherlog/download").data.decode().splitlines()) == 11
    assert len(client.get(f"{logged}/executor/2/logs/launcherlog/download").data.decode().splitlines()) == 21


@pytest.mark.parametrize(
    "path",
    [
        *("driver/logs/nothing", "driver/logs/STDOUT", "executor/1/logs/nothing"),
        *(f"executor/{one}/logs/stdout" for one in ("0", "4", "worker-3", "x", "-1", "worker")),
    ],
)
def test_what_there_is_not_is_not_found(path: str, logged: str, client: WmlaClient) -> None:
    for end in ("", "/download"):
        assert client.get(f"{logged}/{path}{end}").status == 404


def test_an_unknown_application_is_not_found(
    logged: str, client: WmlaClient, platform: Platform, new_user: Callable[[str], WmlaClient], some: dict[str, int]
) -> None:
    eve = new_user("eve")
    other = platform.workloads.page(Query(name="other")).items[0].id or 0
    for end in ("driver/logs/stdout", "driver/logs/stdout/download", "executor/1/logs/stdout/download"):
        for app in ("nothing", "1", app_id(platform, 10**6), app_id(platform, other)):
            assert client.get(f"{APPS}/{app}/{end}").status == 404
        assert eve.get(f"{logged}/{end}").status == 404
    assert client.get(f"{APPS}/{app_id(platform, some['c'])}/driver/logs/stdout").data == b""  # nothing yet


def test_a_large_log_is_never_held(platform: Platform, logged: str, some: dict[str, int]) -> None:
    number = some["b"]
    path = platform.logs.path(number, f"b-{number}-worker-0-1", "stdout")
    path.write_bytes(b"a line of a log that is long enough to be one\n" * 400_000)
    full = platform.workloads.get(number)
    for lines in (None, 200_000):
        tracemalloc.start()
        size = sum(map(len, log(platform, full, None, "stdout", lines)))
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert size == path.stat().st_size // (1 if lines is None else 2)
        assert most < 6 << 20


# -- many --------------------------------------------------------------------------------------------


def many(platform: Platform, count: int) -> None:
    """So many tasks that are over, by SQL."""
    seed = submit(platform, "seed")
    put(platform, seed, state="succeeded", started_at=1.0, ended_at=2.0)

    with closing(sqlite3.connect(platform.data / "localml.db")) as raw, raw:
        columns = [row[1] for row in raw.execute("PRAGMA table_info(workload)") if row[1] not in ("id", "name")]
        listed = ", ".join(f'"{name}"' for name in columns)
        raw.execute(
            f"WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {count})"
            f" INSERT INTO workload (name, {listed}) SELECT 'many-' || i, {listed} FROM n,"
            f" (SELECT * FROM workload WHERE id = {seed})"
        )
        raw.execute(
            "INSERT INTO workload_detail (workload_id, spec, request) SELECT w.id, d.spec, d.request"
            f" FROM workload w, workload_detail d WHERE d.workload_id = {seed} AND w.name LIKE 'many-%'"
        )


MANY = (
    {"start": 0, "length": 50},
    {"start": 1000, "length": 50},
    {"state": "RUNNING", "length": 50},
    {"applicationname": "many-77", "length": 50},
    {"sort": "-endtime", "length": 50},
    {"sort": "applicationname", "length": 50},
    {"sort": "dltype", "length": 50},
    {"search": "many-7", "sort": "state", "length": 50},
)


def test_a_list_of_some_thousands_is_quick(client: WmlaClient, platform: Platform) -> None:
    many(platform, 4000)
    for query in MANY:
        began = time.perf_counter()
        assert client.get(APPS, **query).status == 200
        assert time.perf_counter() - began < 0.5, query
    assert len(client.get(APPS).json) == 4001


@pytest.mark.long
@pytest.mark.timeout(300)
def test_a_list_of_a_hundred_thousand_is_quick(client: WmlaClient, platform: Platform) -> None:
    many(platform, 100_000)
    for query in MANY:
        began = time.perf_counter()
        assert client.get(APPS, **query).status == 200
        assert time.perf_counter() - began < 2, query
    assert client.get(STATISTIC).json[0]["username"] == "admin"


# -- properties --------------------------------------------------------------------------------------

_QUERIES = st.fixed_dictionaries(
    {},
    optional={
        "state": st.sampled_from(["RUNNING", "RECOVERING", "FINISHED,ERROR", "PENDING_JOB_SCHEDULER", "x"]),
        "search": st.text(max_size=6),
        "sort": st.sampled_from([sign + field for sign in ("", "-") for field in SORTED]),
        "order": st.sampled_from(["asc", "desc", "x"]),
        "applicationname": st.sampled_from(["alpha", "b", ""]),
    },
)


def test_parts_of_a_list_are_the_list(client: WmlaClient, some: dict[str, int]) -> None:
    @settings(max_examples=60, deadline=None)
    @given(_QUERIES)
    def check(query: dict[str, str]) -> None:
        query = {name: value.encode("utf-8", "ignore").decode() for name, value in query.items()}
        whole = names(client.get(APPS, **query))
        parts: list[str] = []
        for start in range(len(whole)):
            parts += names(client.get(APPS, **query, start=start, length=1))
        assert parts == whole
        assert client.get(APPS, **query, start=len(whole)).status == (200 if not whole else 416)

    check()


def test_the_states_have_the_vendors_words(platform: Platform, some: dict[str, int], client: WmlaClient) -> None:
    for state in State:
        put(platform, some["c"], state=state.value)
        (one,) = client.get(APPS, applicationid=app_id(platform, some["c"])).json
        assert names(client.get(APPS, state=one["state"].lower(), search="caffe")) == ["c"]
