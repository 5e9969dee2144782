"""The pytest plugin, as somebody else's tests use it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from helpers.rig import wait_until

from localml import testing
from localml.platform import Platform

TESTS = """
def test_a_job_on_a_gpu(localml):
    job = localml.client.run(["sh", "-c", "echo $CUDA_VISIBLE_DEVICES"], gpus=3, wait=True, timeout=60)
    assert job.state == "succeeded", job.message
    assert localml.client.text(job.id).count("GPU-SIMULATED") == 3

def test_the_server_stays_for_the_next_test(localml):
    assert len(localml.client.workloads().workloads) == 1

def test_vendors_clients_find_it(localml):
    env = localml.env("cloudml")
    assert env["url"] == localml.url
    assert env["access_key"]

def test_a_fresh_one_is_empty(localml, localml_fresh):
    assert localml_fresh.url != localml.url
    assert localml_fresh.client.workloads().workloads == []
"""


def pytest_in(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "error", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=100)


def test_the_fixtures_give_a_server(tmp_path: Path) -> None:
    (tmp_path / "pytest.ini").write_text("[pytest]\nlocalml_gpus = 3\n")
    (tmp_path / "test_it.py").write_text(TESTS)
    run = pytest_in(tmp_path)
    assert "4 passed" in run.stdout, run.stdout + run.stderr


IMAGES = """
import pytest

def run(localml, image):
    return localml.client.run(["python", "-c", "import pytest, localml_launcher"], image=image, wait=True, timeout=60)

@pytest.mark.parametrize("image", ["localml/train-sklearn:latest", "openpai/pai.run.tensorflow", "host"])
def test_whatever_it_names_it_runs_in_the_python_of_the_tests(localml, image):
    job = run(localml, image)
    assert job.state == "succeeded", localml.client.text(job.id)

def test_another(localml_fresh):
    assert run(localml_fresh, "of/another").state == "succeeded"
"""


@pytest.mark.parametrize("workers", [[], ["-n", "2"]], ids=["alone", "xdist"])
def test_images_stand_for_the_python_of_the_tests_and_it_is_said_once(tmp_path: Path, workers: list[str]) -> None:
    (tmp_path / "test_it.py").write_text(IMAGES)
    run = pytest_in(tmp_path, *workers)
    assert "4 passed" in run.stdout, run.stdout + run.stderr
    (line,) = [line for line in run.stdout.splitlines() if line.startswith("localml: ")]
    assert line.endswith(": localml/train-sklearn:latest, of/another, openpai/pai.run.tensorflow")


def test_the_catalogue_counts_where_the_project_says_so(tmp_path: Path) -> None:
    (tmp_path / "pytest.ini").write_text("[pytest]\nlocalml_images =\n    */mine = host\n")
    (tmp_path / "test_it.py").write_text(
        "def test_it(localml):\n"
        "    def run(image):\n"
        "        return localml.client.run(['true'], image=image, wait=True, timeout=60)\n"
        "    assert run('of/mine').state == 'succeeded'\n"
        "    other = run('of/others')\n"
        "    assert (other.state, other.cause) == ('failed', 'image_missing')\n"
        "    assert '[images] \"of/others*\" = ' in other.message\n"
    )
    run = pytest_in(tmp_path)
    assert "1 passed" in run.stdout, run.stdout + run.stderr
    (tmp_path / "pytest.ini").write_text("[pytest]\nlocalml_images = nonsense\n")
    run = pytest_in(tmp_path)
    assert "localml_images: must be lines PATTERN = RUNTIME, not 'nonsense'" in run.stdout


def test_what_waits_for_a_gpu_does_not_begin_when_all_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    running = testing.start(tmp_path / "data", "simulated:1")
    begun = tmp_path / "begun"
    for _ in range(3):
        running.client.run(["sh", "-c", f"echo begun >> {begun}; exec sleep 600"], gpus=1)
    wait_until(begun.exists, 60)
    ends_all = testing._stop_all
    loops: list[bool] = []

    def seen(platform: Platform) -> None:
        reconciler = platform.reconciler
        threads = (reconciler._worker._thread, reconciler._watcher)
        loops.extend(thread is not None and thread.is_alive() for thread in threads)
        ends_all(platform)

    monkeypatch.setattr(testing, "_stop_all", seen)
    running.close()
    assert loops
    assert not any(loops)
    assert begun.read_text() == "begun\n"


def test_who_does_not_use_it_pays_nothing(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(
        "import sys\n\ndef test_it():\n"
        "    loaded = {one for one in sys.modules if one.startswith('localml')}\n"
        "    assert loaded == {'localml', 'localml.testing'}, loaded\n"
        "    assert 'sqlmodel' not in sys.modules\n"
    )
    run = pytest_in(tmp_path)
    assert "1 passed" in run.stdout, run.stdout + run.stderr
