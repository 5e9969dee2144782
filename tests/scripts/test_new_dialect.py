"""``scripts/new-dialect`` in a copy of the repository: what it makes works, what it cannot make it refuses."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
PARTS = ("localml", "runtimes", "scripts", "tests", "webui", "pyproject.toml")
NAME = "demo"


class Copy:
    """A copy of the repository."""

    def __init__(self, root: Path, *more: str) -> None:
        self.root = root
        for part in (*PARTS, *more):
            if (ROOT / part).is_dir():
                shutil.copytree(ROOT / part, root / part, ignore=shutil.ignore_patterns("__pycache__"))
            elif (ROOT / part).exists():
                shutil.copy2(ROOT / part, root / part)

    def run(self, *command: str | Path) -> subprocess.CompletedProcess[str]:
        environment = os.environ | {"PYTHONPATH": str(self.root)}
        return subprocess.run(
            command, cwd=self.root, env=environment, capture_output=True, text=True, check=False, timeout=500
        )

    def new_dialect(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return self.run(sys.executable, "scripts/new-dialect", *arguments)

    def files(self) -> set[str]:
        kept = [path for path in self.root.rglob("*.py") if ".mypy_cache" not in path.parts]
        return {str(path.relative_to(self.root)) for path in kept}


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Copy:
    """Without the new dialect."""
    return Copy(tmp_path_factory.mktemp("plain"))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Copy:
    """With it."""
    copy = Copy(tmp_path_factory.mktemp("made"), ".mypy_cache")
    before = copy.files()
    registry = (copy.root / "localml/dialects/__init__.py").read_text().splitlines()
    run = copy.new_dialect(NAME)
    assert run.returncode == 0, run.stderr
    assert "Made the dialect 'demo' at /demo/v1" in run.stdout
    assert "tests/dialects/demo" in run.stdout
    names = ("__init__", "auth", "environment", "errors", "routes", "schemas", "translate")
    written = {f"localml/dialects/demo/{name}.py" for name in names} | {"tests/dialects/demo/test_demo.py"}
    assert copy.files() - before == written
    now = (copy.root / "localml/dialects/__init__.py").read_text().splitlines()
    assert [line for line in now if line not in registry] == ['    Registered("demo", ("/demo/v1",)),']
    assert len(now) == len(registry) + 1
    return copy


@pytest.mark.timeout(600)  # without a cache, the types of all modules are found out anew
@pytest.mark.parametrize(
    "command",
    [
        ["ruff", "check", "localml/dialects", "tests/dialects"],
        ["ruff", "format", "--check", "localml/dialects", "tests/dialects"],
        ["mypy", "-p", f"localml.dialects.{NAME}"],
        ["lint-imports"],
        ["pytest", "-q", "-p", "no:cacheprovider", f"tests/dialects/{NAME}"],
        ["pytest", "-q", "-p", "no:cacheprovider", "tests/test_architecture.py", "-k", "folders or readable or layer"],
    ],
    ids=["ruff", "format", "mypy", "imports", "tests", "architecture"],
)
def test_what_it_makes_passes_the_checks_of_the_repository(made: Copy, command: list[str]) -> None:
    run = made.run(BIN / command[0], *command[1:])
    assert run.returncode == 0, run.stdout + run.stderr


def test_the_command_line_knows_it(made: Copy) -> None:
    run = made.run(sys.executable, "-m", "localml.cli", "env", "--help")
    assert NAME in run.stdout, run.stderr


def test_whatever_the_name_and_the_path_the_source_is_in_order(tmp_path: Path) -> None:
    copy = Copy(tmp_path)
    for name, prefix in (("ab", "/x"), ("abcdefghijklmnopqrst", "/" + 39 * "y"), ("zz9", "/a.b/c")):
        run = copy.new_dialect(name, "--prefix", prefix)
        assert run.returncode == 0, run.stderr
    for command in (["check"], ["format", "--check"]):
        run = copy.run(BIN / "ruff", *command, "localml/dialects", "tests/dialects")
        assert run.returncode == 0, run.stdout + run.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["native"], "NAME: there is a dialect 'native' already"),
        (["wmla"], "NAME: there is a dialect 'wmla' already"),
        (["kit"], "NAME cannot be 'kit': that is the folder of what all dialects share"),
        (["serving"], "NAME cannot be 'serving'"),
        (["Acme"], "NAME must be 2 to 20 small letters and digits"),
        (["../acme"], "NAME must be 2 to 20 small letters and digits"),
        (["class"], "no word of Python's: 'class'"),
        (["left"], "NAME: localml/dialects/left exists already"),
        (["acme", "--prefix", "/api"], "--prefix: /api is taken: the dialect 'openpai' serves /api/v1"),
        (["acme", "--prefix", "/localml/v1/x"], "/localml/v1/x is taken: the dialect 'native' serves /localml/v1"),
        (["acme", "--prefix", "/metrics"], "--prefix: /metrics is taken: the server itself"),
        (["acme", "--prefix", "acme"], "--prefix must be a path such as /acme/v1"),
        (["acme", "--prefix", "/acme/"], "--prefix must be a path"),
        (["acme", "--prefix", "/"], "--prefix must be a path"),
        (["acme", "--prefix", "/../x"], "--prefix must be a path"),
    ],
)
def test_what_it_cannot_make_it_refuses_and_writes_nothing(plain: Copy, arguments: list[str], said: str) -> None:
    (plain.root / "localml/dialects/left").mkdir(exist_ok=True)
    before = plain.files(), (plain.root / "localml/dialects/__init__.py").read_text()
    run = plain.new_dialect(*arguments)
    assert (run.returncode, run.stdout) == (1, "")
    assert run.stderr.startswith("new-dialect: ")
    assert said in run.stderr
    assert (plain.files(), (plain.root / "localml/dialects/__init__.py").read_text()) == before
