"""Training tasks that run: what they are told, what they leave behind, and how it is fetched."""

from __future__ import annotations

import hashlib
import io
import json
import os
import zipfile
from collections.abc import Callable
from typing import Any

import pytest
from helpers.cloudml import over
from helpers.people import tree_of
from helpers.rig import wait_until
from helpers.wmla import MEETS, OVER, WmlaClient, packed

from localml.server import Server

PATIENCE_S = 60.0
PYTHON = "--exec-start Python"


@pytest.fixture
def run(live: WmlaClient) -> Callable[..., dict[str, Any]]:
    """Starts a program, waits for its end, and says what it was."""

    def act(program: str, args: str = "", data: str | None = None) -> dict[str, Any]:
        made = live.start(f"{PYTHON} --model-main main.py {args}", packed({"main.py": program}, "m"), data)
        assert made.status == 200, made.data
        return ended(live, made.json["id"])

    return act


def ended(live: WmlaClient, exec_id: str) -> dict[str, Any]:
    wait_until(lambda: live.get(f"/execs/{exec_id}").json["state"] in OVER, PATIENCE_S)
    return dict(live.get(f"/execs/{exec_id}").json)


def results(live: WmlaClient, exec_id: str) -> dict[str, bytes]:
    answer = live.get(f"/execs/{exec_id}/result")
    assert answer.status == 200, answer.data
    assert answer.headers["Content-Type"] == "application/zip"
    assert answer.headers["Content-Disposition"] == f"attachment;filename={exec_id}.zip"
    with zipfile.ZipFile(io.BytesIO(answer.data)) as archive:
        assert archive.testzip() is None
        return {name: archive.read(name) for name in archive.namelist()}


TELLS = """
import json, os, sys
names = ("DLI_DATA_FS", "DATA_DIR", "DLI_RESULT_FS", "RESULT_DIR", "LOG_DIR", "DLI_EXECID", "USER", "LOCALML_BUCKETS",
         "NODE_RANK", "WMLA_NWORKER", "OWN")
told = {name: os.environ.get(name) for name in names}
told |= {"argv": sys.argv[1:], "data": sorted(os.listdir(os.environ["DATA_DIR"])), "here": sorted(os.listdir("."))}
with open(os.path.join(os.environ["RESULT_DIR"], "told.json"), "w") as file:
    json.dump(told, file)
with open(os.path.join(os.environ["LOG_DIR"], "own.log"), "wb") as file:
    file.write(bytes(range(256)) * 40)
"""


def test_a_program_is_told_where_everything_is_and_what_it_leaves_is_fetched_byte_for_byte(
    server: Server, live: WmlaClient, run: Callable[..., dict[str, Any]]
) -> None:
    with tree_of(server.platform).open("s3://mnist/train/a.csv", "wb") as file:
        file.write(b"1")
    ended = run(
        TELLS, "--cs-datastore-meta type=fs,data_path=mnist/train --msd-env OWN=x%{index}y -- --numWorker 'a b'"
    )
    assert ended["state"] == "FINISHED"
    found = results(live, ended["id"])
    assert set(found) == {"told.json", "log/own.log"}
    assert found["log/own.log"] == bytes(range(256)) * 40
    told = json.loads(found["told.json"])
    tree = told["LOCALML_BUCKETS"]
    assert told["DLI_DATA_FS"] == tree
    assert told["DATA_DIR"] == f"{tree}/mnist/train"
    assert told["RESULT_DIR"] == f"{told['DLI_RESULT_FS']}/{told['USER']}/batchworkdir/{told['DLI_EXECID']}"
    assert (told["USER"], told["DLI_EXECID"]) == ("admin", ended["id"])
    assert told["OWN"] == "x%{index}y"
    assert told["argv"] == ["--numWorker", "a b"]
    assert (told["data"], told["here"]) == (["a.csv"], ["main.py"])


SHOWS = """
import os
for one in os.environ["DATA_PATHS"].split(","):
    print(open(one).read())
print(os.environ["DATA_DIR"])
"""


def test_all_paths_of_a_data_source_are_told(
    server: Server, live: WmlaClient, run: Callable[..., dict[str, Any]]
) -> None:
    for name in ("a b*.csv", "c.csv"):
        with tree_of(server.platform).open(f"s3://several/train/{name}", "wb") as file:
            file.write(name.encode())
    source = {"type": "connection", "location": {"bucket": "several", "paths": "train/a b*.csv,train/c.csv"}}
    ended = run(SHOWS, data=json.dumps({"dataSource": [source]}))
    lines = live.get(f"/execs/{ended['id']}/log").data.decode().splitlines()
    assert lines[:2] == ["a b*.csv", "c.csv"]
    assert lines[2].endswith("/several/train")


def test_several_workers_meet(live: WmlaClient, run: Callable[..., dict[str, Any]]) -> None:
    ended = run(MEETS, "--numWorker 3")
    assert ended["state"] == "FINISHED", live.get(f"/execs/{ended['id']}/log").data
    assert results(live, ended["id"])["met.txt"] == b"worker 1\nworker 2\n"


def test_a_whole_command_runs_in_the_models_folder(live: WmlaClient) -> None:
    files = {"run.sh": 'echo "$@" "$WMLA_WORKER_NDEVICE"; ls', "data.txt": ""}
    args = f"{PYTHON} --workerDeviceType cpu --workerDeviceNum 2 --user-cmd -- sh run.sh --a 'b c'"
    made = live.start(args, packed(files)).json
    assert ended(live, made["id"])["state"] == "FINISHED"
    assert live.get(f"/execs/{made['id']}/log").data == b"--a b c 2\ndata.txt\nrun.sh\n"


def test_a_log_is_text_or_json_of_either_stream_or_both(live: WmlaClient, run: Callable[..., dict[str, Any]]) -> None:
    ended = run("import sys\nprint('out \\u20ac', flush=True)\nprint('err', file=sys.stderr)\nsys.exit(3)")
    assert ended["state"] == "ERROR"
    path = f"/execs/{ended['id']}/log"
    assert live.get(path, logType="outlog").data.decode() == "out \u20ac\n"
    assert live.get(path, logType="errlog").data == b"err\n"
    both = live.get(path)
    assert both.headers["Content-Type"].startswith("text/plain")
    assert sorted(both.data.decode().splitlines()) == ["err", "out \u20ac"]
    text = live.call("GET", f"{path}?logType=outerrlog", Accept="application/json")
    assert text.headers["Content-Type"] == "application/json"
    assert json.loads(text.data) == both.data.decode()
    assert live.call("GET", path, Accept="application/json, text/plain").headers["Content-Type"].startswith("text")
    assert live.get(path, logType="nonsense").status == 400


def test_a_task_without_a_result_says_so_and_json_clients_get_the_zip(
    live: WmlaClient, run: Callable[..., dict[str, Any]]
) -> None:
    empty = run("pass")
    answer = live.get(f"/execs/{empty['id']}/result")
    assert answer.status == 400
    assert "left nothing in its result folder" in answer.json["error"]
    assert json.loads(live.call("GET", f"/execs/{empty['id']}/log", Accept="application/json").data) == ""
    ended = run("import os; open(os.environ['RESULT_DIR'] + '/x', 'w')")
    answer = live.call("GET", f"/execs/{ended['id']}/result", Accept="application/json")
    assert (answer.status, answer.headers["Content-Type"]) == (200, "application/zip")


def test_a_running_task_is_stopped_or_deleted(live: WmlaClient) -> None:
    program = packed({"main.py": "import time\nprint('up', flush=True)\ntime.sleep(600)"})
    made = live.start(f"{PYTHON} --model-main main.py", program).json
    wait_until(lambda: live.get(f"/execs/{made['id']}/log").data == b"up\n", PATIENCE_S)
    assert "has no result yet" in live.get(f"/execs/{made['id']}/result").json["error"]
    assert live.post(f"/execs/{made['id']}/stop").status == 204
    assert ended(live, made["id"])["state"] == "KILLED"
    again = live.start(f"{PYTHON} --model-main main.py", program).json
    assert live.delete(f"/execs/{again['id']}").status == 204
    assert live.get(f"/execs/{again['id']}").status == 400


def test_users_have_folders_of_their_own(server: Server, live: WmlaClient) -> None:
    server.platform.identity.create_user("ann", "secret1")
    ann = WmlaClient(over(server.url), "ann", "secret1")
    made = ann.start(f"{PYTHON} --model-main main.py", packed({"main.py": TELLS})).json
    assert ended(ann, made["id"])["state"] == "FINISHED", ann.get(f"/execs/{made['id']}/log").data
    told = json.loads(results(ann, made["id"])["told.json"])
    assert told["USER"] == "ann"
    assert told["DLI_RESULT_FS"].endswith("/wmla-ann")
    assert "told.json" in results(live, made["id"])  # an administrator sees it


def test_a_model_of_many_megabytes_comes_without_a_name_or_type(live: WmlaClient) -> None:
    content = os.urandom(3 << 20)
    program = "import os, hashlib; print(hashlib.sha256(open('w.bin', 'rb').read()).hexdigest())"
    made = live.start(f"{PYTHON} --model-main main.py", packed({"main.py": program, "w.bin": content}, "m", gz=True))
    assert made.status == 200, made.data
    assert ended(live, made.json["id"])["state"] == "FINISHED"
    log = live.get(f"/execs/{made.json['id']}/log").data.decode().strip()
    assert log == hashlib.sha256(content).hexdigest()
