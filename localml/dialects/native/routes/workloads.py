"""Submitting, listing, showing, stopping and deleting workloads."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from flask_openapi.blueprint import APIBlueprint

from localml.core.errors import Code, LocalmlError, invalid
from localml.core.instances.instances import InstanceFull
from localml.core.people.allow import Thing, allow
from localml.core.people.identity import Caller
from localml.core.people.rights import Action, ThingKind
from localml.core.subjects import Noun, Subject
from localml.core.work.states import TERMINAL, Kind
from localml.core.work.tables import Workload
from localml.core.work.workloads import Full, Query, Submission
from localml.dialects.kit import caller
from localml.dialects.kit.held import hold_until, waited_for
from localml.dialects.kit.pools import use_pool
from localml.dialects.native.auth import find, reached, workspace_for
from localml.dialects.native.schemas import work as schemas
from localml.dialects.native.translate import work as translate
from localml.dialects.native.translate.names import friendly
from localml.platform import Platform

_TAIL = 20
_NAME_TRIES = 8
_INSTANCES = (Kind.NOTEBOOK, Kind.TENSORBOARD)
"""What can be stopped and started again."""


def add(api: APIBlueprint, platform: Platform) -> None:
    """Add the routes of this module."""

    @api.post("/workloads", responses={"201": schemas.WorkloadOut})
    def submit(body: schemas.Submit) -> Any:
        """Queue a workload; it is on disk when this answers."""
        return translate.workload(_submit(platform, caller(), body)), 201

    @api.get("/workloads", responses={"200": schemas.WorkloadsOut})
    def list_workloads(query: schemas.ListQuery) -> Any:
        """One page of workloads."""
        page = platform.workloads.page(_query(platform, caller(), query))
        found = translate.listed(platform, page.items)
        why = translate.reasons(platform, caller(), page.items) if query.why else {}
        return {"workloads": [one | {"why": why.get(one["id"])} for one in found], "next": page.cursor}

    @api.get("/workloads/<ref>", responses={"200": schemas.WorkloadFull})
    def show(path: schemas.Reference) -> Any:
        """Everything about one workload, by id or name."""
        return _full(platform, find(platform, caller(), path.ref))

    @api.delete("/workloads/<ref>", responses={"200": schemas.WorkloadOut})
    def delete(path: schemas.Reference) -> Any:
        """Stop and hide a workload; its output and events stay until they are pruned."""
        row = find(platform, caller(), path.ref, Action.DELETE).row
        instance = _instance(platform, row)
        if instance is not None:  # whatever becomes of this run meanwhile
            return translate.workload(platform.instances.delete(instance.row.id or 0, caller()).run.row)
        return translate.workload(platform.workloads.delete(row.id or 0, caller()))

    @api.post("/workloads/<ref>/stop", responses={"200": schemas.WorkloadOut})
    def stop(path: schemas.Reference) -> Any:
        """Ask for a workload to be stopped; one that is over stays as it is."""
        row = find(platform, caller(), path.ref, Action.STOP).row
        instance = _instance(platform, row)
        if instance is not None:
            return translate.workload(platform.instances.stop(instance.row.id or 0, caller()).run.row)
        return translate.workload(platform.workloads.stop(row.id or 0, caller()))

    @api.get("/workloads/<ref>/why", responses={"200": schemas.WhyOut})
    def why(path: schemas.Reference) -> Any:
        """Why a workload waits."""
        row = find(platform, caller(), path.ref).row
        return {"state": row.state, "why": translate.why(platform, caller(), platform.why(row.id or 0))}

    @api.get("/workloads/<ref>/wait", responses={"200": schemas.WorkloadFull})
    def wait(path: schemas.Reference, query: schemas.WaitQuery) -> Any:
        """Answer when the workload has ended, or at the time-out with what it is then."""
        number = waited_for() or find(platform, caller(), path.ref).row.id or 0

        def over() -> bool:
            return platform.workloads.state(number) in TERMINAL

        held = hold_until(platform.feed, Subject.workload(number), over, query.timeout)
        return held or _full(platform, platform.workloads.get(number))


def _submit(platform: Platform, who: Caller, body: schemas.Submit) -> Workload:
    place = workspace_for(platform, who, body.workspace, ThingKind.WORKLOAD)
    use_pool(platform, who, body.pool)
    translate.need_seen(platform, who, body.spec)
    submission = Submission(body.name or "", body.spec, who, kind=body.kind, pool=body.pool, workspace=place)
    if body.replace:
        submission = replace(submission, instead_of=_instead_of(platform, who, body, place))
    if body.kind in _INSTANCES:
        return platform.instances.create(replace(submission, name=body.name or friendly())).run.row
    if body.name is not None:
        return platform.workloads.queued(submission).row
    return platform.workloads.queued_as(submission, (friendly() for _ in range(_NAME_TRIES))).row


def _instead_of(platform: Platform, who: Caller, body: schemas.Submit, place: str) -> int | None:
    """The workload whose name is to be taken over, if there is one that the caller may remove."""
    if body.kind in _INSTANCES or body.name is None:
        why = "give one: it says what is replaced" if body.name is None else f"a {body.kind} is not replaced"
        raise invalid("name" if body.name is None else "replace", why)
    found = platform.workloads.find(dialect="native", kind=body.kind, name=body.name, workspace=place)
    if found is None:
        return None
    allow(who, Action.DELETE, Thing.of(ThingKind.WORKLOAD, found.row, body.name))
    return found.row.id


def _parent(query: schemas.ListQuery) -> Subject | None:
    kind, number = query.parent_kind, query.parent_id
    if kind is not None and number is not None:
        return Subject(kind, number)
    if kind is not None or number is not None:
        missing = "parent_id" if number is None else "parent_kind"
        raise invalid(missing, "must be given too: parent_kind and parent_id say whose children")
    return None


def _query(platform: Platform, who: Caller, query: schemas.ListQuery) -> Query:
    return Query(
        kinds=tuple(query.kind),
        states=tuple(query.state),
        dialect=query.dialect,
        workspaces=reached(platform, who, ThingKind.WORKLOAD, query.workspace),
        owner=query.owner,
        owner_id=None if who.admin or query.owner is None else platform.identity.number(query.owner),
        pool=query.pool,
        name=query.name,
        parent=_parent(query),
        contains=query.contains,
        deleted=query.deleted,
        sort=query.sort,
        descending=query.order == "desc",
        limit=query.limit,
        after=query.after,
    )


def _instance(platform: Platform, row: Workload) -> InstanceFull | None:
    """The notebook or TensorBoard whose run this is, if it is one.

    Raises:
        LocalmlError: ``WRONG_STATE``: a later run took its place, perhaps just now: its name says which is meant.
    """
    found = platform.instances.of_run(row)
    parent = row.parent
    if found is None and parent is not None and parent.of.kind is Noun.INSTANCE:
        later = platform.instances.get(parent.of.id)
        if not later.deleted and later.run.row.id != row.id:
            words = f"workload {row.id} was replaced by {later.run.row.id}, a later run of '{later.row.name}'"
            raise LocalmlError(Code.WRONG_STATE, words)
    return found


def _full(platform: Platform, found: Full) -> dict[str, Any]:
    events = platform.workloads.events(found.row.id or 0, limit=10_000)[-_TAIL:]
    return translate.full(platform, caller(), found, events)
