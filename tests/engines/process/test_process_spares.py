"""Folders of removed replicas serve the next ones: these find nothing in them, and nothing is kept for longer."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from helpers.engine_kits import ProcessKit

from localml.engines.base import Phase, ReplicaPlan
from localml.engines.process.folder import UNFINISHED


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "replicas"


def _spares(root: Path) -> list[Path]:
    return list(root.glob(f"{UNFINISHED}*"))


def _one_job(kit: ProcessKit, script: str = "echo secret; echo secret >&2") -> ReplicaPlan:
    """A job that ran and was removed."""
    plan = kit.plan(script, env={"TOKEN": "secret"})
    kit.run(plan)
    kit.engine.remove(plan.name)
    return plan


def test_what_is_kept_of_a_job_holds_nothing_of_it(process_kit: ProcessKit, root: Path) -> None:
    plan = _one_job(process_kit)
    assert not (root / plan.name).exists()
    (spare,) = _spares(root)
    assert not [path.name for path in spare.iterdir() if b"secret" in path.read_bytes()]
    assert process_kit.engine.list() == {}


def test_the_next_job_has_a_folder_that_is_as_new(process_kit: ProcessKit, root: Path) -> None:
    process_kit.engine.stop(_one_job(process_kit).name, 0)
    for code in (3, 0):
        plan = process_kit.plan(f'echo "$TOKEN"; ls -A; exit {code}')
        process_kit.engine.start(plan)
        assert _spares(root) == []
        assert process_kit.wait_end(plan.name).exit_code == code
        assert process_kit.output(plan.name) == {"stdout": b"\n", "stderr": b""}
        process_kit.engine.remove(plan.name)


def test_one_that_was_stopped_leaves_no_wish_to_stop_the_next(process_kit: ProcessKit) -> None:
    plan = process_kit.endless()
    process_kit.engine.start(plan)
    process_kit.engine.stop(plan.name, 30)
    process_kit.wait_end(plan.name)
    process_kit.engine.remove(plan.name)
    assert process_kit.run(process_kit.ending(4)).exit_code == 4


def test_a_reader_that_is_late_never_reads_the_next_jobs_output(process_kit: ProcessKit) -> None:
    plan = process_kit.plan("echo mine")
    process_kit.run(plan)
    chunks = process_kit.engine.logs(plan.name, {}, follow=True)
    assert next(chunks).data == b"mine\n"
    process_kit.engine.remove(plan.name)
    process_kit.run(process_kit.plan("echo mine; echo others"))
    assert b"".join(chunk.data for chunk in chunks) == b""


@pytest.mark.parametrize("script", ["touch left", "touch ../left", "chmod 755 .."])
def test_a_folder_that_a_job_changed_is_deleted(process_kit: ProcessKit, root: Path, script: str) -> None:
    plan = _one_job(process_kit, script)
    assert not (root / plan.name).exists()
    assert _spares(root) == []


def test_a_spare_that_was_deleted_meanwhile_is_done_without(process_kit: ProcessKit, root: Path) -> None:
    _one_job(process_kit)
    (spare,) = _spares(root)
    for path in spare.iterdir():
        path.unlink()
    spare.rmdir()
    assert process_kit.run(process_kit.ending(6)).exit_code == 6


def test_a_closed_engine_keeps_none(process_kit: ProcessKit, root: Path) -> None:
    _one_job(process_kit)
    process_kit.engine.close()
    assert [name for name in os.listdir(root) if not name.endswith(".pyc")] == []
    process_kit.engine = process_kit.reopen()
    assert process_kit.engine.inspect("any").phase is Phase.GONE


def test_a_long_record_of_one_end_leaves_nothing_in_the_next(process_kit: ProcessKit, root: Path) -> None:
    first = process_kit.ending(0)
    process_kit.run(first)
    with (root / first.name / "exit.json").open("a") as file:
        file.write(" " * 5000 + "the end of a reason that is longer than the room for it")
    process_kit.engine.remove(first.name)
    assert process_kit.run(process_kit.ending(4)).exit_code == 4
