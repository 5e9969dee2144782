"""What runs now uses so much: read from the last points of the series that the sampler takes."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass

from localml.core.clock import Clock
from localml.core.series.samples import Line, Samples
from localml.core.subjects import Noun

CPU = "container_cpu_usage_seconds_total"
MEMORY = "container_memory_usage_bytes"
"""Names under which Kubernetes' cAdvisor gives these figures."""
_MOST = 1e15
FRESH_S = 60.0
"""Older points are of what has ended, or cannot be measured any more."""


@dataclass(frozen=True, slots=True)
class Use:
    """Cores and bytes of memory in use, of all replicas together."""

    cpu: float = 0.0
    memory: int = 0


class Uses:
    """The service over what is in use now."""

    def __init__(self, samples: Samples, clock: Clock) -> None:
        self._samples = samples
        self._clock = clock

    def of(self, numbers: Collection[int]) -> dict[int, Use]:
        """Workload -> what it uses, of those of these that were measured in the last minute."""
        after = self._clock.now() - FRESH_S
        latest = self._samples.latest(Noun.WORKLOAD, numbers, (CPU, MEMORY), after=after)
        return {number: _use(lines) for number, lines in latest.items()}


def _use(lines: Collection[Line]) -> Use:
    cpu = sum(_amount(_rate(line)) for line in lines if line.name == CPU)
    memory = sum(_amount(line.points[-1].value) for line in lines if line.name == MEMORY)
    return Use(cpu, int(memory))


def _amount(value: float) -> float:
    """A figure that can be; its owner may add points to a series, too, and may add any."""
    return min(max(value, 0.0), _MOST) if math.isfinite(value) else 0.0


def _rate(line: Line) -> float:
    """Of the last two points of what grows, per second."""
    if len(line.points) < 2:
        return 0.0
    before, last = line.points[-2:]
    return (last.value - before.value) / (last.at - before.at) if last.at > before.at else 0.0
