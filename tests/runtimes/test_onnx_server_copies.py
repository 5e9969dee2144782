"""A version is served from a copy of its files: what a kernel writes stays there, and what is copied over them, out."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections import namedtuple
from pathlib import Path

import pytest
from helpers.onnx_bench import PATIENCE, ROOT, Server, matmul, save, serving, spawn, wait_for

sys.path.insert(0, str(ROOT))
from onnx_server import errors, sources

NOTING = """
import os
import numpy as np
class Noting:
    '''Writes beside itself: when it is loaded, and with each call.'''
    def load(self, path):
        self.path = path
        with open(os.path.join(path, "loads"), "a") as file:
            file.write("x")
    def predict(self, inputs):
        if "missing" in inputs:
            open(os.path.join(self.path, "missing"))
        with open("calls", "a") as file:
            file.write("x")
        return {"loads": np.array([os.path.getsize("loads")]), "calls": np.array([os.path.getsize("calls")])}
"""
NOTING_WMLA = """
import json, os
from redhareapi import Kernel

class Noting(Kernel):
    def on_kernel_start(self, kernel_context):
        self.path = json.loads(kernel_context.get_model_description())["model_path"]

    def on_task_invoke(self, task_context):
        while task_context is not None:
            with open("calls", "a") as file:
                file.write("x")
            task_context.set_output_data(str(os.path.getsize(os.path.join(self.path, "calls"))))
            task_context = task_context.next()

Noting().run()
"""
Room = namedtuple("Room", "total used free")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    return folder


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A temporary folder of the test's own."""
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setenv("TMPDIR", str(scratch))
    monkeypatch.setattr(sources.tempfile, "tempdir", None)
    return scratch


def ask(server: Server, name: str = "x") -> dict[str, int]:
    answer = server.infer({"name": name, "datatype": "FP32", "shape": [1], "data": [1]})
    assert answer.status_code == 200, answer.text
    return {output["name"]: output["data"][0] for output in answer.json()["outputs"]}


def loads(server: Server) -> float:
    return server.metric('onnx_server_loads_total{model="m",result="loaded"}')


def copy_of(folder: Path, kernel: str = "") -> sources.Copy:
    return sources.Copy(sources.scan(folder)["1"], kernel)


def copies(scratch: Path) -> list[Path]:
    return list(scratch.glob("onnx-server-copy-*"))


def test_a_kernel_that_writes_beside_itself_is_served_and_not_loaded_again(folder: Path) -> None:
    (folder / "kernel.py").write_text(NOTING)
    with serving(folder) as server:
        before = server.workers()
        assert [ask(server)["calls"] for _ in range(5)] == [1, 2, 3, 4, 5]
        assert [path.name for path in folder.iterdir()] == ["kernel.py"]
        assert (server.workers(), loads(server)) == (before, 1)
        (folder / "kernel.py").write_text(NOTING + "\n")  # by the time that this is loaded, the folder was looked at
        wait_for(lambda: ask(server)["calls"] < 5, "the changed kernel")
        assert (loads(server), ask(server)["loads"]) == (2, 1)
        assert "changed while it was loaded" not in server.log
        assert [path.name for path in folder.iterdir()] == ["kernel.py"]


def test_a_wmla_kernel_that_writes_beside_itself_is_served_and_not_loaded_again(folder: Path) -> None:
    (folder / "own.py").write_text(NOTING_WMLA)
    (folder / "model.json").write_text(json.dumps({"kernel_path": "own.py"}))
    with serving(folder) as server:
        calls = [server.http.post("/dlim/v1/inference/m", content="x").text for _ in range(3)]
        assert (calls, loads(server)) == (["1", "2", "3"], 1)
        (folder / "own.py").write_text(NOTING_WMLA + "\n")
        wait_for(lambda: loads(server) == 2, "the changed kernel")
        assert server.http.post("/dlim/v1/inference/m", content="x").text == "1"
    assert {path.name for path in folder.iterdir()} == {"own.py", "model.json"}


def test_a_model_that_never_changes_needs_no_copy(tmp_path: Path, scratch: Path) -> None:
    save(tmp_path / "frozen", matmul())
    source = sources.scan(tmp_path / "frozen")["1"]
    assert sources.Copy(source, "", frozen=True).folder == source.folder
    copied = sources.Copy(source, "")
    assert copied.folder.is_relative_to(scratch)
    copied.remove()


def test_a_kernel_comes_back_with_the_files_it_had_whatever_lies_there_now(folder: Path) -> None:
    (folder / "kernel.py").write_text(NOTING)
    with serving(folder) as server:
        ask(server)
        (folder / "kernel.py").write_text("raise RuntimeError('half a kernel')")
        wait_for(lambda: "load_error" in server.metadata()["parameters"]["states"]["1"], "the refusal")
        wait_for(lambda: len(server.workers()) == 1, "the end of the refused one's worker")
        (worker,) = server.workers()
        os.kill(worker, signal.SIGKILL)
        wait_for(lambda: server.workers() not in ([], [worker]) and server.ready(), "another worker")
        assert ask(server) == {"loads": 2, "calls": 2}


def test_errors_name_the_users_folder_and_not_the_copy(folder: Path) -> None:
    (folder / "kernel.py").write_text(NOTING)
    with serving(folder) as server:
        failed = server.infer({"name": "missing", "datatype": "FP32", "shape": [1], "data": [1]})
        assert (failed.status_code, str(folder / "missing") in failed.json()["error"]) == (500, True)
        (folder / "kernel.py").write_text(NOTING.replace('"loads"', '"no/loads"'))
        wait_for(lambda: "load_error" in server.metadata()["parameters"]["states"]["1"], "the refusal")
        assert f"the kernel in {folder} failed" in server.metadata()["parameters"]["states"]["1"]["load_error"]


def test_a_wmla_kernel_whose_description_leads_out_of_its_folder_stays_where_it_is(folder: Path) -> None:
    (folder.parent / "own.py").write_text(NOTING_WMLA)
    (folder / "model.json").write_text(json.dumps({"kernel_path": "../own.py"}))
    with serving(folder) as server:
        assert server.metadata()["platform"] == "redhare"
        assert "leads out of the folder" in " ".join(server.metadata()["parameters"]["notes"])


def test_copies_go_with_their_server_and_those_of_killed_ones_with_the_next(folder: Path, scratch: Path) -> None:
    save(folder, matmul())
    with serving(folder) as living:
        (kept,) = copies(scratch)
        killed = spawn(folder, folder.parent / "killed.log")
        wait_for(killed.ready, "readiness")
        killed.process.kill()
        killed.process.wait()
        for path in copies(scratch):
            os.utime(path, (0, 0))
        with serving(folder) as server:
            assert len(copies(scratch)) == 2, "its own, and the one that is in use"
            assert kept.is_dir()
            assert server.stop() == 0
        assert living.stop() == 0
    assert copies(scratch) == []


def test_a_folder_that_is_no_model_is_not_copied(folder: Path, scratch: Path) -> None:
    (folder / "notes.txt").write_text("nothing to serve")
    with pytest.raises(errors.LoadError, match="has no model"):
        copy_of(folder)
    assert copies(scratch) == []


def test_onnxruntime_tells_nobody_what_is_served(folder: Path, scratch: Path) -> None:
    """Its telemetry, which is on by default, begins with a file in the temporary folder."""
    save(folder, matmul())
    with serving(folder) as server:
        assert server.infer({"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [1] * 4}).status_code == 200
        assert [one.name for one in scratch.iterdir() if not one.name.startswith("onnx-server-copy-")] == []


def test_files_too_large_for_a_copy_are_used_where_they_lie(
    folder: Path, scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = save(folder, matmul()).stat().st_size
    monkeypatch.setattr(sources.shutil, "disk_usage", lambda path: Room(10 * size, 0, 2 * size - 1))
    copy = copy_of(folder)
    assert (copy.folder, "more than half of what" in copy.note) == (folder, True)
    copy.remove()
    monkeypatch.setattr(sources.shutil, "disk_usage", lambda path: Room(10 * size, 0, 2 * size))
    copy = copy_of(folder)
    assert (copy.folder.is_relative_to(scratch), copy.note) == (True, "")
    copy.remove()
    assert copies(scratch) == []
    assert folder.is_dir()


def test_files_that_cannot_be_copied_are_used_where_they_lie(
    folder: Path, scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(folder, matmul())

    def refuse(*_: object, **__: object) -> None:
        raise sources.shutil.Error([("from", "to", "Permission denied")])

    monkeypatch.setattr(sources.shutil, "copytree", refuse)
    copy = copy_of(folder)
    assert (copy.folder, copy.note.endswith(": Permission denied")) == (folder, True)
    assert copies(scratch) == []


def test_a_copy_has_files_for_links_and_leaves_out_what_is_none(folder: Path, scratch: Path) -> None:
    elsewhere = folder.parent / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "table").write_text("1")
    (folder / "kernel.py").write_text(NOTING)
    (folder / "empty").mkdir()
    (folder / "__pycache__").mkdir()
    (folder / "linked").symlink_to(elsewhere)
    (folder / "table").symlink_to(elsewhere / "table")
    (folder / "up").symlink_to(folder)
    (folder / "nowhere").symlink_to("gone")
    os.mkfifo(folder / "pipe")
    copy = copy_of(folder)
    assert sorted(str(path.relative_to(copy.folder)) for path in copy.folder.rglob("*")) == [
        "empty", "kernel.py", "linked", "linked/table", "table",
    ]  # fmt: skip
    assert not (copy.folder / "table").is_symlink()
    copy.remove()
    assert copies(scratch) == []
    assert (elsewhere / "table").exists()


def test_a_start_without_a_kernel_fails_in_the_users_words(folder: Path) -> None:
    (folder / "model.json").write_text(json.dumps({"kernel_path": "gone.py"}))
    server = spawn(folder, folder.parent / "log")
    assert server.process.wait(PATIENCE) == 1
    assert f"the kernel's file {folder / 'gone.py'} does not exist" in server.log
