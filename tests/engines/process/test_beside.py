"""Commands beside a replica: what is particular to them as processes of this machine."""

from __future__ import annotations

import os
import signal

import pytest
from helpers.conformance import read_all
from helpers.engine_kits import ProcessKit

from localml.engines.process import exec as exec_module


@pytest.fixture
def groups(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Process groups that are signalled; this process's own does not get it, for the tests are in it."""
    told: list[int] = []
    real = os.killpg

    def killpg(group: int, number: int) -> None:
        told.append(group)
        if group not in (0, os.getpgrp()):
            real(group, number)

    monkeypatch.setattr(exec_module.os, "killpg", killpg)
    return told


def test_a_terminal_whose_session_is_over_passes_no_signal_on_to_the_server(
    process_kit: ProcessKit, groups: list[int]
) -> None:
    """The kernel calls the foreground of such a terminal group 0, which to ``killpg`` means the caller's own."""
    plan = process_kit.endless()
    process_kit.engine.start(plan)
    stream = process_kit.engine.open(plan.name, ("true",), tty=(80, 24))
    read_all(stream)
    stream.signal(signal.SIGINT)
    stream.close()
    at_once = process_kit.engine.open(plan.name, ("sleep", "600"), tty=(80, 24))  # it has not opened its terminal yet
    at_once.signal(signal.SIGHUP)
    at_once.close()
    assert groups
    assert not {0, os.getpgrp()} & set(groups)
