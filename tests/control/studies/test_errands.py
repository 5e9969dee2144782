"""Errands for searches, of which some take long."""

from __future__ import annotations

import threading

from helpers.rig import wait_until

from localml.control.jobs.crew import Crew
from localml.control.studies.errands import Errands


def test_algorithms_that_hang_hold_up_no_other() -> None:
    now, begun, gate, done = [0.0], threading.Semaphore(0), threading.Event(), threading.Event()

    def hang() -> None:
        begun.release()
        gate.wait()

    errands = Errands(lambda: None, asks=Crew(2, "test-suggest", late=5.0, now=lambda: now[0]))
    try:
        for study in (1, 2):
            errands.ask(study, hang, lambda *_: None)
            assert begun.acquire(timeout=30)
        assert errands.relieve() == []
        errands.ask(3, done.set, lambda *_: None)
        assert errands.relieve() == [1.0]  # to be looked at again: there are two that are not late yet
        assert not done.is_set()
        now[0] = 5.0
        errands.relieve()
        wait_until(done.is_set)
    finally:
        gate.set()
        errands.close()
