"""onnx-server made ready to run in other people's images, for Python kernels that need what only those have.

Nothing is installed in the image: a folder is mounted into the container (or used where it lies, by the process engine)
that holds the server and, for each version of Python that was asked for, the packages it needs.
"""

from __future__ import annotations

import json
import platform
import shutil
import tempfile
from pathlib import Path

from localml.core.catalog import CATALOG_FILE, load_catalog
from localml.engines.base import EngineError, Progress
from localml.engines.runtimes.wheels import PIP, lines_of, publish

RUNTIME = "onnx-server"
START = "start.py"
OLDEST = (3, 11)
"""The oldest Python that the server runs on."""
GLIBC = (28, 27, 17)
"""manylinux_2_N tags that are taken: what runs on Debian 10, Ubuntu 20.04 and later."""
PROBE = "import json, platform, sys; print(json.dumps([*sys.version_info[:2], platform.libc_ver()[0]]))"
"""What an image's Python is asked; :func:`python_of` reads the answer."""

_NUMPY = "numpy"
_SOURCES = ("onnx_server", "redhareapi.py", "redhareapiversion.py")


class KernelServer:
    """The server's folder, below ``cache/servers`` under the fingerprint of its source.

    Args:
        cache: the cache folder; made when needed.
        runtimes: the folder with ``catalog.toml``.
    """

    def __init__(self, cache: Path, runtimes: Path) -> None:
        self._source = runtimes / RUNTIME
        self.folder = cache / "servers" / load_catalog(runtimes / CATALOG_FILE).fingerprint(RUNTIME)

    @property
    def ready(self) -> bool:
        """Whether it was made for any Python yet."""
        return (self.folder / START).is_file()

    def usable(self) -> Path:
        """Its folder; that of the last version of localml while this one's was not made, so that endpoints go on."""
        if self.ready:
            return self.folder
        others = [start for start in self.folder.parent.glob(f"*/{START}") if start.is_file()]
        return max(others, key=lambda start: start.stat().st_mtime).parent if others else self.folder

    def make(self, python: tuple[int, int], progress: Progress) -> Path:
        """Make it ready for a version of Python, unless it is; returns the folder of that version.

        Args:
            progress: gets short sentences and pip's lines.

        Raises:
            EngineError: the packages could not be fetched; nothing usable is left behind.
        """
        made = self.folder / f"py{python[0]}{python[1]}"
        if self.ready and made.is_dir():
            progress(f"the server for Python {python[0]}.{python[1]} is there already")
            return made
        self.folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=self.folder, prefix=".making-") as scratch:
            self._copy_source(Path(scratch, "lib"))
            self._install(Path(scratch, "needs"), python, progress)
            for part, place in (("lib", self.folder / "lib"), ("needs", made)):
                publish(Path(scratch, part), place)
            shutil.copyfile(self._source / START, Path(scratch, START))
            Path(scratch, START).replace(self.folder / START)
        return made

    def _copy_source(self, lib: Path) -> None:
        lib.mkdir()
        for name in _SOURCES:
            source = self._source / name
            if source.is_dir():
                shutil.copytree(source, lib / name, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copyfile(source, lib / name)

    def _install(self, needs: Path, python: tuple[int, int], progress: Progress) -> None:
        version = f"{python[0]}.{python[1]}"
        progress(f"fetching what the server needs for Python {version}")
        command = [*PIP, "install", "--progress-bar", "off", "--no-compile", "--no-deps", "--only-binary", ":all:"]
        command += ["--implementation", "cp", "--python-version", version]
        for tag in (*(f"manylinux_2_{minor}" for minor in GLIBC), "manylinux2014", "linux"):
            command += ["--platform", f"{tag}_{platform.machine()}"]
        lines = (self._source / "kernel-requirements.txt").read_text(encoding="utf-8").splitlines()
        pins = [line for line in lines if line and not line.startswith("#")]
        failure = f"the server could not be made ready for Python {version}"
        for part in ("site", _NUMPY):
            wanted = [pin for pin in pins if pin.startswith(_NUMPY) == (part == _NUMPY)]
            lines_of([*command, "--target", str(needs / part), *wanted], progress, failure)


def python_of(image: str, answer: str | bytes) -> tuple[int, int]:
    """The version of Python that answered :data:`PROBE` with this text.

    Raises:
        EngineError: the server cannot run there.
    """
    try:
        major, minor, libc = json.loads(answer)
    except ValueError as error:
        raise EngineError(f"{image}: its Python gave no answer that makes sense: {answer[:200]!r}") from error
    if (major, minor) < OLDEST:
        oldest = ".".join(map(str, OLDEST))
        raise EngineError(f"{image} has Python {major}.{minor}; the server needs {oldest} or later")
    if libc != "glibc":
        raise EngineError(f"{image} is not made with glibc, which the server's packages need (Alpine's musl is not)")
    return major, minor
