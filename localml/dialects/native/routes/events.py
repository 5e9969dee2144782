"""What happened, to a workload or to the platform."""

from __future__ import annotations

from typing import Any

from flask_openapi.blueprint import APIBlueprint

from localml.core.errors import invalid
from localml.core.events.tables import Event
from localml.core.subjects import Noun, Subject
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
        number = find(platform, caller(), path.ref).row.id or 0
        return _answer(platform.workloads.events(number, after=query.after, limit=query.limit), query.after)

    @api.get("/events", responses={"200": schemas.EventsOut})
    def of_subject(query: schemas.SubjectQuery) -> Any:
        """Events of a subject; without one, of everything that is no workload: engines, GPUs, drains, endpoints."""
        admin_only(caller())
        return _answer(_events(platform, query), query.after)


def _events(platform: Platform, query: schemas.SubjectQuery) -> list[Event]:
    page: dict[str, int] = {"after": query.after, "limit": query.limit}
    if query.subject_kind is None:
        if query.subject_id is not None:
            raise invalid("subject_kind", "must be given with subject_id")
        return platform.events.others(**page)
    if query.subject_id is None and query.subject_kind is not Noun.PLATFORM:
        raise invalid("subject_id", f"must say which {query.subject_kind}")
    return platform.events.of(Subject(query.subject_kind, query.subject_id or 0), **page)


def _answer(events: list[Event], after: int) -> dict[str, Any]:
    return {"events": [translate.event(one) for one in events], "after": events[-1].id if events else after}
