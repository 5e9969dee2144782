"""What jobs report: their metrics, their parameters, and several jobs side by side."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import Any

from flask_openapi.blueprint import APIBlueprint

from localml.core.errors import LocalmlError, invalid
from localml.core.metrics.intake import step_of
from localml.core.metrics.summary import Summary, of_first, parameters, summaries
from localml.core.people.allow import reach
from localml.core.people.rights import ThingKind
from localml.core.series.samples import Line
from localml.core.subjects import Subject
from localml.core.work.workloads import Full
from localml.dialects.kit import caller
from localml.dialects.kit.seats import slow
from localml.dialects.native.auth import find
from localml.dialects.native.schemas import metrics as schemas
from localml.dialects.native.schemas.work import Reference
from localml.platform import Platform

PATIENCE_S = 5.0
"""So long an answer waits for output that was not read yet."""
_PLAIN = ("id", "name", "kind", "state", "cause", "owner", "created_at", "started_at", "ended_at")


def add(api: APIBlueprint, platform: Platform) -> None:
    """Add the routes of this module."""

    @api.get("/workloads/<ref>/metrics", responses={"200": schemas.MetricsOut})
    @slow
    def of_job(path: Reference) -> Any:
        """The metrics and parameters of a job."""
        full = find(platform, caller(), path.ref)
        number = full.row.id or 0
        complete = _read(platform, [number])
        return {
            **{name: getattr(full.row, name) for name in ("id", "name", "state")},
            "parameters": parameters(platform.db, {number: full.spec})[number],
            "metrics": [_metric(one) for one in summaries(platform.db, [number]).get(number, [])],
            "complete": complete,
        }

    @api.get("/workloads/<ref>/points", responses={"200": schemas.PointsOut})
    @slow
    def points(path: Reference, query: schemas.PointsQuery) -> Any:
        """The points of metrics, with their steps."""
        number = find(platform, caller(), path.ref).row.id or 0
        _read(platform, [number])
        reported = {(one.replica, one.name) for one in summaries(platform.db, [number]).get(number, ())}
        lines = platform.samples.lines(
            Subject.workload(number), name=query.name, replica=query.replica, last=query.last
        )
        found = [line for line in lines if (line.replica, line.name) in reported]
        return {"series": [{"replica": one.replica, "name": one.name, "points": _points(one)} for one in found]}

    @api.get("/comparison", responses={"200": schemas.Comparison})
    @slow
    def compare(query: schemas.CompareQuery) -> Any:
        """Jobs side by side: their parameters, and the last, least and most of each metric."""
        who = caller()
        if not query.ref:
            reach(who, ThingKind.WORKLOAD)
            raise invalid("ref", "must name the jobs to compare")
        found = {full.row.id or 0: full for full in (find(platform, who, ref) for ref in query.ref)}
        complete = _read(platform, list(found))
        return {"workloads": _rows(platform, found), "complete": complete}


def _points(line: Line) -> list[list[float | int | None]]:
    return [[point.at, step_of(point.note), None if math.isnan(point.value) else point.value] for point in line.points]


def _read(platform: Platform, numbers: Sequence[int]) -> bool:
    """Have the rest of what they wrote read; whether that was done."""
    end = time.monotonic() + PATIENCE_S
    try:
        done = [platform.metrics.catch_up(number, seconds=max(0.0, end - time.monotonic())) for number in numbers]
        platform.samples.flush()
    except LocalmlError:  # the disk cannot be written: what there is can be read all the same
        return False
    return all(done)


def _rows(platform: Platform, found: dict[int, Full]) -> list[dict[str, Any]]:
    metrics = summaries(platform.db, found)
    given = parameters(platform.db, {number: full.spec for number, full in found.items()})
    return [
        {
            **{name: getattr(full.row, name) for name in _PLAIN},
            "parameters": given[number],
            "metrics": {name: _metric(one) for name, one in of_first(metrics.get(number, [])).items()},
        }
        for number, full in found.items()
    ]


def _metric(one: Summary) -> dict[str, Any]:
    return {
        "replica": one.replica,
        "name": one.name,
        "last": None if math.isnan(one.last) else one.last,
        "text": one.text,
        "step": one.step,
        "at": one.at,
        "min": one.least,
        "max": one.most,
        "count": one.count,
    }
