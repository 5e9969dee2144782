"""What the server knows of algorithms: nothing of what they are made with."""

from __future__ import annotations

import subprocess
import sys

HEAVY = ("optuna", "numpy", "scipy", "torch")


def _loaded_by(modules: str, names: tuple[str, ...]) -> str:
    code = f"import sys, {modules}; print([name for name in {names} if name in sys.modules])"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def test_the_server_imports_neither_optuna_nor_numpy() -> None:
    assert _loaded_by("localml.cli.daemon, localml.platform, localml.hpo.processes", HEAVY) == "[]"


def test_a_process_imports_only_the_standard_library_until_the_algorithm_is_known() -> None:
    assert _loaded_by("localml.hpo.side.worker", (*HEAVY, "pydantic", "sqlalchemy")) == "[]"
