"""Who calls: a bearer token, or a user name and password; and what of the platform that caller may touch."""

from __future__ import annotations

from typing import Any

from flask import Request

from localml.core.errors import Code, LocalmlError, not_found
from localml.core.people.identity import ADMIN, Caller
from localml.core.work.tables import Workload
from localml.core.work.workloads import Full
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
    given = request.authorization
    if given is not None and given.type == "bearer" and given.token:
        return platform.identity.by_token(given.token)
    if given is not None and given.type == "basic" and given.username:
        return platform.identity.by_password(given.username, given.password or "")
    raise LocalmlError(
        Code.UNAUTHENTICATED, "send 'Authorization: Bearer TOKEN' or a user name and password (HTTP Basic)"
    )


def admin_only(caller: Caller) -> None:
    """Refuse everybody but administrators."""
    if not caller.admin:
        raise LocalmlError(Code.FORBIDDEN, f"only administrators may do this, and {caller.name} is none")


def visible(caller: Caller, row: Workload) -> bool:
    """Whether a caller may see and touch a workload: administrators all, others their own and their workspace's."""
    return caller.admin or row.workspace == caller.workspace or row.owner == caller.name


def find(platform: Platform, caller: Caller, reference: str) -> Full:
    """A workload by name or id, as far as the caller may see it.

    Another workspace's workload is answered like one that does not exist. A deleted one is found by its id.

    Raises:
        LocalmlError: ``NOT_FOUND``, or ``CONFLICT`` when several have the name.
    """
    if reference.isascii() and reference.isdigit() and len(reference) <= 18:
        found = _by_id(platform, caller, int(reference))
        if found is not None:
            return found
    found = platform.workloads.named(reference) if caller.admin else _own(platform, caller, reference)
    if not visible(caller, found.row):
        raise not_found("workload", reference)
    return found


def _by_id(platform: Platform, caller: Caller, number: int) -> Full | None:
    try:
        found = platform.workloads.get(number)
    except LocalmlError as error:
        if error.code is Code.NOT_FOUND:
            return None
        raise
    return found if visible(caller, found.row) else None


def _own(platform: Platform, caller: Caller, name: str) -> Full:
    """Among the caller's own: names are unique within a workspace, dialect and kind only."""
    from localml.core.work.workloads import Query

    rows = platform.workloads.page(Query(name=name, workspace=caller.workspace)).items
    if not rows:
        raise not_found("workload", name)
    if len(rows) > 1:
        words = ", ".join(f"{row.id} ({row.dialect} {row.kind})" for row in rows)
        raise LocalmlError(Code.CONFLICT, f"several workloads are named '{name}'; say which by id: {words}")
    return platform.workloads.get(rows[0].id or 0)
