"""Numbers that are larger than what they are computed with: they are of one endpoint or job, and the others go on."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.rig import ME, Rig
from helpers.serving_rig import PROMPT, ServingRig

from localml.control.serving.scaling import Load, scaled
from localml.control.worker import Worker
from localml.core.serving.endpoints import NewEndpoint
from localml.core.serving.specs import EndpointSpec, Scaling
from localml.core.serving.variants import NewVariant
from localml.core.work.specs import RetryPolicy, Role, WorkloadSpec


@pytest.fixture
def serving(tmp_path: Path) -> Iterator[ServingRig]:
    one = ServingRig(tmp_path)
    yield one
    one.close()


def test_a_loop_outlives_a_tick_that_names_a_time_beyond_all_clocks() -> None:
    ticked = threading.Semaphore(0)
    worker = Worker("test", lambda: ticked.release() or 1e300, what="the test")
    worker.start()
    try:
        for _ in range(3):
            assert ticked.acquire(timeout=10)
            worker.nudge()
        assert worker.alive
    finally:
        worker.close()


def test_a_wait_for_ever_between_two_tries_is_no_overflow() -> None:
    policy = RetryPolicy(limit=1000, backoff=1e300, factor=1e300, max_backoff=600.0)
    assert [policy.delay(number) for number in (1, 2, 100)] == [600.0] * 3


def test_the_smallest_target_of_an_endpoint_wants_no_more_than_its_maximum() -> None:
    spec = EndpointSpec(scaling=Scaling(minimum=0, maximum=7, target=5e-324))
    assert scaled(spec, 1, Load(busy=3.0), None, 0.0) == 7


def test_an_endpoint_whose_requests_may_take_a_day_is_served(serving: ServingRig) -> None:
    number = serving.create(spec=PROMPT.model_copy(update={"request_timeout": 86_400.0}))
    other = serving.endpoints.create(
        NewEndpoint("other", (NewVariant(model_version_id=serving.register("other")),), ME, PROMPT)
    )
    serving.run()
    assert (serving.at(number), serving.at(other.row.id or 0)) == ("ready", "ready")


def test_a_job_that_may_run_for_ever_and_be_tried_never_again_is_run(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    try:
        role = Role(command=("run",), env={"FAKE_EXIT": "1"})
        spec = WorkloadSpec(
            roles=(role,), time_limit=1e308, retries=RetryPolicy(limit=3, backoff=1e308, max_backoff=1e308)
        )
        number, other = rig.submit("a", spec), rig.submit("b")
        rig.settle()
        assert rig.state(number) == "running"
        rig.clock.advance(5)
        rig.settle()
        assert rig.over(other)
    finally:
        rig.close()
