"""Workloads as users and dialects handle them: submit, find, list, stop, delete, and what happened to them."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from sqlalchemy import func, select, update
from sqlmodel import Session, col

from localml.core.capacity import pools
from localml.core.capacity.tables import GpuLease
from localml.core.clock import Clock
from localml.core.errors import Code, LocalmlError, invalid, not_found
from localml.core.events.records import Events, record_event
from localml.core.events.tables import Event
from localml.core.numerals import whole
from localml.core.people import memberships
from localml.core.people.allow import need_priority
from localml.core.people.identity import Caller
from localml.core.ports import Store
from localml.core.sql import id_list, insert_row, read_rows
from localml.core.subjects import Parent, Subject
from localml.core.tallies import count_workloads
from localml.core.work import listing
from localml.core.work.grants import Grants
from localml.core.work.listing import Page as Page
from localml.core.work.listing import Query as Query
from localml.core.work.reservations import all_reserved_cores
from localml.core.work.room import need_room
from localml.core.work.specs import NAME, WorkloadSpec
from localml.core.work.states import TERMINAL, Desired, Kind, State
from localml.core.work.tables import Attempt, Workload, WorkloadDetail


@dataclass(frozen=True, slots=True)
class Submission:
    """A request to run something. ``request`` is the vendor's body as given, kept to be answered back."""

    name: str
    spec: WorkloadSpec
    caller: Caller
    dialect: str = "native"
    kind: Kind = Kind.JOB
    version: str = ""  # of a child of a job: which version it is, as its API says it
    parent: Parent | None = None  # a child's name need not be free
    workspace: str | None = None  # the caller's own when None
    pool: str = pools.ROOT
    request: Any = None
    refuse_over_quota: bool = False  # refuse at once instead of queueing when a pool's limit is short
    replaces: int | None = None  # an ended workload that is hidden in the same transaction, so that its name is free
    instead_of: int | None = None  # another, which is stopped and hidden in the same transaction
    by: Caller | None = None  # who asks for it in the caller's name, and gets no more than either may have
    sees: Caller | None = None  # whose buckets it sees, where the caller has more rights than that user


@dataclass(frozen=True, slots=True)
class Full:
    """A workload with all that is kept about it."""

    row: Workload
    spec: WorkloadSpec
    request: Any
    images: dict[str, str] = field(default_factory=dict)
    attempts: list[Attempt] = field(default_factory=list)
    leases: list[GpuLease] = field(default_factory=list)


class Workloads:
    """The service over workloads.

    Args:
        check: asked before a submission is stored; raises when the machine never has that much, and decides what the
            workload may see.
        changed: told the id of every workload that a call changed; wakes followers.
    """

    def __init__(
        self,
        store: Store,
        clock: Clock,
        *,
        check: Callable[[Submission], Grants] = lambda _: Grants(),
        changed: Callable[[int], None] = lambda _: None,
    ) -> None:
        self._store = store
        self._clock = clock
        self._check = check
        self._changed = changed

    def submit(self, submission: Submission, *, also: Callable[[Session, int], None] = lambda *_: None) -> int:
        """Store a workload and queue it; returns its id once that is on disk.

        Args:
            also: what else belongs in the same transaction, given the new id.

        Raises:
            LocalmlError: ``INVALID`` (name, priority), ``CONFLICT`` (a live workload has that name, or the parent a
                child of that index), ``CAPACITY`` (more than the machine has), ``QUOTA`` (only with
                ``refuse_over_quota``), ``NOT_FOUND`` (the workspace, a dependency), ``TOO_MANY_REQUESTS`` (see
                :func:`localml.core.work.room.need_room`).
        """
        return self._queue(submission, also)[0]

    def queued(self, submission: Submission, *, also: Callable[[Session, int], None] = lambda *_: None) -> Full:
        """Like :meth:`submit`; returns what was stored, without reading it back."""
        number, values = self._queue(submission, also)
        return Full(Workload(id=number, **values), submission.spec, submission.request)

    def queued_as(self, submission: Submission, names: Iterable[str]) -> Full:
        """Like :meth:`queued`, under the first of these names that is free."""
        for name in names:
            try:
                return self.queued(replace(submission, name=name))
            except LocalmlError as error:
                if error.code is not Code.CONFLICT or error.field != "name":
                    raise
        raise LocalmlError(Code.CONFLICT, "name: no free one was found; give one", field="name")

    def _queue(
        self, submission: Submission, also: Callable[[Session, int], None] = lambda *_: None
    ) -> tuple[int, dict[str, Any]]:
        if not NAME.fullmatch(submission.name):
            raise invalid(
                "name",
                f"{submission.name!r} must be 1 to 128 letters, digits, . _ ~ - (no - at its start), not '.' or '..'",
            )
        if submission.parent is None and submission.replaces is None:  # others take over one that was allowed
            need_priority(submission.caller, submission.spec.priority)
        values, detail = self._values(submission, self._check(submission))

        def act(session: Session) -> int:
            number = self._store_one(session, submission, values, detail)
            also(session, number)
            return number

        number = self._store.write(act)
        if submission.instead_of is not None:
            self.told(submission.instead_of)
        return number, values

    def _values(self, submission: Submission, grants: Grants) -> tuple[dict[str, Any], dict[str, Any]]:
        spec, now = submission.spec, self._clock.now()
        values: dict[str, Any] = {
            "kind": submission.kind,
            "dialect": submission.dialect,
            "workspace": submission.workspace or submission.caller.workspace,
            "owner": submission.caller.name,
            "owner_id": submission.caller.id,
            "name": submission.name,
            "version": submission.version,
            "pool": submission.pool,
            "priority": spec.priority,
            "desired": Desired.RUN,
            "state": State.QUEUED,
            "message": "",
            "attempt": 1,
            "retries": 0,
            "cpu": all_reserved_cores(spec, submission.kind),
            "memory": sum((role.resources.memory or 0) * role.count for role in spec.roles),
            "gpu": sum(role.resources.gpu * role.count for role in spec.roles),
            "created_at": now,
            "updated_at": now,
            "queued_at": now,
            "cleaned": False,
        }
        if submission.parent is not None:
            of, index = submission.parent.of, submission.parent.index
            values |= {"parent_kind": of.kind, "parent_id": of.id, "parent_index": index}
        return values, {
            "spec": spec.model_dump_json(exclude_defaults=True),
            "request": submission.request,
            "images": None,
            "grants": grants.model_dump_json(exclude_defaults=True),
        }

    def _store_one(
        self, session: Session, submission: Submission, values: dict[str, Any], detail: dict[str, Any]
    ) -> int:
        memberships.need_live(session, values["workspace"])
        if submission.parent is None and submission.replaces is None:
            need_room(session, values["owner_id"])
        if not pools.exists(session, submission.pool):
            pools.ensure(session, submission.pool)
        if submission.refuse_over_quota:
            pools.check_quota(session, submission.pool, cpu=values["cpu"], memory=values["memory"], gpu=values["gpu"])
        for number in submission.spec.depends_on:
            if session.get(Workload, number) is None:
                raise not_found("depends_on: workload", number)
        if submission.replaces is not None:
            self._hide_ended(session, submission.replaces, values["created_at"])
        if submission.instead_of is not None:
            self.hide(session, submission.instead_of, submission.caller)
        try:
            number = insert_row(session, Workload, values)
        except sqlite3.IntegrityError:
            raise _taken(submission) from None
        insert_row(session, WorkloadDetail, {"workload_id": number, **detail})
        words = f"submitted by {submission.caller.name} through the {submission.dialect} API"
        record_event(session, Subject.workload(number), "Submitted", words, now=values["created_at"])
        return number

    @staticmethod
    def _hide_ended(session: Session, number: int, now: float) -> None:
        columns = update(Workload).where(
            col(Workload.id) == number, col(Workload.state).in_(TERMINAL), col(Workload.deleted_at).is_(None)
        )
        result: Any = session.execute(columns.values(deleted_at=now, updated_at=now))
        if result.rowcount != 1:
            raise LocalmlError(Code.WRONG_STATE, f"workload {number} is not over yet, or was replaced already")
        record_event(session, Subject.workload(number), "Deleted", "replaced by a new run of the same request", now=now)

    def get(self, number: int) -> Full:
        """A workload by its id, deleted ones included; ``NOT_FOUND`` if there is none."""
        with self._store.read() as session:
            row = session.get(Workload, number)
            if row is None:
                raise not_found("workload", number)
            return self._full(session, row)

    def several(self, numbers: Iterable[int]) -> dict[int, Full]:
        """id -> workload, of those that there are; by as few statements as one takes."""
        with self._store.read() as session:
            wanted = select(func.json_each(id_list(numbers)).table_valued("value").c.value)
            rows = session.execute(select(Workload).where(col(Workload.id).in_(wanted))).scalars().all()
            return {one.row.id or 0: one for one in self._fulls(session, rows, wanted)}

    def row(self, number: int) -> Workload:
        """The narrow part only."""
        with self._store.read() as session:
            row = session.get(Workload, number)
        if row is None:
            raise not_found("workload", number)
        return row

    def state(self, number: int) -> State:
        """A workload's state: all that somebody who waits for it asks, at every change of it."""
        with self._store.read_raw() as connection:
            found = list(read_rows(connection, Workload, ("state",), "id = ?", (number,)))
        if not found:
            raise not_found("workload", number)
        return State(found[0][0])

    def glance(self, number: int) -> tuple[State, int]:
        """A workload's state, and how many attempts there are: all that a follower asks at every line."""
        counted = select(func.count()).where(col(Attempt.workload_id) == number).scalar_subquery()
        with self._store.read() as session:
            found = session.execute(select(col(Workload.state), counted).where(col(Workload.id) == number)).first()
        if found is None:
            raise not_found("workload", number)
        return found[0], int(found[1])

    def attempts(self, number: int) -> list[Attempt]:
        """All attempts of a workload, oldest first."""
        with self._store.read() as session:
            return self._attempts(session, number)

    @staticmethod
    def _attempts(session: Session, number: int) -> list[Attempt]:
        query = select(Attempt).where(col(Attempt.workload_id) == number).order_by(col(Attempt.id))
        return list(session.execute(query).scalars())

    def find(
        self, *, dialect: str, kind: Kind, name: str, workspace: str | None = None, version: str | None = None
    ) -> Full | None:
        """The live workload that a vendor knows under this name, or None; children are found by their parents."""
        with self._store.read() as session:
            query = select(Workload).where(
                col(Workload.dialect) == dialect,
                col(Workload.kind) == kind,
                col(Workload.name) == name,
                col(Workload.deleted_at).is_(None),
                col(Workload.parent_kind).is_(None),
            )
            if workspace is not None:
                query = query.where(col(Workload.workspace) == workspace)
            if version is not None:
                query = query.where(col(Workload.version) == version)
            row = session.execute(query.order_by(col(Workload.id).desc()).limit(1)).scalars().first()
            return self._full(session, row) if row is not None else None

    def named(self, name: str) -> Full:
        """A live workload by id or by name, whatever its dialect and kind; for the command line. A child gives way
        to one that is none.

        Raises:
            LocalmlError: ``NOT_FOUND``, or ``CONFLICT`` naming the candidates when several have the name.
        """
        with self._store.read() as session:
            query = select(Workload).where(col(Workload.name) == name, col(Workload.deleted_at).is_(None))
            rows = list(session.execute(query.order_by(col(Workload.id).desc())).scalars())
            if not rows and (number := whole(name)) is not None:
                by_id = session.get(Workload, number)
                rows = [by_id] if by_id is not None else []
            if not rows:
                raise not_found("workload", name)
            rows = [row for row in rows if row.parent is None] or rows
            if len(rows) > 1:
                words = ", ".join(f"{row.id} ({row.dialect} {row.kind})" for row in rows)
                raise LocalmlError(Code.CONFLICT, f"several workloads are named '{name}'; say which by id: {words}")
            return self._full(session, rows[0])

    @classmethod
    def _full(cls, session: Session, row: Workload) -> Full:
        return cls._fulls(session, [row], [row.id])[0]

    @staticmethod
    def _fulls(session: Session, rows: Sequence[Workload], wanted: Any) -> list[Full]:
        """``wanted``: the ids of these rows, or what selects them."""

        def of(model: Any, *conditions: Any) -> dict[int, list[Any]]:
            found: dict[int, list[Any]] = {}
            query = select(model).where(col(model.workload_id).in_(wanted), *conditions)
            for one in session.execute(query.order_by(*model.__table__.primary_key)).scalars():
                found.setdefault(one.workload_id, []).append(one)
            return found

        details, attempts, leases = of(WorkloadDetail), of(Attempt), of(GpuLease, col(GpuLease.released_at).is_(None))
        full = []
        for row in rows:
            if row.id not in details:
                raise LocalmlError(Code.INTERNAL, f"workload {row.id} has no detail row")
            (detail,) = details[row.id]
            spec, images = WorkloadSpec.model_validate_json(detail.spec), dict(detail.images or {})
            full.append(Full(row, spec, detail.request, images, attempts.get(row.id, []), leases.get(row.id, [])))
        return full

    def page(self, query: Query) -> Page:
        """One page of workloads; see :mod:`localml.core.work.listing`."""
        with self._store.read() as session:
            return listing.fetch(session, query)

    def details(self, numbers: Iterable[int]) -> dict[int, tuple[WorkloadSpec, Any]]:
        """id -> (spec, request as given) of several workloads, for lists that show them."""
        with self._store.read() as session:
            rows = session.execute(
                select(WorkloadDetail).where(col(WorkloadDetail.workload_id).in_(list(numbers)))
            ).scalars()
            return {row.workload_id: (WorkloadSpec.model_validate_json(row.spec), row.request) for row in rows}

    def children(self, parent: Subject) -> dict[State, int]:
        """How many children something has, by their state; deleted ones included."""
        with self._store.read() as session:
            query = select(col(Workload.state), func.count()).where(*listing.children_of(parent))
            return {state: int(count) for state, count in session.execute(query.group_by(col(Workload.state)))}

    def next_index(self, parent: Subject) -> int:
        """The index for a parent's next child, from 1 on. Two that ask at once get the same: one of them is refused."""
        with self._store.read() as session:
            query = select(func.max(col(Workload.parent_index))).where(*listing.children_of(parent))
            return int(session.execute(query).scalar() or 0) + 1

    def check(self, submission: Submission) -> None:
        """Refuse what :meth:`submit` would refuse because it can never run here."""
        self._check(submission)

    def stop(self, number: int, caller: Caller, reason: str = "") -> Workload:
        """Ask for a workload to be stopped. One that is over stays as it is; asking twice changes nothing.

        Args:
            reason: what its owner is told; by default who asked.
        """
        words = reason or f"stopped by {caller.name}"
        row = self._store.write(lambda session: self.want_stop(session, number, words))
        self.told(number)
        return row

    def delete(self, number: int, caller: Caller) -> Workload:
        """Hide a workload, after stopping it if it runs; its log and events stay until they are pruned."""
        row = self._store.write(lambda session: self.hide(session, number, caller))
        self.told(number)
        return row

    def told(self, number: int) -> None:
        """A wish about this workload was written: wake who follows it. Who carries it out is told by the commit."""
        self._changed(number)

    def hide(self, session: Session, number: int, caller: Caller) -> Workload:
        """:meth:`delete` as a part of another transaction; :meth:`told` comes after it."""
        row = self.want_stop(session, number, f"stopped by {caller.name}")
        if row.deleted_at is None:
            row.deleted_at = row.updated_at = self._clock.now()
            session.add(row)
            record_event(session, Subject.workload(number), "Deleted", f"deleted by {caller.name}", now=row.deleted_at)
        session.flush()
        return row

    def want_stop(self, session: Session, number: int, words: str, *, grace: float | None = None) -> Workload:
        """:meth:`stop` as a part of another transaction; :meth:`told` comes after it.

        Args:
            grace: seconds that it has to end by itself; None: as its spec says.
        """
        row = session.get(Workload, number)
        if row is None:
            raise not_found("workload", number)
        other = grace is not None and grace != row.grace
        if row.state not in TERMINAL and (other or row.desired is not Desired.STOP):
            now = self._clock.now()
            wanted = {"desired": Desired.STOP, "message": words, "grace": grace, "updated_at": now}
            session.execute(update(Workload).where(col(Workload.id) == number).values(wanted))
            record_event(session, Subject.workload(number), "StopRequested", words, now=now)
            session.refresh(row)
        return row

    def events(self, number: int, *, after: int = 0, limit: int = 1000) -> list[Event]:
        """Events of a workload, oldest first."""
        return Events(self._store).of(Subject.workload(number), after=after, limit=limit)

    def counts(self, workspaces: Collection[str] | None = None) -> dict[tuple[str, str], int]:
        """(kind, state) -> how many that are not pruned, in these workspaces or (None) in all."""
        kind, state = col(Workload.kind), col(Workload.state)
        with self._store.read() as session:
            if workspaces is None:
                return count_workloads(session)
            query = select(kind, state, func.count()).where(col(Workload.workspace).in_(list(workspaces)))
            return {(one, two): int(count) for one, two, count in session.execute(query.group_by(kind, state))}


def _taken(submission: Submission) -> LocalmlError:
    if submission.parent is not None:
        words = f"parent: {submission.parent.of} has a child with the index {submission.parent.index} already"
        return LocalmlError(Code.CONFLICT, words, field="parent")
    return LocalmlError(
        Code.CONFLICT, f"name: '{submission.name}' is already used by a {submission.kind}", field="name"
    )
