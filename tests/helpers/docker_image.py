"""A tiny image made without any network, and an engine that leaves nothing behind."""

from __future__ import annotations

import fcntl
import io
import shutil
import subprocess
import tarfile
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import pytest
from docker.errors import ImageNotFound

from localml.engines.docker import DockerEngine, docker_available
from localml.engines.docker.daemon import open_client

TAG = "localml-test/tiny:1"
_CHANGES = ['ENTRYPOINT ["/bin/sh", "-c"]', 'CMD ["echo the image itself"]', "ENV NVIDIA_VISIBLE_DEVICES=all"]


@cache
def tiny_image() -> str:
    """The tag of an image that holds the host's BusyBox (or its shell), imported into the daemon if it is not there.

    Its own command is ``sh -c "echo the image itself"``; like CUDA's images it bakes in NVIDIA_VISIBLE_DEVICES=all.
    """
    client = open_client()
    with (Path(tempfile.gettempdir()) / "localml-test-image.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # a second import would give the tag to another image while tests use this one
        try:
            client.inspect_image(TAG)
        except ImageNotFound:
            repository, tag = TAG.split(":")
            client.import_image_from_data(_root_file_system(), repository, tag, changes=_CHANGES)
        finally:
            client.close()
    return TAG


def _root_file_system() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for folder, mode in (("bin", 0o755), ("etc", 0o755), ("tmp", 0o1777), ("data", 0o777)):
            entry = tarfile.TarInfo(folder)
            entry.type, entry.mode = tarfile.DIRTYPE, mode
            archive.addfile(entry)
        _add_shell(archive)
    return buffer.getvalue()


def _add_shell(archive: tarfile.TarFile) -> None:
    busybox = shutil.which("busybox")
    if busybox is None:
        pytest.skip("the test image is made from BusyBox, which is not installed (scripts/ensure-docker does it)")
    archive.add(Path(busybox).resolve(), "bin/busybox")
    applets = subprocess.run([busybox, "--list"], check=True, capture_output=True, text=True).stdout.split()
    for applet in set(applets) - {"busybox"}:
        link = tarfile.TarInfo(f"bin/{applet}")
        link.type, link.linkname = tarfile.SYMTYPE, "busybox"
        archive.addfile(link)


@contextmanager
def clean_engine() -> Iterator[DockerEngine]:
    """An engine of a new installation; afterwards its containers and networks are removed."""
    if reason := docker_available():
        pytest.skip(reason)
    engine = DockerEngine(f"t{uuid.uuid4().hex[:8]}")
    try:
        yield engine
    finally:
        for name in engine.list():
            engine.remove(name)
        for network in (*engine.networks(), engine._networks.shared):
            engine.remove_network(network)
        engine.close()
