"""A daemon that is killed and comes back: nothing is concluded meanwhile, and no output is lost or doubled."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator

import pytest
from helpers.docker_image import TAG, clean_engine, tiny_image
from helpers.engine_kits import DEADLINE, wait_until
from helpers.private_daemon import PrivateDaemon, private_daemon

from localml.engines.base import EngineUnreachable, Phase, ReplicaPlan, Stream
from localml.engines.docker import DockerEngine

COUNT = 60
SCRIPT = f"i=0; while [ $i -lt {COUNT} ]; do echo line $i; i=$((i+1)); usleep 50000; done; printf end"
EXPECTED = b"".join(b"line %d\n" % number for number in range(COUNT)) + b"end"


@pytest.fixture
def daemon(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[PrivateDaemon]:
    with private_daemon(tmp_path_factory.mktemp("dockerd"), monkeypatch) as private:
        yield private


class Follower(threading.Thread):
    """Reads a log until it ends or the daemon goes away, from where the last one stopped."""

    def __init__(self, engine: DockerEngine, name: str, kept: bytes = b"") -> None:
        super().__init__(daemon=True)
        self.kept = kept
        self.unreachable = False
        since: dict[Stream, int] = {"stdout": len(kept)}
        self._chunks = engine.logs(name, since, follow=True)
        self.start()

    def run(self) -> None:
        try:
            for chunk in self._chunks:
                self.kept += chunk.data
        except EngineUnreachable:
            self.unreachable = True


@pytest.mark.docker
@pytest.mark.slow
def test_a_killed_daemon_changes_nothing_and_its_return_goes_on(daemon: PrivateDaemon) -> None:
    engine, stop, told = DockerEngine("private"), threading.Event(), set[str]()
    watcher = threading.Thread(target=lambda: told.update(engine.watch(stop)), daemon=True)
    watcher.start()
    started = engine.start(ReplicaPlan("survivor", engine.resolve_image(TAG, pull=False), ("/bin/sh", "-c", SCRIPT)))
    assert started.phase is Phase.RUNNING
    before = Follower(engine, "survivor")
    wait_until(lambda: b"line 5\n" in before.kept, "some output")

    daemon.kill(signal.SIGKILL)
    before.join(DEADLINE)
    assert before.unreachable
    assert EXPECTED.startswith(before.kept)
    for ask in (lambda: engine.inspect("survivor"), engine.list, lambda: engine.remove("survivor")):
        with pytest.raises(EngineUnreachable):
            ask()

    told.clear()
    daemon.start()
    assert engine.inspect("survivor").handle == started.handle
    after = Follower(engine, "survivor", before.kept)
    wait_until(lambda: "survivor" in told, "the hint after the daemon's return")
    after.join(DEADLINE)
    assert not after.is_alive()
    assert after.kept == EXPECTED
    assert engine.inspect("survivor").exit_code == 0
    stop.set()
    watcher.join(DEADLINE)
    assert not watcher.is_alive()
    engine.close()


@pytest.mark.docker
@pytest.mark.slow
def test_what_a_private_daemon_clears_away_is_its_own(tmp_path_factory: pytest.TempPathFactory) -> None:
    """The tests run on machines where people have jobs of theirs on the machine's own daemon."""
    with clean_engine() as theirs:
        theirs.start(ReplicaPlan("bystander", theirs.resolve_image(tiny_image()), ("/bin/sleep", "600")))
        root = tmp_path_factory.mktemp("dockerd")
        with pytest.MonkeyPatch.context() as monkeypatch, private_daemon(root, monkeypatch):
            ours = DockerEngine("private")
            ours.start(ReplicaPlan("own", ours.resolve_image(TAG, pull=False), ("/bin/sleep", "600")))
            ours.close()
        assert theirs.inspect("bystander").phase is Phase.RUNNING
