"""Whose objects a request is about: the organisation of the access key, or the one that ``org_id`` names."""

from __future__ import annotations

from localml.core.errors import LocalmlError
from localml.core.people.allow import Thing, may
from localml.core.people.identity import Caller
from localml.core.people.rights import Action, ThingKind
from localml.core.work.states import HOLDING, Kind
from localml.core.work.workloads import Full, Query
from localml.dialects.cloudml.errors import foreign_org, missing, need_org
from localml.platform import Platform

DIALECT = "cloudml"
ALL = "-1"


def known_orgs(platform: Platform) -> list[str]:
    """The organisations there are: workspaces that users share by being members."""
    return platform.workspaces.shared()


def org_of(platform: Platform, caller: Caller, given: str | None, lacking: LocalmlError | None = None) -> str:
    """The organisation to act for; :data:`ALL` for an administrator who asks for all.

    Args:
        given: the ``org_id`` parameter.
        lacking: the failure when none can be told, in the words of the operation.

    Raises:
        LocalmlError: 403 when none can be told, or when it is not known, or the caller may not change what is in it:
            this API knows no roles.
    """
    org = caller.org if given is None else given
    if not org:
        raise lacking or need_org()
    if org == ALL and caller.admin:
        return org
    everything = Thing(ThingKind.WORKLOAD, workspace=org)
    if may(caller, Action.CHANGE, everything) and (org == caller.org or org in known_orgs(platform)):
        return org
    raise foreign_org(org)


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


def find(platform: Platform, kind: Kind, name: str, org: str, gone: str, lacking: LocalmlError | None = None) -> Full:
    """The live workload of that name.

    Args:
        gone: the text of the 404.
        lacking: raised when all organisations were asked for and several have the name.
    """
    if org == ALL:
        rows = platform.workloads.page(Query(kinds=(kind,), dialect=DIALECT, name=name, limit=2)).items
        if len(rows) > 1:
            raise lacking or need_org()
        org = rows[0].workspace if rows else org
    rows = platform.workloads.page(Query(kinds=(kind,), dialect=DIALECT, name=name, workspace=org, limit=1)).items
    if not rows:
        raise missing(gone)
    return platform.workloads.get(rows[0].id or 0)
