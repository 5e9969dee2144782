"""The example of a search: the quickstart's trainer really trains, with each engine, from the command line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from localml.cli.app import run
from localml.config import load
from localml.core.catalog import cache_dir
from localml.engines.runtimes import open_images
from localml.platform import Platform
from localml.server import Server

SWEEP = Path(__file__).parents[2] / "scripts" / "examples" / "digits" / "sweep.toml"
TRIALS = 6

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(params=["process", pytest.param("docker", marks=pytest.mark.docker)])
def data(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """Data directory of a server with the trainer's runtime."""
    open_images(request.param, cache_dir()).build("train-sklearn", lambda _: None)
    settings = {"engine": request.param, "gpus": "none", "port": 0, "gateway_port": 0, "cpus": 16}
    server = Server(Platform(load({}, data=tmp_path, **settings)))
    server.start()
    yield tmp_path
    server.close()


def test_the_example_finds_a_trainer_that_learns(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["tune", str(SWEEP), "--data", str(data), "--name", "digits", "--trials", str(TRIALS), "--parallel", "2"]
    code = run([*words, "--seed", "1", "--follow"])
    said = capsys.readouterr()
    assert code == 0, said.err
    assert "best: validation_accuracy=0.9" in said.out
    assert run(["study", "export", "digits", "--json", "--data", str(data)]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [one["number"] for one in found["trials"]] == list(range(1, TRIALS + 1))
    assert {one["state"] for one in found["trials"]} <= {"complete", "pruned"}
    best = max(one["value"] for one in found["trials"] if one["state"] == "complete")
    assert best == found["study"]["best_value"] > 0.9
    losses = [one["metrics"]["validation_loss"] for one in found["trials"]]
    assert all(one["min"] > 0 for one in losses)
