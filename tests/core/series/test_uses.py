"""What runs now uses as much as its last points say, whatever they say."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import pytest

from localml.core.clock import ManualClock
from localml.core.series.samples import Samples
from localml.core.series.uses import CPU, FRESH_S, MEMORY, Use, Uses
from localml.core.subjects import Subject
from localml.store.database import Database
from localml.store.schema import prepare

NOW = 1_700_000_000.0


@pytest.fixture
def samples(tmp_path: Path) -> Iterator[Samples]:
    database = Database(prepare(tmp_path))
    yield Samples(database)
    database.close()


def measure(samples: Samples, number: int, replica: str, cpu: list[float], memory: float, end: float = NOW) -> None:
    """Readings of a counter of seconds, five seconds apart, and of memory."""
    of = Subject.workload(number)
    points = [(CPU, value, end - 5 * place) for place, value in enumerate(reversed(cpu))]
    samples.add_many(of, points, replica=replica, cumulative=True, measured=True)
    samples.add_many(of, [(MEMORY, memory, end)], replica=replica, measured=True)
    samples.flush()


def uses(samples: Samples, now: float = NOW) -> dict[int, Use]:
    return Uses(samples, ManualClock(now)).of([1, 2, 3])


def test_replicas_are_added_up_by_their_last_two_readings(samples: Samples) -> None:
    measure(samples, 1, "a-0", [0.0, 100.0, 110.0], 5.0)
    measure(samples, 1, "a-1", [3.0, 8.0], 6.0)
    measure(samples, 2, "a-0", [1.0], 7.0)
    assert uses(samples) == {1: Use(3.0, 11), 2: Use(0.0, 7)}
    assert Uses(samples, ManualClock(NOW)).of([]) == {}


def test_old_readings_are_none(samples: Samples) -> None:
    measure(samples, 1, "a-0", [1.0, 2.0], 5.0)
    assert uses(samples, NOW + FRESH_S - 6) == {1: Use(0.2, 5)}
    assert uses(samples, NOW + FRESH_S - 1) == {1: Use(0.0, 5)}  # of one reading alone nothing follows
    assert uses(samples, NOW + FRESH_S + 1) == {}


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, -1e300, 1e300, -5.0])
def test_what_cannot_be_is_nothing_or_much(samples: Samples, value: float) -> None:
    measure(samples, 1, "a-0", [0.0, value], value)
    measure(samples, 1, "a-1", [value, value], value)
    found = uses(samples)[1]
    assert 0 <= found.cpu <= 2e15
    assert 0 <= found.memory <= 2 * 10**15


def test_what_somebody_posted_was_not_measured(samples: Samples) -> None:
    samples.add_many(Subject.workload(1), [(CPU, 1.0, NOW - 5), (CPU, 9.0, NOW)], replica="mine")
    samples.flush()
    assert uses(samples) == {}
