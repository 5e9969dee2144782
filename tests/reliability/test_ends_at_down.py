"""What was asked to end is gone when the server is; and what takes longer than its end writes no traceback."""

from __future__ import annotations

import logging
import signal
import threading
from pathlib import Path

import pytest
from helpers.models import times
from helpers.rig import wait_until
from helpers.server_process import servers

from localml.config import Config
from localml.control import worker
from localml.control.serving.gateway_process import stop
from localml.control.worker import Worker
from localml.core.registry.registry import NewVersion
from localml.core.serving.endpoints import NewEndpoint
from localml.core.serving.specs import EndpointSpec
from localml.core.serving.variants import NewVariant
from localml.engines.base import Phase
from localml.engines.fake.engine import FakeEngine
from localml.platform import Platform
from localml.server import Server

STUBBORN = {"roles": [{"command": ["sh", "-c", "trap 'sleep 1; exit 0' TERM; echo up; while :; do sleep 0.05; done"]}]}


def test_a_job_that_was_removed_is_gone_after_down(tmp_path: Path) -> None:
    with servers(tmp_path / "data") as here:
        running = here.start()
        number = running.api.submit("stubborn", STUBBORN)
        wait_until(lambda: running.api.log(number, stream="stdout") == b"up\n")
        assert running.api.call("DELETE", f"/workloads/{number}").ok
        assert running.end(signal.SIGTERM) == 0
        assert not list((tmp_path / "data" / "replicas").glob("lml-*"))
        assert "Traceback" not in here.tail()


def test_what_was_not_asked_to_end_goes_on(tmp_path: Path) -> None:
    with servers(tmp_path / "data") as here:
        running = here.start()
        number = running.api.submit("stubborn", STUBBORN)
        wait_until(lambda: running.api.log(number, stream="stdout") == b"up\n")
        assert running.end(signal.SIGTERM) == 0
        assert len(list((tmp_path / "data" / "replicas").glob("lml-*"))) == 1
        again = here.start()
        assert again.api.get(f"/workloads/{number}")["state"] == "running"
        again.api.call("DELETE", f"/workloads/{number}")
        assert again.end(signal.SIGTERM) == 0


def test_the_replicas_of_an_endpoint_that_was_removed_are_gone(tmp_path: Path) -> None:
    engine = FakeEngine()
    config = Config(tmp_path / "data", engine="fake", gpus="none", port=0, gateway_port=0)
    server = Server(Platform(config, engine=engine))
    server.start()
    try:
        platform = server.platform
        admin = platform.identity.user("admin")
        with platform.buckets_for(admin).open("s3://b/model.onnx", "wb") as file:
            file.write(times(1.0))
        version = platform.registry.register(NewVersion("net", "s3://b/model.onnx", admin)).version.id
        new = NewEndpoint("net", (NewVariant(model_version_id=version or 0),), admin, EndpointSpec(public=True))
        number = platform.endpoints.create(new).row.id or 0
        wait_until(lambda: any(one.phase is Phase.RUNNING for one in engine.list().values()))
        platform.endpoints.delete(number, admin)
    finally:
        server.close(finish=30)
        stop(config.data, timeout=2)
    assert engine.list() == {}


def test_what_is_cut_off_by_the_end_writes_no_traceback(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A notebook that does not answer, say: what was asked comes back when the database is closed."""
    monkeypatch.setattr(worker, "_JOIN_S", 0.05)
    asked, closed, over = threading.Event(), threading.Event(), threading.Event()

    def tick() -> None:
        asked.set()
        closed.wait(30)
        try:
            raise RuntimeError("Cannot operate on a closed database.")
        finally:
            over.set()

    one = Worker("idle", tick, what="looking")
    one.start()
    assert asked.wait(30)
    one.close()
    closed.set()
    assert over.wait(30)
    wait_until(lambda: not one.alive)
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []
