"""The loop that drives studies: it asks their suggesters, begins trials and records what came of them.

One pass over a study: load what is recorded, :func:`plan` what follows (pure), write that in one transaction, act. What
takes long runs on threads and comes back as a result: questions to suggesters, reading what trials reported, looks at
trials that may be stopped early. A trial is a workload, which the job loop alone starts, ends and cleans up; so a trial
lives as long as its containers do, whatever happens to the server.

Everything in memory is found again from the records. A suggester whose proposal could not be recorded, for whatever
reason, is closed; the next question opens one that knows what is recorded.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Executor
from functools import partial

from sqlmodel import Session

from localml.control.studies.errands import Errands, words_of
from localml.control.studies.known import Known, Seen
from localml.control.studies.looks import look
from localml.control.studies.plan import Plan, Report, plan
from localml.control.studies.results import Results
from localml.control.studies.talk import Answer, Talk, close_idle
from localml.control.worker import Worker
from localml.core.clock import Clock
from localml.core.errors import Code, LocalmlError
from localml.core.events.records import record_event
from localml.core.people.identity import Caller
from localml.core.sql import IDS, id_list
from localml.core.studies import trials
from localml.core.studies.specs import StudySpec
from localml.core.studies.studies import Studies, subject_of
from localml.core.studies.tables import PREPARING
from localml.core.studies.template import trial_spec
from localml.core.studies.trials import Asking, StudyRow, Superseded, TrialRow
from localml.core.subjects import Parent, Subject
from localml.core.work.room import need_room
from localml.core.work.states import TERMINAL, Desired, Kind, State
from localml.core.work.workloads import Submission, Workloads
from localml.hpo.base import Plugin, Suggesters
from localml.store.database import Database

log = logging.getLogger("localml.control")

CHECK_S = 60.0
"""Seconds between two looks at all studies that are not over, whatever was heard of them."""
_LATER = (Code.STORAGE, Code.UNAVAILABLE, Code.TOO_MANY_REQUESTS, Code.QUOTA)
"""What says nothing of the study: it is tried again."""
_MOST_TRIES, _MOST_WAITS = 3, 5
_ENDED = (
    f"SELECT id FROM workload WHERE id {IDS} AND state IN ({', '.join(repr(one.value) for one in sorted(TERMINAL))})"
)
_MOST_STEPS = 500
"""Of one study before the others have their turn."""
_LONGEST_NAME = 128


class StudyDriver:
    """The loop of one installation.

    Args:
        owner: the user of this number, in whose name trials run.
        gone: why nothing may begin in the name of this user in this workspace; empty where it may.
        results: reads what trials reported.
        suggesters: opens algorithms.
        plugin: the installed algorithm of a name; None for a built-in one.
        changed: told of every study that changed; wakes followers.
        asks, reads: the threads; tests give ones that work at once.
    """

    def __init__(
        self,
        db: Database,
        clock: Clock,
        studies: Studies,
        workloads: Workloads,
        results: Results,
        suggesters: Suggesters,
        *,
        owner: Callable[[int], Caller],
        gone: Callable[[int, str], str] = lambda *_: "",
        plugin: Callable[[str], Plugin | None] = lambda _: None,
        changed: Callable[[Subject], None] = lambda _: None,
        asks: Executor | None = None,
        reads: Executor | None = None,
    ) -> None:
        self._db = db
        self._clock = clock
        self._workloads = workloads
        self._results = results
        self._suggesters = suggesters
        self._owner = owner
        self._gone = gone
        self._plugin = plugin
        self._changed = changed
        self._known: dict[int, Known] = {}
        self._study_of: dict[int, int] = {}  # workload of a trial that is not told -> its study
        self._lock = threading.Lock()
        self._dirty: set[int] = set()
        self._moved: set[int] = set()
        self._check_at = 0.0
        self._worker = Worker("studies", self.tick, what="driving studies")
        self._errands = Errands(self._worker.nudge, asks, reads)
        studies.nudge = self.nudge

    # -- life ------------------------------------------------------------------------------------

    def start(self) -> None:
        """Run on a thread of its own; goes on with what an earlier server has left."""
        self._worker.start()

    def close(self) -> None:
        """Stop the loop, and the suggesters. Trials go on; the next start finds them."""
        self._worker.close()
        self._results.closing = True
        self._errands.close()
        for known in self._known.values():
            known.talk.close(for_good=True)

    def nudge(self, study: int) -> None:
        """A study changed: look at it soon."""
        with self._lock:
            self._dirty.add(study)
        self._worker.nudge()

    def changed(self, workload: int) -> None:
        """A workload changed, or wrote something; costs next to nothing where it is no trial."""
        if workload in self._study_of:
            with self._lock:
                self._moved.add(workload)
            self._worker.nudge()

    # -- one tick --------------------------------------------------------------------------------

    def tick(self) -> float | None:
        """One pass. Returns the seconds until the next one is due, None when only a nudge can bring work."""
        due = self._due()
        try:
            while due:
                self._safely(due[0])
                del due[0]
        finally:  # a full disk holds them all up
            with self._lock:
                self._dirty.update(due)
        close_idle(known.talk for known in self._known.values() if not known.asking)
        return self._next()

    def _due(self) -> list[int]:
        """Studies that are to be looked at now."""
        with self._lock:
            moved, self._moved = self._moved, set()
            dirty, self._dirty = self._dirty, set()
        served = self._errands.take()
        dirty.update(self._study_of[one] for one in self._ended(moved) if one in self._study_of)
        now = self._clock.now()
        dirty.update(study for study, known in self._known.items() if (known.due_in(now) or 1.0) <= 0)
        if time.monotonic() >= self._check_at:
            self._check_at = time.monotonic() + CHECK_S
            with self._db.read_raw() as connection:
                dirty.update(trials.active(connection))
        for study in dirty:
            if (known := self._known.get(study)) is not None:
                known.seen = None  # it may be another one by now
        return sorted(dirty | served)

    def _ended(self, moved: set[int]) -> set[int]:
        """Those of these trials' workloads that are over. The others wrote something."""
        if not moved:
            return set()
        with self._db.read_raw() as connection:
            ended = {number for (number,) in connection.execute(_ENDED, (id_list(moved),))}
        for workload in moved - ended:
            if (known := self._known.get(self._study_of.get(workload, 0))) is not None:
                known.look_soon()
        return ended

    def _safely(self, study: int) -> None:
        """One study, whose defects are its own."""
        try:
            self._one(study)
        except LocalmlError as error:
            if error.code not in (Code.STORAGE, Code.UNAVAILABLE):
                self._defect(study, error)
                return
            raise
        except Exception as error:
            self._defect(study, error)

    def _defect(self, study: int, error: Exception) -> None:
        log.error("study %d could not be driven; it is tried again", study, exc_info=error)
        known = self._known.get(study)
        if known is None:
            return
        known.answer = None
        known.again_later()
        if known.tries >= _MOST_TRIES and not known.failure:
            known.failure = f"a defect of localml, not of the search; the server's log says more: {error}"

    def _one(self, study: int) -> None:
        seen = self._seen(study)
        for _ in range(_MOST_STEPS):
            if seen is None:
                self._forget(study)
                return
            known = self._known.get(study)
            if known is None or known.life != seen.row.life:
                self._forget(study)
                known = self._begun(seen)
            known.deadline = seen.row.deadline
            if known.answer is not None:
                seen = self._begin(known, seen) or self._load(study)
                continue
            found = plan(known.view(seen.row, seen.running), self._clock.now())
            if not found.writes:
                known.seen = seen
                self._act(known, seen, found)
                return
            seen = self._written(known, seen, found) or self._load(study)
        self.nudge(study)  # it is the others' turn

    def _seen(self, study: int) -> Seen | None:
        """A study as it was left, if nothing was heard of it since but what the loop itself had done for it."""
        known = self._known.get(study)
        return known.seen if known is not None and known.seen is not None else self._load(study)

    def _load(self, study: int) -> Seen | None:
        with self._db.read_raw() as connection:
            row = trials.study_row(connection, study)
            return None if row is None else Seen(row, trials.running(connection, study))

    def _begun(self, seen: Seen) -> Known:
        row = seen.row
        with self._db.read_raw() as connection:
            (text,) = connection.execute("SELECT spec FROM study WHERE id = ?", (row.id,)).fetchone()
        talk = Talk(self._db, self._suggesters, self._plugin, row.id, partial(self._tell, row.id))
        known = Known(row.life, StudySpec.model_validate_json(text), talk)
        self._known[row.id] = known
        for one in seen.running:
            self._remember(row.id, known, one.workload_id)
        return known

    def _tell(self, study: int, words: str) -> None:
        """What an algorithm is about while it is opened, which may take minutes; said by its thread."""
        now = self._clock.now()
        self._db.write(lambda session: record_event(session, subject_of(study), PREPARING, words, now=now))
        self._changed(subject_of(study))

    def _remember(self, study: int, known: Known, workload: int) -> None:
        known.workloads.add(workload)
        self._study_of[workload] = study

    def _forget(self, study: int) -> None:
        known = self._known.pop(study, None)
        if known is not None:
            for workload in known.workloads:
                self._study_of.pop(workload, None)
            self._errands.ask(study, lambda: known.talk.close(for_good=True), lambda *_: None)

    # -- writing ---------------------------------------------------------------------------------

    def _written(self, known: Known, seen: Seen, found: Plan) -> Seen | None:
        """Record what was planned. The study as it is then; None: it is to be loaded."""
        row, now = seen.row, self._clock.now()

        def act(session: Session) -> None:
            trials.change(session, row, found.columns, now=now)
            for place, one in enumerate(found.tells, start=1):
                place += row.sequence
                trials.tell(session, row.id, one.number, one.outcome, place, improves=one.improves, now=now)
            for stop in found.stops:
                grace = 0.0 if stop.now else None
                self._workloads.want_stop(session, stop.trial.workload_id, stop.words, grace=grace)
                if stop.early:
                    trials.mark_pruning(session, row.id, stop.trial.number)
            for reason, words, warning in found.events:
                record_event(session, subject_of(row.id), reason, words, now=now, warning=warning)

        try:
            self._db.write(act)
        except Superseded:
            return None
        self._tell_of(known, seen, found)
        return None if found.over or found.stops else seen.after(found)

    def _tell_of(self, known: Known, seen: Seen, found: Plan) -> None:
        """Those who wait are told of what was recorded."""
        row, workloads = seen.row, {one.number: one.workload_id for one in seen.running}
        for place, one in enumerate(found.tells, start=1):
            if not known.asking:  # else the study ends
                known.talk.told(row, one.number, one.outcome.value, row.sequence + place)
            known.told(one.number, workloads[one.number])
            self._study_of.pop(workloads[one.number], None)
        for stop in found.stops:
            self._workloads.told(stop.trial.workload_id)
        self._changed(subject_of(row.id))

    def _begin(self, known: Known, seen: Seen) -> Seen | None:
        """Record a proposal, with the workload that it is. The study as it is then; None: it is to be loaded."""
        answer, known.answer = known.answer, None
        if answer is None or answer.number != seen.row.asked + 1:
            known.talk.close()  # it was asked for a study that is another one now
        elif answer.proposal.values is None:
            known.exhausted = answer.proposal.over
            known.waits = not answer.proposal.over
            return seen
        else:
            return self._begin_trial(known, seen, Asking(answer.number, answer.proposal.values, answer.state))
        return None

    def _begin_trial(self, known: Known, seen: Seen, asking: Asking) -> Seen | None:
        row = seen.row
        try:
            if words := self._gone(row.owner_id, row.workspace):
                raise LocalmlError(Code.FORBIDDEN, words)
            begun = self._submit(known, seen, asking)
        except Superseded:
            known.talk.close()
        except LocalmlError as error:
            known.talk.close()
            if error.code in _LATER:
                log.warning("study %s waits with trial %d: %s", row.name, asking.number, error)
                known.again_later()
            else:
                known.failure = f"trial {asking.number} cannot run: {error.message}"
        else:
            known.went_well()
            self._changed(subject_of(row.id))
            return begun
        return None

    def _submit(self, known: Known, seen: Seen, asking: Asking) -> Seen:
        row, columns = seen.row, trials.asked(seen.row, asking.number, self._clock.now(), known.spec.max_time)
        suffix = f"-{asking.number}"
        submission = Submission(
            name=row.name[: _LONGEST_NAME - len(suffix)] + suffix,
            spec=trial_spec(known.spec, row.name, asking.number, asking.values),
            caller=self._owner(row.owner_id),
            dialect=row.dialect,
            kind=Kind.TRIAL,
            parent=Parent(subject_of(row.id), asking.number),
            workspace=row.workspace,
            pool=row.pool,
        )

        def also(session: Session, workload: int) -> None:
            need_room(session, row.owner_id)
            trials.ask(session, row, asking, columns, workload, now=self._clock.now())
            self._remember(row.id, known, workload)  # before anybody hears of it

        workload = self._workloads.submit(submission, also=also)
        self._workloads.told(workload)
        return seen.begun(columns, TrialRow(asking.number, workload, False, State.QUEUED, Desired.RUN, None, "", None))

    # -- acting ----------------------------------------------------------------------------------

    def _act(self, known: Known, seen: Seen, found: Plan) -> None:
        row = seen.row
        for one in found.reads:
            if one.number not in known.reading and not known.rests:
                self._read(known, row, one)
        if found.asks and not known.rests:
            self._ask(known, row)
        if known.look_at is not None and known.look_at <= time.monotonic() and not known.looking:
            self._look(known, row, seen.running)

    def _ask(self, known: Known, row: StudyRow) -> None:
        known.asking, fresh = True, not known.talk.open

        def answered(answer: Answer | None, error: Exception | None) -> None:
            known.asking = False
            known.answer = answer
            if error is not None:
                self._no_answer(known, row, error, fresh=fresh)

        self._errands.ask(row.id, lambda: known.talk.ask(row, known.spec, row.asked + 1), answered)

    def _no_answer(self, known: Known, row: StudyRow, error: Exception, *, fresh: bool) -> None:
        """A suggester failed, and is closed. One that had worked before is opened once more from the records."""
        code = error.code if isinstance(error, LocalmlError) else None
        if self._worker.stopping.is_set():
            return  # it ended with the server
        if code is Code.STORAGE or (code in _LATER and known.tries < _MOST_WAITS):
            log.warning("the suggester of study %s is asked again later: %s", row.name, error)
            known.again_later()
        elif not fresh and not known.tries:
            log.warning("the suggester of study %s failed, and is opened again: %s", row.name, error)
            known.tries += 1
        else:
            known.failure = words_of(error)

    def _read(self, known: Known, row: StudyRow, trial: TrialRow) -> None:
        known.reading.add(trial.number)

        def read(report: Report | None, error: Exception | None) -> None:
            known.reading.discard(trial.number)
            if report is not None:
                known.reports[trial.number] = report
            elif isinstance(error, LocalmlError) or known.tries < _MOST_TRIES:
                log.warning("the result of trial %d of study %s is read again", trial.number, row.name, exc_info=error)
                known.again_later()
            else:
                known.reports[trial.number] = Report(trouble=f"its result could not be read: {error}")

        self._errands.read(row.id, lambda: self._results.read(row, known.spec, trial), read)

    def _look(self, known: Known, row: StudyRow, running: tuple[TrialRow, ...]) -> None:
        known.looking, known.look_at, known.looked_at = True, None, time.monotonic()

        def looked(bad: dict[int, str] | None, error: Exception | None) -> None:
            known.looking = False
            known.bad.update(bad or {})
            if error is not None:
                log.warning("the trials of study %s could not be compared", row.name, exc_info=error)

        self._errands.read(row.id, lambda: look(self._db, self._results, known, row, running), looked)

    # -- between ticks ---------------------------------------------------------------------------

    def _next(self) -> float | None:
        if not self._known:
            return None
        now = self._clock.now()
        left = [due for known in self._known.values() if (due := known.due_in(now)) is not None]
        left += self._errands.relieve()
        return max(0.0, min(*left, self._check_at - time.monotonic(), CHECK_S))
