"""A user's own code as a model: Python kernels, and kernels of WMLA's elastic inference."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from helpers.onnx_bench import PATIENCE, binary, packed, serving, spawn, unpack

KERNEL = """
import numpy as np
class Doubler:
    inputs = [("x", "FP32", [-1, 2])]
    outputs = [("y", "FP32", [-1, 2])]
    def load(self, path):
        self.factor = float(open(path + "/factor").read())
    def predict(self, inputs):
        x = inputs["x"]
        if (x < 0).any():
            raise ValueError("x must not be negative")
        if (x > 100).any():
            raise RuntimeError("x is more than I can bear")
        x *= self.factor
        return {"y": x, "names": np.array([["a", "b"]])}
class Other:
    def load(self, path): pass
    def predict(self, inputs): return {"y": inputs["any"]}
"""
WMLA = """
#!/usr/bin/env python
import redhareapiversion
from redhareapi import Kernel
import json, os

class TestKernel(Kernel):
    def on_kernel_start(self, kernel_context):
        Kernel.log_info("kernel id: " + kernel_context.get_id())
        self.description = json.loads(kernel_context.get_model_description())
        with open(os.path.join(self.description["model_path"], self.description["weight_path"])) as weights:
            self.factor = float(weights.read())

    def on_task_invoke(self, task_context):
        while task_context is not None:
            given = json.loads(task_context.get_input_data())
            if "data" in given:
                task_context.set_output_data(json.dumps({"key": given["id"], "data": given["data"] * self.factor}))
            task_context = task_context.next()

    def on_kernel_shutdown(self):
        open(self.description["shut"], "w").close()

if __name__ == "__main__":
    kernel = TestKernel()
    kernel.run()
"""


def one(name: str, *data: float) -> dict[str, object]:
    return {"name": name, "datatype": "FP32", "shape": [1, len(data)], "data": list(data)}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "factor").write_text("2")
    return folder


def test_a_kernel_is_served_as_a_model_is(folder: Path) -> None:
    (folder / "kernel.py").write_text(KERNEL)
    with serving(folder, "--kernel", "kernel:Doubler") as server:
        about = server.metadata()
        assert (about["platform"], about["inputs"][0]["shape"]) == ("python", [-1, 2])
        y, names = server.infer(one("x", 1, 2)).json()["outputs"]
        assert (y["name"], y["data"]) == ("y", [2.0, 4.0])
        assert (names["datatype"], names["data"]) == ("BYTES", ["a", "b"])
        assert "takes shape [-1, 2]" in server.infer(one("x", 1)).json()["error"]
        refused = server.infer(one("x", -1, 0))
        assert (refused.status_code, "must not be negative" in refused.json()["error"]) == (400, True)
        failed = server.infer(one("x", 101, 0))
        assert (failed.status_code, failed.json()["error"]) == (
            500,
            "the model failed: RuntimeError: x is more than I can bear",
        )
        assert "Traceback" in server.log


@pytest.mark.parametrize("kind", ["'FP32'", "'float32'", "np.float32", "np.dtype('f4')", "'>f4'"])
def test_what_a_kernel_takes_may_be_declared_in_numpys_words(folder: Path, kind: str) -> None:
    declared = f"    inputs = [('x', {kind}, (None, 2)), ('name', str, [])]\n"
    methods = "    def load(self, path): pass\n    def predict(self, inputs): return {'y': inputs['x'] * 2}\n"
    (folder / "kernel.py").write_text(f"import numpy as np\nclass Mine:\n{declared}{methods}")
    with serving(folder) as server:
        x, name = server.metadata()["inputs"]
        assert (x["datatype"], x["shape"], name["datatype"]) == ("FP32", [-1, 2], "BYTES")
        text = {"name": "name", "datatype": "BYTES", "shape": [], "data": ["a"]}
        assert server.infer(one("x", 1, 2), text).json()["outputs"][0]["data"] == [2.0, 4.0]
        assert "takes shape [-1, 2]" in server.infer(one("x", 1), text).json()["error"]


def test_a_kernel_that_declares_nothing_takes_anything(folder: Path) -> None:
    (folder / "own.py").write_text(KERNEL)
    with serving(folder, "--kernel", "own:Other") as server:
        body, headers = binary({"any": ("BYTES", [2], packed(b"\xff", b""))}, parameters={"binary_data_output": True})
        described, data = unpack(server.http.post("/v2/models/m/infer", content=body, headers=headers))
        assert (described["outputs"][0]["shape"], data) == ([2], packed(b"\xff", b""))


@pytest.mark.parametrize(
    ("kernel", "why"),
    [
        ("kernel:Missing", "no class with the methods load and predict"),
        ("kernel", "found: Doubler, Other"),
        ("nowhere:Doubler", "needs the Python package 'nowhere'"),
    ],
)
def test_a_kernel_that_cannot_be_loaded_is_told(folder: Path, kernel: str, why: str) -> None:
    (folder / "kernel.py").write_text(KERNEL)
    server = spawn(folder, folder.parent / "log", "--kernel", kernel)
    assert server.process.wait(PATIENCE) == 1
    assert why in server.log


@pytest.mark.parametrize("place", ["import {0}", "def load(self, path): import {0}"])
def test_a_kernel_whose_package_is_missing_is_told_how_it_gets_one(folder: Path, place: str) -> None:
    body = place.format("joblib_that_nobody_has.numpy")
    inner = f"    {body}\n" if "def" in place else "    def load(self, path): pass\n"
    outer = "" if "def" in place else f"{body}\n"
    (folder / "kernel.py").write_text(f"{outer}class One:\n{inner}    def predict(self, inputs): pass\n")
    server = spawn(folder, folder.parent / "log")
    assert server.process.wait(PATIENCE) == 1
    last = server.log.strip().splitlines()[-1]
    assert "needs the Python package 'joblib_that_nobody_has', which is missing here" in last
    assert "--image IMAGE" in last


def test_a_wmla_kernel_beyond_its_memory_limit_fails(folder: Path) -> None:
    (folder / "own.py").write_text(WMLA.lstrip().replace("import ", "held = bytearray(600 << 20)\nimport ", 1))
    (folder / "model.json").write_text(json.dumps({"name": "test", "kernel_path": "own.py", "weight_path": "factor"}))
    server = spawn(folder, folder.parent / "log", "--memory-limit", "200M")
    assert server.process.wait(PATIENCE) == 1
    assert "MemoryError" in server.log


def test_a_wmla_kernel_runs_unchanged(folder: Path) -> None:
    (folder / "own.py").write_text(WMLA.lstrip())
    description = {"name": "test", "tag": "t", "runtime": "dlipy3", "kernel_path": "own.py", "weight_path": "factor"}
    description |= {"model_path": "./", "schema_version": "1", "shut": str(folder.parent / "shut")}
    (folder / "model.json").write_text(json.dumps(description))
    with serving(folder) as server:
        assert server.metadata()["platform"] == "redhare"
        for path in ("/v2/models/m/infer", "/dlim/v1/inference/m"):
            answer = server.http.post(path, content=json.dumps({"id": 7, "data": 21}))
            assert answer.json() == {"key": 7, "data": 42.0}
        failed = server.http.post("/dlim/v1/inference/m", content=b"no JSON")
        assert (failed.status_code, "JSONDecodeError" in failed.json()["error"]) == (500, True)
        silent = server.http.post("/dlim/v1/inference/m", content=b"{}")
        assert (silent.status_code, silent.json()["error"]) == (500, "the kernel gave no answer")
        assert "I kernel id: TestKernel-" in server.log
        assert server.stop() == 0
    assert (folder.parent / "shut").exists()


SPEAKING = """
import os
import redhareapiversion
from redhareapi import Kernel

folder = os.environ["REDHARE_MODEL_PATH"]
os.chdir(folder)
os.makedirs(f"{folder}/packages", exist_ok=True)
print("set up", os.environ["REDHARE_MODEL_NAME"], os.environ["MSD_POD_NAME"])

class Speaking(Kernel):
    def __init__(self):
        self.asked = 0

    def on_task_invoke(self, task):
        self.asked += 1
        print("asked", task.get_session_id())
        for log in (Kernel.log_info, Kernel.log_warn, Kernel.log_debug, Kernel.log_error):
            log("heard")
        task.set_output_data(f"{task.get_model_name()} {task.get_version()}: {self.asked}")

if __name__ == "__main__":
    {run}
"""


@pytest.mark.parametrize("run", ["Speaking().run()", "Speaking.run()", "Kernel.run()"])
def test_a_wmla_kernel_may_be_started_as_an_instance_or_a_class_and_print_what_it_likes(folder: Path, run: str) -> None:
    """One without a start, a shutdown and a loop, with a constructor of its own, that writes into its folder."""
    (folder / "own.py").write_text(SPEAKING.replace("{run}", run))
    (folder / "model.json").write_text(json.dumps({"name": "speaker", "tag": "v2", "kernel_path": "own.py"}))
    with serving(folder) as server:
        for number in (1, 2):
            assert server.http.post("/dlim/v1/inference/m", content=b"any text").text == f"speaker v2: {number}"
        assert "set up speaker m-0" in server.log
        assert server.log.count("heard") == 8


def test_a_wmla_kernel_whose_start_fails_is_told(folder: Path) -> None:
    (folder / "own.py").write_text(WMLA)
    (folder / "model.json").write_text(json.dumps({"kernel_path": "own.py", "weight_path": "missing"}))
    server = spawn(folder, folder.parent / "log")
    assert server.process.wait(PATIENCE) == 1
    assert "on_kernel_start failed: FileNotFoundError" in server.log
