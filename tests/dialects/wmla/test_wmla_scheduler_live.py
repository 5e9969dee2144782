"""Applications that run: what the scheduler says of them, and the logs of a gang, as the vendor's command line asks."""

from __future__ import annotations

from typing import Any

from helpers.rig import wait_until
from helpers.wmla import OVER, WmlaClient, packed

APPS = "/scheduler/applications"
PATIENCE_S = 60.0
TALKS = """
import os, sys
rank = os.environ["NODE_RANK"]
for place in range(12):
    print(f"worker {rank} says {place}")
    print(f"worker {rank} warns of {place}", file=sys.stderr)
"""
BURNS = "while True: pass"
FINDS = """
import os
print("tries")
with open(os.environ["RESULT_DIR"] + "/val_dict_list.json", "w") as file:
    file.write('{"loss": 1}')
"""


def application(live: WmlaClient, made: Any) -> dict[str, Any]:
    (found,) = live.get(APPS, applicationid=made["appId"]).json
    return dict(found)


def start(live: WmlaClient, program: str, args: str) -> Any:
    answer = live.start(f"--exec-start Python --model-main main.py {args}", packed({"main.py": program}, "m"))
    assert answer.status == 200, answer.data
    return answer.json


def test_a_gang_has_an_executor_for_each_worker(live: WmlaClient) -> None:
    made = start(live, TALKS, "--numWorker 2 --appName talkers")
    wait_until(lambda: application(live, made)["state"] in OVER, PATIENCE_S)
    found = application(live, made)
    assert (found["state"], found["applicationname"], found["type"]) == ("FINISHED", "talkers", "BATCH")
    assert (found["dltype"], found["model"], found["demandslots"], found["slots"]) == ("Python", "main.py", 2, 0)
    assert live.get(APPS, applicationname="talkers").json == [found]
    assert live.get(APPS, driverid=made["submissionId"]).json == [found]
    of = f"{APPS}/{made['appId']}"
    for place, one in enumerate(found["task12n"]):
        path = f"{of}/executor/{one['id']}/logs"
        assert live.get(f"{path}/stdout").data.decode() == "".join(f"worker {place} says {n}\n" for n in range(2, 12))
        assert live.get(f"{path}/stderr", lastlines=1).data.decode() == f"worker {place} warns of 11\n"
        assert len(live.get(f"{path}/stdout/download").data.splitlines()) == 12
    assert live.get(f"{of}/driver/logs/stdout").data == live.get(f"{of}/executor/1/logs/stdout").data
    launched = live.get(f"{of}/driver/logs/launcherlog/download").data.decode()
    assert " NORMAL Submitted: submitted by admin" in launched.splitlines()[0]
    assert len(launched.splitlines()) > 2


def test_what_runs_is_measured(live: WmlaClient) -> None:
    assert live.post("/resplans/resplan", {"name": "hot"}).status == 201
    made = start(live, BURNS, "--consumer hot --workerDeviceNum 1 --workerDeviceType gpu")
    try:
        wait_until(lambda: float(live.get("/resplans/resplan/hot").json["usedcpu"]) > 0.1, PATIENCE_S)
        plan, found = live.get("/resplans/resplan/hot").json, application(live, made)
        assert (plan["usedgpu"], plan["requestgpu"], plan["requestcpu"]) == ("1", "1", "1")
        assert (found["state"], found["slots"], found["hosts"], found["coresused"]) == ("RUNNING", 1, 1, 1.0)
        assert found["memused"] > 1
        assert found["consumer"] == plan["path"] == "/wmla/hot"
        (one,) = live.get("/scheduler/applicationStatistic", consumer="hot").json
        assert (one["username"], one["jobRunning"], one["jobPending"], one["gpuUsed"]) == ("admin", 1, 0, 1.0)
        assert one["cpuUsed"] > 0.1
    finally:
        assert live.delete(f"/execs/{made['id']}").status == 204
    wait_until(lambda: live.delete("/resplans/resplan/hot").status == 200, PATIENCE_S)


def test_a_searchs_experiments_are_applications(live: WmlaClient) -> None:
    data = {
        "hpoName": "seeks",
        "modelSpec": {"args": "--exec-start Python --model-main main.py"},
        "algoDef": {"algorithm": "Random", "maxJobNum": 2, "objectiveMetric": "loss", "objective": "minimize"},
        "hyperParams": [{"name": "x", "type": "Range", "dataType": "double", "minDbVal": 0, "maxDbVal": 1}],
    }
    assert live.search(data, packed({"main.py": FINDS}, "m")).status == 200
    wait_until(lambda: live.get("/hypersearch/seeks").json["state"] in OVER, 2 * PATIENCE_S)
    experiments = live.get("/hypersearch/seeks").json["experiments"]
    assert len(experiments) == 2
    for one in experiments:
        found = application(live, one)
        assert (found["tunningname"], found["state"], found["dltype"]) == ("seeks", "FINISHED", "Python")
        assert live.get(f"{APPS}/{one['appId']}/driver/logs/stdout").data == b"tries\n"
    assert len(live.get(APPS, search="seeks", sort="-endtime").json) == 2
    assert live.delete("/hypersearch/seeks").status == 204
