"""The README's first command, as a user runs it."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


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
    subprocess.run([Path(sys.executable).parent / "localml", "down"], env=os.environ | own, check=False)


@pytest.mark.docker
@pytest.mark.timeout(900)
def test_quickstart_trains_on_real_data_and_shows_the_result(settings: dict[str, str], tmp_path: Path) -> None:
    run = subprocess.run(
        [ROOT / "scripts" / "quickstart"], env=settings, cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stdout + run.stderr
    accuracy = re.search(r"accuracy on held-out images: (0\.\d+)", run.stdout)
    assert accuracy is not None, run.stdout
    assert float(accuracy[1]) > 0.95
    assert "engine: docker" in run.stdout
    assert "epoch=20/20" in run.stdout
    (folder,) = (tmp_path / "data" / "buckets" / "quickstart" / "digits").glob("digits-*")
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["accuracy"] == pytest.approx(float(accuracy[1]), abs=1e-4)
    assert (folder / "model.onnx").stat().st_size > 1000
    assert list(folder.rglob("events.out.tfevents.*"))
    for path in folder.rglob("*"):
        assert path.stat().st_uid == os.getuid()
