"""A project of somebody else's after ``pip install localml``, which is all that it has."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from helpers.leftovers import left, nothing_is_left

ROOT = Path(__file__).parents[2]
PROJECT = ROOT / "tests" / "helpers" / "downstream"
_INHERITED = ("HOME", "LANG", "PATH", "PIP_CERT", "TMPDIR")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "project"
    shutil.copytree(PROJECT, folder)
    yield folder
    for process in left(tmp_path):
        with suppress(psutil.Error):
            process.kill()


def run_tests(python: Path, project: Path, cache: Path, *arguments: str, **more: str) -> str:
    """The project's tests as that Python runs them; nothing of this one's environment is there."""
    env = {name: value for name, value in os.environ.items() if name in _INHERITED or name.startswith("PIP_")}
    command = [python, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "error", f"--basetemp={project}/tmp"]
    run = subprocess.run(
        [*command, *arguments],
        cwd=project,
        env={**env, "LOCALML_CACHE": str(cache), **more},
        capture_output=True,
        text=True,
        check=False,
    )
    return run.stdout + run.stderr


def passes(python: Path, project: Path, cache: Path, **env: str) -> None:
    """All tests pass, four at a time; those whose worker is killed are lost, and only they; nothing is left."""
    killed = project / "killed"
    killed.mkdir()
    said = run_tests(python, project, cache, "-n", "4", "--dist", "load", KILL=str(killed), **env)
    assert re.search(r"2 failed, 7 passed", said), said
    assert said.count("crashed while running") >= 2, said
    assert len(list(killed.iterdir())) == 2
    assert said.count("localml: these images ran in the Python of the tests") == 1
    nothing_is_left(project)
    said = run_tests(python, project, cache, **env)
    assert re.search(r"7 passed, 2 skipped", said), said
    nothing_is_left(project)


def test_a_downstream_project_passes_also_when_its_workers_are_killed(project: Path) -> None:
    from localml.core.catalog import cache_dir

    passes(Path(sys.executable), project, cache_dir(), PYTHONPATH=str(ROOT))


@pytest.mark.long
def test_pip_install_is_all_that_a_downstream_project_needs(project: Path, tmp_path: Path) -> None:
    fresh = tmp_path / "fresh"
    wheel = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--wheel-dir", str(tmp_path), str(ROOT)]
    subprocess.run(wheel, check=True, timeout=300)
    (made,) = tmp_path.glob("localml-*.whl")
    subprocess.run([sys.executable, "-m", "venv", str(fresh)], check=True, timeout=300)
    install = [fresh / "bin" / "python", "-m", "pip", "install", "-q", str(made), "pytest", "pytest-xdist"]
    subprocess.run(install, check=True, timeout=900)
    passes(fresh / "bin" / "python", project, tmp_path / "cache")
