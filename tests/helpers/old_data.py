"""Make a data directory as a user of this version has one, for the tests of the migrations that come after it.

    PYTHONPATH=.:tests python -m helpers.old_data

writes ``tests/store/data/schema-HEAD.tar.gz``: the directory, and ``answers.json`` with what each API said about it
after a restart. It is made by use: jobs of all dialects that ran as processes on simulated GPUs. The machine is drained
at the end, so that what waits goes on waiting. The keys in it are of nobody's installation.
"""

from __future__ import annotations

import io
import json
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any

from helpers.cloudml import SignedClient, over, put_trainer
from helpers.mlbench import Dashboard
from helpers.models import serving_server, times
from helpers.native import Http, sh
from helpers.openpai import PaiClient, role
from helpers.rig import wait_until
from helpers.wmla import OVER as WMLA_OVER
from helpers.wmla import PLUGIN, WmlaClient, packed
from localml.client import Client
from localml.store.schema import HEAD
from localml.testing import Localml

FOLDER = Path(__file__).parents[1] / "store" / "data"
TRAINER = "fds://code/trainer.tar.gz"
OVER = ("succeeded", "failed", "stopped")
DROPPED = ("replicas", "gateway", "server.lock")
"""What is of one run of a server or of one machine, and is made anew by the next."""
JUPYTER = """
import http.server, json, os
NOW = "2026-01-01T00:00:00.000000Z"
ANSWERS = {
    "/api/status": {"started": NOW, "last_activity": NOW, "connections": 0, "kernels": 0},
    "/api/kernels": [],
    "/api/terminals": [],
    "/api/metrics/v1": {"rss": 1, "limits": {"memory": {"rss": 2}}, "cpu_percent": 0.0},
}
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps(ANSWERS.get(self.path.partition("?")[0], {})).encode())
    def log_message(self, *_):
        pass
address = (os.environ["LOCALML_LISTEN"], int(os.environ["LOCALML_PORT_HTTP"]))
http.server.ThreadingHTTPServer(address, Handler).serve_forever()
"""


class Callers:
    """Clients of all dialects as the administrator."""

    def __init__(self, server: Localml) -> None:
        given = server.platform.credentials
        self.client = server.client
        self.native = Http(server.url, {"Authorization": f"Bearer {given.token}"})
        self.cloudml = SignedClient(given.access_key, given.secret_key, over(server.url))
        self.openpai = PaiClient(over(server.url), given.token)
        self.mlbench = Dashboard(server._server)
        self.wmla = WmlaClient(over(server.url), given.user, given.password)


def main() -> None:
    """Use a server, restart it, ask it, and pack what it left."""
    with tempfile.TemporaryDirectory() as folder:
        with serving_server(Path(folder)) as server:
            everything(server)
        again = Path(folder) / "again"
        again.mkdir()
        data = (Path(folder) / "data").rename(again / "data")
        with serving_server(again) as server:
            answers = ask(server)
        target = FOLDER / f"schema-{HEAD}.tar.gz"
        pack(data, answers, target)
    print(f"{target.name}: {target.stat().st_size} bytes", file=sys.stderr)


def everything(server: Localml) -> None:
    """One of each thing that a data directory can hold."""
    callers = Callers(server)
    people_and_pools(server)
    native_jobs(callers)
    vendors_jobs(server, callers)
    wmla_work(callers)
    studies(callers)
    tools(callers)
    models_and_endpoints(callers)
    wait_until(lambda: all(one.state in OVER for one in callers.client.all(deleted=True)), 60)
    server.platform.hardware.mark_gpu(callers.client.gpus()[1].uuid, "GPU fell off the bus", fenced=True)
    callers.client.drain(reason="moving house")
    callers.client.run(["echo", "late"], name="waits", gpus=1)
    openpai = callers.openpai
    openpai.submit("pai-waits", role(command="echo late", gpuNumber=1), virtualCluster="vc1")


def people_and_pools(server: Localml) -> None:
    """Users of all kinds, with keys, tokens and grants; pools with limits."""
    client, openpai = server.client, Callers(server).openpai
    client.create_user("bob", "bob's secret")
    _work_of(server, client.create_token("bob", lifetime=3600.0 * 24 * 365 * 50), "bobs")
    client.create_user("root2", "root's secret", admin=True)
    client.set_limits("default/team", cpu=64, gpu=1, memory=1 << 40)
    client.set_limits("openpai/vc1", cpu=64, gpu=2)
    client.set_limits("openpai/vc2", cpu=64)
    body = {"username": "pia", "password": "secret1", "modify": False}
    assert openpai.put("/user", body).status in (200, 201)  # older versions: 200
    granted = openpai.put("/user/pia/virtualClusters", {"virtualClusters": "vc1,vc2"})
    assert granted.status == 201, granted.data
    client.create_user("left", "left's secret")
    _work_of(server, client.create_token("left"), "lefts")
    server.platform.identity.remove_user("left")


def _work_of(server: Localml, token: str, name: str) -> None:
    """A job of somebody else than the administrator, and an object."""
    client = Client(server.url, token)
    client.put(f"s3://{name}/data.txt", b"theirs")
    client.run(["echo", name], name=name, wait=True)


def native_jobs(callers: Callers) -> None:
    """Jobs that ended in all ways."""
    client = callers.client
    submit(
        callers, "good", sh("echo out; echo err >&2; printf 'no newline'", resources={"gpu": 1}), pool="default/team"
    )
    submit(callers, "bad", sh("echo bad luck >&2; exit 7"))
    retried = sh("echo try $LOCALML_ATTEMPT; exit 3") | {"retries": {"limit": 1, "backoff": 0.01}}
    submit(callers, "again", retried)
    gang = {"roles": [one("chief", 1, "echo chief; sleep 0.2"), one("worker", 2, "echo worker")]}
    submit(callers, "gang", gang)
    for name in ("good", "bad", "again", "gang"):
        client.wait(name, 60)
    submit(callers, "endless", sh("echo started; exec sleep 600"))
    wait_until(lambda: client.get("endless").state == "running")
    client.add_samples("endless", [{"name": "loss", "value": 1 / (step + 1), "at": 1.7e9 + step} for step in range(20)])
    client.add_samples("endless", [{"name": "accuracy", "value": 0.5, "at": 1.7e9}], replica="main-0")
    client.stop("endless")
    client.wait("endless", 60)
    client.run(["echo", "gone"], name="gone", wait=True)
    client.delete("gone")
    client.run(["echo", "gone once more"], name="gone", wait=True)


def submit(callers: Callers, name: str, spec: dict[str, Any], **members: Any) -> None:
    """Submit with a request of our own API."""
    callers.client.submit(spec, name=name, **members)


def one(name: str, count: int, script: str) -> dict[str, Any]:
    """A role that runs a script."""
    return {"name": name, "count": count, "command": ["sh", "-c", script]}


def vendors_jobs(server: Localml, callers: Callers) -> None:
    """The same through the vendors' APIs."""
    put_trainer(server.platform.buckets, TRAINER, "import sys; print('trained with', *sys.argv[1:])")
    train = {"module_name": "trainer.task", "trainer_uri": TRAINER, "framework": "python"}
    for name, extra in (("linear", {"job_args": "--steps=2"}), ("none", {"module_name": "nothing.here"})):
        answer = callers.cloudml.post("/train", train | {"job_name": name} | extra)
        assert answer.status == 200, answer.data
        wait_until(lambda name=name: cloudml_state(callers, name) in ("completed", "failed"), 90)  # type: ignore[misc]
    callers.openpai.submit("pai-good", role(command="echo hello", count=2), virtualCluster="vc1")
    callers.openpai.submit("pai-bad", role(command="exit 4"))
    callers.openpai.submit("pai-gone", role(command="true"))
    for name in ("pai-good", "pai-bad", "pai-gone"):
        wait_until(lambda name=name: pai_state(callers, name) in ("SUCCEEDED", "FAILED"), 60)  # type: ignore[misc]
    gone = server.platform.workloads.find(dialect="openpai", kind="job", name="pai-gone")  # type: ignore[arg-type]
    assert gone is not None
    server.platform.workloads.delete(gone.row.id or 0, server.platform.identity.user("admin"))
    for command in ("python -c 'print({rank})'", "python -c 'raise SystemExit(5)'"):  # both of one name
        number = callers.mlbench.start(command)["id"]
        metric = {
            "run_id": number,
            "name": "loss",
            "cumulative": False,
            "date": "2018-07-01T12:00:00Z",
            "value": "0.25",
        }
        posted = callers.mlbench.call("POST", "metrics/", metric)
        assert posted.status < 300, posted.data
        callers.mlbench.wait(number)


def wmla_work(callers: Callers) -> None:
    """Tasks that ended well and badly, a grid search, an algorithm of one's own with a search, and a resource plan."""
    wmla, args = callers.wmla, "--exec-start Python --model-main main.py"
    left = "import os; open(os.environ['RESULT_DIR'] + '/left.txt', 'w').write('left'); print('trained')"
    numbers = [wmla.start(args, packed({"main.py": script})).json["id"] for script in (left, "raise SystemExit(3)")]
    wait_until(lambda: all(wmla.get(f"/execs/{one}").json["state"] in WMLA_OVER for one in numbers), 60)
    assert wmla.install({"name": "Lower"}, packed({"optimizer.py": PLUGIN})).status == 200
    metric = "import json, os\nlr = json.load(open('config.json'))['lr']\n"
    metric += "json.dump([{'step': 1, 'loss': lr}], open(os.environ['RESULT_DIR'] + '/val_dict_list.json', 'w'))"
    space = [{"name": "lr", "type": "Range", "dataType": "double", "minDbVal": 0.5, "maxDbVal": 1}]
    fixed = [{"id": one, "hyperParams": [{"name": "lr", "dataType": "double", "fixedVal": one / 4}]} for one in (1, 2)]
    for name, algorithm, rest in (("own", "Lower", {"hyperParams": space}), ("grid", "grid", {"experiments": fixed})):
        algorithm = {"grid": "ExperimentGridSearch"}.get(algorithm, algorithm)
        chosen = {"algorithm": algorithm, "maxJobNum": 2, "objectiveMetric": "loss", "objective": "minimize"}
        request = {"hpoName": name, "modelSpec": {"args": args}, "algoDef": chosen, **rest}
        answer = wmla.search(request, packed({"main.py": metric}))
        assert answer.status == 200, answer.data
        wait_until(lambda name=name: wmla.get(f"/hypersearch/{name}").json["state"] in WMLA_OVER, 60)  # type: ignore[misc]
    assert wmla.post("/resplans/resplan", {"name": "lab", "labels": [{"key": "a", "value": "b"}]}).status == 201


def studies(callers: Callers) -> None:
    """One that found something, and one that was stopped."""
    client = callers.client
    for name, command in (("found", "echo loss={x}"), ("halted", "sleep 600")):
        spec = {
            "space": [{"name": "x", "low": 0, "high": 1}],
            "algorithm": {"name": "random"},
            **{"objective": {"metric": "loss"}, "seed": 1, "max_trials": 3, "max_failures": None},
            "trial": {"roles": [one("main", 1, command)]},
        }
        made = callers.native("POST", "/studies", {"name": name, "spec": spec})
        assert made.status == 201, made.data
    client.studies.wait("found", 60)
    client.studies.stop("halted")
    client.studies.wait("halted", 60)


def cloudml_state(callers: Callers, name: str) -> str:
    """What Cloud-ML says of a job."""
    return str(callers.cloudml.get(f"/train/{name}").json["state"])


def pai_state(callers: Callers, name: str) -> str:
    """What OpenPAI says of a job."""
    return str(callers.openpai.status(name)["state"])


def tools(callers: Callers) -> None:
    """A notebook and a TensorBoard that were used and stopped, and one of Cloud-ML's environments that was deleted."""
    stand_in = {"image": "own", "command": ["python3", "-c", JUPYTER]}
    lab = callers.client.tools.start_notebook(name="lab", **stand_in)
    callers.client.tools.wait_ready(lab, 20)
    board = callers.client.tools.start_tensorboard("s3://runs/mnist", name="board", **stand_in)
    callers.client.tools.wait_ready(board, 20)
    for made in (lab, board):
        callers.client.stop(made.id)
        callers.client.wait(made.id, 60)


def models_and_endpoints(callers: Callers) -> None:
    """Two versions of a model; an endpoint that is stopped, and one that is deleted and closed."""
    client = callers.client
    for factor in (2.0, 3.0):
        client.put("s3://models/net.onnx", times(factor))
        client.register("net", "s3://models/net.onnx", description="multiplies")
    client.serve("net:1", name="life", bake=0)
    assert client.wait_endpoint("life", 60).state == "ready"
    client.rollout("life", "net:2", weight=40)
    assert client.wait_endpoint("life", 60).state == "ready"
    asked = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1.0, 2.0]}]}
    client.predict("life", asked)
    client.stop_endpoint("life")
    wait_until(lambda: client.endpoint("life").state == "stopped", 60)
    client.serve("net", name="short")
    assert client.wait_endpoint("short", 60).state == "ready"
    client.delete_endpoint("short")
    wait_until(lambda: not any(one.name.startswith("short") and one.state not in OVER for one in client.all()), 60)
    client.put("fds://models/linear/model.onnx", times(4.0))
    service = {"model_name": "linear", "model_version": "v1", "model_uri": "fds://models/linear", "cpu_limit": "1"}
    answer = callers.cloudml.post("/model", service | {"memory_limit": "512M"})
    assert answer.status == 200, answer.data
    wait_until(lambda: callers.cloudml.get("/model/linear/v1").json["state"] == "running", 60)
    assert callers.cloudml.delete("/model/linear/v1").status == 200
    wait_until(lambda: not any(one.kind == "endpoint" and one.state not in OVER for one in client.all()), 60)


def ask(server: Localml) -> dict[str, Any]:
    """What the APIs say: (who, path) -> answer."""
    callers = Callers(server)
    wait_until(lambda: callers.client.endpoint("life").url is not None, 60)
    paths = ["/workloads?deleted=true&limit=1000", "/events", "/pools", "/users", "/models", "/endpoints", "/gpus"]
    paths += ["/notebooks", "/tensorboards", "/endpoints/life", "/endpoints/life/events", "/endpoints/life/samples"]
    numbers = [one["id"] for one in callers.native("GET", paths[0]).json["workloads"]]
    for number in numbers:
        at = f"/workloads/{number}"
        paths += [at, f"{at}/events", f"{at}/samples", f"{at}/logs"]
    native = {path: _answer(callers.native("GET", path)) for path in paths}
    found = [one["id"] for one in callers.native("GET", "/studies").json["studies"]]
    for number in found:
        native |= {
            path: _answer(callers.native("GET", path)) for path in (f"/studies/{number}", f"/studies/{number}/trials")
        }
    cloudml = ["/train", "/train/linear", "/train/linear/logs", "/train/linear/events", "/train/none", "/model"]
    openpai = ["/jobs", "/jobs/pai-good", "/jobs/pai-bad", "/jobs/pai-waits", "/virtual-clusters"]
    runs = callers.mlbench.get("runs/")
    mlbench = ["runs/", *(f"runs/{run['id']}/" for run in runs)]
    mlbench += [f"metrics/{run['id']}/?metric_type=run" for run in runs]
    return {
        "native": native,
        "cloudml": {path: _answer(callers.cloudml.get(path)) for path in cloudml},
        "openpai": {path: _answer(callers.openpai.get(path)) for path in openpai},
        "wmla": {path: _answer(callers.wmla.get(path)) for path in wmla_paths(callers.wmla)},
        "mlbench": {path: _answer(callers.mlbench.call("GET", path)) for path in mlbench},
    }


def wmla_paths(wmla: WmlaClient) -> list[str]:
    """Of all that shows something there."""
    paths = ["/execs", "/hypersearch", "/hypersearch/algorithm?type=BUILD_IN", "/resplans/resplantree"]
    for one in wmla.get("/execs").json:
        paths += [f"/execs/{one['id']}", f"/execs/{one['id']}/log"]
    paths += [f"/hypersearch/{one['hpoName']}" for one in wmla.get("/hypersearch").json]
    return [*paths, "/scheduler/applications?sort=applicationid"]


def _answer(answer: Any) -> Any:
    assert answer.status == 200, answer.data
    try:
        return json.loads(answer.data)
    except ValueError:
        return answer.data.decode()


def pack(data: Path, answers: dict[str, Any], target: Path) -> None:
    """Pack a closed directory with the answers; paths of this machine become as many letters."""
    (data / "answers.json").write_text(json.dumps(answers, sort_keys=True))
    with tarfile.open(target, "w:gz") as tar:
        for path in sorted(data.rglob("*")):
            if path.is_file() and path.relative_to(data).parts[0] not in DROPPED:
                content = path.read_bytes()
                for known in (str(data), str(data.parents[1] / "data"), str(Path(sys.executable))):
                    content = content.replace(known.encode(), b"/" + b"x" * (len(known) - 1))
                member = tarfile.TarInfo(str(path.relative_to(data)))
                member.size, member.mode = len(content), path.stat().st_mode
                tar.addfile(member, io.BytesIO(content))


if __name__ == "__main__":
    main()
