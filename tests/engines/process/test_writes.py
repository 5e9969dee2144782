"""What a replica writes is noticed at once, by everybody who waits for it, and without looking again and again."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.engine_kits import ProcessKit, wait_until

from localml.engines.process import io
from localml.engines.process.writes import WriteWatcher


@pytest.fixture
def process_kit(tmp_path: Path) -> ProcessKit:
    return ProcessKit(tmp_path / "replicas")


@pytest.fixture
def watcher() -> Iterator[WriteWatcher]:
    one = WriteWatcher()
    yield one
    one.close()


def files(folder: Path) -> list[Path]:
    found = [folder / "stdout", folder / "stderr"]
    for path in found:
        path.touch()
    return found


def append(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"more")


def test_a_write_wakes_all_who_wait_for_it_and_nobody_else(watcher: WriteWatcher, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    mine, others = files(tmp_path), files(tmp_path / "other")
    with watcher.watch("a", mine) as one, watcher.watch("a", mine) as two, watcher.watch("b", others) as other:
        for path in mine:
            append(path)
            assert one.wait(30)
            assert two.wait(30)
            one.clear()
            two.clear()
        assert not other.is_set()
        watcher.wake("b")
        assert other.is_set()


def test_who_has_left_takes_nothing_from_those_who_stay(watcher: WriteWatcher, tmp_path: Path) -> None:
    paths = files(tmp_path)
    with watcher.watch("a", paths) as stays:
        with watcher.watch("a", paths):
            pass
        append(paths[0])
        assert stays.wait(30)
    assert watcher._watches == watcher._waiting == {}


def test_closing_wakes_everybody(tmp_path: Path) -> None:
    watcher = WriteWatcher()
    with watcher.watch("a", files(tmp_path)) as event:
        watcher.close()
        assert event.is_set()


def test_without_inotify_one_is_woken_all_the_same(
    watcher: WriteWatcher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watcher, "_start", lambda: False)
    with watcher.watch("a", files(tmp_path)) as event:
        append(tmp_path / "stdout")
        watcher.wake("a")
        assert event.is_set()


def test_a_line_after_a_silence_and_the_end_come_without_looking_for_them(
    process_kit: ProcessKit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(io, "_WAIT", 600.0)  # longer than the test may take: only notices can bring anything
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    plan = process_kit.plan(f"echo one; cat {gate}; echo two >&2; cat {gate}")
    process_kit.engine.start(plan)
    found: list[bytes] = []
    chunks = process_kit.engine.logs(plan.name, {"stdout": 0, "stderr": 0}, follow=True)
    reader = threading.Thread(target=lambda: found.extend(chunk.data for chunk in chunks), daemon=True)
    reader.start()
    wait_until(lambda: b"one\n" in found, "the first line")
    gate.write_bytes(b"go\n")
    wait_until(lambda: b"two\n" in found, "the line after a silence")
    gate.write_bytes(b"")
    reader.join(60)
    assert not reader.is_alive()
    assert b"".join(found).count(b"o") == 3
    process_kit.engine.remove(plan.name)
