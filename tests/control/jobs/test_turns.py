"""Who carries output does so one at a time, and leaves others some time."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from helpers.rig import wait_until

from localml.control.jobs import turns
from localml.control.jobs.turns import TOGETHER, Turns


def test_one_alone_is_never_held_back() -> None:
    pauses: list[float] = []
    one = Turns(pauses.append)
    for _ in range(100):
        with one.turn(1 << 16):
            pass
    assert pauses == []


def test_several_carry_one_after_the_other_and_no_more_than_they_may_together() -> None:
    pauses: list[float] = []
    shared, inside = Turns(pauses.append), threading.Lock()
    begun = threading.Event()

    def carry(number: int) -> None:
        for _ in range(50):
            with shared.turn(1 << 16):
                assert inside.acquire(blocking=False), "two at a time"
                begun.wait(10)  # until somebody else waits
                inside.release()

    with ThreadPoolExecutor(4) as pool:
        running = [pool.submit(carry, number) for number in range(4)]
        wait_until(inside.locked)
        begun.set()
        for one in running:
            one.result(60)
    assert pauses
    assert set(pauses) == {(1 << 16) / TOGETHER}


def test_one_that_hangs_in_its_disk_stops_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "_LONGEST_S", 0.05)
    shared = Turns()
    with shared.turn(1), ThreadPoolExecutor(1) as pool:

        def carry() -> str:
            with shared.turn(1):
                return "carried"

        assert pool.submit(carry).result(30) == "carried"
