"""Who looks after the gateway's process."""

from __future__ import annotations

import resource
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from helpers.rig import wait_until

from localml.control.serving.gateway_process import GatewaySupervisor, find, stop
from localml.core.serving.gateway_stats import read_address

HIGH = 1100
"""More than ``select`` takes: a server with many clients has as many open files."""


@pytest.fixture
def many_files() -> Iterator[None]:
    """More open files than ``select`` can tell apart."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    if before[1] != resource.RLIM_INFINITY and before[1] < 2 * HIGH:
        pytest.skip("this account may not have so many open files")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(before[0], 2 * HIGH), before[1]))
    with ExitStack() as stack:
        for _ in range(HIGH):
            stack.enter_context(open("/dev/null"))
        yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.mark.usefixtures("many_files")
def test_a_server_with_many_open_files_notices_an_end_and_can_be_closed(tmp_path: Path) -> None:
    told: list[tuple[str, str]] = []
    ended = threading.Event()

    def tell(reason: str, message: str, warning: bool) -> None:
        told.append((reason, message))
        if reason == "GatewayEnded":
            ended.set()

    watch = GatewaySupervisor(tmp_path, "127.0.0.1", 0, tell=tell)
    watch.ensure()
    try:
        wait_until(lambda: read_address(tmp_path) is not None and watch.running, 30)
        first = find(tmp_path)
        assert first is not None
        first.kill()
        assert ended.wait(30)
        wait_until(lambda: watch.running, 30)
    finally:
        watch.close()
        watch.close()  # as whoever has closed it already may do
        stop(tmp_path, timeout=2)
    assert [reason for reason, _ in told] == ["GatewayStarted", "GatewayEnded", "GatewayStarted"]
