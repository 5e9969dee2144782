"""What happened, to a workload or to the platform."""

from __future__ import annotations

from typing import Any

from flask_openapi.blueprint import APIBlueprint

from localml.core.events.tables import Event
from localml.dialects.kit import caller
from localml.dialects.native.auth import admin_only, find
from localml.dialects.native.schemas import work as schemas
from localml.dialects.native.translate import work as translate
from localml.platform import Platform


def add(api: APIBlueprint, platform: Platform) -> None:
    """Add the routes of this module."""

    @api.get("/workloads/<ref>/events", responses={"200": schemas.EventsOut})
    def of_workload(path: schemas.Reference, query: schemas.EventQuery) -> Any:
        """Events of a workload, oldest first."""
        number = find(platform, caller(), path.ref).row.id
        return _answer(platform.workloads.events(number, after=query.after, limit=query.limit), query.after)

    @api.get("/events", responses={"200": schemas.EventsOut})
    def of_platform(query: schemas.EventQuery) -> Any:
        """Events that concern no workload: engines, GPUs, drains."""
        admin_only(caller())
        return _answer(platform.workloads.events(None, after=query.after, limit=query.limit), query.after)


def _answer(events: list[Event], after: int) -> dict[str, Any]:
    return {"events": [translate.event(one) for one in events], "after": events[-1].id if events else after}
