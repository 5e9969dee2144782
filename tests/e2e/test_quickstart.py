"""The README's first command, as a user runs it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import docker
import pytest
from helpers.ports import free_port
from helpers.rig import wait_until

ROOT = Path(__file__).parents[2]


@pytest.fixture
def settings(tmp_path: Path) -> Iterator[dict[str, str]]:
    """A user who has nothing yet, on a machine where the usual ports may be in use."""
    own = {
        "HOME": str(tmp_path),
        "LOCALML_DATA": str(tmp_path / "data"),
        "LOCALML_PORT": str(free_port()),
        "LOCALML_GATEWAY_PORT": str(free_port()),
    }
    yield os.environ | own
    _take_down(os.environ | own)


def _take_down(settings: dict[str, str]) -> None:
    """Remove what the quickstart leaves running on purpose, and the platform."""
    localml = Path(sys.executable).parent / "localml"

    def call(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([localml, *words], env=settings, capture_output=True, text=True, check=False)

    def left() -> list[str]:
        listed = call("ps", "--json")
        return [str(one["id"]) for one in json.loads(listed.stdout)["workloads"]] if listed.returncode == 0 else []

    install = json.loads(call("status", "--json").stdout or "{}").get("install")
    call("rm", "digits")
    for number in left():
        call("rm", number)
    wait_until(lambda: not left(), 60)
    labels = {"label": f"localml.install={install}"}
    wait_until(lambda: not docker.from_env().containers.list(all=True, filters=labels, ignore_removed=True), 60)
    call("down")


@pytest.mark.docker
@pytest.mark.timeout(900)
def test_quickstart_trains_serves_and_shows_the_result(settings: dict[str, str], tmp_path: Path) -> None:
    run = subprocess.run(
        [ROOT / "scripts" / "quickstart"], env=settings, cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stdout + run.stderr
    accuracy = re.search(r"accuracy on held-out images: (0\.\d+)", run.stdout)
    assert accuracy is not None, run.stdout
    assert float(accuracy[1]) > 0.95
    assert "engine: docker" in run.stdout
    assert "epoch=20/20" in run.stdout
    own = [line for line in (run.stdout + run.stderr).splitlines() if not line.startswith("epoch=")]
    assert len(own) <= 60, "\n".join(own)
    served = re.search(r"of 360 held-out images right \((0\.\d+)\), one request each", run.stdout)
    assert served is not None, run.stdout
    assert served[1] == accuracy[1], "the served model answers as the trained one did"
    assert re.search(r"TensorBoard: http://127\.0\.0\.1:\d+/\?token=", run.stdout)
    (folder,) = (tmp_path / "data" / "buckets" / "quickstart" / "digits").glob("digits-*")
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["accuracy"] == pytest.approx(float(accuracy[1]), abs=1e-4)
    assert (folder / "model.onnx").stat().st_size > 1000
    assert list(folder.rglob("events.out.tfevents.*"))
    for path in folder.rglob("*"):
        assert path.stat().st_uid == os.getuid()
