"""Searches that run, as processes: what a training finds and leaves, how searches end, who stops them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest
from helpers.cloudml import over
from helpers.rig import wait_until
from helpers.wmla import OVER, WmlaClient, packed, part

from localml.dialects.kit.logs import log_blocks
from localml.dialects.wmla.translate.ids import number_of
from localml.server import Server

END_S = 120.0
GIVEN = """
import json, os, sys
given = json.load(open("config.json"))
def leave(found, name="val_dict_list.json"):
    with open(os.environ["RESULT_DIR"] + "/" + name, "w") as file:
        file.write(found if isinstance(found, str) else json.dumps(found))
"""
LEARNS = (
    GIVEN
    + """
x = given["x"]
leave([{"step": n, "loss": (x - 3) ** 2 + 10 / n, "acc": x / n, "who": 1} for n in range(1, 5)])
print("trained with", json.dumps(given, sort_keys=True))
"""
)
X = {"name": "x", "type": "Range", "dataType": "double", "minDbVal": 0, "maxDbVal": 10}

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(autouse=True)
def clean(live: WmlaClient) -> Iterator[None]:
    yield
    for one in live.get("/hypersearch").json:
        live.put(f"/hypersearch/{one['hpoName']}/force")
    wait_until(lambda: live.delete("/hypersearch").status == 204, END_S)


def start(client: WmlaClient, program: str, space: Any = None, **algo: Any) -> str:
    """Begin a search; ``args``: options of the task; its name."""
    listed = bool(space) and "id" in space[0]
    args = algo.pop("args", "")
    known = {"algorithm": "ExperimentGridSearch" if listed else "Random", "maxJobNum": 4, "maxParalleJob": 4}
    data = {
        "modelSpec": {"args": f"--exec-start Python --model-main main.py {args}"},
        "algoDef": {**known, "objectiveMetric": "loss", "objective": "minimize", **algo},
        "experiments" if listed else "hyperParams": space or [X],
    }
    answer = client.search(data, packed({"main.py": program, "config.json": '{"x": "the model\'s own"}'}, "m", gz=True))
    assert answer.status == 200, answer.data
    return str(answer.json["uid"])


def shown(client: WmlaClient, name: str) -> Any:
    answer = client.get(f"/hypersearch/{name}")
    assert answer.status == 200, answer.data
    return answer.json


def ended(client: WmlaClient, name: str, state: str = "FINISHED") -> Any:
    wait_until(lambda: shown(client, name)["state"] in OVER, END_S)
    found = shown(client, name)
    assert found["state"] == state, found
    return found


def running(client: WmlaClient, name: str) -> Any:
    """A search whose first experiment runs."""
    wait_until(lambda: "RUNNING" in [one["state"] for one in shown(client, name)["experiments"]], END_S)
    return shown(client, name)


def values(one: Any) -> dict[str, Any]:
    return {param["name"]: param["fixedVal"] for param in one["hyperParams"]}


def log_of(server: Server, one: Any) -> str:
    """What a training wrote, found by the id that the scheduler's API knows it by."""
    number = number_of(server.platform, one["appId"])
    assert number is not None
    full = server.platform.workloads.get(number)
    return b"".join(log_blocks(server.platform.logs, full)).decode()


def experiments(**named: list[Any]) -> list[dict[str, Any]]:
    """One for each value, with ids from 1."""
    ((name, given),) = named.items()
    kind = {int: "int", float: "double", str: "str"}
    return [
        {"id": n, "hyperParams": [{"name": name, "dataType": kind[type(value)], "fixedVal": value}]}
        for n, value in enumerate(given, 1)
    ]


def test_a_training_reads_its_values_and_leaves_its_metrics(server: Server, live: WmlaClient) -> None:
    metrics = {"acc": "maximize", "who": "latest", "absent": "minimize"}
    name = start(live, LEARNS, additionalMetrics=metrics, algoParams=[{"name": "RandomSeed", "value": "3"}])
    found = ended(live, name)
    assert (found["complete"], found["failed"], found["running"], found["progress"]) == (4, 0, 0, "4/4")
    for one in found["experiments"]:
        x = float(values(one)["x"])
        loss, acc, who = one["metrics"]
        assert (loss["name"], acc["name"], who["name"]) == ("loss", "acc", "who")
        least = (x - 3) ** 2 + 2.5
        assert one["metricVal"] == pytest.approx(least)
        assert (loss["min"], loss["latest"]) == (pytest.approx(least), pytest.approx(least))
        assert loss["max"] == pytest.approx((x - 3) ** 2 + 10)
        assert (acc["max"], acc["latest"]) == (pytest.approx(x), pytest.approx(x / 4))
        assert (one["state"], one["maxiteration"]) == ("FINISHED", 4)
        assert one["startTime"] <= one["endTime"]
        assert f'trained with {{"x": {values(one)["x"]}}}' in log_of(server, one)
    assert found["best"]["metricVal"] == min(one["metricVal"] for one in found["experiments"])


def test_the_scheduler_knows_the_trainings(live: WmlaClient) -> None:
    found = ended(live, start(live, LEARNS, maxJobNum=2))
    for one in found["experiments"]:
        (application,) = live.get("/scheduler/applications", applicationid=one["appId"]).json
        assert (application["applicationid"], application["state"]) == (one["appId"], "FINISHED")
        log = live.get(f"/scheduler/applications/{one['appId']}/driver/logs/stdout")
        assert f'trained with {{"x": {values(one)["x"]}}}' in log.data.decode()
        assert live.get(f"/execs/{one['appId']}").status == 400  # no task of its own


def test_the_same_seed_tries_the_same_again_after_a_restart(live: WmlaClient) -> None:
    name = start(live, LEARNS, algoParams=[{"name": "RandomSeed", "value": "3"}], maxParalleJob=2)
    first = ended(live, name)
    assert live.put(f"/hypersearch/{name}/restart").status == 204
    wait_until(lambda: shown(live, name)["state"] not in OVER or shown(live, name)["complete"] == 4, END_S)
    second = ended(live, name)
    assert list(map(values, second["experiments"])) == list(map(values, first["experiments"]))
    assert [one["id"] for one in second["experiments"]] == [0, 1, 2, 3]
    assert {one["appId"] for one in second["experiments"]}.isdisjoint(one["appId"] for one in first["experiments"])


def test_a_grid_tries_what_it_lists_in_order(live: WmlaClient) -> None:
    one_of_all = [
        {"name": "x", "dataType": "double", "fixedVal": "2"},
        {"name": "trial", "dataType": "int", "fixedVal": 77},  # a name that stands for something else in our own API
        {"name": "opt", "dataType": "str", "fixedVal": "a 'b' {x}"},
    ]
    space = [*experiments(x=[1.0, 5.0]), {"id": 40, "fixedHyperParams": one_of_all}]
    found = ended(live, start(live, LEARNS, space, maxJobNum=-1, maxParalleJobNum=2))
    assert [one["id"] for one in found["experiments"]] == [1, 2, 40]
    assert [values(one)["x"] for one in found["experiments"]] == ["1.0", "5.0", "2.0"]
    assert values(found["experiments"][2]) == {"x": "2.0", "trial": "77", "opt": "a 'b' {x}"}
    assert found["best"]["id"] == 40
    assert found["progress"] == "3/3"


SPACE: list[dict[str, Any]] = [
    X,
    {"name": "layers", "type": "range", "dataType": "INT", "minIntVal": 2, "maxIntVal": 8, "step": "3"},
    {"name": "lr", "type": "Range", "dataType": "double", "minDbVal": -4, "maxDbVal": -1, "power": "10"},
    {"name": "batch", "type": "Range", "dataType": "int", "minIntVal": 4, "maxIntVal": 7, "power": "2"},
    {"name": "drop", "type": "Discrete", "dataType": "DOUBLE", "discreteDbVal": [0, 0.5]},
    {"name": "heads", "type": "Discreate", "dataType": "int", "discreteIntVal": [1, 2]},
    {"name": "opt", "type": "discrete", "dataType": "STRING", "discreteStrVal": ["sgd", "adam"]},
    {"name": "device", "type": "Fix", "dataType": "str", "fixedVal": "cpu"},
    {"name": "seed", "type": "fix", "dataType": "int", "fixedVal": "7"},
]
TYPES = (
    GIVEN
    + """
kinds = dict(x=float, layers=int, lr=float, batch=int, drop=float, heads=int, opt=str, device=str, seed=int)
assert {name: type(value) for name, value in given.items()} == kinds, given
assert 0 <= given["x"] <= 10 and given["layers"] in (2, 5, 8) and 1e-4 <= given["lr"] <= 0.1
assert given["batch"] in (16, 32, 64, 128) and given["drop"] in (0, 0.5) and given["heads"] in (1, 2)
assert given["opt"] in ("sgd", "adam") and given["device"] == "cpu" and given["seed"] == 7
leave({"loss": given["x"] + given["batch"]})
"""
)


@pytest.mark.parametrize(
    ("algorithm", "params"), [("Random", {}), ("Tpe", {"WarmUp": "3", "GoodMax": "2", "RandomSeed": "1"})]
)
def test_values_have_their_types_and_bounds(live: WmlaClient, algorithm: str, params: dict[str, str]) -> None:
    given = [{"name": name, "value": value} for name, value in params.items()]
    found = ended(live, start(live, TYPES, SPACE, algorithm=algorithm, algoParams=given, maxJobNum=8))
    assert (found["complete"], found["failed"]) == (8, 0), found
    kinds = {param["name"]: param["dataType"] for param in found["experiments"][0]["hyperParams"]}
    assert kinds == {one["name"]: one["dataType"].lower().replace("string", "str") for one in SPACE}


def test_steps_and_powers_are_made_of_what_an_optimizer_draws(live: WmlaClient) -> None:
    """The vendor's examples draw from a range, and know neither its steps nor its power."""
    space = [
        {**X, "name": "rate", "minDbVal": 0.001, "maxDbVal": 0.1, "step": "0.002"},
        {**X, "name": "lr", "minDbVal": -4, "maxDbVal": -1, "power": "10", "step": "1"},
        {**X, "name": "last", "minDbVal": 0, "maxDbVal": 3, "power": "10", "step": "2"},
        {"name": "batch", "type": "Range", "dataType": "INT", "minIntVal": 4, "maxIntVal": 7, "power": 2},
    ]
    expected = {"rate": "0.045", "lr": "0.01", "last": "100.0", "batch": "32"}
    body = "return [{'rate': 0.0441634953, 'lr': -2.2, 'last': 3, 'batch': 5}]"
    upload = part("file", packed({"optimizer.py": PLUGIN.format(body=body)}), "draws.tar")
    assert live.form("/hypersearch/algorithm/install", part("data", b'{"name": "draws"}'), upload).status == 200
    try:
        found = ended(live, start(live, GIVEN + "leave({'loss': given['lr']})", space, algorithm="draws", maxJobNum=1))
        assert values(found["experiments"][0]) == expected
    finally:
        assert live.delete("/hypersearch/algorithm/draws").status == 204


RESULTS = (
    GIVEN
    + """
kind = given["kind"]
if kind == "one object": leave({"loss": 5})
elif kind == "numbers as texts": leave([{"loss": "0.5"}])
elif kind == "NaN": leave('[{"loss": NaN}]')
elif kind == "no JSON": leave("{")
elif kind == "another metric": leave([{"accuracy": 1}])
elif kind == "another name": leave([{"loss": 1}], "other.json")
elif kind == "an exit code": leave([{"loss": 1}]); sys.exit(3)
elif kind == "a list of steps": leave([{"steps": 1, "loss": 4}, {"steps": 2, "loss": 3.5, "text": "x"}])
"""
)


def test_a_training_without_a_result_fails_and_the_search_goes_on(live: WmlaClient) -> None:
    bad = ["NaN", "no JSON", "another metric", "another name", "an exit code", "nothing"]
    kinds = [*bad[:3], "one object", *bad[3:], "a list of steps"]
    found = ended(live, start(live, RESULTS, experiments(kind=kinds), maxJobNum=-1, maxParalleJob=1))
    assert [one["state"] for one in found["experiments"]] == ["ERROR" if kind in bad else "FINISHED" for kind in kinds]
    assert (found["complete"], found["failed"]) == (2, 6)
    assert found["best"]["metricVal"] == 3.5
    assert [one["maxiteration"] for one in found["experiments"] if one["state"] == "FINISHED"] == [1, 2]
    assert [bool(one.get("message")) for one in found["experiments"]] == [kind in bad for kind in kinds]


def test_failures_in_a_row_end_a_search(live: WmlaClient) -> None:
    found = ended(live, start(live, "raise SystemExit(1)", maxJobNum=50, maxParalleJob=1), "ERROR")
    assert (found["complete"], found["failed"], len(found["experiments"])) == (0, 5, 5)
    assert "best" not in found
    assert found["experiments"][-1]["message"] in found["message"]


PLUGIN = """
from plugins.core.base_plugin_opt import BasePluginOptimizer

class PluginOptimizer(BasePluginOptimizer):
    def search(self, number_samples, last_exp_results):
        {body}
"""


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("import no_such_library", "no_such_library"),
        ("return [{'x': 1 / 0}]", "ZeroDivisionError"),
        ("return [{'x': 11.0}]", "x"),
        ("return [{'y': 1.0}]", "y"),
        ("return 'nonsense'", ""),
        ("raise SystemExit(3)", ""),
    ],
)
def test_an_optimizer_that_fails_ends_its_search_in_its_own_words(live: WmlaClient, body: str, words: str) -> None:
    upload = part("file", packed({"optimizer.py": PLUGIN.format(body=body)}), "faulty.tar")
    installed = live.form("/hypersearch/algorithm/install", part("data", b'{"name": "faulty"}'), upload)
    assert installed.status == 200, installed.data
    try:
        found = ended(live, start(live, LEARNS, algorithm="faulty"), "ERROR")
        assert found["experiments"] == []
        assert found["message"]
        assert words in found["message"]
    finally:
        assert live.delete("/hypersearch/algorithm/faulty").status == 204


STUBBORN = (
    GIVEN
    + """
import signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
leave([{"loss": 1}])
print("runs", flush=True)
while True: time.sleep(1)
"""
)
POLITE = STUBBORN.replace("signal.SIG_IGN", "lambda *_: sys.exit(0)")


def test_a_search_in_use_is_neither_deleted_nor_restarted(live: WmlaClient) -> None:
    name = start(live, POLITE, maxParalleJob=2)
    found = running(live, name)
    assert found["state"] == "RUNNING"
    assert live.delete(f"/hypersearch/{name}").status == 409
    assert live.delete("/hypersearch").status == 409
    assert live.put(f"/hypersearch/{name}/restart").status == 400
    assert live.put(f"/hypersearch/{name}").status == 204
    found = ended(live, name, "KILLED")
    assert {one["state"] for one in found["experiments"]} == {"KILLED"}
    assert (found["running"], len(found["experiments"])) == (0, 2)
    assert live.delete(f"/hypersearch/{name}").status == 204
    assert live.get("/hypersearch").json == []


def test_by_force_nothing_is_waited_for(server: Server, live: WmlaClient) -> None:
    """The orderly stop gives trainings ten seconds, which these would take."""
    name = start(live, STUBBORN, maxParalleJob=2)
    wait_until(lambda: all("runs" in log_of(server, one) for one in running(live, name)["experiments"]), END_S)
    assert live.put(f"/hypersearch/{name}/force").status == 204
    found = ended(live, name, "KILLED")
    studies, workloads = server.platform.studies, server.platform.workloads
    row = studies.find(dialect="wmla", name=name)
    assert row is not None
    (asked,) = [event.at for event in studies.events(row.id or 0) if event.reason == "StopRequested"]
    for one in found["experiments"]:
        attempt = workloads.attempts(number_of(server.platform, one["appId"]) or 0)[-1]
        over = attempt.exited_at or attempt.ended_at  # one write says both where both are known at once
        assert over is not None
        assert over - asked < 9


def test_hyperband_hands_out_its_resource(live: WmlaClient) -> None:
    """As an integer, in ``config.json`` beside the others."""
    program = GIVEN + "leave([{'loss': given['x'] / given['epochs'] if type(given['epochs']) is int else 'no'}])"
    params = {"ResourceName": "epochs", "ResourceValue": "4", "eta": "2", "RandomSeed": "1"}
    given = [{"name": name, "value": value} for name, value in params.items()]
    found = ended(live, start(live, program, algorithm="Hyperband", maxJobNum=-1, algoParams=given))
    epochs = {values(one)["epochs"] for one in found["experiments"]}
    assert epochs == {"1", "2", "4"}
    assert {param["dataType"] for one in found["experiments"] for param in one["hyperParams"]} == {"int", "double"}


def test_data_and_workers_are_those_of_tasks(server: Server, live: WmlaClient) -> None:
    with server.platform.buckets.open("s3://data/digits/first.txt", "wb") as file:
        file.write(b"41")
    program = (
        GIVEN
        + """
if os.environ["NODE_RANK"] == "0":
    leave([{"loss": int(open(os.environ["DATA_DIR"] + "/first.txt").read()), "workers": int(os.environ["WORLD_SIZE"])}])
"""
    )
    args = "--numWorker 2 --cs-datastore-meta type=fs,data_path=data/digits"
    found = ended(live, start(live, program, args=args, maxJobNum=1, additionalMetrics={"workers": "latest"}))
    (one,) = found["experiments"]
    assert [(metric["name"], metric["latest"]) for metric in one["metrics"]] == [("loss", 41.0), ("workers", 2.0)]


@pytest.mark.skipif(os.getuid() != 0, reason="programs of others have accounts of their own where root starts them")
def test_trainings_of_who_is_no_administrator(server: Server) -> None:
    server.platform.identity.create_user("eve", "secret1")
    eve = WmlaClient(over(server.url), "eve", "secret1")
    name = start(eve, LEARNS, maxJobNum=2)
    found = ended(eve, name)
    assert (found["creator"], found["complete"]) == ("eve", 2)
    assert eve.delete(f"/hypersearch/{name}").status == 204
