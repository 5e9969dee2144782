"""A notebook that is restarted while the server is killed gets its next run, once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from helpers.engine_kits import wait_until
from helpers.server_process import Running, servers

SPEC = {"roles": [{"image": "none", "command": ["sleep", "600"], "ports": [{"label": "http"}]}], "until_stopped": True}


@pytest.mark.slow
def test_a_restart_that_was_acknowledged_happens_whenever_the_server_dies(tmp_path: Path) -> None:
    with servers(tmp_path / "data") as found:
        server = found.start()
        server.api.post("/workloads", {"name": "lab", "kind": "notebook", "spec": SPEC})
        for run in (2, 3, 4):
            _wait_running(server, run - 1)
            assert server.api.post("/notebooks/lab/restart")["pending"] is True
            server.end()  # kill -9
            server = found.start()
        _wait_running(server, 4)
        every = server.api.get("/workloads", kind="notebook", deleted=True)["workloads"]
        assert sorted(one["parent_index"] for one in every) == [1, 2, 3, 4]
        assert server.api.call("DELETE", "/notebooks/lab").ok
        wait_until(lambda: server.api.get("/workloads", state="running")["workloads"] == [], "the end of the last run")


def _wait_running(server: Running, run: int) -> None:
    def look() -> bool:
        seen: dict[str, Any] = server.api.get("/notebooks/lab")
        return (seen["state"], seen["run"], seen["pending"]) == ("running", run, False)

    wait_until(look, f"run {run}")
