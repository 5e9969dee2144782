"""Events of a workload as Kubernetes objects."""

from __future__ import annotations

import uuid
from dataclasses import dataclass

from localml.core.events.tables import Event
from localml.core.serving.endpoints import Endpoints
from localml.core.serving.tables import Endpoint
from localml.core.work.tables import Workload
from localml.core.work.workloads import Workloads
from localml.dialects.cloudml.schemas import training as schemas
from localml.dialects.kit.times import iso_time
from localml.platform import Platform

NAMESPACE = "default"
_PAGE = 1000


@dataclass(frozen=True, slots=True)
class _Subject:
    """What events are about, as Kubernetes would have it; ``what`` is part of derived ids."""

    name: str
    number: int
    kind: str
    api_version: str
    what: str


def event_list(platform: Platform, row: Workload) -> schemas.EventList:
    """All events of a workload, oldest first."""
    return _event_list(
        platform.install, _Subject(row.name, row.id or 0, "Job", "batch/v1", "workload"), platform.workloads
    )


def endpoint_event_list(platform: Platform, row: Endpoint) -> schemas.EventList:
    """All events of an endpoint, oldest first."""
    subject = _Subject(row.name, row.id or 0, "Deployment", "apps/v1", "endpoint")
    return _event_list(platform.install, subject, platform.endpoints)


def _event_list(install: str, subject: _Subject, source: Workloads | Endpoints) -> schemas.EventList:
    found, after = [], 0
    while page := source.events(subject.number, after=after, limit=_PAGE):
        found += [_kubernetes(install, subject, event) for event in page]
        after = page[-1].id or 0
    return schemas.EventList(data=found, events=found)


def _kubernetes(install: str, of: _Subject, event: Event) -> schemas.Event:
    """Ids are derived, so that an event keeps its own whenever it is asked for."""
    subject = f"{of.name}-{event.replica}" if event.replica else of.name
    name = f"{subject}.{event.id or 0:016x}"
    at = iso_time(event.at)
    return schemas.Event(
        count=1,
        firstTimestamp=at,
        lastTimestamp=at,
        source=schemas.EventSource(component=event.source),
        reason=event.reason,
        involvedObject=schemas.InvolvedObject(
            kind="Pod" if event.replica else of.kind,
            uid=_uid(install, of.what, of.number, event.replica),
            namespace=NAMESPACE,
            apiVersion="v1" if event.replica else of.api_version,
            resourceVersion=str(of.number),
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
