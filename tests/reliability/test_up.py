"""The command ``localml up`` as a user types it: one server for a data directory, and an orderly end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

from helpers.engine_kits import wait_until

from localml.store.lock import holder


def _up(data: Path) -> list[str]:
    options = ["--engine", "process", "--gpus", "none", "--port", "0"]
    return [sys.executable, "-m", "localml.cli", "up", "--data", str(data), *options]


def test_a_second_up_on_the_same_data_names_the_first_and_leaves_it_alone(tmp_path: Path) -> None:
    data = tmp_path / "data"
    environment = {**os.environ, "HOME": str(tmp_path)}
    with (tmp_path / "output").open("wb") as output:
        first = subprocess.Popen(_up(data), stdout=output, stderr=output, env=environment)
        try:
            info = wait_until(lambda: holder(data) if (data / "server.json").exists() else None, "the first server")
            assert info["pid"] == first.pid
            again = subprocess.run(_up(data), capture_output=True, text=True, timeout=60, env=environment)
            assert again.returncode != 0
            said = " ".join((again.stdout + again.stderr).split())
            assert f"process {first.pid}" in said
            assert info["url"] in said
            assert "Traceback" not in said
            assert first.poll() is None
            assert json.loads((data / "server.json").read_text()) == info
        finally:
            first.send_signal(signal.SIGTERM)
            status = first.wait(60)
    assert status == 0, (tmp_path / "output").read_text()
    assert holder(data) is None
    assert not (data / "server.json").exists()
