"""Events of a workload as Kubernetes objects."""

from __future__ import annotations

import uuid
from collections.abc import Iterable

from localml.core.models import Event, Workload
from localml.dialects.cloudml import schemas
from localml.dialects.kit.times import iso_time
from localml.platform import Platform

NAMESPACE = "default"
_PAGE = 1000


def event_list(platform: Platform, row: Workload) -> schemas.EventList:
    """All events of a workload, oldest first."""
    found = [_kubernetes(platform.install, row, event) for event in _events(platform, row.id or 0)]
    return schemas.EventList(data=found, events=found)


def _events(platform: Platform, number: int) -> Iterable[Event]:
    after = 0
    while page := platform.workloads.events(number, after=after, limit=_PAGE):
        yield from page
        after = page[-1].id or 0


def _kubernetes(install: str, row: Workload, event: Event) -> schemas.Event:
    """Ids are derived, so that an event keeps its own whenever it is asked for."""
    subject = f"{row.name}-{event.replica}" if event.replica else row.name
    name = f"{subject}.{event.id or 0:016x}"
    at = iso_time(event.at)
    return schemas.Event(
        count=1,
        firstTimestamp=at,
        lastTimestamp=at,
        source=schemas.EventSource(component=event.source),
        reason=event.reason,
        involvedObject=schemas.InvolvedObject(
            kind="Pod" if event.replica else "Job",
            uid=_uid(install, "workload", row.id, event.replica),
            namespace=NAMESPACE,
            apiVersion="v1" if event.replica else "batch/v1",
            resourceVersion=str(row.id),
            name=subject,
        ),
        message=event.message,
        type=event.severity.capitalize(),
        metadata=schemas.EventMetadata(
            uid=_uid(install, "event", event.id),
            namespace=NAMESPACE,
            resourceVersion=str(event.id),
            creationTimestamp=at,
            selfLink=f"/api/v1/namespaces/{NAMESPACE}/events/{name}",
            name=name,
        ),
    )


def _uid(*parts: object) -> str:
    return str(uuid.uuid5(uuid.NAMESPACE_OID, "/".join(str(part) for part in ("localml", *parts))))
