"""Each framework that is listed runs an example that comes with localml; the first run makes its environment."""

from __future__ import annotations

import io
import json
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.rig import wait_until
from helpers.wmla import OVER, WmlaClient, wmla_server

from localml.core.catalog import cache_dir
from localml.server import Server

EXAMPLES = Path(__file__).parents[3] / "scripts" / "examples" / "wmla"
RUNS = {
    "Python": ("hello", "--name you", "told.json"),
    "scikit-learn": ("digits", "--epochs 3", "model.onnx"),
    "PyTorch": ("torch", "--epochs 3", "net.pt"),
    "distPyTorch": ("distributed", "--numWorker 2", "together.json"),
}
"""Framework -> example, its options, and what it leaves."""
MAKES_S = 500.0

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def example(name: str) -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w:gz") as archive:
        archive.add(EXAMPLES / name, arcname=name)
    return made.getvalue()


def result(client: WmlaClient, framework: str) -> dict[str, bytes]:
    """What a framework's example leaves."""
    folder, options, left = RUNS[framework]
    args = f"--exec-start {framework} --model-main main.py --model-dir {folder} --workerDeviceType cpu {options}"
    made = client.start(args, example(folder))
    assert made.status == 200, made.data
    path = f"/execs/{made.json['id']}"
    wait_until(lambda: client.get(path).json["state"] in OVER, MAKES_S)
    log = client.get(f"{path}/log").data.decode()
    assert client.get(path).json["state"] == "FINISHED", log
    with zipfile.ZipFile(io.BytesIO(client.get(f"{path}/result").data)) as archive:
        found = {name: archive.read(name) for name in archive.namelist()}
    assert found[left], log
    return found


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One that has the cache of all, where environments are made once."""
    with wmla_server(tmp_path_factory.mktemp("examples"), images={}, cache=cache_dir()) as one:
        yield one


def test_there_is_an_example_for_each_framework(live: WmlaClient) -> None:
    assert {one["name"] for one in live.get("/execs/frameworks").json} == set(RUNS)


@pytest.mark.parametrize("framework", list(RUNS))
def test_each_framework_runs_its_example(live: WmlaClient, framework: str) -> None:
    found = result(live, framework)
    if framework == "distPyTorch":
        together = json.loads(found["together.json"])
        assert together["workers"] == 2
        assert together["weights"][0] == together["weights"][1]
