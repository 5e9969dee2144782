"""Wheels on this machine's disk, fetched once with the machine's own pip configuration and certificates."""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path

from localml.engines.base import EngineError, Progress
from localml.engines.proxies import proxies

GLIBC = range(36, 4, -1)
"""manylinux_2_N tags that run on Debian 12 (glibc 2.36), newest first."""
LAST_LINES = 12
PIP = (sys.executable, "-m", "pip", "--disable-pip-version-check")
"""This process's pip."""
_ELSEWHERE = """
PyTorch's builds without CUDA, which have '+cpu' in their version, are on PyTorch's own package index (its installation
page has the address). Name it to pip: PIP_EXTRA_INDEX_URL, or 'pip config set global.extra-index-url'."""
BUILDER = "LOCALML_BUILDER"
"""In the environment of whatever takes part in a build: the number of the process that it is made for."""
CHILDREN: set[int] = set()
"""Process numbers of this process's builds that are under way."""


def download_wheels(requirements: Path, cache: Path, python: str, progress: Progress) -> Path:
    """A folder with the wheels of a requirements file and nothing else; downloaded unless it is in the cache.

    Args:
        requirements: a requirements file with pinned versions.
        cache: the cache folder; the wheels are below ``wheels/``.
        python: version of the Python that will use them, such as ``3.11``; it need not be the one that runs.
        progress: gets pip's lines.

    Raises:
        EngineError: pip failed; the message holds its last lines.
    """
    machine = platform.machine()
    folder = wheels_folder(requirements, cache, python)
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    progress(f"downloading the wheels of {requirements.parent.name}")
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix="download-") as partial:
        target = Path(partial, "wheels")
        target.mkdir()
        command = [*PIP, "download", "--progress-bar", "off"]
        command += ["--only-binary", ":all:", "--python-version", python, "--implementation", "cp"]
        for tag in (*(f"manylinux_2_{minor}" for minor in GLIBC), "manylinux2014", "linux"):
            command += ["--platform", f"{tag}_{machine}"]
        command += ["--dest", str(target), "--requirement", str(requirements)]
        lines_of(command, progress, f"the wheels of {requirements.parent.name} could not be downloaded")
        publish(target, folder)
    return folder


def wheels_folder(requirements: Path, cache: Path, python: str) -> Path:
    """Where the wheels of a requirements file are, or will be; arguments as for :func:`download_wheels`."""
    inputs = f"{python}\0{platform.machine()}\0{requirements.read_text(encoding='utf-8')}"
    key = hashlib.sha256(inputs.encode()).hexdigest()[:16]
    return cache / "wheels" / f"{requirements.parent.name}-{key}"


def publish(made: Path, folder: Path) -> None:
    """Give a complete folder its name; another process may have been faster with the same content."""
    try:
        made.rename(folder)
    except OSError:
        if not folder.is_dir():
            raise
        shutil.rmtree(made, ignore_errors=True)


def lines_of(
    command: Sequence[str],
    progress: Progress,
    failure: str,
    env: Mapping[str, str] | None = None,
    held: Sequence[int] = (),
) -> None:
    """Run a program and hand on its output line by line.

    Args:
        command: the program and its arguments.
        progress: gets each line of stdout and stderr.
        failure: how the error message starts.
        env: variables to add to this process's own, and to the proxies of its user.
        held: descriptors that it keeps open, such as a lock's.

    Raises:
        EngineError: it cannot be started or ended with a status other than 0; the message holds its last lines.
    """
    last: deque[str] = deque(maxlen=LAST_LINES)
    try:
        with subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**os.environ, **proxies(), **(env or {}), BUILDER: str(os.getpid())},
            pass_fds=held,
            text=True,
            errors="replace",
        ) as child:
            CHILDREN.add(child.pid)
            assert child.stdout is not None
            for line in child.stdout:
                last.append(line.rstrip())
                progress(line.rstrip())
        CHILDREN.discard(child.pid)
    except OSError as error:
        raise EngineError(f"{failure}: {command[0]}: {error.strerror}") from error
    if child.returncode != 0:
        absent = any("No matching distribution" in line and "+cpu" in line for line in last)
        words = "\n".join(last) + (_ELSEWHERE if absent else "")
        raise EngineError(f"{failure} (exit status {child.returncode}):\n{words}")
