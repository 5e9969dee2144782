"""The runtimes as virtual environments, for jobs that are child processes instead of containers."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from localml.core.catalog import CATALOG_FILE, Runtime, load_catalog
from localml.engines.base import EngineError, Progress
from localml.engines.runtimes.kernel_server import PROBE, python_of
from localml.engines.runtimes.wheels import PIP, lines_of

LAUNCHER = "launcher"
PACKAGE_FILE = "pyproject.toml"
"""In the folder of a runtime, or of what it copies: the folder is a Python package to install."""
READY = ".localml-ready"
"""Written into an environment last; one without it is half-made."""


class Environments:
    """Virtual environments of the runtimes in one folder, each below ``cache/environments`` under its fingerprint.

    Args:
        cache: the cache folder; made when needed.
        runtimes: the folder with ``catalog.toml``.
    """

    def __init__(self, cache: Path, runtimes: Path) -> None:
        self._folder = cache / "environments"
        self._catalog = load_catalog(runtimes / CATALOG_FILE)

    def ensure(self, name: str, progress: Progress) -> Path:
        """The environment of a runtime, made now if need be. Several processes may ask at once; one makes it.

        Args:
            name: a runtime of the catalogue.
            progress: gets short sentences and pip's lines.

        Raises:
            LocalmlError: ``NOT_FOUND``: there is no such runtime.
            EngineError: it could not be made; the message holds pip's last lines. Nothing usable is left behind.
        """
        folder = self._place(self._catalog.runtime(name))
        if _ready(folder):
            return folder
        self._folder.mkdir(parents=True, exist_ok=True)
        with locked(folder) as lock:
            if not _ready(folder):
                self._make(name, folder, partial(lines_of, held=(lock,)), progress)
        return folder

    def env_for(self, image: str) -> Mapping[str, str] | None:
        """Variables that make a job use the environment of an image of ours.

        Returns:
            ``PATH`` (complete, the environment's programs first) and ``VIRTUAL_ENV``. For ``localml/base``, while it
            has no environment of its own, those of :meth:`host`. None
            for other people's images, and for a runtime whose environment is not made.
        """
        runtime = self._catalog.of_image(image)
        if runtime is None:
            return None
        folder = self._place(runtime)
        if _ready(folder):
            return {"PATH": _path(folder / "bin"), "VIRTUAL_ENV": str(folder)}
        if runtime.parent is None:
            return self.host()
        return None

    def host(self) -> Mapping[str, str]:
        """Variables that make a job use the Python that runs localml, with the launcher beside its modules."""
        # The executable's own name is kept: following the link would leave the virtual environment.
        launcher = self._catalog.folder / LAUNCHER
        return {"PATH": _path(Path(sys.executable).parent), "PYTHONPATH": str(launcher)}

    def python(self, image: str) -> tuple[int, int]:
        """Version of the Python that a job of this image runs with: the environment's, else this machine's own.

        Raises:
            EngineError: there is none, or it is too old for onnx-server.
        """
        path = (self.env_for(image) or os.environ).get("PATH", os.defpath)
        program = shutil.which("python3", path=path)
        if program is None:
            raise EngineError(f"{image}: there is no program python3 in {path}")
        answer = subprocess.run([program, "-I", "-c", PROBE], capture_output=True, text=True, check=False)
        return python_of(image, answer.stdout)

    def _place(self, runtime: Runtime) -> Path:
        python = f"py{sys.version_info.major}{sys.version_info.minor}"
        return self._folder / f"{runtime.name}-{python}-{self._catalog.fingerprint(runtime.name)}"

    def _make(self, name: str, folder: Path, run: Callable[..., None], progress: Progress) -> None:
        # A virtual environment cannot be moved once it is made, so it is made in place and marked when complete.
        shutil.rmtree(folder, ignore_errors=True)
        failure = f"the environment of {name} could not be made"
        progress(f"making the environment of {name}")
        # This process's pip serves the new environment, which gets the pip that its runtime pins, or none.
        run([sys.executable, "-m", "venv", "--without-pip", str(folder)], progress, failure)
        install = [*PIP, "--python", str(folder / "bin" / "python"), "install", "--progress-bar", "off"]
        for runtime in self._catalog.lineage(name):
            requirements = self._catalog.folder / runtime.name / "requirements.txt"
            run([*install, "--requirement", str(requirements)], progress, failure)
            for package in (runtime.name, *runtime.copies):
                if (self._catalog.folder / package / PACKAGE_FILE).is_file():
                    self._install_package(package, install, run, progress, failure)
        with (folder / READY).open("w") as mark:
            os.fsync(mark.fileno())

    def _install_package(
        self, package: str, install: list[str], run: Callable[..., None], progress: Progress, failure: str
    ) -> None:
        """Install our own code of a runtime: the folder of that name in the folder of runtimes."""
        with tempfile.TemporaryDirectory() as scratch:  # building leaves files beside the source
            source = shutil.copytree(self._catalog.folder / package, Path(scratch, package))
            offline = ["--no-index", "--no-deps"]
            build = [*PIP, "wheel", *offline, "--no-build-isolation", "--wheel-dir", scratch, str(source)]
            run(build, progress, failure)
            wheels = [str(wheel) for wheel in Path(scratch).glob("*.whl")]
            run([*install, *offline, *wheels], progress, failure)


def folder_size(folder: Path) -> int:
    """Bytes of the files in a folder and below; links count as themselves, and what vanishes meanwhile does not."""
    files = (os.path.join(path, name) for path, _, names in os.walk(folder) for name in names)
    return sum(os.lstat(file).st_size for file in files if os.path.lexists(file))


def _ready(folder: Path) -> bool:
    return (folder / READY).is_file()


def _path(first: Path) -> str:
    return os.pathsep.join((str(first), os.environ.get("PATH", os.defpath)))


@contextmanager
def locked(environment: Path, *, wait: bool = True) -> Iterator[int]:
    """Hold an exclusive lock on an environment that other processes see. It gives the lock's descriptor, and ends with
    this process and all that were given that: a build whose beginner was killed is nobody else's to begin meanwhile.

    Args:
        wait: until it is free; otherwise 0 says that somebody else has it.
    """
    with (environment.parent / f".{environment.name}.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield 0
            return
        yield lock.fileno()
