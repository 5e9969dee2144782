"""A dockerd of a test's own, with its own data and socket, so that no other container is harmed."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import docker
import psutil
import pytest

from helpers.counts import count
from helpers.docker_image import tiny_image
from helpers.engine_kits import DEADLINE, wait_until
from localml.engines.docker import docker_available
from localml.engines.docker.daemon import open_client


class PrivateDaemon:
    """A dockerd and the containerd that keeps containers running when dockerd dies.

    A dockerd with ``live_restore`` goes on with them when it comes back; one without ends them then.

    They live in a network namespace of their own, because a dockerd removes and makes bridges and firewall rules
    that another one needs.
    """

    def __init__(self, root: Path, *, live_restore: bool = True) -> None:
        self.root = root
        self._options = ["--live-restore"] if live_restore else []
        self.host = f"unix://{root}/docker.sock"
        self._containerd = self._run_containerd()
        self._dockerd: subprocess.Popen[bytes] | None = None

    def _run_containerd(self) -> subprocess.Popen[bytes]:
        address = f"--address={self.root}/containerd.sock"
        found = self._run("containerd", address, f"--root={self.root}/images", f"--state={self.root}/state")
        wait_until((self.root / "containerd.sock").exists, "containerd's socket")
        return found

    def start(self) -> None:
        if self._containerd.poll() is not None:
            self._containerd = self._run_containerd()
        folders = [f"--data-root={self.root}/data", f"--exec-root={self.root}/exec"]
        files = [f"--pidfile={self.root}/docker.pid", f"--host={self.host}", "--config-file="]
        containerd = f"--containerd={self.root}/containerd.sock"
        self._dockerd = self._run("unshare", "--net", "dockerd", *folders, *files, containerd, *self._options)
        wait_until(lambda: docker_available() is None, "an answer of the private daemon")

    def signal(self, number: signal.Signals) -> None:
        """Let it stand still, or go on."""
        assert self._dockerd is not None
        self._dockerd.send_signal(number)

    def kill(self, number: signal.Signals) -> None:
        assert self._dockerd is not None
        self._dockerd.send_signal(number)
        self._dockerd.wait(DEADLINE)
        (self.root / "docker.pid").unlink(missing_ok=True)

    def crash(self) -> None:
        """Kill it and all that it runs at once: containerd, its shims, and their programs."""
        assert self._dockerd is not None
        socket = str(self.root / "containerd.sock")
        everything = [*psutil.process_iter(["name", "cmdline"])]
        shims = [one for one in everything if "shim" in one.info["name"] and socket in (one.info["cmdline"] or ())]
        programs = [below for one in shims for below in one.children(recursive=True)]
        for one in (*map(psutil.Process, (self._dockerd.pid, self._containerd.pid)), *shims, *programs):
            with suppress(psutil.NoSuchProcess):
                one.kill()
        self.kill(signal.SIGKILL)
        self._containerd.wait(DEADLINE)
        (self.root / "containerd.sock").unlink()

    def close(self) -> None:
        """End its containers, then itself."""
        try:
            if self._dockerd is None or self._dockerd.poll() is not None:
                self.start()
            _remove(docker.APIClient(self.host, version="auto"), {})
        finally:
            self.kill(signal.SIGTERM)
            self._end_containerd()

    def _end_containerd(self) -> None:
        self._containerd.terminate()
        self._containerd.wait(DEADLINE)
        for line in reversed(Path("/proc/self/mounts").read_text().splitlines()):
            target = line.split()[1]
            if target.startswith(f"{self.root}/"):
                subprocess.run(["umount", "--lazy", target], check=False)  # a shim may be faster

    def _run(self, *command: str) -> subprocess.Popen[bytes]:
        with (self.root / "log").open("ab") as log:
            return subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)


@contextmanager
def private_daemon(
    root: Path, monkeypatch: pytest.MonkeyPatch, *, live_restore: bool = True
) -> Iterator[PrivateDaemon]:
    """A private daemon that runs and has the tiny image; ``DOCKER_HOST`` names it. Skips where that can't be."""
    if os.geteuid() != 0 or not all(map(shutil.which, ("dockerd", "containerd", "unshare"))):
        pytest.skip("a private dockerd takes root, dockerd, containerd and unshare")
    if reason := docker_available():
        pytest.skip(f"the test image comes from the machine's own daemon. {reason}")
    source = open_client()
    image = b"".join(source.get_image(tiny_image()))
    source.close()
    private = PrivateDaemon(root, live_restore=live_restore)
    monkeypatch.setenv("DOCKER_HOST", private.host)
    try:
        private.start()
        target = docker.APIClient(private.host, version="auto")
        target.load_image(image)
        target.close()
        yield private
    finally:
        private.close()


def remove_all(install: str) -> tuple[list[str], list[str]]:
    """Remove an installation's containers and networks; returns the names of those that were there."""
    return _remove(open_client(), {"label": f"localml.install={install}"})


def _remove(client: docker.APIClient, filters: dict[str, str]) -> tuple[list[str], list[str]]:
    """A killed server's last request may still be removing one of them.

    A network that has no containers and is "in use" all the same stays until the daemon's next start: where the removal
    of a container met its start, which a killed server had asked for, this daemon forgets the container's endpoint.
    """
    containers = client.containers(all=True, filters=filters)
    for one in containers:
        try:
            client.remove_container(one["Id"], force=True, v=True)
        except docker.errors.APIError as error:
            if error.status_code not in (404, 409):
                raise
    wait_until(lambda: not client.containers(all=True, filters=filters), "the removal of containers")
    networks = client.networks(filters={**filters, "type": "custom"})
    for one in networks:
        try:
            client.remove_network(one["Id"])
        except docker.errors.APIError as error:
            if error.status_code != 403 or client.inspect_network(one["Id"])["Containers"]:
                raise
            count("networks whose daemon forgot an endpoint")
    client.close()
    return [one["Names"][0] for one in containers], [one["Name"] for one in networks]
