"""Who calls: a bearer token, or a user name and password (or token); and what of the platform that caller may touch."""

from __future__ import annotations

from functools import partial
from typing import Any

from flask import Request

from localml.core.errors import Code, LocalmlError, not_found
from localml.core.numerals import whole
from localml.core.people.allow import MACHINE, InWorkspace, Thing, allow, may, places, reach
from localml.core.people.identity import ADMIN, Caller
from localml.core.people.rights import Action, ThingKind
from localml.core.registry.registry import Registered
from localml.core.serving.records import EndpointFull
from localml.core.studies.studies import StudyQuery
from localml.core.studies.tables import Study
from localml.core.work.workloads import Full, Query
from localml.dialects.kit.authorization import caller_by
from localml.platform import Platform

SECURITY_SCHEMES: dict[str, Any] = {
    "token": {"type": "http", "scheme": "bearer"},
    "password": {"type": "http", "scheme": "basic"},
}


def authenticate(platform: Platform, request: Request) -> Caller:
    """The caller of a request; the administrator when authentication is switched off.

    Raises:
        LocalmlError: ``UNAUTHENTICATED``, saying what is expected.
    """
    if not platform.config.auth:
        return platform.identity.user(ADMIN)
    found = caller_by(platform, request.authorization, request.remote_addr)
    if found is not None:
        return found
    raise LocalmlError(
        Code.UNAUTHENTICATED, "send 'Authorization: Bearer TOKEN' or a user name and password (HTTP Basic)"
    )


def admin_only(caller: Caller) -> None:
    """Refuse everybody but administrators."""
    allow(caller, Action.ADMINISTER, MACHINE)


def workspace_for(platform: Platform, caller: Caller, reference: str | None, noun: ThingKind) -> str:
    """The workspace that something new goes into: the one that is named by id or name, else the caller's own.

    Raises:
        LocalmlError: ``NOT_FOUND`` for one that the caller does not see, ``FORBIDDEN`` where the caller makes nothing.
    """
    place = caller.scope.workspace or caller.workspace
    if reference is not None:
        place = platform.workspaces.find(caller, reference).id
    allow(caller, Action.CREATE, Thing(noun, owner=caller.id, workspace=place))
    return place


def reached(platform: Platform, caller: Caller, noun: ThingKind, reference: str | None) -> frozenset[str] | None:
    """The workspaces that a list is of: the one that is named, else all that the caller may list (None: all).

    Raises:
        LocalmlError: ``NOT_FOUND`` for one that the caller does not see, ``FORBIDDEN`` for a token without lists.
    """
    all_of_them = reach(caller, noun)
    if reference is None:
        return all_of_them
    return frozenset({platform.workspaces.find(caller, reference).id})


def find(platform: Platform, caller: Caller, reference: str, action: Action = Action.READ) -> Full:
    """A workload by name or id that the caller may do this to. A deleted one is found by its id.

    Raises:
        LocalmlError: ``NOT_FOUND``, also for what the caller may not see; ``CONFLICT`` when several have the name;
            ``FORBIDDEN``.
    """
    found = _by_id(platform, caller, reference) or _by_name(platform, caller, reference)
    allow(caller, action, Thing.of(ThingKind.WORKLOAD, found.row, reference))
    return found


def find_endpoint(platform: Platform, caller: Caller, reference: str, action: Action = Action.READ) -> EndpointFull:
    """An endpoint by name, route or id that the caller may do this to; fails as :func:`find` does."""
    seen = partial(_seen, caller, ThingKind.ENDPOINT)
    found = platform.endpoints.find(reference, places(caller), prefer=_prefer(caller), only=seen)
    allow(caller, action, Thing.of(ThingKind.ENDPOINT, found.row, reference))
    return found


def find_model(platform: Platform, caller: Caller, reference: str, action: Action = Action.READ) -> Registered:
    """A model's version by ``name`` or ``name:version`` that the caller may do this to; fails as :func:`find` does."""
    seen = partial(_seen, caller, ThingKind.MODEL)
    found = platform.registry.find(reference, places(caller), prefer=_prefer(caller), only=seen)
    allow(caller, action, Thing.of(ThingKind.MODEL, found.model, reference))
    return found


def find_study(platform: Platform, caller: Caller, reference: str, action: Action = Action.READ) -> Study:
    """A study by name or id that the caller may do this to; fails as :func:`find` does."""
    query = StudyQuery(name=reference, workspaces=places(caller), limit=1000)
    seen = [row for row in platform.studies.page(query).items if _seen(caller, ThingKind.STUDY, row)]
    found = [row for row in seen if row.workspace == _prefer(caller)] or seen
    if not found and (number := whole(reference)) is not None:
        found = [row for row in _studies_by_id(platform, number) if _seen(caller, ThingKind.STUDY, row)]
    if not found:
        raise not_found(ThingKind.STUDY, reference)
    if len(found) > 1:
        words = ", ".join(f"{row.id} ({row.dialect}, {row.owner}'s)" for row in found)
        raise LocalmlError(Code.CONFLICT, f"several studies are named '{reference}'; say which by id: {words}")
    allow(caller, action, Thing.of(ThingKind.STUDY, found[0], reference))
    return found[0]


def _studies_by_id(platform: Platform, number: int) -> list[Study]:
    """The one with this id that was not deleted, if there is one."""
    try:
        row = platform.studies.get(number)
    except LocalmlError:
        return []
    return [row] if row.deleted_at is None else []


def _by_id(platform: Platform, caller: Caller, reference: str) -> Full | None:
    number = whole(reference)
    if number is None:
        return None
    try:
        found = platform.workloads.get(number)
    except LocalmlError as error:
        if error.code is Code.NOT_FOUND:
            return None
        raise
    return found if _seen(caller, ThingKind.WORKLOAD, found.row) else None


def _seen(caller: Caller, noun: ThingKind, row: InWorkspace) -> bool:
    return may(caller, Action.READ, Thing.of(noun, row))


def _by_name(platform: Platform, caller: Caller, name: str) -> Full:
    """Names are unique within a workspace, dialect and kind only."""
    rows = platform.workloads.page(Query(name=name, workspaces=places(caller))).items
    rows = [row for row in rows if _seen(caller, ThingKind.WORKLOAD, row)]
    chosen = [row for row in rows if row.workspace == _prefer(caller)] or rows
    if not chosen:
        raise not_found("workload", name)
    if len(chosen) > 1:
        words = ", ".join(f"{row.id} ({row.dialect} {row.kind})" for row in chosen)
        raise LocalmlError(Code.CONFLICT, f"several workloads are named '{name}'; say which by id: {words}")
    return platform.workloads.get(chosen[0].id or 0)


def _prefer(caller: Caller) -> str | None:
    """The workspace whose things go before others of the same name: the caller's own, but for administrators."""
    return None if caller.admin else caller.workspace
