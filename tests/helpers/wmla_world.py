"""A live WMLA server on which something of each kind happens, and a request that succeeds for each operation."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any

from helpers.cloudml import Answer, over
from helpers.old_data import JUPYTER
from helpers.rig import wait_until
from helpers.wmla import OVER, PLUGIN, WmlaClient, packed
from localml.client import Client
from localml.server import Server

ARGS = "--exec-start PyTorch --model-main main.py"
TRAIN = """
import json, os, sys
print("training with", *sys.argv[1:])
print("a complaint", file=sys.stderr)
os.makedirs(os.environ["RESULT_DIR"], exist_ok=True)
with open(os.path.join(os.environ["RESULT_DIR"], "weights.txt"), "w") as file:
    file.write("trained")
"""
SLEEP = "import time; print('begun', flush=True); time.sleep(600)"
TRIAL = """
import json, os
with open("config.json") as file:
    params = json.load(file)
steps = [{"step": n, "loss": params["lr"] + 1 / n, "accuracy": 0.1 * n} for n in (1, 2, 3)]
with open(os.path.join(os.environ["RESULT_DIR"], "val_dict_list.json"), "w") as file:
    json.dump(steps, file)
"""
KERNEL = """
from redhareapi import Kernel


class Nothing(Kernel):
    pass


if __name__ == "__main__":
    Kernel.run()
"""
_KERNEL = {"id": "k1", "name": "python3", "execution_state": "busy", "connections": 1}
_KERNEL |= {"last_activity": "2026-01-01T00:00:00.000000Z"}
BUSY = JUPYTER.replace('"/api/kernels": []', f'"/api/kernels": [{_KERNEL}]')
"""A JupyterLab that says that it has a kernel."""
APPLICATION = "/scheduler/applications/{world.application}"
"""The path of the task that is over, for the scheduler."""
GRID: dict[str, Any] = {
    "modelSpec": {"args": ARGS},
    "algoDef": {
        "algorithm": "ExperimentGridSearch",
        "objectiveMetric": "loss",
        "objective": "minimize",
        "maxParalleJob": 2,
        "additionalMetrics": {"accuracy": "maximize"},
    },
    "experiments": [
        {"id": 1, "hyperParams": [{"name": "lr", "dataType": "double", "fixedVal": 0.5}]},
        {"id": 2, "hyperParams": [{"name": "lr", "dataType": "double", "fixedVal": 0.25}]},
    ],
}
SPACE = [{"name": "lr", "type": "Range", "dataType": "double", "minDbVal": 0.01, "maxDbVal": 0.1}]
RANDOM: dict[str, Any] = {
    "modelSpec": {"args": ARGS},
    "algoDef": {"algorithm": "Random", "objectiveMetric": "loss", "objective": "minimize", "maxJobNum": 2},
    "hyperParams": SPACE,
}


class WmlaWorld:
    """A server, and what the operations are about, each made when it is first asked for."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.platform = server.platform
        self.send = over(server.url)
        self.admin = WmlaClient(self.send, "admin", server.platform.credentials.password)
        self.nobody = WmlaClient(self.send)
        self._numbers = itertools.count(1)

    @cached_property
    def done(self) -> str:
        """A task that is over."""
        return self.wait_task(self.task(TRAIN), *OVER)

    @cached_property
    def running(self) -> str:
        """A task that runs."""
        return self.wait_task(self.task(SLEEP), "RUNNING")

    @cached_property
    def grid(self) -> str:
        """A search that is over."""
        return self.wait_search(self.search(GRID, TRIAL), *OVER)

    @cached_property
    def searching(self) -> str:
        """One that runs."""
        return self.search(GRID, SLEEP)

    @cached_property
    def algorithm(self) -> str:
        """An installed algorithm."""
        return self.install()

    @cached_property
    def plan(self) -> str:
        """A resource plan."""
        return self.new_plan()

    @cached_property
    def holder(self) -> str:
        """Somebody whose notebook runs."""
        name = self.new("holder")
        self.user(name)
        with Client(self.server.url, self.platform.identity.create_token(self.platform.identity.user(name))) as own:
            made = own.tools.start_notebook(name="lab", image="own", command=["python3", "-c", BUSY])
            own.tools.wait_ready(made, 30)
        kernels = f"/notebooks/{name}/runningkernels"
        wait_until(lambda: "cpuUsed" in self.admin.get(kernels).json[0], 60)  # once it was measured
        return name

    def new(self, what: str) -> str:
        """A name that nothing has."""
        return f"{what}{next(self._numbers)}"

    def user(self, name: str | None = None) -> WmlaClient:
        """The client of somebody who is no administrator."""
        name = name or self.new("user")
        self.platform.identity.create_user(name, "secret1")
        return WmlaClient(self.send, name, "secret1")

    def task(self, script: str, client: WmlaClient | None = None) -> str:
        """Start a training task of one file; its id."""
        answer = (client or self.admin).start(ARGS, packed({"main.py": script}))
        assert answer.status == 200, answer.data
        return str(answer.json["id"])

    def search(self, request: Mapping[str, Any], script: str, client: WmlaClient | None = None) -> str:
        """Start a search with a name of its own; its name."""
        named = {**request, "hpoName": self.new("search")}
        answer = (client or self.admin).search(named, packed({"main.py": script}, "model"))
        assert answer.status == 200, answer.data
        return str(answer.json["uid"])

    def install(self) -> str:
        """Install the plugin under a name of its own; its name."""
        name = self.new("Plugin")
        answer = self.admin.install({"name": name}, packed({"optimizer.py": PLUGIN}))
        assert answer.status == 200, answer.data
        return name

    def stopped(self, name: str) -> str:
        """A search, once it is stopped and over."""
        assert self.admin.put(f"/hypersearch/{name}/force").status == 204
        return self.wait_search(name, *OVER)

    def new_plan(self) -> str:
        """Make a resource plan; its name."""
        name = self.new("plan")
        assert self.admin.post("/resplans/resplan", {"name": name}).status == 201
        return name

    def wait_task(self, number: str, *states: str) -> str:
        """The same task, once it has one of these states."""
        self._wait(f"/execs/{number}", states)
        return number

    def wait_search(self, name: str, *states: str) -> str:
        """The same search, once it has one of these states."""
        self._wait(f"/hypersearch/{name}", states)
        return name

    def _wait(self, path: str, states: tuple[str, ...]) -> None:
        wait_until(lambda: self.admin.get(path).json["state"] in states, 90)

    @cached_property
    def application(self) -> str:
        """The id by which the scheduler knows the task that is over."""
        return str(self.admin.get(f"/execs/{self.done}").json["appId"])


Success = Callable[[WmlaWorld], Answer]


def _of(method: str, path: str, body: Any = None) -> Success:
    """A request whose path has the names of what there is."""

    def send(world: WmlaWorld) -> Answer:
        return world.admin.call(method, path.format(world=world), body)

    return send


def _list(path: str, thing: str) -> Success:
    """A list, once there is something in it."""

    def send(world: WmlaWorld) -> Answer:
        assert getattr(world, thing)
        return world.admin.get(path)

    return send


def _own_tasks(world: WmlaWorld) -> Answer:
    somebody = world.user()
    world.task(SLEEP, somebody)
    answer = somebody.delete("/execs")
    assert somebody.get("/execs").json == []
    return answer


def _own_searches(world: WmlaWorld) -> Answer:
    somebody = world.user()
    name = world.search(GRID, TRIAL, somebody)
    wait_until(lambda: somebody.get(f"/hypersearch/{name}").json["state"] in OVER, 90)
    answer = somebody.delete("/hypersearch")
    assert somebody.get("/hypersearch").json == []
    return answer


def _deploy(world: WmlaWorld) -> Answer:
    script = (
        f"import os\nwith open(os.environ['RESULT_DIR'] + '/kernel.py', 'w') as file:\n    file.write({KERNEL!r})\n"
    )
    number = world.task(script)
    world.wait_task(number, *OVER)
    body = {"name": world.new("model"), "kernel": "kernel.py", "attributes": [{"name": "a", "value": "1"}]}
    return world.admin.post(f"/execs/{number}/deploy", body)


SUCCESSES: dict[str, Success] = {
    "getDeepLearningConf": _of("GET", "/conf"),
    "execsGet": _list("/execs", "done"),
    "execsPost": lambda world: world.admin.start(
        ARGS, packed({"main.py": TRAIN}, "model", gz=True), filename="m.modelDir.tar"
    ),
    "execsDelete": _own_tasks,
    "execsFrameworksGet": _of("GET", "/execs/frameworks"),
    "execsExecIdGet": _of("GET", "/execs/{world.done}"),
    "execsExecIdDelete": lambda world: world.admin.delete(f"/execs/{world.task(SLEEP)}"),
    "execsExecIdDeployPost": _deploy,
    "execsExecIdLogGet": _of("GET", "/execs/{world.done}/log"),
    "execsExecIdResultGet": _of("GET", "/execs/{world.done}/result"),
    "execsExecIdStopPost": lambda world: world.admin.post(f"/execs/{world.task(SLEEP)}/stop"),
    "getAllHPO": _list("/hypersearch", "grid"),
    "startHPO": lambda world: world.admin.search(
        {**GRID, "hpoName": world.new("started")}, packed({"main.py": TRIAL}, "m")
    ),
    "deleteAllHPO": _own_searches,
    "getOneHPO": _of("GET", "/hypersearch/{world.grid}"),
    "stopOneHPO": lambda world: world.admin.put(f"/hypersearch/{world.search(GRID, SLEEP)}"),
    "deleteOneHPO": lambda world: world.admin.delete(f"/hypersearch/{world.stopped(world.search(GRID, SLEEP))}"),
    "restartOneHPO": lambda world: world.admin.put(f"/hypersearch/{world.stopped(world.search(GRID, TRIAL))}/restart"),
    "stopOneHPOForce": lambda world: world.admin.put(f"/hypersearch/{world.search(GRID, SLEEP)}/force"),
    "getAllHPOAlgorithm": _list("/hypersearch/algorithm?type=USER_PLUGIN", "algorithm"),
    "getOneAlgorithm": _of("GET", "/hypersearch/algorithm/{world.algorithm}"),
    "deleteOneHPOALGORITHM": lambda world: world.admin.delete(f"/hypersearch/algorithm/{world.install()}"),
    "installHPOAlgorithm": lambda world: world.admin.install(
        {"name": world.new("Other")}, packed({"optimizer.py": PLUGIN})
    ),
    "debugAlgorithm": _of("POST", "/hypersearch/algorithm/debug", RANDOM),
    "runningServices": _list("/notebooks/runningservices", "holder"),
    "updateService": _of("PUT", "/notebooks/{world.holder}", {"resourcePlan": "default"}),
    "runningKernels": _of("GET", "/notebooks/{world.holder}/runningkernels"),
    "runningServiceByUserName": _of("GET", "/notebooks/{world.holder}/runningservices"),
    "stopService": _of("PUT", "/notebooks/{world.holder}/stopservice"),
    "createResplan": lambda world: world.admin.post("/resplans/resplan", {"name": world.new("made")}),
    "updateResplanByName": lambda world: world.admin.put("/resplans/resplan", {"name": world.plan, "labels": []}),
    "getResplan": _of("GET", "/resplans/resplan/{world.plan}"),
    "delResplanByName": lambda world: world.admin.delete(f"/resplans/resplan/{world.new_plan()}"),
    "getResplanTree": _of("GET", "/resplans/resplantree"),
    "getApplications": lambda world: world.admin.get(f"/scheduler/applications?applicationid={world.application}"),
    "getApplicationStatistic": _list("/scheduler/applicationStatistic", "running"),
    "getDriverLog": _of("GET", f"{APPLICATION}/driver/logs/stdout"),
    "downloadDriverLogFile": _of("GET", f"{APPLICATION}/driver/logs/stdout/download"),
    "getExecutorLog": _of("GET", f"{APPLICATION}/executor/1/logs/stdout"),
    "downloadExecutorLogFile": _of(
        "GET", "/scheduler/applications/{world.application}/executor/1/logs/stdout/download"
    ),
}
"""Operation -> a request that is answered as it should be, in the order of the document."""
