"""What a server does over its life: batches, reloads, crashes, limits, its end."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import httpx
import numpy as np
import pytest
from helpers.onnx_bench import (
    PATIENCE,
    Server,
    identity,
    label_only,
    lookup,
    matmul,
    mixing,
    save,
    serving,
    spawn,
    tensor,
    wait_for,
)
from onnx import TensorProto

ONES = tensor("x", "FP32", np.ones((1, 4), "f4"))
GATE = """
import pathlib, time
class Gate:
    '''Answers when the file of its input's name is there.'''
    def load(self, path):
        self.outside = pathlib.Path(pathlib.Path(path, "outside").read_text())
    def predict(self, inputs):
        (self.outside / "entered").touch()
        while not (self.outside / "open").exists():
            time.sleep(0.01)
        return {"y": inputs["x"] * 2}
"""


SLOWLY_S = 3.0
"""That long a copy takes which must not be loaded before its end: longer than a file must rest."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "model"


@pytest.fixture
def gate(folder: Path) -> Iterator[Server]:
    """A server whose model answers only when the file ``open`` is there."""
    folder.mkdir()
    (folder / "kernel.py").write_text(GATE)
    (folder / "outside").write_text(str(folder.parent))
    with serving(folder, "--queue", "2") as server:
        yield server


def test_requests_that_come_together_are_run_together_and_keep_their_rows(folder: Path) -> None:
    save(folder, matmul())
    rows = [np.random.default_rng(seed).standard_normal((1 + seed % 3, 4)).astype("f4") for seed in range(120)]
    weights = np.linspace(-1, 1, 12, dtype="f4").reshape(4, 3)
    with serving(folder, "--max-delay-ms", "5") as server, ThreadPoolExecutor(8) as clients:
        answers = list(clients.map(lambda row: server.infer(tensor("x", "FP32", row)), rows))
        for row, answer in zip(rows, answers, strict=True):
            found = np.array(answer.json()["outputs"][0]["data"], "f4").reshape(-1, 3)
            assert np.allclose(found, row @ weights, atol=1e-6)
        assert server.metric("onnx_server_batch_rows_sum") == sum(len(row) for row in rows)
        assert server.metric("onnx_server_batch_rows_count") < len(rows)
        assert server.metric('onnx_server_requests_total{model="m",status="200"}') == len(rows)
        assert server.metric("onnx_server_request_seconds_count") == len(rows)


@pytest.mark.parametrize(
    ("graph", "why"),
    [(mixing(), "depend on each other"), (matmul(rows=1), "does not vary"), (label_only(), "labels alone")],
)
def test_a_model_whose_rows_cannot_be_put_together_is_not_batched(folder: Path, graph: object, why: str) -> None:
    save(folder, graph)  # type: ignore[arg-type]
    with serving(folder) as server:
        about = server.metadata()["parameters"]
        assert (about["batching"], about["max_batch"]) == (False, 1)
        assert why in " ".join(about["notes"])
        assert why in server.log


def test_a_full_queue_answers_503_and_says_when_to_come_back(gate: Server, folder: Path) -> None:
    opened = folder.parent / "open"
    one = {"name": "x", "datatype": "FP32", "shape": [1], "data": [1]}
    with ThreadPoolExecutor(3) as clients:
        first = clients.submit(gate.infer, one)
        wait_for((folder.parent / "entered").exists, "the first request's run")
        waiting = [clients.submit(gate.infer, one) for _ in range(2)]
        wait_for(lambda: gate.metric("onnx_server_queue_length") == 2, "a full queue")
        refused = gate.infer(one)
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
        assert "queue is full" in refused.json()["error"]
        opened.touch()
        assert [answer.result().status_code for answer in (first, *waiting)] == [200, 200, 200]


def test_what_is_in_flight_is_finished_before_the_end(gate: Server, folder: Path) -> None:
    one = {"name": "x", "datatype": "FP32", "shape": [1], "data": [21]}
    with ThreadPoolExecutor(1) as clients:
        running = clients.submit(gate.infer, one)
        wait_for((folder.parent / "entered").exists, "the request's run")
        gate.process.send_signal(signal.SIGTERM)
        wait_for(lambda: "ending" in gate.log, "the end's begin")
        assert gate.process.poll() is None
        (folder.parent / "open").touch()
        assert running.result().json()["outputs"][0]["data"] == [42.0]
    assert gate.process.wait(PATIENCE) == 0


def test_it_is_unready_before_it_closes(folder: Path) -> None:
    save(folder, matmul())
    with serving(folder, "--drain-delay-ms", "60000") as server:
        server.process.send_signal(signal.SIGTERM)
        wait_for(lambda: not server.ready(), "being unready")
        assert "ending" in server.http.get("/v2/health/ready").json()["error"]
        assert server.infer(ONES).status_code == 200
        assert server.infer(ONES).headers["connection"] == "close"


def test_a_worker_that_dies_is_told_and_comes_back(gate: Server, folder: Path) -> None:
    one = {"name": "x", "datatype": "FP32", "shape": [1], "data": [1]}
    with ThreadPoolExecutor(1) as clients:
        running = clients.submit(gate.infer, one)
        wait_for((folder.parent / "entered").exists, "the request's run")
        (worker,) = gate.workers()
        os.kill(worker, signal.SIGKILL)
        answer = running.result()
    assert (answer.status_code, "SIGKILL" in answer.json()["error"]) == (503, True)
    assert "retry-after" in answer.headers
    (folder.parent / "open").touch()
    wait_for(gate.ready, "a new worker")
    assert gate.infer(one).status_code == 200
    assert gate.metric("onnx_server_worker_restarts_total") == 1
    assert gate.stop() == 0


def test_workers_end_with_a_server_that_is_killed(folder: Path) -> None:
    save(folder, matmul())
    with serving(folder) as server:
        (worker,) = server.workers()
        server.process.kill()
        wait_for(lambda: not Path(f"/proc/{worker}").exists(), "the worker's end")


def test_the_newest_version_is_the_default_and_others_are_served_too(folder: Path) -> None:
    save(folder / "2", matmul(2))
    save(folder / "10", matmul(10))
    with serving(folder) as server:
        wait_for(lambda: server.metadata()["versions"] == ["2", "10"], "both versions")
        assert server.value() / server.value("2") == pytest.approx(5)
        save(folder / "11", matmul(20))
        wait_for(lambda: server.metadata()["versions"] == ["2", "10", "11"], "the new version")
        assert server.value() / server.value("10") == pytest.approx(2)
        shutil.rmtree(folder / "11")
        wait_for(lambda: server.metadata()["versions"] == ["2", "10"], "the version's removal")
        assert server.value() == server.value("10")


def test_a_changed_model_takes_over_without_losing_a_request(folder: Path) -> None:
    save(folder, matmul(1))
    stop = threading.Event()
    statuses: set[int] = set()

    def ask(server: Server) -> None:
        while not stop.is_set():
            statuses.add(server.infer(ONES).status_code)

    with serving(folder) as server:
        before = server.value()
        asking = [threading.Thread(target=ask, args=(server,)) for _ in range(2)]
        for thread in asking:
            thread.start()
        save(folder, matmul(3))
        wait_for(lambda: server.value() == pytest.approx(3 * before), "the new model")
        wait_for(lambda: len(server.workers()) == 1, "the old worker's end")
        stop.set()
        for thread in asking:
            thread.join()
        assert statuses == {200}


def test_a_broken_version_replaces_nothing_and_is_told(folder: Path) -> None:
    save(folder, matmul(1))
    whole = save(folder.parent / "other", matmul(5)).read_bytes()
    with serving(folder) as server:
        before = server.value()
        (folder / "model.onnx").write_bytes(whole[: len(whole) // 2])
        wait_for(lambda: "load_error" in server.metadata()["parameters"]["states"]["1"], "the refusal")
        state = server.metadata()["parameters"]["states"]["1"]
        assert (state["state"], "not a whole ONNX model" in state["load_error"]) == ("ready", True)
        assert "is not served" in server.log
        assert (server.value(), server.ready()) == (before, True)
        (folder / "model.onnx").write_bytes(whole)
        wait_for(lambda: server.value() == pytest.approx(5 * before), "the repaired model")
        assert "load_error" not in server.metadata()["parameters"]["states"]["1"]


def test_a_worker_comes_back_with_the_files_it_had_whatever_lies_there_now(folder: Path) -> None:
    save(folder, matmul(1))
    with serving(folder) as server:
        before = server.value()
        (folder / "model.onnx").write_bytes(b"of no use")
        wait_for(lambda: "load_error" in server.metadata()["parameters"]["states"]["1"], "the refusal")
        wait_for(lambda: len(server.workers()) == 1, "the end of the refused one's worker")
        (worker,) = server.workers()
        os.kill(worker, signal.SIGKILL)
        wait_for(lambda: server.workers() not in ([], [worker]) and server.ready(), "another worker")
        assert server.value() == before


def test_a_file_that_is_still_being_copied_is_not_loaded(folder: Path) -> None:
    save(folder, matmul(1))
    whole = save(folder.parent / "other", matmul(5)).read_bytes()
    with serving(folder, "--settle-ms", "2000") as server:
        before = server.value()
        pause = threading.Event()
        with (folder / "model.onnx").open("wb") as copy:
            for start in range(0, len(whole), 20):
                copy.write(whole[start : start + 20])
                copy.flush()
                pause.wait(SLOWLY_S / (len(whole) // 20))
                assert server.value() == before
        wait_for(lambda: server.value() == pytest.approx(5 * before), "the new model")
        assert "is not served" not in server.log


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"no model at all", "is not a whole ONNX model"),
        (None, "has no model"),
    ],
)
def test_a_start_without_a_model_fails_with_the_reason(folder: Path, content: bytes | None, why: str) -> None:
    folder.mkdir()
    (folder / ("model.onnx" if content else "notes.txt")).write_bytes(content or b"x")
    server = spawn(folder, folder.parent / "log")
    assert server.process.wait(PATIENCE) == 1
    assert why in server.log


def test_a_model_of_a_newer_opset_is_refused_with_the_reason(folder: Path) -> None:
    save(folder, matmul(), opset=99)
    server = spawn(folder, folder.parent / "log")
    assert server.process.wait(PATIENCE) == 1
    assert "newer ONNX than onnxruntime" in server.log


def test_falling_back_to_the_cpu_must_be_allowed(folder: Path) -> None:
    save(folder, matmul())
    server = spawn(folder, folder.parent / "log", "--provider", "cuda")
    assert server.process.wait(PATIENCE) == 1
    assert "--allow-cpu-fallback" in server.log
    with serving(folder, "--provider", "cuda", "--allow-cpu-fallback") as server:
        assert server.http.get("/v2/health/ready").json()["provider"] == "CPUExecutionProvider"
        assert "CUDA is wanted" in " ".join(server.metadata()["parameters"]["notes"])


def test_a_request_beyond_the_memory_limit_fails_alone(folder: Path) -> None:
    save(folder, identity({"": TensorProto.FLOAT}))
    with serving(folder, "--memory-limit", "400M", "--max-body", "300M") as server:
        rows = 120 << 20
        headers = {"Inference-Header-Content-Length": "0"}
        answer = server.http.post("/v2/models/m/infer", content=bytes(rows), headers=headers)
        assert (answer.status_code, "memory" in answer.json()["error"] or "died" in answer.json()["error"]) == (
            503,
            True,
        )
        wait_for(server.ready, "readiness")
        assert server.infer(tensor("x", "FP32", np.ones((1, 2), "f4"))).status_code == 200


def test_a_thousand_idle_connections_and_a_slow_client_hold_up_nobody(folder: Path) -> None:
    save(folder, matmul())
    with serving(folder) as server:
        idle = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(1000)]
        slow = socket.create_connection(("127.0.0.1", server.port))
        slow.sendall(b"POST /v2/models/m/infer HTTP/1.1\r\nHost: m\r\nContent-Length: 100\r\n\r\n{")
        try:
            assert all(server.infer(ONES).status_code == 200 for _ in range(20))
        finally:
            for sock in (*idle, slow):
                sock.close()
        assert server.stop() == 0


def test_a_body_that_takes_too_long_is_answered_408(folder: Path) -> None:
    save(folder, matmul())
    with (
        serving(folder, "--body-timeout-ms", "100") as server,
        socket.create_connection(("127.0.0.1", server.port)) as slow,
    ):
        slow.sendall(b"POST /v2/models/m/infer HTTP/1.1\r\nHost: m\r\nContent-Length: 100\r\n\r\n{")
        slow.settimeout(PATIENCE)
        assert slow.recv(4096).startswith(b"HTTP/1.1 408")


def test_a_head_without_end_is_answered_431_and_holds_up_nobody(folder: Path) -> None:
    save(folder, matmul())
    with serving(folder) as server, socket.create_connection(("127.0.0.1", server.port)) as endless:
        endless.settimeout(PATIENCE)
        endless.sendall(b"GET /v2 HTTP/1.1\r\nHost: m\r\nX-Long: ")
        with suppress(ConnectionError):  # it is closed while more is sent
            for _ in range(64):
                endless.sendall(bytes(b"a" * 65536))
        with suppress(ConnectionError):
            assert endless.recv(4096).startswith(b"HTTP/1.1 431")
        assert server.infer(ONES).status_code == 200
        large = server.http.post("/v2/models/m/infer", content=b" " * (8 << 20), headers={"x": "y" * 60_000})
        assert large.status_code == 400, "a large body is no large head"


def test_a_request_whose_version_is_replaced_while_its_body_comes_is_answered_by_the_new_one(folder: Path) -> None:
    save(folder, matmul(1))
    body = json.dumps({"inputs": [ONES]}).encode()
    with serving(folder) as server, socket.create_connection(("127.0.0.1", server.port)) as slow:
        before = server.value()
        slow.settimeout(PATIENCE)
        slow.sendall(b"POST /v2/models/m/infer HTTP/1.1\r\nHost: m\r\nContent-Length: %d\r\n\r\n" % len(body))
        slow.sendall(body[:10])
        server.ready()  # by now the head was taken in
        save(folder, matmul(3))
        wait_for(lambda: server.value() == pytest.approx(3 * before), "the new model")
        wait_for(lambda: len(server.workers()) == 1, "the old worker's end")
        slow.sendall(body[10:])
        answer = slow.recv(65536)
        assert answer.startswith(b"HTTP/1.1 200"), answer


def test_requests_of_one_batch_fail_by_themselves(folder: Path) -> None:
    save(folder, lookup())
    with serving(folder, "--max-delay-ms", "20") as server, ThreadPoolExecutor(8) as clients:

        def ask(index: int) -> httpx.Response:
            return server.infer({"name": "i", "datatype": "INT64", "shape": [1], "data": [index]})

        indexes = [0, 9, 1, 2, 9, 3] * 10
        answers = list(clients.map(ask, indexes))
        assert [answer.status_code for answer in answers] == [400 if index == 9 else 200 for index in indexes]
        for index, answer in zip(indexes, answers, strict=True):
            if index != 9:
                assert answer.json()["outputs"][0]["data"] == [2.0 * index, 2.0 * index + 1]
