"""Instances as users and dialects handle them: create, start, stop, restart, change, delete, find.

An instance's runs are workloads, one after the other, all under its name. What it does now is what its newest run does:
nothing else is recorded of it, so whatever ends a run (its owner, an idle limit, a crash that retries do not mend) ends
it for the instance, too, and it can be started again. Where the newest run is deleted, so is the instance.

A start is written as a wish (``asked``), and carried out by :meth:`Instances.advance` once the run before is over: at
once as a rule, else by whoever looks after that (``localml/control/watch/restarts.py``), after a crash as well.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any

from sqlmodel import Session, col, or_, select

from localml.core.clock import Clock
from localml.core.errors import Code, LocalmlError, not_found
from localml.core.events.records import Events, record_event
from localml.core.events.tables import Event
from localml.core.instances.tables import Instance
from localml.core.people.allow import need_priority
from localml.core.people.identity import Caller
from localml.core.ports import Store
from localml.core.rows import need_few
from localml.core.sql import update_rows
from localml.core.subjects import Noun, Parent, Subject
from localml.core.work.specs import WorkloadSpec
from localml.core.work.states import TERMINAL, Desired, Kind, State
from localml.core.work.tables import Workload
from localml.core.work.workloads import Full, Submission, Workloads


@dataclass(frozen=True, slots=True)
class InstanceFull:
    """An instance with its newest run."""

    row: Instance
    run: Full

    @property
    def spec(self) -> WorkloadSpec:
        """What its next run will be; the newest run may be older than a change of it."""
        return WorkloadSpec.model_validate_json(self.row.spec)

    @property
    def deleted(self) -> bool:
        """Whether it was deleted: its name is free then."""
        return self.run.row.deleted_at is not None

    @property
    def pending(self) -> bool:
        """Whether another run is wanted and not there yet."""
        return self.row.asked > self.row.run

    @property
    def live(self) -> bool:
        """Whether it runs, or is about to."""
        return self.pending or (self.run.row.state not in TERMINAL and self.run.row.desired is Desired.RUN)

    @property
    def state(self) -> State:
        """How it is: as its newest run is, but queued between two runs."""
        return State.QUEUED if self.pending and self.run.row.state in TERMINAL else self.run.row.state

    @property
    def message(self) -> str:
        """Why it is so, where there is more to say."""
        return self.row.message or self.run.row.message


@dataclass(frozen=True, slots=True)
class Change:
    """What is to be different from the next run on; None stays. ``request`` is the vendor's body from now on."""

    spec: WorkloadSpec | None = None
    request: Any = None
    pool: str | None = None


def _apply(row: Instance, change: Change | None) -> None:
    if change is None:
        return
    if change.spec is not None:
        row.spec = change.spec.model_dump_json(exclude_defaults=True)
    if change.request is not None:
        row.request = change.request
    row.pool = change.pool or row.pool


def _takes(spec: WorkloadSpec) -> list[Any]:
    """What of the machine it asks for."""
    return [(role.resources, role.ports) for role in spec.roles]


class Instances:
    """The service over instances.

    Args:
        owner: the user of this number, in whose name runs are submitted.
        nudge: told that a run is wanted which cannot begin yet.
        changed: told of an instance whose wanted run has begun, or never will.
        gone: whether the owner of one may not be inside any more, as after a removal: nothing begins in that name.
    """

    def __init__(
        self,
        store: Store,
        clock: Clock,
        workloads: Workloads,
        owner: Callable[[int], Caller],
        nudge: Callable[[], None] = lambda: None,
        changed: Callable[[Subject], None] = lambda _: None,
        gone: Callable[[Instance], bool] = lambda _: False,
    ) -> None:
        self._store = store
        self._clock = clock
        self._workloads = workloads
        self._owner = owner
        self.nudge = nudge
        self._changed = changed
        self._gone = gone

    # -- changes ---------------------------------------------------------------------------------

    def create(self, submission: Submission) -> InstanceFull:
        """Record an instance and queue its first run, both or neither.

        Raises:
            LocalmlError: as :meth:`localml.core.work.workloads.Workloads.submit`.
        """

        def also(session: Session, number: int) -> None:
            now = self._clock.now()
            row = Instance(
                id=number,
                kind=submission.kind,
                dialect=submission.dialect,
                workspace=submission.workspace or submission.caller.workspace,
                owner=submission.caller.name,
                owner_id=submission.caller.id,
                name=submission.name,
                pool=submission.pool,
                spec=submission.spec.model_dump_json(exclude_defaults=True),
                request=submission.request,
                workload_id=number,
                created_at=now,
                updated_at=now,
            )
            self._need_free_name(session, row)
            need_few(session, Instance, "instances", Instance.owner_id == row.owner_id, _undeleted())
            session.add(row)
            session.flush()
            of = Subject(Noun.INSTANCE, number)
            update_rows(session, Workload, {"parent_kind": of.kind, "parent_id": of.id, "parent_index": 1}, id=number)
            words = f"created by {submission.caller.name} through the {submission.dialect} API"
            self._tell(session, row, "Created", words)

        return self.get(self._workloads.submit(submission, also=also))

    @staticmethod
    def _need_free_name(session: Session, new: Instance) -> None:
        same = _live().where(
            Instance.name == new.name,
            Instance.kind == new.kind,
            Instance.dialect == new.dialect,
            Instance.workspace == new.workspace,
        )
        if session.exec(same).first() is not None:
            raise LocalmlError(Code.CONFLICT, f"name: '{new.name}' is already used by a {new.kind}", field="name")

    def start(self, number: int, caller: Caller, change: Change | None = None) -> InstanceFull:
        """Start it again, under the same name and with the same storage. One that runs goes on as it is.

        Args:
            change: what is to be different from now on.

        Raises:
            LocalmlError: ``NOT_FOUND``, ``WRONG_STATE`` when its owner is shut out, and what :meth:`create` raises; it
                stays stopped then, and what it was.
        """
        self._need_owner(number)
        self._check(number, caller, change)

        def act(session: Session, row: Instance, run: Workload) -> None:
            over = run.state in TERMINAL or run.desired is Desired.STOP
            if over and row.asked == row.run:
                row.asked += 1
                self._tell(session, row, "StartRequested", f"started by {caller.name}")
            _apply(row, change)

        return self._want(number, act)

    def restart(self, number: int, caller: Caller) -> InstanceFull:
        """Stop it if it runs, and start it again; ``WRONG_STATE`` when its owner is shut out."""
        self._need_owner(number)

        def act(session: Session, row: Instance, run: Workload) -> None:
            row.asked = row.run + 1
            self._tell(session, row, "RestartRequested", f"restarted by {caller.name}")
            self._workloads.want_stop(session, run.id or 0, f"restarted by {caller.name}")

        return self._want(number, act)

    def stop(self, number: int, caller: Caller, reason: str = "") -> InstanceFull:
        """Stop it; it can be started again. One that is stopped stays as it is.

        Args:
            reason: what its owner is told; by default who asked.
        """

        def act(session: Session, row: Instance, run: Workload) -> None:
            words = reason or f"stopped by {caller.name}"
            if row.asked > row.run or run.state not in TERMINAL:
                self._tell(session, row, "StopRequested", words)
            row.asked = row.run
            self._workloads.want_stop(session, run.id or 0, words)

        return self._want(number, act)

    def modify(self, number: int, caller: Caller, change: Change) -> InstanceFull:
        """Change what its next run will be; the one that runs goes on as it is.

        Raises:
            LocalmlError: ``NOT_FOUND``, and what :meth:`create` raises for a spec that can never run here.
        """
        self._check(number, caller, change)

        def act(session: Session, row: Instance, run: Workload) -> None:
            _apply(row, change)
            self._tell(session, row, "Changed", f"changed by {caller.name}, from the next start on")

        return self._want(number, act)

    def _need_owner(self, number: int) -> None:
        row = self.get(number).row
        if self._gone(row):
            words = f"{row.owner}, in whose name {row.name} ran, may not be inside any more; make another one"
            raise LocalmlError(Code.WRONG_STATE, words)

    def _check(self, number: int, caller: Caller, change: Change | None) -> None:
        """Refuse settings with which it can never run here, before they take the place of those that it has."""
        if change is not None and change.spec is not None:
            found = self.get(number)
            need_priority(caller, change.spec.priority, found.spec.priority)
            wanted = self._submission(found, change.spec)
            by = caller if _takes(change.spec) != _takes(found.spec) else None  # what it has already may stay
            self._workloads.check(replace(wanted, pool=change.pool or wanted.pool, by=by))

    def delete(self, number: int, caller: Caller) -> InstanceFull:
        """Stop it if it runs, and forget its name. Its output and its storage stay."""

        def act(session: Session, row: Instance, run: Workload) -> None:
            row.asked = row.run
            self._tell(session, row, "Deleted", f"deleted by {caller.name}")
            self._workloads.hide(session, run.id or 0, caller)

        return self._want(number, act)

    def _want(self, number: int, act: Callable[[Session, Instance, Workload], None]) -> InstanceFull:
        """Record a wish in one transaction, and carry it out as far as that can be now."""

        def write(session: Session) -> int:
            row = session.get(Instance, number)
            run = session.get(Workload, row.workload_id) if row is not None else None
            if row is None or run is None or run.deleted_at is not None:
                raise not_found("instance", number)
            row.updated_at, row.message = self._clock.now(), ""
            act(session, row, run)
            session.add(row)
            session.flush()
            return row.workload_id

        self._workloads.told(self._store.write(write))
        found = self.get(number)
        if found.pending and not self.advance(found):
            self.nudge()
            return found
        return self.get(number)

    # -- runs ------------------------------------------------------------------------------------

    def advance(self, found: InstanceFull) -> bool:
        """Begin the run that is wanted, if the one before is over; whether it was begun, by whomever.

        Raises:
            LocalmlError: it cannot begin; the wish is given up then, and the instance says why. Only where the disk
                fails it stays.
        """
        old = found.run.row
        if not found.pending or old.state not in TERMINAL or not old.cleaned:  # until then its port is not free
            return False
        parent = Parent(Subject(Noun.INSTANCE, found.row.id or 0), found.row.asked)
        submission = replace(self._submission(found, found.spec), replaces=old.id, parent=parent)
        try:
            self._workloads.submit(submission, also=lambda session, new: self._begun(session, found, new))
        except LocalmlError as error:
            if self.get(found.row.id or 0).row.run > found.row.run:
                return True  # somebody else looked at the same time
            if error.code is Code.STORAGE:
                raise
            words = error.message
            self._store.write(lambda session: self._given_up(session, found, words))
            raise
        finally:
            self._changed(Subject(Noun.INSTANCE, found.row.id or 0))
        return True

    def _begun(self, session: Session, found: InstanceFull, new: int) -> None:
        row = found.row
        values = {"workload_id": new, "run": row.asked, "updated_at": self._clock.now()}
        guards = {"id": row.id, "run": row.run, "asked": row.asked, "workload_id": row.workload_id}
        if update_rows(session, Instance, values, **guards) != 1:
            raise LocalmlError(Code.WRONG_STATE, f"{row.name} was changed at the same time")

    def _given_up(self, session: Session, found: InstanceFull, words: str) -> None:
        row = found.row
        values = {"asked": row.run, "message": words}
        if update_rows(session, Instance, values, id=row.id, run=row.run, asked=row.asked) == 1:
            self._tell(session, row, "StartRefused", words, warning=True)

    def _tell(self, session: Session, row: Instance, reason: str, words: str, *, warning: bool = False) -> None:
        subject = Subject(Noun.INSTANCE, row.id or 0)
        record_event(session, subject, reason, words, now=self._clock.now(), warning=warning)

    def _submission(self, found: InstanceFull, spec: WorkloadSpec) -> Submission:
        row = found.row
        return Submission(
            name=row.name,
            spec=_at_its_ports(spec, found.run),
            caller=self._owner(row.owner_id),
            dialect=row.dialect,
            kind=row.kind,
            workspace=row.workspace,
            pool=row.pool,
            request=row.request,
        )

    def left_behind(self) -> list[InstanceFull]:
        """Those that run, or are about to, and whose owner is shut out."""
        return [one for one in self._read(_live()) if one.live and self._gone(one.row)]

    def pending(self) -> list[InstanceFull]:
        """Those of which another run is wanted."""
        return self._read(_live().where(col(Instance.asked) > col(Instance.run)))

    # -- questions -------------------------------------------------------------------------------

    def get(self, number: int) -> InstanceFull:
        """An instance by its id, deleted ones included; ``NOT_FOUND`` if there is none."""
        with self._store.read() as session:
            row = session.get(Instance, number)
        if row is None:
            raise not_found("instance", number)
        return InstanceFull(row, self._workloads.get(row.workload_id))

    def events(self, number: int, *, after: int = 0, limit: int = 1000) -> list[Event]:
        """What was asked of an instance, oldest first; what its runs did is told by their own events."""
        return Events(self._store).of(Subject(Noun.INSTANCE, number), after=after, limit=limit)

    def of_run(self, run: Workload) -> InstanceFull | None:
        """The live instance that a workload is a run of, or None; of a run that was replaced there is none."""
        parent = run.parent
        if parent is None or parent.of.kind is not Noun.INSTANCE or run.deleted_at is not None:
            return None
        found = self.get(parent.of.id)
        return None if found.deleted else found

    def _read(self, query: Any) -> list[InstanceFull]:
        with self._store.read() as session:
            rows = list(session.exec(query))
        runs = self._workloads.several(row.workload_id for row in rows)
        return [InstanceFull(row, runs[row.workload_id]) for row in rows if row.workload_id in runs]

    def list(
        self,
        *,
        kinds: Sequence[Kind] = (),
        dialect: str | None = None,
        workspaces: Collection[str] | None = None,
        name: str | None = None,
    ) -> list[InstanceFull]:
        """All that are not deleted, the newest first; those that fit.

        Args:
            workspaces: in any of these; None for all there are.
        """
        query = _live()
        if kinds:
            query = query.where(or_(*(col(Instance.kind) == kind for kind in kinds)))
        if workspaces is not None:
            query = query.where(col(Instance.workspace).in_(list(workspaces)))
        if dialect is not None:
            query = query.where(Instance.dialect == dialect)
        if name is not None:
            query = query.where(Instance.name == name)
        return self._read(query.order_by(col(Instance.id).desc()))


def _live() -> Any:
    return select(Instance).where(_undeleted())


def _undeleted() -> Any:
    """Its newest run is there."""
    newest = col(Workload.id) == col(Instance.workload_id)
    return select(Workload.id).where(newest, col(Workload.deleted_at).is_(None)).exists()


def _at_its_ports(spec: WorkloadSpec, last: Full) -> WorkloadSpec:
    """The same with the host ports that the last run had, if they are free still: people keep its address."""
    ports: dict[tuple[str, str], int] = {}
    for one in last.attempts:
        for label, (_, host) in (one.ports or {}).items():
            ports[one.role, label] = int(host)
    roles = []
    for role in spec.roles:
        if role.count == 1:
            wanted = tuple(
                port.model_copy(update={"prefer": ports.get((role.name, port.label), port.prefer)})
                for port in role.ports
            )
            role = role.model_copy(update={"ports": wanted})
        roles.append(role)
    return spec.model_copy(update={"roles": tuple(roles)})
