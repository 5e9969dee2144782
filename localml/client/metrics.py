"""What jobs report, from Python: metrics, parameters, comparisons."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from localml.client.transport import Transport
from localml.client.types import make

_AT_A_TIME = 100
"""Jobs in one request, whose address names them all."""


@dataclass(frozen=True, slots=True)
class Metric:
    """A metric of one replica (empty: of the job as a whole). ``last`` is None when the last value is no number, which
    ``text`` says (``nan``); ``step`` and ``at`` are of that value."""

    replica: str
    name: str
    last: float | None
    text: str
    step: int | None
    at: float
    min: float | None
    max: float | None
    count: int


@dataclass(frozen=True, slots=True)
class Report:
    """What a job reported; ``complete`` is false while some of what it wrote has not been read."""

    id: int
    name: str
    state: str
    parameters: dict[str, str]
    metrics: list[Metric]
    complete: bool


@dataclass(frozen=True, slots=True)
class Compared:
    """A job of a comparison; ``metrics`` by name."""

    id: int
    name: str
    kind: str
    state: str
    cause: str | None
    owner: str
    created_at: float
    started_at: float | None
    ended_at: float | None
    parameters: dict[str, str]
    metrics: dict[str, Metric]


class Metrics:
    """Calls about what jobs report."""

    _http: Transport

    def metrics(self, ref: int | str) -> Report:
        """A job's metrics, which are read from its output and its output folder, and its parameters."""
        found = self._http.json("GET", f"/workloads/{quote(str(ref), safe='')}/metrics")
        return make(Report, {**found, "metrics": [make(Metric, one) for one in found["metrics"]]})

    def points(
        self, ref: int | str, name: str, **query: Any
    ) -> dict[str, list[tuple[float, int | None, float | None]]]:
        """Replica -> the points of a metric in order of time: (seconds since the epoch, step, value); ``replica`` and
        ``last`` restrict."""
        found = self._http.json("GET", f"/workloads/{quote(str(ref), safe='')}/points", name=name, **query)["series"]
        return {one["replica"]: [(at, step, value) for at, step, value in one["points"]] for one in found}

    def compare(self, *refs: int | str) -> list[Compared]:
        """Jobs side by side, in this order: parameters and metrics of each."""
        found: list[Compared] = []
        for start in range(0, len(refs), _AT_A_TIME):
            answer = self._http.json("GET", "/comparison", ref=[str(ref) for ref in refs[start : start + _AT_A_TIME]])
            found += map(_compared, answer["workloads"])
        return found


def _compared(said: Mapping[str, Any]) -> Compared:
    return make(Compared, {**said, "metrics": {name: make(Metric, one) for name, one in said["metrics"].items()}})


def names_of(found: Iterable[Compared]) -> tuple[list[str], list[str]]:
    """The names of all parameters and of all metrics, each in the order in which they come first."""
    several = list(found)
    given = dict.fromkeys(name for one in several for name in one.parameters)
    return list(given), list(dict.fromkeys(name for one in several for name in one.metrics))
