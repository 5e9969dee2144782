"""Search tasks: starting them in every form that clients send, and what each operation answers."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from helpers.cloudml import Answer
from helpers.wmla import BASE, WmlaClient, packed, part
from jsonschema import Draft202012Validator

from localml.core.people.rights import MemberRole
from localml.core.studies.studies import StudyQuery, subject_of
from localml.core.studies.tables import Study, StudyState, Trial, TrialState
from localml.core.subjects import Parent
from localml.core.work.specs import single
from localml.core.work.states import Kind, State
from localml.core.work.tables import Workload
from localml.core.work.workloads import Submission
from localml.platform import Platform

CONTRACT: dict[str, Any] = yaml.safe_load((Path(__file__).parents[2] / "contracts" / "wmla.yaml").read_text())
MODEL = packed({"main.py": "print(1)\n"})
SPACE = [{"name": "lr", "type": "Range", "dataType": "double", "minDbVal": 0.001, "maxDbVal": 0.1}]
EXPERIMENT = {"id": 7, "hyperParams": [{"name": "lr", "dataType": "DOUBLE", "fixedVal": "0.1"}]}


@pytest.fixture(autouse=True)
def clean(platform: Platform) -> Iterator[None]:
    yield
    admin = platform.identity.user("admin")
    for row in rows(platform):
        platform.studies.stop(row.id or 0, admin, force=True)
        platform.db.write(lambda s, row=row: s.get(Study, row.id).__setattr__("state", StudyState.STOPPED))  # type: ignore[misc]
        platform.studies.delete(row.id or 0, admin)


def rows(platform: Platform) -> list[Study]:
    return platform.studies.page(StudyQuery(limit=1000)).items


def kept(platform: Platform) -> list[Path]:
    """All that lies in the bucket tree, but buckets and the folder of a user in a bucket of results."""
    return sorted(platform.buckets.root.glob("*/*/**/*"))


def request(**changes: Any) -> dict[str, Any]:
    """A search; members of ``algoDef`` by their place and two underscores."""
    algo = {"algorithm": "Random", "objectiveMetric": "loss", "objective": "minimize", "maxJobNum": 4}
    body: dict[str, Any] = {
        "hpoName": "rs1",
        "modelSpec": {"args": "--exec-start scikit-learn --model-main main.py"},
        "algoDef": algo,
        "hyperParams": SPACE,
    }
    for name, value in changes.items():
        place, _, member = name.rpartition("__")
        (body[place] if place else body)[member] = value
    return body


def grid(*experiments: Any) -> dict[str, Any]:
    return request(hyperParams=[], experiments=list(experiments), algoDef__algorithm="ExperimentGridSearch")


def refused(answer: Answer, words: str, status: int = 400) -> None:
    assert (answer.status, words in answer.json["error"]) == (status, True), answer.data


def fits(answer: Answer, path: str, method: str) -> bool:
    """Whether an answer is what the contract says of it."""
    said = CONTRACT["paths"][path][method]["responses"]["200"]["content"]["application/json"]["schema"]
    whole = {"$defs": {}, **said, "components": CONTRACT["components"]}
    Draft202012Validator(whole).validate(answer.json)
    return True


# -- starting -----------------------------------------------------------------------------------------


def test_a_search_starts_and_is_shown(client: WmlaClient, platform: Platform) -> None:
    answer = client.search(request(), MODEL)
    assert answer.status == 200
    assert answer.json == {"uid": "rs1", "href": f"{BASE}/hypersearch/rs1"}
    assert fits(answer, "/hypersearch", "post")
    shown = client.get("/hypersearch/rs1")
    assert fits(shown, "/hypersearch/{hpoName}", "get")
    assert shown.json == {
        "hpoName": "rs1",
        "state": "SUBMITTED",
        "running": 0,
        "complete": 0,
        "failed": 0,
        "progress": "0/4",
        "duration": "00:00:00",
        "creator": "admin",
        "createtime": "2023-11-14T22:13:20Z",
        "experiments": [],
    }
    everything = client.get("/hypersearch")
    assert everything.json == [shown.json]
    assert fits(everything, "/hypersearch", "get")


@pytest.mark.parametrize("write", [json.dumps, repr, lambda data: f"\n  {data!r}  \n"])
@pytest.mark.parametrize("turned", [False, True])
def test_data_is_json_or_a_python_dict_and_comes_in_either_order(
    client: WmlaClient, platform: Platform, write: Callable[[Any], str], turned: bool
) -> None:
    data = request(hpoName=None, algoDef__additionalMetrics={"epoch": "latest"})
    parts = [part("file", MODEL, "m.modelDir.tar"), part("data", write(data).encode())]
    answer = client.form("/hypersearch", *(parts[::-1] if turned else parts))
    assert answer.status == 200, answer.data
    (row,) = rows(platform)
    assert row.request["algoDef"] == data["algoDef"]


@pytest.mark.parametrize("filename", [None, "", "main.py", "x.modelDir.tar", "tmpab12cd"])
@pytest.mark.parametrize("gz", [False, True])
def test_the_model_is_a_tar_whatever_its_part_says(client: WmlaClient, filename: str | None, gz: bool) -> None:
    model = packed({"main.py": "print(1)"}, "tf-model", gz=gz)
    parts = part("file", model, filename), part("data", json.dumps(request()).encode(), kind="text/plain")
    assert client.form("/hypersearch", *parts).status == 200


def test_the_model_is_one_file(client: WmlaClient, platform: Platform) -> None:
    assert client.search(request(), b"print(1)", "main.py").status == 200
    (row,) = rows(platform)
    trial = platform.studies.spec(row).trial
    assert trial.roles[0].command[-3:] == ("python", "-u", "main.py")
    assert trial.code


def test_a_search_without_a_name_gets_one(client: WmlaClient) -> None:
    names = {client.search(request(hpoName=name), MODEL).json["uid"] for name in (None, "", None)}
    assert len(names) == 3
    assert {one["hpoName"] for one in client.get("/hypersearch").json} == names


def test_a_name_that_is_taken(client: WmlaClient, platform: Platform, new_user: Callable[[str], WmlaClient]) -> None:
    assert client.search(request(), MODEL).status == 200
    refused(client.search(request(), MODEL), "hpoName: 'rs1' is already used", 409)
    assert new_user("eve").search(request(), MODEL).status == 200  # in a workspace of her own
    assert len(rows(platform)) == 2
    client.put("/hypersearch/rs1")
    assert client.delete("/hypersearch/rs1").status == 204
    assert client.search(request(), MODEL).status == 200  # free again


def test_what_a_training_gets(client: WmlaClient, platform: Platform) -> None:
    """Its result folder is its own, and that is where its metrics are read."""
    args = "--exec-start scikit-learn --model-main main.py --batch-size 200 --workerDeviceNum 2"
    assert client.search(request(modelSpec__args=args), MODEL).status == 200
    (row,) = rows(platform)
    spec = platform.studies.spec(row)
    (role,) = spec.trial.roles
    assert role.command[-5:] == ("python", "-u", "main.py", "--batch-size", "200")
    assert spec.result is not None
    assert spec.result.uri.endswith(f"/admin/batchworkdir/{role.env['DLI_EXECID']}/val_dict_list.json")
    assert "{trial}" in role.env["DLI_EXECID"]
    told = [event.message for event in platform.studies.events(row.id or 0) if event.reason == "OptionsPassedOn"]
    assert any("--batch-size" in words for words in told)


def test_limits_reach_the_study(client: WmlaClient, platform: Platform) -> None:
    params = [{"name": "RandomSeed", "value": "7"}]
    body = request(algoDef__maxParalleJobNum=3, algoDef__maxRunTime=2, algoDef__algoParams=params)
    assert client.search(body, MODEL).status == 200
    (row,) = rows(platform)
    spec = platform.studies.spec(row)
    assert (spec.max_trials, spec.parallel, spec.max_time, row.algorithm) == (4, 3, 120.0, "random")


def test_trials_without_end_show_what_they_have(client: WmlaClient) -> None:
    client.search(request(algoDef__maxJobNum=-1), MODEL)
    assert client.get("/hypersearch/rs1").json["progress"] == "0"


def test_a_grid_has_as_many_as_it_lists(client: WmlaClient) -> None:
    experiments = [EXPERIMENT, EXPERIMENT | {"id": 9}, EXPERIMENT | {"id": 3}]
    client.search(grid(*experiments) | {"hpoName": "g"}, MODEL)
    assert client.get("/hypersearch/g").json["progress"] == "0/3"
    assert client.search(grid(*experiments * 3_000) | {"hpoName": "many"}, MODEL).status == 200


# -- what is refused, with nothing half made ----------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ("", "data: "),
        ("no object", "data: is not JSON"),
        ("[1]", "data: must be an object"),
        ("{'a': open('x')}", "; and no dict of plain values as Python writes it"),
        ("{'a': 1e999}", "data: "),
        ('{"a": NaN}', "data: "),
        ("{" * 200, "data: "),
        (request(hpoName="algorithm"), "hpoName: 'algorithm' stands for"),
        (request(hpoName="a/b"), "hpoName: "),
        (request(modelSpec=None), "modelSpec: is required"),
        (request(algoDef=None), "algoDef: is required"),
        (request(modelSpec__args="--exec-start 'scikit"), "modelSpec.args: "),
        (request(modelSpec__args="--model-main main.py"), "--exec-start"),
        (request(modelSpec__args="--exec-start NoSuch --model-main main.py"), "modelSpec.args: --exec-start"),
        (request(modelSpec__args="--exec-start scikit-learn --model-main other.py"), "other.py"),
        (request(modelSpec__args="--exec-start scikit-learn --workerMemory 900g"), "this machine has"),
        (request(modelSpec__args="--exec-start scikit-learn --gpuPerWorker 3"), "3 GPUs were asked for"),
        (request(modelSpec__args="--exec-start scikit-learn --cs-datastore-meta type=fs,data_path=no/such"), "no/such"),
        (request(modelSpec__dataSource=[{"type": "ftp"}]), "dataSource.0.type"),
        (request(modelSpec__args="--exec-start scikit-learn --consumer nosuch"), "nosuch"),
        (request(algoDef__algorithm="NoSuch"), "algoDef.algorithm: there is no algorithm 'NoSuch'"),
        (request(algoDef__algorithm="grid"), "algoDef.algorithm: there is no algorithm 'grid'"),
        (request(hyperParams=[SPACE[0] | {"minDbVal": 1}]), "hyperParams.0: lr: minDbVal (1.0) is above maxDbVal"),
        (request(hyperParams=[SPACE[0] | {"step": "0"}]), "hyperParams.0.step: "),
        (request(hyperParams=[SPACE[0] | {"step": "x"}]), "hyperParams.0.step: should be a number"),
        (request(hyperParams=[SPACE[0] | {"maxDbVal": 400, "power": "10"}]), "too large a number"),
        (request(hyperParams=[SPACE[0] | {"power": "nan"}]), "hyperParams.0.power: "),
        (request(hyperParams=[SPACE[0]] * 2), "lr is there twice"),
        (request(hyperParams=[SPACE[0] | {"name": f"p{n}"} for n in range(201)]), "hyperParams: "),
        (request(experiments=[EXPERIMENT]), "one of hyperParams and experiments"),
        (grid(), "ExperimentGridSearch needs them"),
        (grid(EXPERIMENT) | {"hyperParams": SPACE}, "one of hyperParams and experiments"),
        (request(hyperParams=None, experiments=[EXPERIMENT]), "only ExperimentGridSearch takes"),
    ],
)
def test_bad_data(client: WmlaClient, platform: Platform, data: Any, words: str) -> None:
    before = kept(platform)
    refused(client.search(data, MODEL), words)
    assert rows(platform) == []
    assert kept(platform) == before


@pytest.mark.parametrize(
    ("algorithm", "params", "words"),
    [
        ("Random", {"RandomSeed": "x"}, "RandomSeed"),
        ("Tpe", {"WarmUp": "2"}, "WarmUp"),
        ("Tpe", {"WarmUp": "2.5"}, "WarmUp"),
        ("Tpe", {"EICandidate": "1"}, "EICandidate"),
        ("Tpe", {"GoodRatio": "0"}, "GoodRatio"),
        ("Tpe", {"GoodMax": "1"}, "GoodMax"),
        ("Bayesian", {"InitPoints": "-1"}, "InitPoints"),
        ("Bayesian", {"CubeSize": "3"}, "CubeSize"),
        ("Bayesian", {"CubeSize": "0"}, "CubeSize"),
        ("Bayesian", {"CubeSize": "1000000000"}, "CubeSize"),
        ("Bayesian", {"Noiseless": "maybe"}, "Noiseless"),
        ("Hyperband", {}, "ResourceName"),
        ("Hyperband", {"ResourceName": "epochs"}, "ResourceValue"),
        ("Hyperband", {"ResourceName": "epochs", "ResourceValue": "0"}, "ResourceValue"),
        ("Hyperband", {"ResourceName": "epochs", "ResourceValue": "2.5"}, "ResourceValue"),
        ("Hyperband", {"ResourceName": "", "ResourceValue": "9"}, "ResourceName"),
        ("Hyperband", {"ResourceName": "epochs", "ResourceValue": "9", "eta": "1"}, "eta"),
        ("Hyperband", {"ResourceName": "epochs", "ResourceValue": "9", "eta": "nan"}, "eta"),
    ],
)
def test_parameters_of_algorithms_just_outside(
    client: WmlaClient, platform: Platform, algorithm: str, params: dict[str, str], words: str
) -> None:
    given = [{"name": name, "value": value} for name, value in params.items()]
    answer = client.search(request(algoDef__algorithm=algorithm, algoDef__algoParams=given), MODEL)
    refused(answer, f"algoDef.algoParams.{words}: ")
    assert answer.json["field"] == f"algoDef.algoParams.{words}"
    assert rows(platform) == []


@pytest.mark.parametrize(
    ("algorithm", "params"),
    [
        ("Random", {"RandomSeed": "7", "WarmUp": "no parameter of it"}),
        ("Tpe", {"WarmUp": "3", "EICandidate": "2", "GoodRatio": "0.0001", "GoodMax": "2", "RandomSeed": "0"}),
        ("Tpe", {"GoodRatio": "1.5"}),
        ("Bayesian", {"InitPoints": "0", "CubeSize": "4", "Noiseless": "False"}),
        ("Bayesian", {"Noiseless": "TRUE"}),
        ("Hyperband", {"ResourceName": "epochs", "ResourceValue": "1", "eta": "1.1"}),
        ("Hyperband", {"ResourceName": "epochs", "ResourceValue": "0081"}),
    ],
)
def test_parameters_of_algorithms_just_inside(client: WmlaClient, algorithm: str, params: dict[str, str]) -> None:
    given = [{"name": name, "value": value} for name, value in params.items()]
    answer = client.search(request(algoDef__algorithm=algorithm, algoDef__algoParams=given), MODEL)
    assert answer.status == 200, answer.data


def escaping(name: str, kind: bytes = tarfile.REGTYPE, target: str = "") -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as archive:
        member = tarfile.TarInfo(name)
        member.type, member.linkname = kind, target
        archive.addfile(member, io.BytesIO())
    return made.getvalue()


@pytest.mark.parametrize(
    "file",
    [
        b"",
        escaping("../main.py"),
        escaping("/main.py"),
        escaping("main.py", tarfile.SYMTYPE, "/etc/passwd"),
        packed({}),
    ],
)
def test_models_that_are_none(client: WmlaClient, platform: Platform, file: bytes) -> None:
    answer = client.search(request(), file)
    assert answer.status == 400, answer.data
    assert rows(platform) == []


def test_both_parts_are_required_once(client: WmlaClient, platform: Platform) -> None:
    data, file = part("data", json.dumps(request()).encode()), part("file", MODEL)
    refused(client.form("/hypersearch", file), "data: is required")
    refused(client.form("/hypersearch", data), "file: a file is required")
    refused(client.form("/hypersearch", file, data, file), "file: came 2 times")
    refused(client.form("/hypersearch", file, data, data), "data: came 2 times")
    refused(client.post("/hypersearch", request()), "must be multipart/form-data")
    refused(client.form("/hypersearch", file, part("data", b"{\xff}")), "data: is not UTF-8")
    assert rows(platform) == []


# -- the other operations -----------------------------------------------------------------------------


def test_a_name_that_is_none_has_each_operations_own_status(client: WmlaClient) -> None:
    for name in ("nosuch", "algorithm%20", "%2e", "a" * 300):
        refused(client.get(f"/hypersearch/{name}"), "does not exist", 400)
        refused(client.put(f"/hypersearch/{name}"), "does not exist", 404)
        refused(client.put(f"/hypersearch/{name}/force"), "does not exist", 404)
        refused(client.put(f"/hypersearch/{name}/restart"), "does not exist", 404)
        refused(client.delete(f"/hypersearch/{name}"), "does not exist", 404)
    refused(client.put("/hypersearch/algorithm"), "does not exist", 404)
    assert client.get("/hypersearch/nosuch").json["field"] == "hpoName"
    assert client.get("/hypersearch/algorithm/nosuch").json["field"] == "algoName"


@pytest.mark.parametrize("path", ["/hypersearch/rs1", "/hypersearch/rs1/force"])
def test_stop_restart_and_delete(client: WmlaClient, path: str) -> None:
    client.search(request(), MODEL)
    refused(client.delete("/hypersearch/rs1"), "search 'rs1' is ", 409)
    refused(client.put("/hypersearch/rs1/restart"), "search 'rs1' is ", 400)
    stopped = client.put(path)
    assert (stopped.status, stopped.data) == (204, b"")
    assert client.get("/hypersearch/rs1").json["state"] == "KILLED"
    refused(client.put(path), "is over already", 400)
    again = client.put("/hypersearch/rs1/restart")
    assert (again.status, again.data) == (204, b"")
    assert client.get("/hypersearch/rs1").json["state"] == "SUBMITTED"
    refused(client.delete("/hypersearch/rs1"), "rs1", 409)
    client.put(path)
    gone = client.delete("/hypersearch/rs1")
    assert (gone.status, gone.data) == (204, b"")
    assert client.get("/hypersearch").json == []


def test_all_are_deleted_or_none_is(client: WmlaClient) -> None:
    for name in ("a", "b"):
        client.search(request(hpoName=name), MODEL)
    client.put("/hypersearch/a")
    refused(client.delete("/hypersearch"), "b must be stopped first", 409)
    assert [one["hpoName"] for one in client.get("/hypersearch").json] == ["a", "b"]
    client.put("/hypersearch/b/force")
    assert client.delete("/hypersearch").status == 204
    assert client.get("/hypersearch").json == []
    assert client.delete("/hypersearch").status == 204  # nothing is all that there is


# -- whose they are -----------------------------------------------------------------------------------


def test_others_searches_are_not_there(
    client: WmlaClient, nobody: WmlaClient, new_user: Callable[[str], WmlaClient]
) -> None:
    eve, bob = new_user("eve"), new_user("bob")
    assert eve.search(request(hpoName="hers"), MODEL).status == 200
    assert bob.get("/hypersearch").json == []
    refused(bob.get("/hypersearch/hers"), "does not exist", 400)
    refused(bob.put("/hypersearch/hers"), "does not exist", 404)
    refused(bob.delete("/hypersearch/hers"), "does not exist", 404)
    assert bob.delete("/hypersearch").status == 204
    assert [one["creator"] for one in client.get("/hypersearch").json] == ["eve"]
    assert eve.put("/hypersearch/hers").status == 204
    for call in (nobody.get, nobody.put, nobody.delete):
        assert call("/hypersearch/hers").status == 401
    assert nobody.search(request(), MODEL).status == 401


def test_who_may_only_look_may_not_touch(platform: Platform, new_user: Callable[[str], WmlaClient]) -> None:
    eve, bob = new_user("eve"), new_user("bob")
    assert eve.search(request(hpoName="hers"), MODEL).status == 200
    (row,) = rows(platform)
    platform.workspaces.set_member(row.workspace, "bob", MemberRole.VIEWER)
    try:
        assert [one["hpoName"] for one in bob.get("/hypersearch").json] == ["hers"]
        assert bob.get("/hypersearch/hers").status == 200
        for answer in (bob.put("/hypersearch/hers"), bob.delete("/hypersearch/hers")):
            assert answer.status == 403, answer.data
        assert bob.delete("/hypersearch").status == 204
        assert eve.get("/hypersearch/hers").status == 200
    finally:
        platform.workspaces.remove_member(row.workspace, "bob")


# -- experiments --------------------------------------------------------------------------------------


def seen(platform: Platform, number: int, params: dict[str, Any], **members: Any) -> None:
    """A trial that the only study has had."""
    (row,) = rows(platform)
    new = Submission(
        name=f"trial-{row.id}-{number}",
        spec=single(("true",)),
        caller=platform.identity.user("admin"),
        kind=Kind.TRIAL,
        parent=Parent(subject_of(row.id or 0), number),
    )
    workload = platform.workloads.submit(new)
    given = {"study_id": row.id, "number": number, "run": row.run, "params": params, "asked": number, **members}
    trial = Trial(workload_id=workload, created_at=1700000000.0, **given)
    platform.db.write(lambda session: session.add(trial))


def change(platform: Platform, **members: Any) -> None:
    (row,) = rows(platform)

    def act(session: Any) -> None:
        found = session.get(Study, row.id)
        for name, value in members.items():
            setattr(found, name, value)
        session.add(found)

    platform.db.write(act)


def test_experiments_have_their_values_and_what_they_reported(client: WmlaClient, platform: Platform) -> None:
    metrics = {"acc": "maximize", "epoch": "latest", "absent": "minimize"}
    client.search(request(algoDef__additionalMetrics=metrics), MODEL)
    values = {"lr": 0.1, "batch": 16, "opt": "adam"}
    found = {name: {"min": 0.5, "max": 2.0, "latest": 0.75, "steps": 3} for name in ("loss", "acc", "epoch", "other")}
    seen(platform, 1, values, state=TrialState.COMPLETE, value=0.5, metrics=found, told=3, ended_at=1700000061.0)
    seen(platform, 2, values | {"lr": 0.2})
    change(platform, state=StudyState.RUNNING, running=1, complete=1, best=1, started_at=1700000000.0 - 3723)
    answer = client.get("/hypersearch/rs1")
    assert fits(answer, "/hypersearch/{hpoName}", "get")
    done, runs = answer.json["experiments"]
    assert answer.json["best"] == done
    app = done.pop("appId")
    assert app.startswith("app-")
    assert done == {
        "id": 0,
        "state": "FINISHED",
        "metricVal": 0.5,
        "metrics": [{"name": name, "min": 0.5, "max": 2.0, "latest": 0.75} for name in ("loss", "acc", "epoch")],
        "maxiteration": 3,
        "hyperParams": [
            {"name": "lr", "type": "fix", "dataType": "double", "fixedVal": "0.1", "userDefined": False},
            {"name": "batch", "type": "fix", "dataType": "int", "fixedVal": "16", "userDefined": False},
            {"name": "opt", "type": "fix", "dataType": "str", "fixedVal": "adam", "userDefined": False},
        ],
        "startTime": "2023-11-14T22:13:20Z",
        "endTime": "2023-11-14T22:14:21Z",
    }
    assert (runs["id"], runs["state"], runs["metrics"], runs["maxiteration"]) == (1, "PENDING_JOB_SCHEDULER", [], 0)
    assert not {"metricVal", "endTime"} & runs.keys()
    shown = {name: answer.json[name] for name in ("state", "running", "complete", "failed", "progress", "duration")}
    assert shown == {
        "state": "RUNNING",
        "running": 1,
        "complete": 1,
        "failed": 0,
        "progress": "1/4",
        "duration": "01:02:03",
    }


def test_an_experiment_runs_until_its_result_was_read(client: WmlaClient, platform: Platform) -> None:
    client.search(request(), MODEL)
    seen(platform, 1, {"lr": 0.1})
    workload = platform.studies.trials(rows(platform)[0].id or 0)[0].workload_id
    platform.db.write(lambda session: setattr(session.get(Workload, workload), "state", State.SUCCEEDED))
    assert [one["state"] for one in client.get("/hypersearch/rs1").json["experiments"]] == ["RUNNING"]


@pytest.mark.parametrize(
    ("state", "word"),
    [(TrialState.FAILED, "ERROR"), (TrialState.STOPPED, "KILLED"), (TrialState.PRUNED, "KILLED")],
)
def test_experiments_that_ended_otherwise(client: WmlaClient, platform: Platform, state: TrialState, word: str) -> None:
    client.search(request(), MODEL)
    seen(platform, 1, {"lr": 0.1}, state=state, told=2, ended_at=1700000001.0)
    assert [one["state"] for one in client.get("/hypersearch/rs1").json["experiments"]] == [word]


@pytest.mark.parametrize(
    ("state", "word"),
    [
        (StudyState.WAITING, "SUBMITTED"),
        (StudyState.RUNNING, "RUNNING"),
        (StudyState.STOPPING, "RUNNING"),
        (StudyState.COMPLETE, "FINISHED"),
        (StudyState.FAILED, "ERROR"),
        (StudyState.STOPPED, "KILLED"),
    ],
)
def test_states_of_searches(client: WmlaClient, platform: Platform, state: StudyState, word: str) -> None:
    client.search(request(), MODEL)
    change(platform, state=state)
    assert client.get("/hypersearch/rs1").json["state"] == word


def test_experiments_of_a_grid_have_the_ids_that_they_were_given(client: WmlaClient, platform: Platform) -> None:
    client.search(grid(EXPERIMENT, EXPERIMENT | {"id": 3}), MODEL)
    seen(platform, 1, {"lr": 0.1}, state=TrialState.COMPLETE, told=3)
    seen(platform, 2, {"lr": 0.1}, state=TrialState.COMPLETE, told=4)
    assert [one["id"] for one in client.get("/hypersearch/rs1").json["experiments"]] == [7, 3]


def test_a_search_that_started_over_shows_its_new_experiments(client: WmlaClient, platform: Platform) -> None:
    client.search(request(), MODEL)
    seen(platform, 1, {"lr": 0.1}, state=TrialState.COMPLETE, value=1.0, told=2)
    change(platform, state=StudyState.COMPLETE, asked=1, complete=1, best=1, best_value=1.0, ended_at=1700000001.0)
    assert client.put("/hypersearch/rs1/restart").status == 204
    shown = client.get("/hypersearch/rs1").json
    assert (shown["experiments"], shown["complete"], "best" in shown) == ([], 0, False)
    seen(platform, 2, {"lr": 0.2}, state=TrialState.COMPLETE, value=1.0, told=4)
    assert [one["id"] for one in client.get("/hypersearch/rs1").json["experiments"]] == [0]
