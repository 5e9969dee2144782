"""The database refuses a write for a while: what slow acts gave is not forgotten, and everything goes on after."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers.rig import Rig, job

from localml.core.errors import Code, LocalmlError
from localml.engines.base import Phase


class Disk:
    """Refuses the writes of one database while it is full."""

    def __init__(self, rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
        self.full = False
        self._write = rig.db.write
        monkeypatch.setattr(rig.db, "write", self.write)

    def write(self, act: Any) -> Any:
        if self.full:
            raise LocalmlError(Code.STORAGE, "the database could not be written (disk is full); nothing was stored")
        return self._write(act)


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    made = Rig(tmp_path)
    yield made
    made.close()


@pytest.fixture
def disk(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> Disk:
    return Disk(rig, monkeypatch)


def _tick_on_full_disk(rig: Rig, disk: Disk) -> None:
    disk.full = True
    for _ in range(3):
        rig.loop.eyes.look_again()
        with pytest.raises(LocalmlError):
            rig.loop.tick()
    disk.full = False


def test_a_start_whose_record_found_no_room_is_recorded_later(rig: Rig, disk: Disk) -> None:
    number = rig.submit("one", job(seconds=None, gpu=1))
    rig.loop.tick()  # placed, and started at once; the result waits for the next tick
    assert [one.phase for one in rig.engine.list().values()] == [Phase.RUNNING]
    _tick_on_full_disk(rig, disk)
    rig.settle()
    assert rig.state(number) == "running"
    assert rig.reasons(number).count("Started") == 1


def test_a_cleaning_up_whose_record_found_no_room_is_recorded_later(rig: Rig, disk: Disk) -> None:
    number = rig.submit("one", job(seconds=1))
    rig.settle()
    rig.clock.advance(2)
    while rig.engine.list():
        rig.loop.eyes.look_again()
        rig.loop.tick()
    _tick_on_full_disk(rig, disk)
    rig.settle()
    assert rig.state(number) == "succeeded"
    assert rig.get(number).row.cleaned


def test_an_end_that_found_no_room_is_recorded_later(rig: Rig, disk: Disk) -> None:
    number = rig.submit("one", job(seconds=1, exit_code=3))
    rig.settle()
    rig.clock.advance(2)
    _tick_on_full_disk(rig, disk)
    assert rig.state(number) == "running"
    rig.settle()
    assert rig.state(number) == "failed"
    assert rig.reasons(number).count("Failed") == 1
    assert rig.get(number).leases == []
