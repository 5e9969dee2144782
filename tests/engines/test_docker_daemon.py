"""A daemon that is killed and comes back: nothing is concluded meanwhile, and no output is lost or doubled.

Runs a dockerd of its own, with its own data and socket, so that no other container is harmed.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import docker
import pytest
from helpers.docker_image import TAG, tiny_image
from helpers.engine_kits import wait_until

from localml.engines.base import EngineUnreachable, Phase, ReplicaPlan, Stream
from localml.engines.docker import DockerEngine, docker_available

COUNT = 60
SCRIPT = f"i=0; while [ $i -lt {COUNT} ]; do echo line $i; i=$((i+1)); usleep 50000; done; printf end"
EXPECTED = b"".join(b"line %d\n" % number for number in range(COUNT)) + b"end"


class PrivateDaemon:
    """A dockerd which leaves containers running when it dies, and the containerd that keeps them meanwhile.

    They live in a network namespace of their own, because a dockerd removes and makes bridges and firewall rules
    that another one needs.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.host = f"unix://{root}/docker.sock"
        address = f"--address={root}/containerd.sock"
        self._containerd = self._run("containerd", address, f"--root={root}/images", f"--state={root}/state")
        self._dockerd: subprocess.Popen[bytes] | None = None
        wait_until((root / "containerd.sock").exists, "containerd's socket")

    def start(self) -> None:
        folders = [f"--data-root={self.root}/data", f"--exec-root={self.root}/exec"]
        files = [f"--pidfile={self.root}/docker.pid", f"--host={self.host}", "--config-file="]
        containerd = f"--containerd={self.root}/containerd.sock"
        self._dockerd = self._run("unshare", "--net", "dockerd", *folders, *files, containerd, "--live-restore")
        wait_until(lambda: docker_available() is None, "an answer of the private daemon")

    def kill(self, number: signal.Signals) -> None:
        assert self._dockerd is not None
        self._dockerd.send_signal(number)
        self._dockerd.wait(30)
        (self.root / "docker.pid").unlink(missing_ok=True)

    def close(self) -> None:
        self.kill(signal.SIGTERM)
        self._containerd.terminate()
        self._containerd.wait(30)
        for line in reversed(Path("/proc/self/mounts").read_text().splitlines()):
            target = line.split()[1]
            if target.startswith(f"{self.root}/"):
                subprocess.run(["umount", target], check=True)

    def _run(self, *command: str) -> subprocess.Popen[bytes]:
        with (self.root / "log").open("ab") as log:
            return subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)


@pytest.fixture
def daemon(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[PrivateDaemon]:
    if os.geteuid() != 0 or not all(map(shutil.which, ("dockerd", "containerd", "unshare"))):
        pytest.skip("a private dockerd takes root, dockerd, containerd and unshare")
    if reason := docker_available():
        pytest.skip(f"the test image comes from the machine's own daemon. {reason}")
    source = docker.APIClient(version="auto")
    image = b"".join(source.get_image(tiny_image()))
    source.close()
    private = PrivateDaemon(tmp_path_factory.mktemp("dockerd"))
    monkeypatch.setenv("DOCKER_HOST", private.host)
    private.start()
    try:
        target = docker.APIClient(private.host, version="auto")
        target.load_image(image)
        target.close()
        yield private
    finally:
        try:
            _remove_all()
        finally:
            private.close()


def _remove_all() -> None:
    engine = DockerEngine("private")
    for name in engine.list():
        engine.remove(name)
    engine.close()


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
    before.join(10)
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
    after.join(30)
    assert not after.is_alive()
    assert after.kept == EXPECTED
    assert engine.inspect("survivor").exit_code == 0
    stop.set()
    watcher.join(10)
    assert not watcher.is_alive()
    engine.close()
