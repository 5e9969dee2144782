"""Studies as users and dialects handle them: create, find, list, stop, resume, start over, delete, and their trials.

Calls here record what is wanted. Trials are proposed, begun and judged by the control plane alone
(``localml/control/studies/driver.py``), through :mod:`localml.core.studies.trials`.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

from sqlalchemy import delete, func, select, update
from sqlalchemy.exc import IntegrityError
from sqlmodel import Session, col

from localml.core import rows
from localml.core.capacity import pools
from localml.core.clock import Clock
from localml.core.errors import Code, LocalmlError, invalid, not_found
from localml.core.events.records import Events, record_event
from localml.core.events.tables import Event
from localml.core.limits import MOST_STUDIES, MOST_TRIALS, need_at_most
from localml.core.numerals import whole
from localml.core.people import memberships
from localml.core.people.allow import need_priority
from localml.core.people.identity import Caller
from localml.core.ports import Store
from localml.core.studies.algorithms import BUILT_IN, built_in, checked, seed_of
from localml.core.studies.specs import StudySpec, need_study
from localml.core.studies.tables import OVER, Algorithm, Study, StudyState, SuggesterState, Trial, TrialState
from localml.core.subjects import Noun, Subject
from localml.core.work.listing import MAX_PAGE, children_of
from localml.core.work.specs import NAME
from localml.core.work.states import Desired
from localml.core.work.tables import Workload

_GROUP = 500
"""Trials that are hidden in one transaction, so that nobody else waits long for the writer."""


@dataclass(frozen=True, slots=True)
class StudySubmission:
    """A search that somebody wants. ``request`` is the vendor's body as given, kept to be answered back."""

    name: str | None  # None: one is made up
    spec: StudySpec
    caller: Caller
    dialect: str = "native"
    workspace: str | None = None  # the caller's own when None
    pool: str = pools.ROOT
    request: Any = None


@dataclass(frozen=True, slots=True)
class StudyQuery:
    """Which studies to list, the newest first. Empty members do not restrict; ``contains`` is a part of the name.

    ``after`` is a cursor from the page before.
    """

    dialect: str | None = None
    workspaces: Collection[str] | None = None
    owner: str | None = None
    owner_id: int | None = None
    states: tuple[StudyState, ...] = ()
    name: str | None = None
    contains: str | None = None
    limit: int = 50
    after: str | None = None


@dataclass(frozen=True, slots=True)
class StudyPage:
    """One page of a list; ``cursor`` leads to the next one, None at the end."""

    items: list[Study]
    cursor: str | None


def subject_of(number: int) -> Subject:
    """A study as the subject of events and feeds, and as the parent of its trials."""
    return Subject(Noun.STUDY, number)


class Studies:
    """The service over studies.

    Args:
        check: asked before a study is stored, in the caller's name: raises for what can never run here, and gives back
            the spec as it is to be stored.
        changed: told of every study that a call changed; wakes followers.

    Attributes:
        nudge: told its id, too, so that the control plane looks.
    """

    def __init__(
        self,
        store: Store,
        clock: Clock,
        *,
        check: Callable[[StudySubmission], StudySpec] = lambda new: new.spec,
        changed: Callable[[Subject], None] = lambda _: None,
    ) -> None:
        self._store = store
        self._clock = clock
        self._check = check
        self._changed = changed
        self.nudge: Callable[[int], None] = lambda _: None

    # -- changes ---------------------------------------------------------------------------------

    def create(self, new: StudySubmission) -> Study:
        """Record a study; it is on disk when this returns, and its trials begin as soon as something is proposed.

        Raises:
            LocalmlError: ``INVALID`` naming what is wrong, ``CONFLICT`` (``name`` is taken), ``CAPACITY`` (a trial is
                larger than the machine), ``NOT_FOUND`` (the workspace).
        """
        name = f"study-{secrets.token_hex(4)}" if new.name is None else new.name
        if not NAME.fullmatch(name):
            words = "must be 1 to 128 letters, digits, . _ ~ - (no - at its start), not '.' or '..'"
            raise invalid("name", f"{name!r} {words}")
        need_study(new.spec)
        checked(new.spec.algorithm, new.spec)
        need_priority(new.caller, new.spec.trial.priority)
        spec = self._check(new)
        seed = seed_of(spec.algorithm, spec)
        row = self._row(new, name, spec, secrets.randbelow(1 << 32) if seed is None else seed)

        def act(session: Session) -> int:
            memberships.need_live(session, row.workspace)
            _need_algorithm(session, row)
            mine = col(Study.owner_id) == row.owner_id, col(Study.deleted_at).is_(None)
            rows.need_few(session, Study, "studies", *mine, most=MOST_STUDIES)
            pools.ensure(session, row.pool)
            session.add(row)
            try:
                session.flush()
            except IntegrityError:
                words = f"name: '{name}' is already used by a study"
                raise LocalmlError(Code.CONFLICT, words, field="name") from None
            self._tell(session, row, "Created", f"created by {new.caller.name} through the {new.dialect} API")
            return row.id or 0

        return self._written(act)

    def _row(self, new: StudySubmission, name: str, spec: StudySpec, seed: int) -> Study:
        now = self._clock.now()
        return Study(
            dialect=new.dialect,
            workspace=new.workspace or new.caller.workspace,
            owner=new.caller.name,
            owner_id=new.caller.id,
            name=name,
            pool=new.pool,
            spec=spec.model_dump_json(exclude_defaults=True),
            request=new.request,
            algorithm=found.name if (found := built_in(spec.algorithm.name)) is not None else spec.algorithm.name,
            seed=seed,
            created_at=now,
            updated_at=now,
        )

    def stop(self, number: int, caller: Caller, *, force: bool = False, reason: str = "") -> Study:
        """End a search: nothing more is proposed, and trials that run are stopped. One that is over stays as it is.

        Args:
            force: give the trials no time to end by themselves.
            reason: what its owner is told; by default who asked.
        """
        words = reason or f"stopped by {caller.name}"

        def act(session: Session, row: Study) -> None:
            if row.state in OVER or (row.desired is Desired.STOP and row.forced >= force):
                return
            row.desired, row.forced = Desired.STOP, row.forced or force
            self._tell(session, row, "StopRequested", words)
            if row.state is not StudyState.STOPPING:
                row.state, row.outcome, row.message = StudyState.STOPPING, StudyState.STOPPED, words
            _end_if_idle(session, row, self._clock.now())

        return self._want(number, act)

    def delete(self, number: int, caller: Caller) -> Study:
        """Hide a study that is over, and before it its trials, some at a time; its name is free when this returns.

        Raises:
            LocalmlError: ``WRONG_STATE`` while it is not over.
        """

        def act(session: Session, row: Study) -> None:
            _need_over(row, "be deleted")
            row.deleted_at = self._clock.now()
            self._tell(session, row, "Deleted", f"deleted by {caller.name}")

        found = self.get(number)
        if found.deleted_at is None:
            _need_over(found, "be deleted")
            for first in range(1, found.asked + 1, _GROUP):
                self._hide_trials(number, first, first + _GROUP)
        return self._want(number, act)

    def _hide_trials(self, number: int, first: int, end: int) -> None:
        index = col(Workload.parent_index)
        of = *children_of(subject_of(number)), index >= first, index < end, col(Workload.deleted_at).is_(None)
        hidden = update(Workload).where(*of).values(deleted_at=self._clock.now())
        self._store.write(lambda session: session.execute(hidden))

    def restart(self, number: int, caller: Caller) -> Study:
        """Start over: the same search again, with nothing known of the trials so far, which stay listed.

        Raises:
            LocalmlError: ``WRONG_STATE`` while it is not over.
        """

        def act(session: Session, row: Study) -> None:
            _need_over(row, "start over")
            _need_algorithm(session, row)
            row.run, row.first = row.run + 1, row.asked + 1
            row.complete = row.pruned = row.failed = row.stopped = 0
            row.best = row.best_value = row.started_at = None
            row.state, row.exhausted = StudyState.WAITING, False
            session.execute(delete(SuggesterState).where(col(SuggesterState.study_id) == number))
            self._revive(row)
            self._tell(session, row, "Restarted", f"started over by {caller.name}")

        return self._want(number, act)

    def resume(self, number: int, caller: Caller, *, max_trials: int | None = None) -> Study:
        """Go on with a search that is over, where it was.

        Args:
            max_trials: how many there shall be in all from now on; None: as before.

        Raises:
            LocalmlError: ``WRONG_STATE`` while it is not over, or where it had all its trials; ``INVALID`` naming
                ``max_trials``.
        """
        if max_trials is not None:
            need_at_most("max_trials", max_trials, MOST_TRIALS, "trials of one study")

        def act(session: Session, row: Study) -> None:
            _need_over(row, "be resumed")
            _need_algorithm(session, row)
            spec = StudySpec.model_validate_json(row.spec)
            if max_trials is not None:
                spec = spec.model_copy(update={"max_trials": max_trials})
                checked(spec.algorithm, spec)
                row.spec = spec.model_dump_json(exclude_defaults=True)
            had = row.asked - row.first + 1
            if spec.max_trials is not None and spec.max_trials <= had:
                words = f"it had {had} trials, and may have {spec.max_trials}; give more as max_trials"
                raise LocalmlError(Code.WRONG_STATE, f"study '{row.name}' cannot be resumed: {words}")
            row.state = StudyState.RUNNING if had else StudyState.WAITING
            row.exhausted = False
            self._revive(row)
            self._tell(session, row, "Resumed", f"resumed by {caller.name}")

        return self._want(number, act)

    @staticmethod
    def _revive(row: Study) -> None:
        row.life += 1
        row.desired, row.outcome, row.forced = Desired.RUN, None, False
        row.message, row.failing, row.ended_at, row.deadline = "", 0, None, None

    def _want(self, number: int, act: Callable[[Session, Study], None]) -> Study:
        def write(session: Session) -> int:
            row = session.get(Study, number)
            if row is None or row.deleted_at is not None:
                raise not_found("study", number)
            row.updated_at = self._clock.now()
            act(session, row)
            session.add(row)
            session.flush()
            return number

        return self._written(write)

    def _written(self, act: Callable[[Session], int]) -> Study:
        number = self._store.write(act)
        self.nudge(number)
        self._changed(subject_of(number))
        return self.get(number)

    def _tell(self, session: Session, row: Study, reason: str, words: str) -> None:
        record_event(session, subject_of(row.id or 0), reason, words, now=self._clock.now())

    # -- questions -------------------------------------------------------------------------------

    def active(self) -> list[Study]:
        """Studies that are not over."""
        with self._store.read() as session:
            return list(session.execute(select(Study).where(col(Study.ended_at).is_(None))).scalars())

    def get(self, number: int) -> Study:
        """A study by its id, deleted ones included; ``NOT_FOUND`` if there is none."""
        with self._store.read() as session:
            row = session.get(Study, number)
        if row is None:
            raise not_found("study", number)
        return row

    def find(self, *, dialect: str, name: str, workspaces: Collection[str] | None = None) -> Study | None:
        """The live study that an API knows under this name, in any of these workspaces (None: in all); the newest of
        several."""
        query = select(Study).where(col(Study.dialect) == dialect, col(Study.name) == name)
        with self._store.read() as session:
            return session.execute(_newest(query, workspaces).limit(1)).scalars().first()

    def named(self, name: str, workspaces: Collection[str] | None = None) -> Study:
        """A live study by name or by id, whatever its dialect; for the command line.

        Raises:
            LocalmlError: ``NOT_FOUND``, or ``CONFLICT`` naming the candidates when several have the name.
        """
        with self._store.read() as session:
            query = select(Study).where(col(Study.name) == name)
            found: list[Study] = list(session.execute(_newest(query, workspaces)).scalars())
            if not found and (number := whole(name)) is not None:
                query = select(Study).where(col(Study.id) == number)
                found = list(session.execute(_newest(query, workspaces)).scalars())
        if not found:
            raise not_found("study", name)
        if len(found) > 1:
            words = ", ".join(f"{row.id} ({row.dialect} of {row.owner})" for row in found)
            raise LocalmlError(Code.CONFLICT, f"several studies are named '{name}'; say which by id: {words}")
        return found[0]

    def page(self, query: StudyQuery) -> StudyPage:
        """One page of studies that are not deleted.

        Raises:
            LocalmlError: ``INVALID`` naming ``limit`` or ``after``.
        """
        if not 1 <= query.limit <= MAX_PAGE:
            raise invalid("limit", f"must be between 1 and {MAX_PAGE}, not {query.limit}")
        wanted = _newest(select(Study), query.workspaces)
        for column in ("dialect", "owner", "owner_id", "name"):
            if (value := getattr(query, column)) is not None:
                wanted = wanted.where(col(getattr(Study, column)) == value)
        if query.states:
            wanted = wanted.where(col(Study.state).in_(query.states))
        if query.contains:
            wanted = wanted.where(func.instr(col(Study.name), query.contains) > 0)
        if query.after:
            before = whole(query.after)
            if before is None:
                raise invalid("after", "is no cursor of this list")
            wanted = wanted.where(col(Study.id) < before)
        with self._store.read() as session:
            found = list(session.execute(wanted.limit(query.limit + 1)).scalars())
        more = len(found) > query.limit
        items = found[: query.limit]
        return StudyPage(items, str(items[-1].id) if more else None)

    @staticmethod
    def spec(row: Study) -> StudySpec:
        """What a study was asked to do."""
        return StudySpec.model_validate_json(row.spec)

    def trials(
        self,
        number: int,
        *,
        run: int | None = None,
        states: tuple[TrialState, ...] = (),
        after: int = 0,
        limit: int | None = None,
    ) -> list[Trial]:
        """Trials of a study in the order of their numbers.

        Args:
            run: only those of this run; a study that was started over has several.
            after: only those with higher numbers.
            limit: at most so many; None: all.
        """
        query = select(Trial).where(col(Trial.study_id) == number, col(Trial.number) > after)
        if run is not None:
            query = query.where(col(Trial.run) == run)
        if states:
            query = query.where(col(Trial.state).in_(states))
        with self._store.read() as session:
            return list(session.execute(query.order_by(col(Trial.number)).limit(limit)).scalars())

    def trial(self, number: int, trial: int) -> Trial:
        """One trial by its number; ``NOT_FOUND`` if there is none."""
        with self._store.read() as session:
            found = session.get(Trial, (number, trial))
        if found is None:
            raise not_found("trial", trial)
        return found

    def best(self, number: int) -> Trial | None:
        """The best trial so far of a study's newest run."""
        row = self.get(number)
        return None if row.best is None else self.trial(number, row.best)

    def events(self, number: int, *, after: int = 0, limit: int = 1000) -> list[Event]:
        """What happened to a study, oldest first; what its trials did is told by their own events."""
        return Events(self._store).of(subject_of(number), after=after, limit=limit)


def _end_if_idle(session: Session, row: Study, now: float) -> None:
    """Let a study that is ending be over, if none of its trials runs any more."""
    if row.outcome is None or row.running:
        return
    row.state, row.ended_at, row.updated_at = row.outcome, now, now
    words = f"{row.state}: {row.message}" if row.message else str(row.state)
    record_event(session, subject_of(row.id or 0), "Ended", words, now=now, warning=row.state is StudyState.FAILED)


def _need_over(row: Study, what: str) -> None:
    if row.state not in OVER:
        raise LocalmlError(Code.WRONG_STATE, f"study '{row.name}' is {row.state}; it can {what} once it is over")


def _need_algorithm(session: Session, row: Study) -> None:
    there = select(col(Algorithm.id)).where(col(Algorithm.name) == row.algorithm)
    if built_in(row.algorithm) is None and session.execute(there).first() is None:
        words = f"there is no algorithm '{row.algorithm}'; built in are {', '.join(BUILT_IN)}"
        raise invalid("algorithm", words)


def _newest(query: Any, workspaces: Collection[str] | None) -> Any:
    query = query.where(col(Study.deleted_at).is_(None)).order_by(col(Study.id).desc())
    return query if workspaces is None else query.where(col(Study.workspace).in_(list(workspaces)))
