"""What was tried is printed at the end of a run of tests, summed over its processes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
TESTS = """
import pytest
from helpers.counts import count

@pytest.mark.parametrize("number", range(6))
def test_counts(number):
    count("faults injected", 1000)
    count("jobs lost", 0)
    count("requests tried in a file", number)

@pytest.mark.long
def test_long(long_form):
    assert long_form
    count("long forms")
"""


def run(folder: Path, *options: str) -> list[str]:
    """The lines of pytest for two files of tests below this folder of tests' settings."""
    for name in ("one", "two"):
        (folder / f"test_{name}.py").write_text(TESTS)
    command = [sys.executable, "-m", "pytest", "-c", str(HERE.parent / "pyproject.toml"), "-p", "no:cacheprovider"]
    plugin = ["--rootdir", str(HERE.parent), "--confcutdir", str(folder), "-p", "conftest", "-q", *options, str(folder)]
    environment = {"PATH": "/usr/bin:/bin", "PYTHONPATH": f"{HERE}:{HERE.parent}", "PYTHONDONTWRITEBYTECODE": "1"}
    ended = subprocess.run(command + plugin, env=environment, capture_output=True, text=True, timeout=100, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout.splitlines()


def test_counts_are_summed_over_processes_and_printed(tmp_path: Path) -> None:
    lines = run(tmp_path, "-n", "2", "--dist", "loadfile")
    at = next(number for number, line in enumerate(lines) if "what was tried" in line)
    assert lines[at + 1 : at + 4] == ["12,000 faults injected", "     0 jobs lost", "    30 requests tried in a file"]
    assert not any("long forms" in line for line in lines)
    assert "12 passed, 2 skipped" in lines[-1]


def test_what_is_long_runs_when_it_is_asked_for(tmp_path: Path) -> None:
    lines = run(tmp_path, "--long")
    assert any(line.split() == ["2", "long", "forms"] for line in lines)
    assert "14 passed" in lines[-1]
