"""Numeric series: points in, points out."""

from __future__ import annotations

from typing import Any

from flask_openapi.blueprint import APIBlueprint

from localml.core.limits import MOST_POINTS
from localml.core.people.rights import Action
from localml.core.subjects import Subject
from localml.dialects.kit import caller
from localml.dialects.kit.bodies import body_limit
from localml.dialects.kit.seats import slow
from localml.dialects.native.auth import find
from localml.dialects.native.schemas import work as schemas
from localml.platform import Platform

MAX_POINTS_BODY = 16 << 20
"""Bytes of as many points as one request may have, with long names."""
_VALUES = 4 * MOST_POINTS + 16  # a point has three members


def add(api: APIBlueprint, platform: Platform) -> None:
    """Add the routes of this module."""

    @api.post("/workloads/<ref>/samples")
    @body_limit(MAX_POINTS_BODY, values=_VALUES)
    def take_in(path: schemas.Reference, body: schemas.PointsIn) -> Any:
        """Take in points; they are on disk within a second."""
        number = find(platform, caller(), path.ref, Action.REPORT).row.id or 0
        now = platform.clock.now()
        points = [(one.name, one.value, now if one.at is None else one.at) for one in body.points]
        platform.samples.add_many(Subject.workload(number), points, replica=body.replica)
        platform.feed.changed(Subject.workload(number))
        return {"accepted": len(points)}, 202

    @api.get("/workloads/<ref>/samples")
    @slow
    def give(path: schemas.Reference, query: schemas.SampleQuery) -> Any:
        """Series with their points as [time, value] pairs, in order of time."""
        number = find(platform, caller(), path.ref).row.id or 0
        found = platform.samples.read(
            Subject.workload(number), since=query.since, name=query.name, replica=query.replica
        )
        series = [
            {"replica": replica, "name": name, "points": [[point.at, point.value] for point in points]}
            for (replica, name), points in found.items()
        ]
        return {"series": series}
