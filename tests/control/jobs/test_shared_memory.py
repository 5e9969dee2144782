"""How much shared memory (``/dev/shm``) a container has: what its job says, and else enough for a loader's workers."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
from helpers.rig import Rig, job

from localml.core.work.causes import Cause, classify
from localml.core.work.specs import Resources
from localml.engines.base import ReplicaPlan

MIB, GIB = 1 << 20, 1 << 30


@pytest.mark.parametrize(
    ("resources", "shm"),
    [
        (Resources(), 32 * GIB),  # half of the machine's
        (Resources(memory=8 * GIB), 4 * GIB),
        (Resources(memory=100 * MIB), 64 * MIB),  # never less than Docker's own
        (Resources(memory=8 * GIB, shm=1 * GIB), 1 * GIB),
        (Resources(shm=16 * MIB), 16 * MIB),
    ],
)
def test_a_job_that_names_none_has_half_of_its_memory(tmp_path: Path, resources: Resources, shm: int) -> None:
    rig = Rig(tmp_path)
    try:
        plans: list[ReplicaPlan] = []
        rig.engine.on_start(plans.append)
        rig.submit("j", job(resources=resources))
        rig.settle()
        assert [one.shm for one in plans] == [shm]
    finally:
        rig.close()


@pytest.mark.parametrize(
    ("code", "number", "tail"),
    [
        (135, None, b""),
        (None, signal.SIGBUS, b""),
        (1, None, b"RuntimeError: DataLoader worker (pid 7) is killed by signal: Bus error. It is possible ...\n"),
        (1, None, b"Unexpected bus error in worker. This might be caused by insufficient shared memory (shm).\n"),
        (134, None, b"torch_shm_manager: error: No space left on device\nunable to write to file </torch_12_3>\n"),
    ],
)
def test_who_ran_out_of_shared_memory_is_told_what_to_ask_for(
    code: int | None, number: int | None, tail: bytes
) -> None:
    cause, message = classify(code, number, log_tail=tail)
    assert cause in (Cause.SIGNAL, Cause.EXIT_CODE)
    assert "/dev/shm" in message
    assert "--shm" in message


def test_other_ends_are_no_matter_of_shared_memory() -> None:
    assert classify(1, None, log_tail=b"ValueError: bus error\n") == (Cause.EXIT_CODE, "exit code 1")
    assert classify(None, signal.SIGTERM) == (Cause.SIGNAL, "signal SIGTERM")
