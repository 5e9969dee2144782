"""The image serves a model as the package does."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from helpers.onnx_bench import PATIENCE, matmul, save, tensor, wait_for

from localml.core.catalog import cache_dir, runtimes_dir
from localml.engines.runtimes.build import ImageBuilder, connect

pytestmark = [pytest.mark.docker, pytest.mark.slow, pytest.mark.timeout(900)]
ENDED = 0


def _answers(port: int, path: str) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}{path}", trust_env=False, timeout=PATIENCE).status_code == 200
    except httpx.TransportError:
        return False


def test_the_image_serves_a_model_and_ends_in_order(tmp_path: Path) -> None:
    save(tmp_path / "model", matmul())
    client: Any = connect()
    ImageBuilder(client, cache_dir(), runtimes_dir()).build("onnx-server", lambda line: None)
    container = client.containers.run(
        "localml/onnx-server:latest",
        ["--model-dir", "/model", "--name", "m"],
        detach=True,
        user=f"{os.getuid()}:{os.getgid()}",
        volumes={str(tmp_path / "model"): {"bind": "/model", "mode": "ro"}},
        ports={"8080/tcp": ("127.0.0.1", None)},
    )
    try:
        container.reload()
        port = int(container.ports["8080/tcp"][0]["HostPort"])
        wait_for(lambda: _answers(port, "/v2/health/ready"), "readiness")
        body = {"inputs": [tensor("x", "FP32", np.ones((1, 4), "f4"))]}
        answer = httpx.post(
            f"http://127.0.0.1:{port}/v2/models/m/infer", json=body, trust_env=False, timeout=PATIENCE
        ).json()
        weights = np.linspace(-1, 1, 12, dtype="f4").reshape(4, 3)
        assert np.allclose(answer["outputs"][0]["data"], weights.sum(axis=0), atol=1e-6)
        container.stop(timeout=int(PATIENCE))
        assert container.wait()["StatusCode"] == ENDED
    finally:
        container.remove(force=True)


def test_the_gpu_image_has_all_of_cuda_but_the_driver_and_refuses_the_cpu(tmp_path: Path) -> None:
    """Without a GPU the container runtime mounts no driver: its library is then the only one that is missing."""
    client: Any = connect()
    if not client.images.list("localml/onnx-server-gpu"):
        pytest.skip("localml/onnx-server-gpu is not built (2.7 GB): localml images build onnx-server-gpu")
    save(tmp_path / "model", matmul())
    container = client.containers.run(
        "localml/onnx-server-gpu:latest",
        ["--model-dir", "/model", "--name", "m", "--provider", "cuda"],
        detach=True,
        user=f"{os.getuid()}:{os.getgid()}",
        volumes={str(tmp_path / "model"): {"bind": "/model", "mode": "ro"}},
    )
    try:
        assert container.wait(timeout=PATIENCE)["StatusCode"] != ENDED
        log = container.logs().decode()
    finally:
        container.remove(force=True)
    assert "libonnxruntime_providers_cuda.so with error: libcuda.so.1: cannot open shared object file" in log
    assert "version 1 is not served: CUDA is wanted, but onnxruntime could not start it on this machine" in log
