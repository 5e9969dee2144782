"""Each engine keeps what it claims in :class:`localml.engines.base.Capabilities`, and claims no less than it does."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from helpers.engine_kits import EngineKit, wait_until

from localml.control.jobs.hostports import free_port
from localml.core.clock import ManualClock
from localml.engines.base import Bind, EngineError, ImageMissing, Phase, PublishedPort, ReplicaPlan
from localml.engines.fake.engine import FakeEngine

MISSING = "localml-test/no-such-image:1"
SERVE = "echo pong > /tmp/index.html; exec httpd -f -p 8000 -h /tmp"


class Pong(http.server.BaseHTTPRequestHandler):
    """Answers everything."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""


@pytest.fixture
def own_server() -> Iterator[int]:
    """The port of a server on this machine's loopback."""
    with http.server.HTTPServer(("127.0.0.1", 0), Pong) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


def test_an_image_that_is_not_there_is_missing_if_the_engine_runs_images(engine_kit: EngineKit) -> None:
    if isinstance(engine_kit.engine, FakeEngine):
        engine_kit.engine.missing_images.add(MISSING)
    if engine_kit.engine.capabilities.images:
        with pytest.raises(ImageMissing):
            engine_kit.engine.resolve_image(MISSING, pull=False)
    else:
        assert engine_kit.engine.resolve_image(MISSING, pull=False) == MISSING


def test_a_bind_is_at_its_target_if_the_engine_mounts(engine_kit: EngineKit, tmp_path: Path) -> None:
    folder = tmp_path / "shared"
    folder.mkdir()
    (folder / "here").write_text("")
    binds = (Bind(str(folder), "/localml-bound"),)
    mounts = engine_kit.engine.capabilities.mounts
    inside, outside = (
        engine_kit.run(engine_kit.plan(f"test -e {path}/here", binds=binds)).exit_code == 0
        for path in ("/localml-bound", folder)
    )
    assert (inside, outside) == (mounts, not mounts)


def test_the_machines_loopback_is_a_replicas_unless_it_has_its_own(engine_kit: EngineKit, own_server: int) -> None:
    plan = engine_kit.plan(f"wget -q -T 5 -O - http://127.0.0.1:{own_server}/")
    assert (engine_kit.run(plan).exit_code != 0) is engine_kit.engine.capabilities.own_network


def test_a_port_is_another_one_outside_if_ports_are_mapped(engine_kit: EngineKit) -> None:
    with ExitStack() as held:
        host = free_port(set(), held)
    plan = engine_kit.plan("sleep 600", ports=(PublishedPort("web", 8000, host),))
    if engine_kit.engine.capabilities.ports_mapped:
        assert engine_kit.engine.start(plan).phase is Phase.RUNNING
    else:
        with pytest.raises(EngineError, match=f"cannot map 8000 to {host}"):
            engine_kit.engine.start(plan)


def test_members_find_each_other_by_name_if_names_resolve(engine_kit: EngineKit) -> None:
    if not engine_kit.engine.capabilities.names_resolve:
        pytest.skip("no names are promised")
    gang = f"{engine_kit.install}-gang"
    first, second = (
        engine_kit.plan(SERVE, network=gang, hostname=f"worker-{number}", env={"HOME": "/tmp"}) for number in range(2)
    )
    engine_kit.engine.start(first)
    engine_kit.engine.start(second)
    ask = ("timeout", "2", "wget", "-q", "-O", "-", "http://worker-1:8000/index.html")
    wait_until(lambda: engine_kit.engine.exec(first.name, ask).stdout == b"pong\n", "an answer by name")
    for plan in (first, second):
        engine_kit.engine.remove(plan.name)
    engine_kit.engine.remove_network(gang)


def test_an_engine_of_one_machine_runs_everything_there(engine_kit: EngineKit) -> None:
    assert len(engine_kit.engine.nodes()) == 1
    assert engine_kit.engine.start(engine_kit.endless(node="some-name")).phase is Phase.RUNNING


def test_an_engine_of_several_machines_runs_a_replica_where_it_is_placed() -> None:
    engine = FakeEngine(ManualClock(), nodes=("left", "right"))
    assert [node.name for node in engine.nodes()] == ["left", "right"]
    ports = (PublishedPort("web", 80, 8080),)
    for node in ("left", "right"):  # the same port of two machines
        assert engine.start(ReplicaPlan(f"on-{node}", "i", ports=ports, node=node)).phase is Phase.RUNNING
    with pytest.raises(EngineError, match="no node 'middle'; there are left, right"):
        engine.start(ReplicaPlan("nowhere", "i", node="middle"))
