"""The measuring program: a row for each budget, with its floor from the same run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

LIB = Path(__file__).parents[1] / "scripts" / "lib"


def bench(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "bench", *arguments]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(LIB.parents[1]), str(LIB)])}
    return subprocess.run(command, cwd=LIB, env=environment, capture_output=True, text=True, check=False)


def test_submissions_are_measured_over_http_beside_a_bare_app() -> None:
    run = bench("--quick", "--only", "http", "--json")
    assert run.returncode == 0, run.stderr
    rows: list[dict[str, Any]] = json.loads(run.stdout)
    assert [row["what"].partition(":")[0] for row in rows] == [
        "submit over HTTP, one client, none waiting",
        "the same with 1,000 waiting",
        "8 clients, 1,000 waiting",
        "8 clients, 1,000 waiting",
    ]
    assert all(row["floor"] and row["budget"] for row in rows)


def test_each_vendors_submission_is_measured_beside_the_native_one() -> None:
    run = bench("--quick", "--only", "vendors", "--json")
    rows: list[dict[str, Any]] = json.loads(run.stdout)
    names = ["Cloud-ML", "OpenPAI", "MLBench", "WMLA"]
    assert [row["what"] for row in rows] == [f"{name} submit: p50" for name in names]
    assert all(row["floor"].endswith("native") for row in rows[:3])
    assert rows[3]["floor"].endswith("native with code")  # a model always goes along


@pytest.mark.parametrize("given", ["nothing", "http,nothing"])
def test_a_measurement_that_does_not_exist_is_refused(given: str) -> None:
    run = bench("--only", given)
    assert run.returncode == 2
    assert "'nothing' is none of" in run.stderr
