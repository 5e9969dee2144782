"""Between a program's exit and the end of its output: what it held is free, its log becomes whole, whoever dies."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest
from helpers.docker_image import tiny_image
from helpers.engine_kits import wait_until
from helpers.private_daemon import remove_all
from helpers.records import Records
from helpers.server_process import Servers, servers

LINES = 200_000
SAYS = f"seq 1 {LINES}; exit 3"
EXPECTED = b"".join(b"%d\n" % number for number in range(1, LINES + 1))


def _spec(script: str, image: str, gpu: float = 1) -> dict[str, Any]:
    role = {"image": image, "command": ["sh", "-c", script], "resources": {"gpu": gpu}}
    return {"roles": [role], "retries": {"limit": 0}}


def _die_after_exit(found: Servers, image: str) -> None:
    server = found.start("after-exit")
    number = server.api.submit("first", _spec(SAYS, image))
    wait_until(lambda: server.poll() is not None, "death after an exit")
    assert server.poll() == -signal.SIGKILL
    records = Records(found.data)
    (one,) = records.attempts(number)
    assert (one["state"], one["exit_code"], records.open_leases()) == ("running", 3, [])
    assert one["exited_at"] is not None
    records.check_after_death({number: "first"})
    server = found.start()
    second = server.api.submit("second", _spec("exit 0", image))
    assert server.api.wait_over(second)["state"] == "succeeded"
    assert (lambda row: (row["state"], row["exit_code"]))(server.api.wait_over(number)) == ("failed", 3)
    assert records.log(number, one["name"], "stdout") == EXPECTED
    wait_until(lambda: not records.unfinished(), "the removal of all that was")
    assert server.end(signal.SIGTERM) == 0
    records.check_at_end()


@pytest.mark.docker
@pytest.mark.slow
def test_a_server_that_dies_between_exit_and_end_goes_on_there(tmp_path: Path) -> None:
    with servers(tmp_path / "data", engine="docker", gpus="simulated:1") as found:
        try:
            _die_after_exit(found, tiny_image())
        finally:
            remove_all(Records(found.data).install())
