"""The loop around everything that looks again and again: when it ticks, what it survives, what it leaves to others."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from helpers.rig import wait_until

from localml.control.worker import FIRST_RETRY_S, LAST_RETRY_S, STORAGE_RETRY_S, Pause, Worker
from localml.core.errors import Code, LocalmlError

Make = Callable[..., Worker]


@pytest.fixture
def make() -> Iterator[Make]:
    made: list[Worker] = []

    def one(tick: Callable[[], float | None], **options: Any) -> Worker:
        made.append(Worker("test", tick, what="the test", **options))
        return made[-1]

    yield one
    for worker in made:
        worker.close()
        assert not worker.alive


class Ticks:
    """Counts, and does what it is told."""

    def __init__(self, *script: float | Exception | None) -> None:
        self.script = list(script)
        self.count = 0

    def __call__(self) -> float | None:
        self.count += 1
        step = self.script.pop(0) if self.script else None
        if isinstance(step, Exception):
            raise step
        return step


# -- one turn, without a thread ------------------------------------------------------------------


def test_a_tick_names_the_pause(make: Make) -> None:
    worker = make(Ticks(3.0, None, 0.0))
    assert [worker.turn() for _ in range(3)] == [Pause(0.0, 3.0), Pause(0.0, None), Pause(0.0, 0.0)]


def test_work_whose_nudges_come_in_bursts_rests_after_each_tick(make: Make) -> None:
    worker = make(Ticks(3.0, None), rest=1.5)
    assert [worker.turn(), worker.turn()] == [Pause(1.5, 3.0), Pause(1.5, None)]


def test_a_defect_is_told_and_tried_again_ever_later_until_it_is_gone(
    make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    worker = make(Ticks(*[ValueError("broken")] * 40, None, ValueError("again")))
    rests = [worker.turn().rest for _ in range(40)]
    assert rests[:4] == [FIRST_RETRY_S * factor for factor in (1, 2, 4, 8)]
    assert rests == sorted(rests)
    assert rests[-1] == LAST_RETRY_S
    assert "the test failed; tried again in 0.25 s" in caplog.text
    assert "ValueError: broken" in caplog.text
    assert worker.turn() == Pause(0.0, None)
    assert worker.turn().rest == FIRST_RETRY_S


def test_a_full_disk_is_waited_for_and_is_no_defect(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    worker = make(Ticks(*[LocalmlError(Code.STORAGE, "the disk is full")] * 3))
    assert [worker.turn() for _ in range(3)] == [Pause(STORAGE_RETRY_S, 0.0)] * 3
    assert "the test waits: the disk is full" in caplog.text
    assert "Traceback" not in caplog.text


@pytest.mark.parametrize(("spent", "rest"), [(0.0, 0.0), (0.02, 0.0), (0.1, 0.1), (3.0, 0.25)])
def test_long_ticks_leave_room_for_everybody_else(make: Make, spent: float, rest: float) -> None:
    clock = iter([10.0, 10.0 + spent])
    assert make(Ticks(5.0), spent=lambda: next(clock)).turn().rest == pytest.approx(rest)


# -- on its thread -------------------------------------------------------------------------------


def test_with_nothing_to_wait_for_only_a_nudge_brings_a_tick(make: Make) -> None:
    ticks = Ticks()
    worker = make(ticks)
    worker.start()
    for count in range(1, 4):
        wait_until(lambda count=count: ticks.count == count)  # type: ignore[misc]
        worker.nudge()
    wait_until(lambda: ticks.count == 4)


def test_a_tick_comes_when_it_is_due(make: Make) -> None:
    ticks = Ticks(0.001, 0.001, None)
    make(ticks).start()
    wait_until(lambda: ticks.count == 3)


def test_a_nudge_during_a_tick_brings_another_one(make: Make) -> None:
    begun, go = threading.Event(), threading.Event()
    ticks = Ticks()

    def tick() -> float | None:
        begun.set()
        assert go.wait(30)
        return ticks()

    worker = make(tick)
    worker.start()
    assert begun.wait(30)
    worker.nudge()
    worker.nudge()
    go.set()
    wait_until(lambda: ticks.count == 2)


def test_the_first_tick_may_be_put_off_and_a_nudge_brings_it_at_once(make: Make) -> None:
    ticks = Ticks()
    worker = make(ticks)
    worker.start(after=3600)
    worker.start(after=0)  # started already
    assert ticks.count == 0
    worker.nudge()
    wait_until(lambda: ticks.count == 1)


def test_a_nudge_settles_but_never_beyond_the_time_that_was_named(make: Make) -> None:
    ticks = Ticks(0.05, None)
    worker = make(ticks, settle=3600)
    worker.start()
    wait_until(lambda: ticks.count == 1)
    worker.nudge()
    wait_until(lambda: ticks.count == 2)


def test_news_end_the_wait_for_a_time(make: Make) -> None:
    told = threading.Event()
    ticks = Ticks(3600.0)
    worker = make(ticks, news=told.is_set, every=0.001)
    worker.start()
    wait_until(lambda: ticks.count == 1)
    told.set()
    wait_until(lambda: ticks.count == 2)


def test_a_defect_does_not_end_the_thread(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("localml.control.worker.FIRST_RETRY_S", 0.001)
    ticks = Ticks(ValueError("broken"), ValueError("broken"), None)
    worker = make(ticks)
    worker.start()
    wait_until(lambda: ticks.count == 3)
    assert worker.alive


def test_closing_wakes_a_long_tick_and_a_closed_one_never_starts(make: Make) -> None:
    worker: Worker
    begun = threading.Event()

    def tick() -> float | None:
        begun.set()
        worker.stopping.wait(3600)
        return None

    worker = make(tick)
    worker.start()
    assert begun.wait(30)
    worker.close()
    assert not worker.alive
    ticks = Ticks()
    late = make(ticks)
    late.close()
    late.start()
    assert not late.alive
    assert ticks.count == 0


def test_a_tick_may_close_its_own_worker(make: Make) -> None:
    worker: Worker

    def tick() -> float | None:
        worker.close()
        return 0.0

    worker = make(tick)
    worker.start()
    wait_until(lambda: not worker.alive)
