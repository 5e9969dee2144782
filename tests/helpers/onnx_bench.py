"""Small ONNX models, and servers that serve them, for the tests of onnx_server."""

from __future__ import annotations

import json
import os
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import httpx
import numpy as np
import onnx
from onnx import TensorProto, helper

from helpers.ports import free_port

T = TypeVar("T")
ROOT = Path(__file__).resolve().parents[2] / "runtimes" / "onnx-server"
PATIENCE = 60.0
"""Seconds after which a condition that did not come true fails the test."""


def save(folder: Path, graph: onnx.GraphProto, opset: int = 17) -> Path:
    """Write a model as ``model.onnx``, whole at once."""
    folder.mkdir(parents=True, exist_ok=True)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)
    scratch = folder.parent / f".{folder.name}.onnx"
    onnx.save(model, scratch)
    scratch.replace(folder / "model.onnx")
    return folder / "model.onnx"


def matmul(factor: float = 1.0, rows: str | int = "n") -> onnx.GraphProto:
    """y[n, 3] = x[n, 4] W, W scaled by ``factor``."""
    weights = np.linspace(-1, 1, 12, dtype=np.float32) * np.float32(factor)
    return helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "matmul",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [rows, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [rows, 3])],
        [helper.make_tensor("w", TensorProto.FLOAT, [4, 3], weights)],
    )


def identity(kinds: dict[str, int]) -> onnx.GraphProto:
    """y = x and z = x for each kind of element; its key, if any, is part of the names: ``x_KEY``."""
    nodes, inputs, outputs = [], [], []
    for key, kind in kinds.items():
        x, y, z = (f"{letter}_{key}" if key else letter for letter in "xyz")
        nodes += [helper.make_node("Identity", [x], [y]), helper.make_node("Identity", [x], [z])]
        inputs.append(helper.make_tensor_value_info(x, kind, ["n", "m"]))
        outputs += [helper.make_tensor_value_info(name, kind, ["n", "m"]) for name in (y, z)]
    return helper.make_graph(nodes, "identity", inputs, outputs)


def mixing() -> onnx.GraphProto:
    """y = x - mean of x over the batch: the right shapes, but every row depends on all others."""
    return helper.make_graph(
        [helper.make_node("ReduceMean", ["x"], ["m"], axes=[0]), helper.make_node("Sub", ["x", "m"], ["y"])],
        "mixing",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 2])],
    )


def label_only() -> onnx.GraphProto:
    """y = the greatest element's index: of a few rows that says little about how they were computed."""
    return helper.make_graph(
        [helper.make_node("ArgMax", ["x"], ["y"], axis=1, keepdims=0)],
        "label",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3])],
        [helper.make_tensor_value_info("y", TensorProto.INT64, ["n"])],
    )


def lookup() -> onnx.GraphProto:
    """y[n] = row i[n] of a table of four; other indexes are refused by onnxruntime while it runs."""
    table = helper.make_tensor("t", TensorProto.FLOAT, [4, 2], np.arange(8, dtype=np.float32))
    return helper.make_graph(
        [helper.make_node("Gather", ["t", "i"], ["y"])],
        "lookup",
        [helper.make_tensor_value_info("i", TensorProto.INT64, ["n"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 2])],
        [table],
    )


def tensor(name: str, datatype: str, array: np.ndarray[Any, Any]) -> dict[str, Any]:
    """An input as JSON."""
    return {"name": name, "datatype": datatype, "shape": list(array.shape), "data": array.ravel().tolist()}


def binary(names: dict[str, tuple[str, list[int], bytes]], **request: Any) -> tuple[bytes, dict[str, str]]:
    """Body and headers of a request with binary inputs."""
    inputs = [
        {"name": name, "datatype": kind, "shape": shape, "parameters": {"binary_data_size": len(data)}}
        for name, (kind, shape, data) in names.items()
    ]
    head = json.dumps({"inputs": inputs, **request}).encode()
    body = head + b"".join(data for _, _, data in names.values())
    return body, {"Inference-Header-Content-Length": str(len(head))}


def unpack(answer: httpx.Response) -> tuple[dict[str, Any], bytes]:
    """JSON and binary part of an answer."""
    length = int(answer.headers["Inference-Header-Content-Length"])
    return json.loads(answer.content[:length]), answer.content[length:]


def packed(*elements: bytes) -> bytes:
    """BYTES elements as binary data."""
    return b"".join(struct.pack("<I", len(element)) + element for element in elements)


def wait_for(look: Callable[[], T], what: str) -> T:
    """Look until the answer is true."""
    end = time.monotonic() + PATIENCE
    while not (found := look()):
        assert time.monotonic() < end, f"{what} did not come true in {PATIENCE} s"
        time.sleep(0.02)
    return found


class Server:
    """A running server of the model ``m``."""

    def __init__(self, process: subprocess.Popen[bytes], port: int, log: Path) -> None:
        self.process, self.port, self._log = process, port, log
        self.http = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=PATIENCE, trust_env=False)

    @property
    def log(self) -> str:
        """What it has written."""
        return self._log.read_text()

    def ready(self) -> bool:
        """Whether it says that it is ready."""
        try:
            return self.http.get("/v2/health/ready").status_code == 200
        except httpx.TransportError:
            assert self.process.poll() is None, self.log
            return False

    def infer(self, *inputs: dict[str, Any], version: str = "", **request: Any) -> httpx.Response:
        """Send a JSON request."""
        path = f"/v2/models/m{f'/versions/{version}' if version else ''}/infer"
        return self.http.post(path, json={"inputs": list(inputs), **request})

    def value(self, version: str = "") -> float:
        """The first number of the answer to a row of ones."""
        answer = self.infer(tensor("x", "FP32", np.ones((1, 4), "f4")), version=version)
        assert answer.status_code == 200, answer.text
        return float(answer.json()["outputs"][0]["data"][0])

    def metadata(self) -> dict[str, Any]:
        """The model's metadata."""
        return dict(self.http.get("/v2/models/m").json())

    def metric(self, series: str) -> float:
        """A series of /metrics."""
        for line in self.http.get("/metrics").text.splitlines():
            if line.startswith(series):
                return float(line.rsplit(" ", 1)[1])
        return 0.0

    def workers(self) -> list[int]:
        """Process ids of its children."""
        return [
            int(pid) for pid in Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        ]

    def stop(self) -> int:
        """Ask it to end; returns the exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(PATIENCE)


def spawn(folder: Path, log: Path, *arguments: str) -> Server:
    """Start a server; it need not be ready."""
    port = free_port()
    command = [sys.executable, "-m", "onnx_server", "--model-dir", str(folder), "--name", "m", "--port", str(port)]
    command += ["--settle-ms", "100", "--drain-delay-ms", "0", *arguments]
    with log.open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out, env={**os.environ, "PYTHONPATH": str(ROOT)})
    return Server(process, port, log)


@contextmanager
def serving(folder: Path, *arguments: str) -> Iterator[Server]:
    """A server that is ready; ends with the block."""
    server = spawn(folder, folder.parent / f"{folder.name}.log", *arguments)
    try:
        wait_for(server.ready, "readiness")
        yield server
    finally:
        server.http.close()
        server.process.kill()
        server.process.wait()
