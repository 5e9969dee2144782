"""The runtimes as virtual environments; a tiny runtime without requirements stands for the real ones."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from localml.core.catalog import runtimes_dir
from localml.core.errors import LocalmlError
from localml.engines.base import EngineError
from localml.engines.runtimes.environments import READY, Environments
from localml.engines.runtimes.wheels import lines_of

pytestmark = pytest.mark.timeout(600)

CATALOG = """
[runtimes.base]
description = "the base"

[runtimes.tiny]
parent = "base"
description = "nothing but Python"
copies = ["launcher"]

[runtimes.broken]
parent = "base"
description = "asks for what is not there"
"""


@pytest.fixture
def runtimes(tmp_path: Path) -> Path:
    folder = tmp_path / "runtimes"
    for name, text in (("base", "# nothing\n"), ("tiny", "# nothing\n"), ("broken", "--no-index\nabsent-package==1\n")):
        (folder / name).mkdir(parents=True)
        (folder / name / "requirements.txt").write_text(text)
    # No launcher of our own making: what a runtime copies is installed only if it is the launcher's folder.
    (folder / "launcher").symlink_to(runtimes_dir() / "launcher")
    (folder / "catalog.toml").write_text(CATALOG)
    return folder


@pytest.fixture
def environments(tmp_path: Path, runtimes: Path) -> Environments:
    return Environments(tmp_path / "cache", runtimes)


@pytest.mark.slow
def test_a_runtime_becomes_an_environment_that_has_the_launcher(environments: Environments) -> None:
    lines: list[str] = []
    folder = environments.ensure("tiny", lines.append)
    env = environments.env_for("localml/tiny:latest")
    assert env is not None
    assert env["VIRTUAL_ENV"] == str(folder)
    assert lines
    done = subprocess.run(
        ["python", "-c", "import sys, localml_launcher; print(sys.prefix, localml_launcher.__version__)"],
        env=dict(env),
        executable=str(folder / "bin" / "python"),
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split()[0] == str(folder)


@pytest.mark.slow
def test_it_is_made_once_by_however_many_ask_and_a_half_made_one_is_made_anew(environments: Environments) -> None:
    folder = environments.ensure("base", lambda line: None)
    (folder / READY).unlink()
    (folder / "left-over").write_text("from a crash")
    said: list[str] = []
    threads = [threading.Thread(target=environments.ensure, args=("base", said.append)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(240)
    assert said.count("making the environment of base") == 1
    assert not (folder / "left-over").exists()
    assert (folder / READY).is_file()
    assert environments.env_for("localml/base") == {
        "PATH": f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}",
        "VIRTUAL_ENV": str(folder),
    }


@pytest.mark.slow
def test_a_package_that_cannot_be_had_is_named_and_the_environment_is_not_used(environments: Environments) -> None:
    with pytest.raises(EngineError, match="absent-package"):
        environments.ensure("broken", lambda line: None)
    assert environments.env_for("localml/broken") is None


def test_the_base_is_the_python_that_runs_localml_until_it_has_its_own(environments: Environments) -> None:
    env = environments.env_for("localml/base:latest")
    assert env is not None
    done = subprocess.run(
        ["/usr/bin/env", "python", "-c", "import sys, localml_launcher; print(sys.prefix)"],
        env=dict(env),
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == sys.prefix


def test_other_images_and_runtimes_not_made_have_no_environment(environments: Environments) -> None:
    for image in ("busybox", "localml/tiny", "localml/unknown:latest", "registry.example/localml/base"):
        assert environments.env_for(image) is None


def test_an_unknown_runtime_is_refused(environments: Environments) -> None:
    with pytest.raises(LocalmlError, match="runtime 'nothing' does not exist"):
        environments.ensure("nothing", lambda line: None)


def test_a_changed_requirement_gives_a_new_environment(tmp_path: Path, runtimes: Path) -> None:
    first = Environments(tmp_path / "cache", runtimes)
    marked = first._place(first._catalog.runtime("tiny"))
    (marked / READY).parent.mkdir(parents=True)
    (marked / READY).touch()
    assert first.env_for("localml/tiny") is not None
    (runtimes / "base" / "requirements.txt").write_text("# changed\n")
    assert Environments(tmp_path / "cache", runtimes).env_for("localml/tiny") is None


def test_who_has_no_index_of_cpu_builds_is_told_where_they_are() -> None:
    """PyPI has PyTorch's builds for CUDA alone; none of them is taken instead."""
    pip = ["sh", "-c", "echo 'ERROR: No matching distribution found for torch==2.13.0+cpu'; exit 1"]
    with pytest.raises(EngineError, match="PIP_EXTRA_INDEX_URL"):
        lines_of(pip, [].append, "the environment of train-pytorch could not be made")
