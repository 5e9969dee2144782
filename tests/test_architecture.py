"""The rooms: imports point one way, and no module grows beyond what fits in the head."""

from __future__ import annotations

import pkgutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from localml.dialects import REGISTRY

ROOT = Path(__file__).parent.parent
LIMIT = 430
ALONE = {"localml/engines/process/supervisor.py": 472}
"""Programs that cannot be parted: they run without the rest of localml."""


@pytest.mark.timeout(600)
def test_imports_point_one_way() -> None:
    run = subprocess.run(
        [Path(sys.executable).parent / "lint-imports"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stdout + run.stderr


@pytest.mark.timeout(600)  # without a cache, the types of all modules are found out anew
@pytest.mark.parametrize("tool", [["ruff", "check", "."], ["ruff", "format", "--check", "."], ["mypy"]])
def test_style_and_types(tool: list[str]) -> None:
    run = subprocess.run(
        [Path(sys.executable).parent / tool[0], *tool[1:]], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stdout + run.stderr


def test_every_module_belongs_to_a_layer() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    layers = {name.strip() for layer in contracts[0]["layers"] for name in layer.split("|")}
    modules = {f"localml.{name}" for _, name, _ in pkgutil.iter_modules([str(ROOT / "localml")])}
    assert modules == layers


def test_dialects_are_folders_of_the_registry() -> None:
    folders = {path.name for path in (ROOT / "localml" / "dialects").iterdir() if (path / "__init__.py").exists()}
    assert folders - {"kit"} == {one.name for one in REGISTRY}


@pytest.mark.parametrize("name", [one.name for one in REGISTRY if one.prefixes])
def test_who_has_read_one_dialect_finds_their_way_in_all(name: str) -> None:
    folder = ROOT / "localml" / "dialects" / name
    found = {path.name.removesuffix(".py") for path in folder.iterdir() if path.name != "__pycache__"}
    rooms = {"__init__", "auth", "errors", "schemas", "translate", "routes", "environment"}
    assert rooms <= found
    assert found - rooms <= {"document", "benchmark"}  # a job's own program lies beside those who speak


def test_modules_stay_readable() -> None:
    files = [path for path in (ROOT / "localml").rglob("*.py") if "migrations" not in path.parts]
    lines = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in files}
    long = {name: count for name, count in lines.items() if count > ALONE.get(name, LIMIT)}
    assert long == {}
