"""Studies through our own API."""

from __future__ import annotations

import csv
import io
import json
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import jsonschema
import pytest
from helpers.native import Http, sh
from helpers.rig import wait_until

from localml.core.studies.tables import Trial, TrialState
from localml.core.work.specs import single
from localml.core.work.workloads import Submission
from localml.dialects.native.schemas import studies as schemas
from localml.hpo.environments import Environments
from localml.testing import Localml

SPACE = [{"name": "lr", "low": 0.001, "high": 0.1, "log": True}, {"name": "batch", "choices": [16, 32, "full"]}]


def spec(**members: Any) -> dict[str, Any]:
    """A search whose trials print what they were given."""
    return {"space": SPACE, "objective": {"metric": "loss"}, "trial": sh("echo loss={lr}"), "max_trials": 3, **members}


def stopped(admin: Http, name: str, **members: Any) -> int:
    """A study that is over, without trials, so that tests may give it some."""
    made = admin("POST", "/studies", {"name": name, "spec": spec(**members)})
    assert made.status == 201, made.data
    admin("POST", f"/studies/{name}/stop?force=true")
    ended = admin("GET", f"/studies/{name}/wait?timeout=60").json
    assert ended["state"] == "stopped"
    return int(made.json["id"])


def add_trial(localml: Localml, study: int, number: int, value: float | None, **members: Any) -> None:
    """A trial as the driver leaves it, with a workload that never ran."""
    who = localml.platform.identity.user("admin")
    workload = localml.platform.workloads.submit(Submission(f"trial-{study}-{number}", single(("true",)), who))
    wait_until(lambda: localml.platform.workloads.state(workload) == "succeeded")
    told = None if members.get("state") is TrialState.RUNNING else 2 * number
    params = {"lr": 0.01 * number, "batch": 16}
    given = {"params": params, "created_at": time.time(), "asked": 2 * number - 1, "told": told, **members}
    row = Trial(study_id=study, number=number, workload_id=workload, value=value, **given)
    row.state = members.get("state", TrialState.COMPLETE)
    localml.platform.db.write(lambda session: session.add(row))


def test_a_study_is_made_listed_and_shown_as_documented(admin: Http) -> None:
    number = stopped(admin, "first", seed=7, metrics={"acc": "maximize"})
    shown = admin("GET", "/studies/first").json
    assert (shown["id"], shown["seed"], shown["metric"], shown["goal"]) == (number, 7, "loss", "minimize")
    assert (shown["planned"], shown["parallel"], shown["best"], shown["curve"]) == (3, 1, None, [])
    assert shown["spec"]["space"][0] == SPACE[0]
    assert next(one["reason"] for one in shown["events"]) == "Created"
    listed = admin("GET", "/studies?contains=firs&state=stopped").json
    assert [one["name"] for one in listed["studies"]] == ["first"]
    assert admin("GET", f"/studies/{number}").json["name"] == "first"
    for path, model in (
        ("/studies/first", schemas.StudyFull),
        ("/studies?limit=2", schemas.StudiesOut),
        ("/studies/first/trials", schemas.TrialsOut),
        ("/algorithms", schemas.AlgorithmsOut),
    ):
        jsonschema.validate(admin("GET", path).json, {**model.model_json_schema(), "additionalProperties": False})


def test_one_whose_algorithm_is_being_installed_says_so(admin: Http, monkeypatch: pytest.MonkeyPatch) -> None:
    made = threading.Event()

    def slowly(_: Environments, name: str, progress: Callable[[str], None]) -> str:
        progress(f"making the environment of the algorithm '{name}'")
        assert made.wait(60)
        return sys.executable

    monkeypatch.setattr(Environments, "built_in", slowly)
    try:
        admin("POST", "/studies", {"name": "slow", "spec": spec(algorithm={"name": "random"})})
        words = "making the environment of the algorithm 'random'"
        wait_until(lambda: admin("GET", "/studies/slow").json["message"] == words)
    finally:
        made.set()
    ended = admin("GET", "/studies/slow/wait?timeout=60").json
    assert (ended["state"], ended["message"]) == ("complete", "")


def test_a_study_without_a_name_gets_one_and_a_taken_name_is_refused(admin: Http) -> None:
    made = admin("POST", "/studies", {"spec": spec()}).json
    assert made["name"].count("-") == 2
    again = admin("POST", "/studies", {"name": made["name"], "spec": spec()})
    assert (again.status, again.json["error"]["field"]) == (409, "name")
    assert admin("DELETE", f"/studies/{made['name']}").json["deleted_at"] is not None
    assert admin("GET", f"/studies/{made['id']}").status == 404


@pytest.mark.parametrize(
    ("members", "field", "words"),
    [
        ({"space": [{"name": "lr", "low": 2, "high": 1}]}, "spec.space.0", "low (2) is above high (1)"),
        ({"space": [{"name": "lr", "low": 1}]}, "spec.space.0", "needs both low and high"),
        ({"space": [{"name": "lr", "low": 0, "high": 1, "step": 0}]}, "spec.space.0.step", "greater than 0"),
        ({"space": [{"name": "lr", "low": 0, "high": 1e300, "step": 1e-300}]}, "spec.space.0", "too small a step"),
        ({"space": [{"name": "lr", "low": -1e308, "high": 1e308}]}, "spec.space.0", "too wide a range"),
        ({"space": [{"name": "n", "type": "int", "low": 0, "high": 1e19}]}, "spec.space.0", "within 2^63"),
        ({"space": [SPACE[0], SPACE[0]]}, "lr", "is there twice"),
        ({"space": [{"name": str(n), "value": 1} for n in range(201)]}, "spec.space", "200"),
        ({"space": []}, "spec", "give one of space and experiments"),
        ({"parallel": 0}, "spec.parallel", "greater than or equal to 1, not 0"),
        ({"parallel": 1001}, "spec.parallel", "less than or equal to 1000, not 1001"),
        ({"max_trials": 1_000_001}, "spec.max_trials", "less than or equal to 1000000"),
        ({"max_time": "soon"}, "max_time", "must be a time"),
        ({"max_time": "-1s"}, "max_time", "must be a time"),
        ({"seed": 1 << 32}, "spec.seed", "less than"),
        ({"objective": {"metric": ""}}, "spec.objective.metric", "at least 1 character"),
        ({"objective": {"metric": "loss", "goal": "small"}}, "spec.objective.goal", "'minimize' or 'maximize'"),
        ({"early_stopping": {"min_trials": 0}}, "spec.early_stopping.min_trials", "greater than or equal to 1"),
        ({"trial": {"roles": []}}, "spec.trial.roles", "at least 1 item"),
        ({"nonsense": 1}, "spec.nonsense", "extra inputs are not permitted"),
        ({"trial": {"roles": [{}] * 101}}, "spec.trial.roles", "at most 100"),
    ],
)
def test_what_is_wrong_is_named(admin: Http, members: dict[str, Any], field: str, words: str) -> None:
    refused = admin("POST", "/studies", {"name": "wrong", "spec": spec(**members)})
    error = refused.json["error"]
    assert (refused.status, error["field"]) == (400, field), refused.data
    assert words in error["message"]
    assert admin("GET", "/studies/wrong").status == 404


def test_numbers_that_json_has_not_are_refused(admin: Http) -> None:
    body = json.dumps({"name": "wrong", "spec": spec(space=[{"name": "lr", "low": 0, "high": 5}])})
    refused = admin("POST", "/studies", body.replace("5}", "Infinity}").encode())
    assert (refused.status, refused.json["error"]["code"]) == (400, "invalid")


def test_a_study_that_is_not_over_cannot_be_resumed_and_what_had_all_its_trials_neither(
    admin: Http, localml: Localml
) -> None:
    number = stopped(admin, "resumable")
    assert admin("POST", "/studies/resumable/resume", {"max_trials": 0}).json["error"]["field"] == "max_trials"
    assert admin("GET", f"/studies/{number}/trials/7").status == 404
    again = admin("POST", "/studies/resumable/restart").json
    assert (again["run"], again["state"]) == (2, "waiting")
    assert admin("POST", "/studies/resumable/resume", {}).status == 409
    assert admin("DELETE", "/studies/resumable").status == 200


def test_trials_come_page_by_page_and_as_csv_and_json(admin: Http, localml: Localml) -> None:
    number = stopped(admin, "paged", metrics={"acc": "maximize"})
    reported = {"acc": {"min": 0.1, "max": 0.9, "latest": 0.5, "steps": 3}}
    for at, value in enumerate((3.0, 1.0, 2.0), start=1):
        add_trial(localml, number, at, value, metrics=reported, improves=at < 3)
    add_trial(localml, number, 4, None, state=TrialState.FAILED, message='no loss, and a "quote"')
    first = admin("GET", f"/studies/{number}/trials?limit=3").json
    assert ([one["number"] for one in first["trials"]], first["next"]) == ([1, 2, 3], 3)
    rest = admin("GET", f"/studies/{number}/trials?limit=3&after=3").json
    assert ([one["number"] for one in rest["trials"]], rest["next"]) == ([4], None)
    failed = admin("GET", f"/studies/{number}/trials?state=failed").json["trials"]
    assert [(one["number"], one["workload_state"]) for one in failed] == [(4, "succeeded")]
    assert admin("GET", f"/studies/{number}/trials/2").json["params"] == {"lr": 0.02, "batch": 16}
    assert admin("GET", f"/studies/{number}").json["curve"] == [[1, 3.0], [2, 1.0]]
    answer = admin("GET", f"/studies/{number}/export")
    assert answer.headers["Content-Type"].startswith("text/csv")
    rows = list(csv.DictReader(io.StringIO(answer.data.decode())))
    assert [(one["value"], one["params_lr"], one["metrics_acc"]) for one in rows[1:3]] == [
        ("1.0", "0.02", "0.9"),
        ("2.0", "0.03", "0.9"),
    ]
    assert (rows[3]["value"], rows[3]["message"]) == ("", 'no loss, and a "quote"')
    found = admin("GET", f"/studies/{number}/export?format=json").json
    assert (found["study"]["name"], len(found["trials"]), found["trials"][1]["value"]) == ("paged", 4, 1.0)
    assert admin("GET", f"/studies/{number}/export?run=2").data.count(b"\n") == 1


def events_of(data: bytes) -> list[tuple[str, str, Any]]:
    """(event, id, body) of each of them."""
    found = []
    for block in data.decode().split("\n\n"):
        members = dict(line.split(": ", 1) for line in block.splitlines() if line[:1] != ":")
        if "data" in members:
            found.append((members["event"], members.get("id", ""), json.loads(members["data"])))
    return found


def test_who_follows_gets_each_trial_and_the_end_and_can_go_on(admin: Http, localml: Localml) -> None:
    number = stopped(admin, "followed")
    for at in (1, 2):
        add_trial(localml, number, at, float(at))
    all_of_it = events_of(admin("GET", "/studies/followed/follow").data)
    assert [(kind, body.get("number")) for kind, _, body in all_of_it] == [("trial", 1), ("trial", 2), ("end", None)]
    assert all_of_it[-1][2]["state"] == "stopped"
    rest = admin("GET", "/studies/followed/follow", headers={"Last-Event-ID": "2"})
    assert [body.get("number") for _, _, body in events_of(rest.data)] == [2, None]
    refused = admin("GET", "/studies/followed/follow", headers={"Last-Event-ID": "x"})
    assert (refused.status, refused.json["error"]["field"]) == (400, "Last-Event-ID")


def test_a_name_means_a_study_too(admin: Http) -> None:
    number = stopped(admin, "meant")
    assert admin("GET", "/resolve?ref=meant").json["ref"] == "study/meant"
    assert admin("GET", f"/resolve?ref=study/{number}").json["name"] == "meant"
    assert [one["kind"] for one in admin("GET", "/names?prefix=mea").json["things"]] == ["study"]
    admin("POST", "/workloads", {"name": "meant", "spec": sh("true")})
    two = admin("GET", "/resolve?ref=meant")
    assert two.status == 409
    assert {one["ref"] for one in two.json["error"]["details"]["candidates"]} == {"study/meant", "job/meant"}


def test_others_find_nothing(admin: Http, bob: Http) -> None:
    number = stopped(admin, "private")
    assert [one["name"] for one in bob("GET", "/studies").json["studies"]] == []
    for method, path in (
        *(("GET", f"/studies/{number}{rest}") for rest in ("", "/trials", "/export", "/follow", "/events", "/wait")),
        *(("POST", f"/studies/private/{verb}") for verb in ("stop", "restart")),
        ("DELETE", "/studies/private"),
    ):
        assert bob(method, path).status == 404
    assert admin("GET", "/studies/private").json["state"] == "stopped"


def test_the_built_in_algorithms_say_what_they_take(admin: Http) -> None:
    found = {one["name"]: one for one in admin("GET", "/algorithms").json["algorithms"]}
    assert {"random", "tpe", "bayesian", "hyperband", "grid"} <= found.keys()
    warm_up = next(one for one in found["tpe"]["params"] if one["name"] == "WarmUp")
    assert (warm_up["type"], warm_up["default"]) == ("integer", "10")


# -- with trials that run ------------------------------------------------------------------------------


def searched(admin: Http, name: str, **members: Any) -> Any:
    """A study that has ended."""
    made = admin("POST", "/studies", {"name": name, "spec": spec(**members)})
    assert made.status == 201, made.data
    ended = admin("GET", f"/studies/{name}/wait?timeout=60").json
    assert ended["ended_at"] is not None, ended["state"]
    return ended


def test_trials_run_report_and_are_told_while_they_do(admin: Http) -> None:
    """A stream that began before anything was proposed has everything in the end."""
    body = {"name": "told", "spec": spec(algorithm={"name": "random"}, seed=3, parallel=2)}
    assert admin("POST", "/studies", body).status == 201
    told = events_of(admin("GET", "/studies/told/follow").data)
    trials = [body for kind, _, body in told if kind == "trial"]
    last = {one["number"]: one for one in trials}
    assert sorted(last) == [1, 2, 3]
    assert all(
        one["state"] == "complete" and one["value"] == pytest.approx(one["params"]["lr"]) for one in last.values()
    )
    assert (told[-1][0], told[-1][2]["state"], told[-1][2]["complete"]) == ("end", "complete", 3)
    full = admin("GET", "/studies/told").json
    assert full["best_trial"]["value"] == min(one["value"] for one in last.values()) == full["best_value"]
    workload = admin("GET", f"/workloads/{last[1]['workload_id']}").json
    assert (workload["kind"], workload["parent_kind"], workload["parent_index"]) == ("trial", "study", 1)
    listed = admin("GET", f"/workloads?parent_kind=study&parent_id={full['id']}").json["workloads"]
    assert len(listed) == 3
    for path, model in (("/studies/told", schemas.StudyFull), ("/studies/told/trials/1", schemas.TrialOut)):
        jsonschema.validate(admin("GET", path).json, {**model.model_json_schema(), "additionalProperties": False})


def test_a_trial_that_runs_shows_what_it_has_reported(admin: Http) -> None:
    trial = sh("echo step=1 loss=0.5; sleep 60")
    admin("POST", "/studies", {"name": "live", "spec": spec(trial=trial, algorithm={"name": "random"})})

    def reported() -> bool:
        found = admin("GET", "/studies/live/trials?state=running").json["trials"]
        return [one["metrics"].get("loss", {}).get("latest") for one in found] == [0.5]

    wait_until(reported)
    [one] = admin("GET", "/studies/live/trials").json["trials"]
    assert (one["state"], one["workload_state"], one["value"]) == ("running", "running", None)
    gone = admin("DELETE", "/studies/live").json
    assert (gone["state"], gone["running"], gone["deleted_at"] is not None) == ("stopped", 0, True)
    assert admin("GET", f"/workloads/{one['workload_id']}").json["state"] == "stopped"


def test_trials_wait_for_gpus_like_all_work_does(admin: Http) -> None:
    trial = sh("echo loss={lr} $CUDA_VISIBLE_DEVICES", resources={"gpu": 1, "cpu": 0.1})
    ended = searched(admin, "on-gpus", trial=trial, parallel=3, algorithm={"name": "random"}, max_trials=4)
    assert (ended["state"], ended["complete"]) == ("complete", 4)
    for one in admin("GET", "/studies/on-gpus/trials").json["trials"]:
        [replica] = admin("GET", f"/workloads/{one['workload_id']}").json["replicas"]
        assert len(replica["gpus"]) == 1
    too_many = {"roles": [{"command": ["true"], "resources": {"gpu": 99}}]}
    refused = admin("POST", "/studies", {"name": "no-such", "spec": spec(trial=too_many)})
    assert (refused.status, refused.json["error"]["code"]) == (422, "capacity")


@pytest.mark.parametrize(
    ("algorithm", "words"),
    [
        ({"name": "nonsense"}, "nonsense"),
        ({"name": "tpe", "params": {"warm_up": "0"}}, "WarmUp"),
        ({"name": "tpe", "params": {"nope": "1"}}, "nope"),
        ({"name": "grid"}, "a grid needs choices, integers or a step"),
        ({"name": "hyperband"}, "ResourceName"),
    ],
)
def test_what_an_algorithm_cannot_do_is_refused_at_once(admin: Http, algorithm: dict[str, Any], words: str) -> None:
    refused = admin("POST", "/studies", {"name": "cannot", "spec": spec(algorithm=algorithm)})
    assert refused.status == 400, refused.data
    assert words in refused.json["error"]["message"]
    assert admin("GET", "/studies/cannot").status == 404


def test_an_algorithm_s_own_parameter_is_exported_too(admin: Http) -> None:
    options = {"resource_name": "epochs", "ResourceValue": "3"}
    searched(admin, "with-resource", algorithm={"name": "Hyperband", "params": options})
    rows = list(csv.DictReader(io.StringIO(admin("GET", "/studies/with-resource/export").data.decode())))
    assert {one["params_epochs"] for one in rows} == {"1"}
    assert all(float(one["params_lr"]) == pytest.approx(float(one["value"])) for one in rows)


def test_bad_trials_are_stopped_early(admin: Http) -> None:
    """The others are better at every step; nothing waits for the end of what has no chance."""
    script = "for i in 1 2 3 4; do echo step=$i loss={loss}; done; [ {loss} = 9 ] && sleep 600; exit 0"
    experiments = [{"loss": 1}, {"loss": 2}, {"loss": 9}, {"loss": 0.5}]
    early = {"min_trials": 2, "min_steps": 2}
    members = {"space": [], "experiments": experiments, "algorithm": {"name": "grid"}, "max_trials": None}
    ended = searched(admin, "early", trial=sh(script), early_stopping=early, **members)
    assert (ended["state"], ended["complete"], ended["pruned"], ended["best"]) == ("complete", 3, 1, 4)
    [pruned] = admin("GET", "/studies/early/trials?state=pruned").json["trials"]
    assert (pruned["number"], pruned["params"]) == (3, {"loss": 9})
    assert "median" in pruned["message"]
