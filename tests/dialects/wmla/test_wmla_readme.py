"""The README's commands for WMLA, as a user types them."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.cloudml import over
from helpers.rig import wait_until
from helpers.wmla import OVER, WmlaClient, wmla_server

from localml.core.catalog import cache_dir

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
ROOT = Path(__file__).parents[3]
MAKES_S = 500.0
COMMANDS = re.compile(r"```sh\n(eval \"\$\(localml env wmla\)\".*?)```", re.DOTALL)


def test_the_commands_train_and_search(tmp_path: Path) -> None:
    found = COMMANDS.search((ROOT / "README.md").read_text())
    assert found is not None
    (tmp_path / "scripts").symlink_to(ROOT / "scripts")
    with wmla_server(tmp_path, images={}, cache=cache_dir()) as server:
        given = server.platform.credentials
        environment = os.environ | {"LOCALML_URL": server.url, "LOCALML_TOKEN": given.token}
        script = (
            f'set -e\nlocalml() {{ "{sys.executable}" -m localml.cli "$@"; }}\n{found[1].replace("curl", "curl -fsS")}'
        )
        done = subprocess.run(["bash", "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        task, search, shown = (json.loads(line) for line in done.stdout.splitlines())
        assert (search["uid"], shown["hpoName"]) == ("digits", "digits")
        client = WmlaClient(over(server.url), "admin", given.password)
        for path in (f"/execs/{task['id']}", "/hypersearch/digits"):
            wait_until(lambda path=path: client.get(path).json["state"] in OVER, MAKES_S)  # type: ignore[misc]
            assert client.get(path).json["state"] == "FINISHED"
        assert client.get("/hypersearch/digits").json["best"]["metricVal"] > 0.5
