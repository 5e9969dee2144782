"""Measures onnx-server beside its floor, raw onnxruntime, and beside MLServer: the same tiny model, the same run.

    python scripts/lib/bench_onnx.py [--seconds 3] [--json]

MLServer is measured where a program ``mlserver`` is on the PATH. It may live in an environment of its own (its packages
conflict with newer ones), made with ``pip install mlserver onnxruntime``.

The client is a plain socket that keeps its connection, so that little of what is measured is its own work. It and the
server share the machine, as they do with a gateway in front. On a busy machine only the ratios mean much.
"""

from __future__ import annotations

import argparse
import json
import re
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort  # type: ignore[import-untyped]
from onnx import TensorProto, helper

RUNTIME = Path(__file__).resolve().parents[2] / "runtimes" / "onnx-server"
BUDGET = {"added_p50_ms": 0.5, "added_p99_ms": 3.0, "one_client_per_s": 2000, "eight_clients_per_s": 4000}
BODY = b'{"inputs":[{"name":"x","shape":[1,4],"datatype":"FP32","data":[1.0,2.0,3.0,4.0]}]}'
END = b"\r\n\r\n"
LENGTH = re.compile(rb"content-length: (\d+)")
HEAD = (
    "POST /v2/models/tiny/infer HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n"
)
REQUEST = HEAD.format(len(BODY)).encode() + BODY


def make_model(folder: Path) -> Path:
    """A model of one small matrix."""
    weights = helper.make_tensor("w", TensorProto.FLOAT, [4, 3], np.linspace(0, 1, 12, dtype=np.float32))
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "tiny",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 3])],
        [weights],
    )
    path = folder / "model.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


def percentiles(latencies: list[float]) -> tuple[float, float]:
    """Median and 99th percentile, in milliseconds."""
    ordered = sorted(latencies)
    return ordered[len(ordered) // 2] * 1e3, ordered[int(len(ordered) * 0.99)] * 1e3


def measure_floor(model: Path, seconds: float) -> list[float]:
    """Seconds of each run of raw onnxruntime."""
    session = ort.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    row = np.array([[1, 2, 3, 4]], dtype=np.float32)
    latencies = []
    end = time.perf_counter() + seconds
    while (start := time.perf_counter()) < end:
        session.run(["y"], {"x": row})
        latencies.append(time.perf_counter() - start)
    return latencies


def connect(port: int) -> socket.socket:
    """A connection to the server."""
    sock = socket.create_connection(("127.0.0.1", port))
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


def take_answer(sock: socket.socket) -> None:
    """Read one answer; head and body may come apart."""
    answer = b""
    while not answer or len(answer) < answer.index(END) + len(END) + int(LENGTH.findall(answer)[0]):
        answer += sock.recv(65536)
        if END not in answer or not answer.startswith(b"HTTP/1.1 200"):
            raise SystemExit(f"the server answered {answer[:200]!r}")


def measure_clients(port: int, count: int, seconds: float) -> list[float]:
    """Seconds of each request of ``count`` clients that send the next one as soon as they have the answer."""
    ready = selectors.DefaultSelector()
    sent: dict[socket.socket, float] = {}
    for sock in [connect(port) for _ in range(count)]:
        ready.register(sock, selectors.EVENT_READ, sock)
        sent[sock] = time.perf_counter()
        sock.sendall(REQUEST)
    latencies = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        for key, _ in ready.select():
            sock = key.data
            take_answer(sock)
            latencies.append(time.perf_counter() - sent[sock])
            sent[sock] = time.perf_counter()
            sock.sendall(REQUEST)
    for sock in sent:
        take_answer(sock)
        sock.close()
    return latencies


@contextmanager
def onnx_server(model: Path) -> Iterator[int]:
    """The port of an onnx-server that is ready."""
    port = free_port()
    command = [sys.executable, "-m", "onnx_server", "--model-dir", str(model.parent), "--name", "tiny"]
    with running([*command, "--port", str(port)], RUNTIME, port):
        yield port


@contextmanager
def mlserver(program: str, model: Path) -> Iterator[int]:
    """The port of an MLServer that is ready. It computes in its own process: its fastest for so little work."""
    port = free_port()
    folder = model.parent / "mlserver"
    folder.mkdir()
    shutil.copy(Path(__file__).with_name("mlserver_tiny.py"), folder)
    settings = {"host": "127.0.0.1", "http_port": port, "grpc_port": free_port(), "metrics_endpoint": None}
    (folder / "settings.json").write_text(json.dumps({**settings, "parallel_workers": 0, "debug": False}))
    described = {"name": "tiny", "implementation": "mlserver_tiny.Tiny", "parameters": {"uri": str(model)}}
    (folder / "model-settings.json").write_text(json.dumps(described))
    with running([program, "start", str(folder)], folder, port):
        yield port


@contextmanager
def running(command: list[str], folder: Path, port: int) -> Iterator[None]:
    """A server that is ready to infer."""
    server = subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(300):
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/v2/models/tiny/ready", timeout=1):
                    break
            except OSError:
                time.sleep(0.1)
        else:
            raise SystemExit(f"{command[0]} did not become ready")
        yield
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait()


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def measure(seconds: float) -> dict[str, float]:
    """All numbers, in milliseconds and requests a second; those of MLServer where it is installed."""
    with tempfile.TemporaryDirectory() as scratch:
        model = make_model(Path(scratch))
        floor = percentiles(measure_floor(model, seconds))
        found = {"floor_p50_ms": floor[0], "floor_p99_ms": floor[1]}
        with onnx_server(model) as port:
            found |= measure_server(port, seconds, floor)
        if program := shutil.which("mlserver"):
            with mlserver(program, model) as port:
                other = measure_server(port, seconds, floor)
            found |= {f"mlserver_{name}": value for name, value in other.items()}
        return found


def measure_server(port: int, seconds: float, floor: tuple[float, float]) -> dict[str, float]:
    """What one client and eight see, and what that adds to the floor's median and 99th percentile."""
    measure_clients(port, 1, min(seconds, 0.5))
    alone = measure_clients(port, 1, seconds)
    together = measure_clients(port, 8, seconds)
    p50, p99 = percentiles(alone)
    return {
        "one_client_p50_ms": p50,
        "one_client_p99_ms": p99,
        "added_p50_ms": p50 - floor[0],
        "added_p99_ms": p99 - floor[1],
        "one_client_per_s": len(alone) / seconds,
        "eight_clients_per_s": len(together) / seconds,
        "eight_clients_p50_ms": percentiles(together)[0],
        "eight_clients_p99_ms": percentiles(together)[1],
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Measure the server beside raw onnxruntime.")
    parser.add_argument("--seconds", type=float, default=3.0, help="for each measurement")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args()
    found = measure(options.seconds)
    if options.json:
        print(json.dumps({"measured": found, "budget": BUDGET}))
        return
    print(f"{'':32}{'measured':>12}{'budget':>12}")
    for name, value in found.items():
        print(f"{name:32}{value:12.3f}{BUDGET.get(name, ''):>12}")


if __name__ == "__main__":
    main()
