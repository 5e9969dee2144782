"""Tests of somebody else's that use the fixture and are killed: nothing that they started is left."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from helpers.counts import count
from helpers.leftovers import left, nothing_is_left

ENDS = {
    "SIGKILL": "os.kill(os.getpid(), signal.SIGKILL)",
    "os._exit": "os._exit(3)",
    "SIGKILL of the group": "os.killpg(os.getpgid(0), signal.SIGKILL)",
    "SIGABRT": "os.abort()",
    "timeout": "threading.Event().wait()",
    "SIGTERM": "os.kill(os.getpid(), signal.SIGTERM); threading.Event().wait()",
}
"""What the test does to itself once everything runs; pytest-timeout ends the one that waits."""

TEST = """
import os, signal, sys, threading, time
from pathlib import Path
import pytest

MARK = {mark!r}
JOB = '''
trap "" TERM HUP INT
export LOCALML_TEST_MARK={mark}
setsid sh -c "trap : TERM; while :; do sleep 1000; done" &
while :; do sleep 1000; done
'''

@pytest.mark.timeout({timeout}, method="thread")
def test_it(localml):
    job = localml.client.run(["sh", "-c", "echo up; " + JOB], name="stubborn-" + str(os.getpid()))
    queued = localml.client.run(["sleep", "999"], gpus=2)
    waiting = localml.client.run(["sleep", "999"], gpus=2)
    deadline = time.monotonic() + 60
    while "up" not in localml.client.text(job.id):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    name = next(iter(one for one in localml.platform.engine.list() if f"-{{job.id}}-" in one))
    localml.platform.engine.open(name, ("sh", "-c", JOB))
    localml.platform.engine.open(name, ("sh", "-c", JOB), tty=(80, 24))
    {gateway}
    Path({begun!r}, str(os.getpid())).touch()
    {end}
"""
GATEWAY = """localml.platform.serving.gateway.ensure()
    while not localml.platform.serving.gateway.running:
        assert time.monotonic() < deadline
        time.sleep(0.02)"""


def mark(folder: Path) -> str:
    """What its jobs have in their environment."""
    return "mark-of-" + folder.name


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path
    for process in left(tmp_path, mark(tmp_path)):
        with contextlib.suppress(psutil.Error):
            process.kill()


def run_tests(folder: Path, end: str, *arguments: str, tests: int = 1, timeout: int = 90) -> tuple[str, int]:
    """Run tests that end like this; their output, and how many came to their end."""
    begun = folder / "begun"
    begun.mkdir()
    for number in range(tests):
        text = TEST.format(mark=mark(folder), begun=str(begun), end=ENDS[end], timeout=timeout, gateway=GATEWAY)
        (folder / f"test_{number}.py").write_text(text)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--basetemp={folder}/base", *arguments]
    run = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, check=False, timeout=110, start_new_session=True
    )
    return run.stdout + run.stderr, len(list(begun.iterdir()))


@pytest.mark.parametrize("end", ["SIGKILL", "os._exit", "timeout", "SIGKILL of the group", "SIGABRT", "SIGTERM"])
def test_however_the_test_process_dies_its_jobs_end_with_it(watched: Path, end: str, long_form: bool) -> None:
    if not long_form and end not in ("SIGKILL", "os._exit"):
        pytest.skip("the long form tries these as well")
    said, begun = run_tests(watched, end, timeout=20 if end == "timeout" else 90)
    assert begun == 1, said
    count("kills of processes")
    nothing_is_left(watched, mark(watched))


def test_a_crashed_xdist_worker_leaves_nothing(watched: Path, long_form: bool) -> None:
    tests = 6 if long_form else 2
    said, begun = run_tests(watched, "SIGKILL", "-n", "2", "--dist", "load", tests=tests)
    assert begun == tests, said
    assert "crashed while running" in said or "node down" in said.lower(), said
    count("kills of processes", tests)
    nothing_is_left(watched, mark(watched))
