"""Control groups: used only where delegated, and real limits where this machine lets a test set them."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.engine_kits import NOBODY, wait_until

from localml.engines.base import Phase, ReplicaPlan
from localml.engines.process import cgroups, supervisor
from localml.engines.process.engine import ProcessEngine


def _unified(root: Path, path: str, delegated: bool = True) -> Path:
    folder = root / path
    folder.mkdir(parents=True)
    (folder / "cgroup.controllers").write_text("cpuset cpu memory pids\n")
    (folder / "cgroup.subtree_control").write_text("cpu memory pids\n")
    if delegated:
        try:
            os.setxattr(folder, "user.delegate", b"1")
        except OSError:
            pytest.skip("this file system has no extended attributes")
    return folder


def _process(tmp_path: Path, line: str) -> Path:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc" / "cgroup").write_text(line)
    return tmp_path / "proc"


def test_a_delegated_group_above_us_is_found(tmp_path: Path) -> None:
    root = tmp_path / "cgroup"
    folder = _unified(root, "user.slice/localml.service")
    (folder / "control").mkdir()
    found = cgroups.delegated(_process(tmp_path, "0::/user.slice/localml.service/control\n"), root)
    assert found.parents.keys() == {"cpu", "memory", "pids"}
    assert set(found.parents.values()) == {folder}


def test_a_group_that_nobody_delegated_is_left_alone(tmp_path: Path) -> None:
    root = tmp_path / "cgroup"
    _unified(root, "system.slice/other.service", delegated=False)
    assert cgroups.delegated(_process(tmp_path, "0::/system.slice/other.service\n"), root).parents == {}
    (tmp_path / "proc" / "cgroup").write_text("4:memory:/somewhere\n")
    assert cgroups.delegated(tmp_path / "proc", root).parents == {}


def test_limits_become_settings_of_one_group(tmp_path: Path) -> None:
    folder = _unified(tmp_path, "g", delegated=False)
    options = cgroups.named(folder).options("job", cpu=1.5, memory=1 << 20, pids=7)
    assert options[0] == ("cgroup", str(folder / "job"))
    assert {value for key, value in options[1:] if key == "set"} == {
        "cpu.max=150000 100000",
        "memory.max=1048576",
        "memory.oom.group=1",
        "pids.max=7",
    }
    assert cgroups.named(folder).options("job", None, None, None) == []


def test_a_group_that_cannot_be_made_does_not_fail_the_job(tmp_path: Path) -> None:
    folder = _unified(tmp_path, "g", delegated=False)
    (folder / "job").write_text("in the way")
    engine = ProcessEngine(tmp_path / "replicas", "i", cgroup=folder)
    engine.start(ReplicaPlan("job", "none", ("true",), pids=7))
    wait_until(lambda: engine.inspect("job").phase is Phase.EXITED, "end")
    assert engine.inspect("job").exit_code == 0
    assert "limit not set" in (tmp_path / "replicas" / "job" / "notes").read_text()
    engine.close()


@pytest.fixture
def pids_group() -> Iterator[Path]:
    """A real group of the pids controller, below the root group of version 1 or a delegated one of version 2."""
    top = cgroups.delegated().parents.get("pids") or Path("/sys/fs/cgroup/pids")
    folder = top / f"localml-test-{uuid.uuid4().hex[:8]}"
    try:
        folder.mkdir()
    except OSError:
        pytest.skip("no control group may be made here")
    yield folder
    folder.rmdir()


def test_the_number_of_processes_is_held_by_the_kernel(tmp_path: Path, pids_group: Path) -> None:
    engine = ProcessEngine(tmp_path / "replicas", "i", cgroup=pids_group)
    script = "sleep 7201 & sleep 7202 & sleep 7203 & sleep 7204 & echo made all"
    engine.start(ReplicaPlan("forks", "none", ("sh", "-c", script), pids=3))
    wait_until(lambda: engine.inspect("forks").phase is Phase.EXITED, "end")
    output = b"".join(chunk.data for chunk in engine.logs("forks", {}, follow=False))
    assert b"made all" not in output
    assert b"fork" in output
    assert not (pids_group / "forks").exists()
    engine.close()


def test_what_joins_a_box_is_in_its_group_and_ends_with_it(tmp_path: Path, pids_group: Path) -> None:
    engine = ProcessEngine(tmp_path / "replicas", "i", cgroup=pids_group)
    if engine.capabilities.exposes:
        pytest.skip(engine.capabilities.exposes)
    engine.start(ReplicaPlan("long", "none", ("sleep", "7205"), pids=30, account=NOBODY))
    wait_until(lambda: engine.exec("long", ("true",)).exit_code == 0, "the box")
    stream = engine.open("long", ("sh", "-c", "cat /proc/self/cgroup; echo on; setsid -f sleep 7206; sleep 7206"))
    found = b""
    while b"on\n" not in found and (piece := stream.read()):
        found += piece[1]
    assert f"/{pids_group.name}/long".encode() in found
    engine.stop("long", 0)
    assert stream.read() is None
    assert stream.wait() == 128 + 9
    stream.close()
    engine.remove("long")
    engine.close()


def test_what_has_no_number_here_is_not_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel lists processes of another namespace as 0, which to ``kill`` means the caller's own group."""
    killed: list[int] = []
    monkeypatch.setattr(cgroups.os, "kill", lambda pid, number: killed.append(pid))
    (tmp_path / "cgroup.procs").write_text("0\n")
    assert not cgroups.kill_group(tmp_path)
    assert supervisor._members([os.fsencode(tmp_path)]) == []
    assert killed == []
