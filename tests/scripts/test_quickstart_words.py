"""What the quickstart says without a terminal: little of its own, whatever the builds write."""

from __future__ import annotations

import importlib.util
import os
import pty
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
CHATTY = """#!/bin/sh
i=0; while [ $i -lt 500 ]; do i=$((i+1)); echo "Step $i of $3" >&2; done
echo "$3: localml/$3:1 (300M)"
[ "$3" != broken ]
"""


@pytest.fixture
def quickstart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The script, with a localml whose builds write much."""
    spec = importlib.util.spec_from_file_location("quickstart", ROOT / "scripts/lib/quickstart.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    fake = tmp_path / "localml"
    fake.write_text(CHATTY)
    fake.chmod(0o755)
    monkeypatch.setattr(module, "LOCALML", fake)
    return module


def test_a_build_is_one_line_and_its_output_is_in_the_log(
    quickstart: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    quickstart.build(["train-sklearn", "onnx-server"], "docker", tmp_path / "log")
    out, err = capfd.readouterr()
    assert [line.rpartition(",")[0] for line in out.splitlines()] == [
        "train-sklearn: localml/train-sklearn:1 (300M)",
        "onnx-server: localml/onnx-server:1 (300M)",
    ]
    assert err == ""
    assert len((tmp_path / "log").read_text().splitlines()) == 1000


def test_a_build_that_fails_shows_its_last_lines(
    quickstart: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match=f"broken could not be built; all of its output is in {tmp_path}/log"):
        quickstart.build(["broken"], "docker", tmp_path / "log")
    assert capfd.readouterr().out.splitlines() == [f"Step {number} of broken" for number in range(486, 501)]


@pytest.mark.parametrize(("terminal", "no_color", "bold"), [(False, "", 0), (True, "", 2), (True, "1", 0)])
def test_headings_are_bold_on_a_terminal_that_may_have_it(terminal: bool, no_color: str, bold: int) -> None:
    """What a user sees of both of its halves, whose standard output is a terminal's other end, or a pipe."""
    both = (
        f". {ROOT}/scripts/lib/environment.sh && say of the shell && {sys.executable} -c 'import sys;"
        f' sys.path.insert(0, "{ROOT}/scripts/lib"); import quickstart; quickstart.say("of Python")\''
    )
    environment = {**os.environ, "NO_COLOR": no_color}
    reads, writes = pty.openpty() if terminal else os.pipe()
    try:
        subprocess.run(["bash", "-c", both], env=environment, stdout=writes, check=True)
        shown = os.read(reads, 1 << 16).decode()
    finally:
        os.close(reads)
        os.close(writes)
    assert "of the shell" in shown
    assert "of Python" in shown
    assert shown.count("\x1b[1m") == bold


def test_the_first_screen_says_what_it_does_and_how_long(tmp_path: Path) -> None:
    """The script up to where it begins to install, in a repository of its own that has nothing yet."""
    for name in ("scripts/quickstart", "scripts/lib/environment.sh"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    (tmp_path / "pyproject.toml").touch()
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in ("bash", "dirname", "mkdir", "cat", "sha256sum", "cut", "id", "env"):
        (tools / name).symlink_to(f"/usr/bin/{name}" if Path(f"/usr/bin/{name}").exists() else f"/bin/{name}")
    environment = {"PATH": str(tools), "HOME": str(tmp_path), "LOCALML_DATA": "/srv/localml"}
    run = subprocess.run(
        [str(tools / "bash"), str(tmp_path / "scripts/quickstart")],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert run.returncode == 1
    assert "Python 3.11 or newer with venv is needed" in run.stderr
    for words in (
        "install localml into .venv          a minute",
        "build three runtimes                some minutes the first time",
        "with its state in /srv/localml",
        "A few minutes the first time, half a minute later.",
        "'localml stop --all; localml down' ends what it starts.",
        f"Logs: {tmp_path}/.cache/quickstart.log",
    ):
        assert words in run.stdout
    assert "\x1b" not in run.stdout + run.stderr
    assert len(run.stdout.splitlines()) < 20
    assert os.listdir(tmp_path / ".cache") == []
