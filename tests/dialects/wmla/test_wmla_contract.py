"""The vendor's contract file, operation by operation: what is answered has its shape, its statuses are provoked."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from flask import Flask
from helpers.cloudml import Answer, into
from helpers.wmla import PLUGIN, WmlaClient, packed, wmla_server
from helpers.wmla_world import APPLICATION, GRID, SLEEP, SUCCESSES, WmlaWorld
from jsonschema import Draft202012Validator

from localml.core.people.scopes import Scope
from localml.dialects.kit import make_app
from localml.dialects.wmla import DIALECT
from localml.dialects.wmla.translate.ids import app_id
from localml.platform import Platform

CONTRACT: dict[str, Any] = yaml.safe_load((Path(__file__).parents[2] / "contracts" / "wmla.yaml").read_text())
PREFIX = CONTRACT["servers"][0]["url"]


@dataclass(frozen=True)
class Operation:
    id: str
    method: str
    path: str
    said: dict[str, Any]

    @property
    def success(self) -> int:
        return next(int(status) for status in self.said["responses"] if status.startswith("2"))

    @property
    def parameters(self) -> list[dict[str, Any]]:
        return [resolved(one) for one in self.said.get("parameters", ())]

    def content(self, status: int) -> dict[str, Any]:
        found: dict[str, Any] = resolved(self.said["responses"][str(status)]).get("content", {})
        return found

    @property
    def bodies(self) -> dict[str, Any]:
        found: dict[str, Any] = self.said.get("requestBody", {}).get("content", {})
        return found


def resolved(part: dict[str, Any]) -> dict[str, Any]:
    while "$ref" in part:
        found: Any = CONTRACT
        for name in part["$ref"].removeprefix("#/").split("/"):
            found = found[name]
        part = found
    return part


def _operations() -> Iterator[Operation]:
    for path, methods in CONTRACT["paths"].items():
        shared = methods.get("parameters", [])
        for method, said in methods.items():
            if method != "parameters":
                said = {**said, "parameters": shared + said.get("parameters", [])}
                yield Operation(said["operationId"], method.upper(), path, said)


OPERATIONS = {one.id: one for one in _operations()}
each_operation = pytest.mark.parametrize("operation", OPERATIONS.values(), ids=lambda one: one.id)


def check(answer: Answer, operation: Operation) -> None:
    """The status is one that the contract lists; the body has a media type and the schema that it gives, or is none."""
    assert str(answer.status) in operation.said["responses"], (answer.status, answer.data)
    content = operation.content(answer.status)
    if answer.status >= 400:
        return check_words(answer)
    if not content:
        assert answer.data == b""
        return None
    kind = answer.headers["Content-Type"].partition(";")[0]
    assert kind in content, (kind, answer.data[:200])
    if kind == "application/json":
        validate(answer.json, content[kind]["schema"])
    return None


def check_words(answer: Answer) -> None:
    """A failure says in words what is wrong."""
    assert answer.json["code"] == answer.status
    assert answer.json["error"]


def validate(value: Any, schema: dict[str, Any]) -> None:
    whole = {"components": CONTRACT["components"], **schema}
    Draft202012Validator(whole, format_checker=Draft202012Validator.FORMAT_CHECKER).validate(value)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WmlaWorld]:
    with wmla_server(tmp_path_factory.mktemp("world")) as server:
        yield WmlaWorld(server)


def test_the_contract_has_the_operations_that_are_meant() -> None:
    assert len(OPERATIONS) == 40
    assert list(SUCCESSES) == list(OPERATIONS)


@each_operation
def test_it_is_answered_with_the_documented_status_and_shape(operation: Operation, world: WmlaWorld) -> None:
    answer = SUCCESSES[operation.id](world)
    assert answer.status == operation.success, answer.data
    check(answer, operation)
    for example in examples(operation):
        assert members(example) <= members(answer.json), (example, answer.json)


def examples(operation: Operation) -> list[Any]:
    """The examples of its answer, without the one that has nothing but a placeholder."""
    found = operation.content(operation.success).get("application/json", {}).get("examples", {})
    values = [resolved(one)["value"] for one in found.values()]
    return [one for one in values if one and operation.id != "getDeepLearningConf"]


def members(value: Any) -> set[str]:
    """Of an object, or of the first of several."""
    first = value[0] if isinstance(value, list) else value
    return {name for name in first if name not in LEFT_OUT}


LEFT_OUT = {
    *("distributeStrategy", "best", "condaHome", "condaEnv", "podReason", "podMessage"),
    *("appFailureDetail", "appReason", "dataset", "endtime", "tunningname"),
}
"""What an answer may lack, because there is nothing to say."""

Provoke = Callable[[WmlaWorld], Answer]


def sent(method: str, path: str, body: Any = None) -> Provoke:
    return lambda world: world.admin.call(method, path.format(world=world), body)


def by_somebody(method: str, path: str, body: Any = None) -> Provoke:
    """Of somebody who is no administrator."""
    return lambda world: world.user().call(method, path.format(world=world), body)


def twice_installed(world: WmlaWorld) -> Answer:
    return world.admin.install({"name": world.algorithm}, packed({"optimizer.py": PLUGIN}))


def used_algorithm(world: WmlaWorld) -> Answer:
    name = world.install()
    request = {key: value for key, value in GRID.items() if key != "experiments"}
    request["algoDef"] = {"algorithm": name, "objectiveMetric": "loss", "objective": "minimize"}
    space = {"name": "lr", "type": "Range", "dataType": "double", "minDbVal": 0.1, "maxDbVal": 1}
    search = world.search({**request, "hyperParams": [space]}, SLEEP)
    answer = world.admin.delete(f"/hypersearch/algorithm/{name}")
    world.stopped(search)
    return answer


def with_child(world: WmlaWorld) -> Answer:
    assert world.admin.post("/resplans/resplan", {"name": world.new("child"), "parent": world.plan}).status == 201
    return world.admin.delete(f"/resplans/resplan/{world.plan}")


def taken_name(world: WmlaWorld) -> Answer:
    return world.admin.search({**GRID, "hpoName": world.grid}, packed({"main.py": SLEEP}))


def while_one_runs(world: WmlaWorld) -> Answer:
    assert world.admin.get(f"/hypersearch/{world.searching}").status == 200
    return world.admin.delete("/hypersearch")


APP = "/scheduler/applications/nothing"
PROVOKED: dict[tuple[str, int], Provoke] = {
    ("execsExecIdGet", 400): sent("GET", "/execs/nothing"),
    ("execsExecIdDelete", 400): sent("DELETE", "/execs/nothing"),
    ("execsExecIdDeployPost", 400): sent("POST", "/execs/nothing/deploy", {"name": "m"}),
    ("execsExecIdLogGet", 400): sent("GET", "/execs/nothing/log"),
    ("execsExecIdResultGet", 400): sent("GET", "/execs/nothing/result"),
    ("execsExecIdStopPost", 400): sent("POST", "/execs/nothing/stop"),
    ("startHPO", 400): lambda world: world.admin.search("{", packed({"main.py": SLEEP})),
    ("startHPO", 409): taken_name,
    ("deleteAllHPO", 409): while_one_runs,
    ("getOneHPO", 400): sent("GET", "/hypersearch/nothing"),
    ("stopOneHPO", 404): sent("PUT", "/hypersearch/nothing"),
    ("deleteOneHPO", 404): sent("DELETE", "/hypersearch/nothing"),
    ("deleteOneHPO", 409): sent("DELETE", "/hypersearch/{world.searching}"),
    ("restartOneHPO", 400): sent("PUT", "/hypersearch/{world.searching}/restart"),
    ("restartOneHPO", 404): sent("PUT", "/hypersearch/nothing/restart"),
    ("stopOneHPOForce", 404): sent("PUT", "/hypersearch/nothing/force"),
    ("getAllHPOAlgorithm", 400): sent("GET", "/hypersearch/algorithm?type=BUILT_IN"),
    ("getOneAlgorithm", 400): sent("GET", "/hypersearch/algorithm/nothing"),
    ("deleteOneHPOALGORITHM", 400): used_algorithm,
    ("deleteOneHPOALGORITHM", 403): sent("DELETE", "/hypersearch/algorithm/Random"),
    ("deleteOneHPOALGORITHM", 404): sent("DELETE", "/hypersearch/algorithm/nothing"),
    ("installHPOAlgorithm", 400): twice_installed,
    ("runningServices", 403): by_somebody("GET", "/notebooks/runningservices"),
    ("updateService", 400): sent("PUT", "/notebooks/nobody", {"resourcePlan": "default"}),
    ("runningKernels", 404): sent("GET", "/notebooks/nobody/runningkernels"),
    ("runningServiceByUserName", 404): sent("GET", "/notebooks/nobody/runningservices"),
    ("stopService", 400): sent("PUT", "/notebooks/nobody/stopservice"),
    ("createResplan", 400): sent("POST", "/resplans/resplan", {"parent": "default"}),
    ("createResplan", 403): by_somebody("POST", "/resplans/resplan", {"name": "mine"}),
    ("createResplan", 409): lambda world: world.admin.post("/resplans/resplan", {"name": world.plan}),
    ("updateResplanByName", 400): sent("PUT", "/resplans/resplan", {}),
    ("updateResplanByName", 403): lambda world: world.user().put("/resplans/resplan", {"name": world.plan}),
    ("updateResplanByName", 404): sent("PUT", "/resplans/resplan", {"name": "nothing"}),
    ("getResplan", 404): sent("GET", "/resplans/resplan/nothing"),
    ("delResplanByName", 403): by_somebody("DELETE", "/resplans/resplan/{world.plan}"),
    ("delResplanByName", 404): sent("DELETE", "/resplans/resplan/nothing"),
    ("delResplanByName", 409): with_child,
    ("getApplications", 400): sent("GET", "/scheduler/applications?sort=nothing"),
    ("getApplications", 416): sent("GET", "/scheduler/applications?start=100000"),
    ("getApplicationStatistic", 400): sent("GET", "/scheduler/applicationStatistic?start=-1"),
    ("getApplicationStatistic", 416): sent("GET", "/scheduler/applicationStatistic?start=100000"),
    ("getDriverLog", 404): sent("GET", f"{APP}/driver/logs/stdout"),
    ("downloadDriverLogFile", 404): sent("GET", f"{APP}/driver/logs/stdout/download"),
    ("getExecutorLog", 404): sent("GET", f"{APPLICATION}/executor/99/logs/stdout"),
    ("downloadExecutorLogFile", 404): sent(
        "GET", "/scheduler/applications/{world.application}/executor/99/logs/stdout/download"
    ),
}
NEVER_SENT = {
    # takes nothing that could be wrong
    *((name, 400) for name in ("getAllHPO", "deleteAllHPO", "stopOneHPO", "deleteOneHPO", "stopOneHPOForce")),
    *((name, 400) for name in ("runningKernels", "runningServiceByUserName", "getResplan", "delResplanByName")),
    ("deleteAllHPO", 404),  # nothing to delete is deleted
}
FAILURES = {(one.id, int(status)) for one in OPERATIONS.values() for status in one.said["responses"] if status[0] > "2"}
CHANGING: dict[str, tuple[str, str, Any]] = {
    "execsExecIdDelete": ("DELETE", "/execs/{world.running}", None),
    "execsExecIdStopPost": ("POST", "/execs/{world.running}/stop", None),
    "execsExecIdDeployPost": ("POST", "/execs/{world.done}/deploy", {"name": "m", "kernel": "weights.txt"}),
    "stopOneHPO": ("PUT", "/hypersearch/{world.searching}", None),
    "stopOneHPOForce": ("PUT", "/hypersearch/{world.searching}/force", None),
    "restartOneHPO": ("PUT", "/hypersearch/{world.grid}/restart", None),
    "deleteOneHPO": ("DELETE", "/hypersearch/{world.grid}", None),
    "updateService": ("PUT", "/notebooks/{world.holder}", {"resourcePlan": "default"}),
    "stopService": ("PUT", "/notebooks/{world.holder}/stopservice", None),
}
"""What changes one thing, which a token can leave in to be read alone."""
UNKNOWN = {(name, status) for name, status in PROVOKED if status in (400, 404) and "{" in OPERATIONS[name].path}
"""What is answered for a thing that one may know nothing of: it is none."""
READ_ALONE = {
    *(("getOneHPO", 403), ("getOneAlgorithm", 403), ("runningKernels", 403), ("runningServiceByUserName", 403)),
    *((name, 403) for name in OPERATIONS if name.endswith(("DriverLog", "ExecutorLog", "LogFile"))),
    ("getResplan", 403),
}
"""Who may not read a thing does not learn that it is there."""
DENIED = {(name, 403) for name, status in FAILURES if status == 403} - set(PROVOKED) - READ_ALONE
"""Where the only ones who may not are those whose tokens are good for something else."""


def test_every_documented_failure_is_provoked_or_never_sent() -> None:
    everywhere = {(name, status) for name in OPERATIONS for status in (401, 500)}
    assert set(PROVOKED) | NEVER_SENT | READ_ALONE | DENIED | everywhere == FAILURES
    assert not (NEVER_SENT | READ_ALONE) & (set(PROVOKED) | DENIED)


@pytest.mark.parametrize(("name", "status"), sorted(PROVOKED), ids=str)
def test_failures_come_with_the_documented_status(name: str, status: int, world: WmlaWorld) -> None:
    answer = PROVOKED[name, status](world)
    assert answer.status == status, answer.data
    check(answer, OPERATIONS[name])


def answered(operation: Operation, client: WmlaClient, **names: str) -> Answer:
    """What the operation says to a request that is as right as one about nothing can be.

    Args:
        names: variables of the path that are something.
    """
    variables = {one["name"] for one in operation.parameters if one["in"] == "path"}
    path = operation.path.format(**dict.fromkeys(variables, "nothing") | {"type": "stdout"} | names)
    if operation.id == "execsPost":
        return client.start("--exec-start PyTorch --model-main main.py", packed({"main.py": SLEEP}))
    if operation.id == "startHPO":
        return client.search(GRID, packed({"main.py": SLEEP}))
    if operation.id == "installHPOAlgorithm":
        return client.install({"name": "Another"}, packed({"optimizer.py": PLUGIN}))
    body = GRID if operation.id == "debugAlgorithm" else {"name": "nothing", "resourcePlan": "default"}
    return client.call(operation.method, path, body if operation.bodies else None)


@each_operation
@pytest.mark.parametrize("headers", [{}, {"X-Auth-Token": "of-nobody"}, {"Authorization": "Bearer x"}], ids=str)
def test_who_is_unknown_is_denied_everything(operation: Operation, headers: dict[str, str], app: Flask) -> None:
    client = WmlaClient(into(app))
    client.headers = headers
    answer = answered(operation, client)
    assert answer.status == 401
    check(answer, operation)


def with_token(world: WmlaWorld, *rights: str) -> WmlaClient:
    """The administrator's client, by a token that is good for this much."""
    admin = world.platform.identity.user("admin")
    client = WmlaClient(world.send)
    client.headers = {"X-Auth-Token": world.platform.identity.create_token(admin, scope=Scope.of(rights))}
    return client


@each_operation
def test_a_token_for_something_else_is_denied_with_a_listed_status(operation: Operation, world: WmlaWorld) -> None:
    """Or finds nothing, where it asks for one thing."""
    answer = answered(operation, with_token(world, "model:read"))
    denied = 403 if "403" in operation.said["responses"] else 401
    unknown = {status for name, status in UNKNOWN if name == operation.id}
    assert answer.status in {denied, *unknown}, answer.data
    check(answer, operation)


@pytest.mark.parametrize("name", CHANGING)
def test_who_may_read_it_alone_is_denied_its_change(name: str, world: WmlaWorld) -> None:
    method, path, body = CHANGING[name]
    answer = with_token(world, "*:read").call(method, path.format(world=world), body)
    operation = OPERATIONS[name]
    assert answer.status == (403 if "403" in operation.said["responses"] else 401), answer.data
    check(answer, operation)


@each_operation
def test_a_defect_is_answered_as_one(operation: Operation, platform: Platform, monkeypatch: pytest.MonkeyPatch) -> None:
    admin = platform.identity.user("admin")
    app = make_app(replace(DIALECT, authenticate=lambda *_: admin), platform)
    app.testing = False
    client = WmlaClient(into(app))
    with monkeypatch.context() as patched:
        for part in ("read", "write", "read_raw"):
            patched.setattr(platform.db, part, _broken)
        patched.setattr(type(platform.config), "__getattribute__", _broken)
        answer = answered(operation, client, appid=app_id(platform, 1))
    assert answer.status == (200 if operation.id in IN_MEMORY else 500), answer.data
    check(answer, operation)


IN_MEMORY = ("execsFrameworksGet", "debugAlgorithm")
"""What asks no database."""


def _broken(*_: object, **__: object) -> Any:
    raise RuntimeError("a defect")


@pytest.fixture(scope="module")
def document(app: Flask) -> dict[str, Any]:
    found: dict[str, Any] = WmlaClient(into(app)).get("/openapi.json").json
    return found


@each_operation
def test_the_served_document_lists_the_operation_with_its_parameters_bodies_and_statuses(
    operation: Operation, document: dict[str, Any]
) -> None:
    ours = document["paths"][PREFIX + operation.path][operation.method.lower()]
    assert ours["operationId"] == operation.id
    assert ours["tags"] == operation.said["tags"]
    assert set(ours["responses"]) == set(operation.said["responses"]) | ALSO.get(operation.id, set())
    known = {(one["in"], one["name"]): one for one in ours.get("parameters", [])}
    more = {("query", "logType")} if operation.id == "execsExecIdLogGet" else set()  # of the vendor's command line
    assert set(known) - more == {(one["in"], one["name"]) for one in operation.parameters}
    for one in operation.parameters:
        assert known[one["in"], one["name"]].get("required", False) == one.get("required", False)
    assert set(operation.bodies) <= set(ours.get("requestBody", {}).get("content", {}))
    content = operation.content(operation.success)
    told = set(ours["responses"][str(operation.success)].get("content", {}))
    assert told <= set(content)
    assert bool(told) == bool(content)
    for kind, said in operation.bodies.items():
        if "form" in kind:
            schema = ours["requestBody"]["content"][kind]["schema"]
            assert set(said["schema"]["properties"]) <= set(plain(schema, document)["properties"])


ALSO = {"execsPost": {"400"}, "debugAlgorithm": {"400"}}
"""Where the document lists no status for what is malformed; the contract has clients accept it."""


def plain(schema: dict[str, Any], document: dict[str, Any]) -> dict[str, Any]:
    while "$ref" in schema:
        schema = document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    return schema


@each_operation
def test_the_served_schemas_have_the_contracts_members(operation: Operation, document: dict[str, Any]) -> None:
    ours = document["paths"][PREFIX + operation.path][operation.method.lower()]
    answer = ours["responses"][str(operation.success)].get("content", {})
    sent = {} if operation.id == "updateService" else ours.get("requestBody", {}).get("content", {})  # only its plan
    for mine, theirs in ((answer, operation.content(operation.success)), (sent, operation.bodies)):
        for kind in set(mine) & set(theirs):
            lacks = missing(mine[kind].get("schema", {}), theirs[kind]["schema"], document)
            assert [one for one in lacks if not UNTOLD.fullmatch(one)] == []


def test_a_member_that_is_not_there_is_found_out(document: dict[str, Any]) -> None:
    ours = {"properties": {"a": {"properties": {"b": {}}}, "free": {"type": "object"}}}
    theirs = {
        "properties": {"a": {"items": {"properties": {"b": {}, "c": {}}}}, "free": {"properties": {"x": {}}}, "d": {}}
    }
    assert list(missing(ours, theirs, document)) == [".a.c", ".d"]


UNTOLD = re.compile(
    r".*\.(maxParalleJobNum|fixedHyperParams|discreteStrVal)|\.(best|experiments)\.hyperParams\.\w+|\.example_key"
)
"""Second spellings, which are taken as well; what a value that was used does not have of a range; and a placeholder."""


def missing(ours: Any, theirs: Any, document: dict[str, Any], at: str = "") -> Iterator[str]:
    """Members that the contract has somewhere in a schema, and ours has not there, unless anything may be there."""
    has, wanted = members_of(ours, document), members_of(theirs, CONTRACT)
    if at and not has:
        return
    for name, schema in wanted.items():
        if name not in has:
            yield f"{at}.{name}"
        elif at.count(".") < 5:
            yield from missing(has[name], schema, document, f"{at}.{name}")


def members_of(schema: Any, document: dict[str, Any]) -> dict[str, Any]:
    """Its properties, whatever it is made of; of a list, those of its items."""
    found: dict[str, Any] = dict(schema.get("properties", {}))
    if "$ref" in schema:
        found |= members_of(document["components"]["schemas"][schema["$ref"].rpartition("/")[2]], document)
    for part in ("allOf", "anyOf", "oneOf"):
        for one in schema.get(part, ()):
            found |= members_of(one, document)
    for part in ("items", "contentSchema"):
        if isinstance(schema.get(part), dict):
            found |= members_of(schema[part], document)
    return found


def test_beyond_the_contract_there_is_only_logging_on_and_off(document: dict[str, Any]) -> None:
    ids = {one["operationId"] for methods in document["paths"].values() for one in methods.values()}
    assert ids - set(OPERATIONS) == {"logon", "logoff"}
