"""Running the launcher as a job does: a process of its own, everything in its environment, no server."""

from __future__ import annotations

import importlib
import io
import json
import os
import subprocess
import sys
import tarfile
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from localml.core.catalog import runtimes_dir

SETUP = "from setuptools import setup\nsetup(name='demo', version='1', packages=['demo'], install_requires={needs})\n"


class Bench:
    """A folder of buckets, a working directory, and the launcher started in them."""

    def __init__(self, folder: Path) -> None:
        self.buckets = folder / "buckets"
        self.work = folder / "work"
        (self.buckets / "code").mkdir(parents=True)
        self.work.mkdir()

    def pack(self, files: Mapping[str, str | bytes | tarfile.TarInfo], name: str = "demo.tar.gz") -> str:
        """Write a package of the given members (text, bytes, or a member with no content) and return its URI."""
        with tarfile.open(self.buckets / "code" / name, "w:gz") as tar:
            for path, content in files.items():
                if isinstance(content, tarfile.TarInfo):
                    tar.addfile(content)
                    continue
                data = content.encode() if isinstance(content, str) else content
                member = tarfile.TarInfo(path)
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
        return f"fds://code/{name}"

    def trainer(self, program: str, needs: tuple[str, ...] = ()) -> str:
        """A package whose module ``demo.main`` is the given program; returns its URI."""
        files = {"demo-1/setup.py": SETUP.format(needs=list(needs)), "demo-1/demo/__init__.py": ""}
        return self.pack({**files, "demo-1/demo/main.py": program})

    def start(self, launch: Any, env: Mapping[str, str] | None = None) -> subprocess.Popen[str]:
        """Start the launcher with ``LOCALML_LAUNCH`` as given (JSON text as is); the module is ``demo.main``."""
        if isinstance(launch, dict):
            launch = json.dumps({"module_name": "demo.main", **launch})
        return subprocess.Popen(
            [sys.executable, "-m", "localml_launcher", "trainer"],
            cwd=self.work,
            env={
                "PATH": os.environ["PATH"],
                "PYTHONPATH": str(runtimes_dir() / "launcher"),
                "PYTHONDONTWRITEBYTECODE": "1",
                "LOCALML_BUCKETS": str(self.buckets),
                "TMPDIR": str(self.work),
                **({"LOCALML_LAUNCH": launch} if launch is not None else {}),
                **(env or {}),
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, launch: Any, env: Mapping[str, str] | None = None) -> tuple[int, str, str]:
        """Run the launcher to its end and return exit code, stdout and stderr."""
        with self.start(launch, env) as process:
            out, err = process.communicate(timeout=60)
        return process.returncode, out, err


def launcher(name: str) -> ModuleType:
    """The module ``localml_launcher.<name>``; it is no dependency of localml, so it is not installed here."""
    folder = str(runtimes_dir() / "launcher")
    if folder not in sys.path:
        sys.path.insert(0, folder)
    return importlib.import_module(f"localml_launcher.{name}")
