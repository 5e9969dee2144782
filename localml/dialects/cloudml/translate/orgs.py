"""Whose objects a request is about: the organisation of the access key, or the one that ``org_id`` names."""

from __future__ import annotations

from localml.core.errors import LocalmlError
from localml.core.people.allow import Thing, allow, may
from localml.core.people.identity import Caller
from localml.core.people.rights import Action, ThingKind
from localml.core.work.states import HOLDING, Kind
from localml.core.work.workloads import Full, Query
from localml.dialects.cloudml.errors import foreign_org, missing, need_org
from localml.dialects.cloudml.translate.quota import pool_of
from localml.dialects.kit.pools import use_pool
from localml.platform import Platform

DIALECT = "cloudml"
ALL = "-1"


def known_orgs(platform: Platform) -> list[str]:
    """The organisations there are: workspaces that users share by being members."""
    return platform.workspaces.shared()


def org_of(
    platform: Platform, caller: Caller, noun: ThingKind, given: str | None, lacking: LocalmlError | None = None
) -> str:
    """The organisation to act for, where the caller sees such things; :data:`ALL` for an administrator who asks for
    all.

    Args:
        given: the ``org_id`` parameter.
        lacking: the failure when none can be told, in the words of the operation.

    Raises:
        LocalmlError: 403 when none can be told; the same one when it is not known and when the caller sees nothing
            of it.
    """
    org = caller.org if given is None else given
    if not org:
        raise lacking or need_org()
    if org == ALL and caller.admin:
        return org
    if may(caller, Action.READ, Thing(noun, workspace=org)) and (org == caller.org or org in known_orgs(platform)):
        return org
    raise foreign_org(org)


def org_for(platform: Platform, caller: Caller, noun: ThingKind, kind: str) -> tuple[str, str]:
    """The caller's organisation and its pool for such work, to make something in them.

    Raises:
        LocalmlError: 403 for who has no organisation, or may make nothing there.
    """
    org = org_of(platform, caller, noun, None)
    allow(caller, Action.CREATE, Thing(noun, workspace=org))
    use_pool(platform, caller, pool_of(kind, org))
    return org, pool_of(kind, org)


def listed(platform: Platform, kind: Kind, org: str) -> list[Full]:
    """Live workloads of an organisation, or of :data:`ALL`, the newest first. This API has no pages.

    Those that run carry their containers, because answers tell of their ports.
    """
    found: list[Full] = []
    cursor: str | None = None
    while True:
        query = Query(kinds=(kind,), dialect=DIALECT, workspace=None if org == ALL else org, limit=500, after=cursor)
        page = platform.workloads.page(query)
        details = platform.workloads.details(row.id or 0 for row in page.items)
        for row in page.items:
            with_ports = kind is not Kind.JOB and row.state in HOLDING
            found.append(platform.workloads.get(row.id or 0) if with_ports else Full(row, *details[row.id or 0]))
        cursor = page.cursor
        if cursor is None:
            return found


def find(
    platform: Platform,
    caller: Caller,
    action: Action,
    kind: Kind,
    name: str,
    given: str | None,
    gone: str,
    lacking: LocalmlError | None = None,
) -> Full:
    """The live workload of that name that the caller may do this to.

    Args:
        given: the ``org_id`` parameter.
        gone: the text of the 404.
        lacking: the failure when the organisation cannot be told, or when all were asked for and several have the name.

    Raises:
        LocalmlError: as :func:`org_of`; 404; 403 for who sees it and may not do this.
    """
    org = org_of(platform, caller, ThingKind.WORKLOAD, given, lacking)
    if org == ALL:
        rows = platform.workloads.page(Query(kinds=(kind,), dialect=DIALECT, name=name, limit=2)).items
        if len(rows) > 1:
            raise lacking or need_org()
        org = rows[0].workspace if rows else org
    rows = platform.workloads.page(Query(kinds=(kind,), dialect=DIALECT, name=name, workspace=org, limit=1)).items
    if not rows:
        raise missing(gone)
    allow(caller, action, Thing.of(ThingKind.WORKLOAD, rows[0]))
    return platform.workloads.get(rows[0].id or 0)
