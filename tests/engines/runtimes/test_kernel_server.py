"""onnx-server made ready for other people's images."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from localml.core.catalog import runtimes_dir
from localml.engines.base import EngineError
from localml.engines.runtimes.kernel_server import START, KernelServer, python_of


def test_it_takes_the_same_versions_as_the_image() -> None:
    folder = runtimes_dir() / "onnx-server"
    pins, all_pins = (
        (folder / name).read_text().splitlines() for name in ("kernel-requirements.txt", "requirements.txt")
    )
    wanted = {line for line in pins if not line.startswith("#")}
    assert wanted
    assert wanted <= set(all_pins)


def test_a_python_that_it_runs_on_is_known() -> None:
    assert python_of("mine", '[3, 12, "glibc"]') == (3, 12)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ('[3, 9, "glibc"]', "mine has Python 3.9; the server needs 3.11 or later"),
        ('[3, 12, ""]', "mine is not made with glibc"),
        ("Welcome!", "gave no answer that makes sense: 'Welcome!'"),
        ("[3]", "gave no answer that makes sense"),
    ],
)
def test_an_image_that_it_cannot_run_in_is_refused(answer: str, words: str) -> None:
    with pytest.raises(EngineError, match=words.replace("(", r"\(")):
        python_of("mine", answer)


def test_packages_that_cannot_be_fetched_leave_nothing_usable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    server = KernelServer(tmp_path / "cache", runtimes_dir())
    with pytest.raises(EngineError, match=r"could not be made ready for Python 3\.12(.|\n)*No matching distribution"):
        server.make((3, 12), lambda line: None)
    assert not server.ready
    assert list(server.folder.iterdir()) == []


def test_what_was_made_is_taken_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fetching is left out here; the tests of ``localml serve --image`` do it."""
    monkeypatch.setattr("localml.engines.runtimes.kernel_server.lines_of", _fetched)
    server = KernelServer(tmp_path / "cache", runtimes_dir())
    made = server.make((3, 12), lambda line: None)
    assert server.ready
    assert sorted(one.name for one in server.folder.iterdir()) == ["lib", "py312", START]
    assert (server.folder / "lib" / "onnx_server" / "worker.py").is_file()
    assert {one.name for one in made.iterdir()} == {"site", "numpy"}
    said: list[str] = []
    assert server.make((3, 12), said.append) == made
    assert said == ["the server for Python 3.12 is there already"]
    (server.folder / START).unlink()  # as after a crash in the middle
    server.make((3, 12), lambda line: None)
    assert server.ready


def test_after_an_upgrade_the_last_one_is_used_until_there_is_a_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("localml.engines.runtimes.kernel_server.lines_of", _fetched)
    server = KernelServer(tmp_path, runtimes_dir())
    assert server.usable() == server.folder
    for age, name in ((2000, "older"), (1000, "last")):
        start = server.folder.parent / name / START
        start.parent.mkdir(parents=True)
        start.touch()
        os.utime(start, (time.time() - age,) * 2)
    assert server.usable().name == "last"
    server.make((3, 12), lambda line: None)
    assert server.usable() == server.folder


def _fetched(command: list[str], *_: object) -> None:
    Path(command[command.index("--target") + 1]).mkdir(parents=True)
