"""The loop that makes what is into what is wanted. It alone moves states.

One tick: take in the results of slow acts, refresh the picture with what was committed, look at the engine, let
:func:`decide` judge what may have changed, write its decisions in one transaction, admit from the queue, then hand
slow acts to threads. Start-up is the same tick: what an earlier process left behind is found by name and adopted,
finished or removed. A tick runs when somebody nudges (a commit, an act's end, an engine's hint) and every few seconds
while something runs; with nothing active the loop sleeps until it is nudged.

What a tick costs depends on what has happened and on what runs, not on how many wait.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial

from sqlmodel import Session

from localml.control.jobs import records
from localml.control.jobs.acts import Acts
from localml.control.jobs.admitter import Admitter
from localml.control.jobs.apart import Write, each, write_apart
from localml.control.jobs.demands import Placement, Reason
from localml.control.jobs.holdings import Machine, ports_in_use
from localml.control.jobs.hostports import choose_ports
from localml.control.jobs.judging import Judgement
from localml.control.jobs.launcher import Launch, Launcher
from localml.control.jobs.looking import ENGINE_RETRY_S, SLOW_TICK_S, Eyes
from localml.control.jobs.patience import Patience
from localml.control.jobs.picture import Picture
from localml.control.jobs.plans import Site
from localml.control.jobs.pumps import RESUMED, LogPumps
from localml.control.jobs.quarantine import Quarantine
from localml.control.jobs.questions import Questions
from localml.control.jobs.results import Results, workload_of
from localml.control.jobs.snapshot import AttemptRow, WorkloadRow
from localml.control.worker import Worker
from localml.core.clock import Clock
from localml.core.errors import LocalmlError
from localml.core.events.records import record_event
from localml.core.failpoints import FAILPOINTS
from localml.core.logs.files import LogStore
from localml.core.subjects import Subject
from localml.core.work.states import TERMINAL, AttemptState, State
from localml.engines.base import STREAMS, Engine, EngineUnreachable, Phase
from localml.store.database import Database

log = logging.getLogger("localml.control")

CHECK_S = 60.0
"""Seconds between two comparisons of the picture with the records."""
_ACT_RETRY_S = 1.0
_QUEUE_TICK_S = 30.0
_SOON_S = 0.5
_SEAT_S = 1.0  # between two looks at acts that hang while others wait for their seats


class Reconciler:
    """The control loop of one installation.

    Args:
        db: where the records are.
        engine: where the containers are.
        site: what all plans share.
        machines: asked on every pass for the machines, their size and GPUs.
        unhealthy: asked with every slow look: GPU -> why it is unusable.
        acts, pumps: the threads of slow acts and of logs; tests give ones that work at once.
        changed: called with a workload's id whenever something about it changed (for followers); 0 for the platform.
    """

    def __init__(
        self,
        db: Database,
        engine: Engine,
        site: Site,
        logs: LogStore,
        clock: Clock,
        *,
        machines: Callable[[], Sequence[Machine]],
        unhealthy: Callable[[], Mapping[str, str]] = dict,
        acts: Acts | None = None,
        pumps: LogPumps | None = None,
        changed: Callable[[int], None] = lambda _: None,
    ) -> None:
        self._db = db
        self._engine = engine
        self._site = site
        self._logs = logs
        self._clock = clock
        self._changed = changed
        self._worker = Worker("reconciler", self.tick, what="the control loop")
        self.acts = acts or Acts(self.nudge, now=clock.now)
        self.pumps = pumps or LogPumps(engine, logs, done=self.nudge, changed=changed, tell=self._tell_of_log)
        self.eyes = Eyes(db, engine, clock, self.acts, node=site.node, unhealthy=unhealthy)
        self._launcher = Launcher(db, engine, site, clock, self.pumps)
        self._quarantine = Quarantine(clock)
        self._results = Results(db, self.eyes.seen, mapped=site.capabilities.ports_mapped)
        self._picture = Picture(db, told=self.nudge)
        self._judgement = Judgement(
            db, engine, logs, self._picture, self.eyes, self.pumps, self.acts, self._launcher, self._quarantine, changed
        )
        self._admitter = Admitter(self._picture, machines, spread=site.capabilities.gangs_spread)
        self._patience = Patience(
            db,
            self.acts,
            progress=self._launcher.heard,
            written=lambda one: sum(logs.size(one.workload_id, one.name, stream) for stream in STREAMS),
            grace=lambda number: self._picture.specs.spec(number).stop_grace,
            changed=changed,
        )
        self.questions = Questions(
            db, self._picture, self.eyes, self._admitter, self._patience, clock, self._launcher.told
        )
        self._unjudged: set[int] = set()
        self._unpinned: set[int] = set()
        self._check_at = time.monotonic() + CHECK_S
        self._watcher = threading.Thread(target=self._watch, name="localml-engine-watch", daemon=True)

    # -- life ------------------------------------------------------------------------------------

    def start(self) -> None:
        """Run the loop and the engine watcher on threads of their own."""
        self._worker.start()
        self._watcher.start()

    def close(self) -> None:
        """Stop the loop. Containers go on; the next start adopts them."""
        self._worker.close()
        if self._watcher.is_alive():
            self._watcher.join(timeout=5)
        self.acts.close()
        self.pumps.close()

    def nudge(self) -> None:
        """Something changed: look soon."""
        self._worker.nudge()

    def hint(self, name: str) -> None:
        """The engine says that this container changed: look at it soon."""
        self.eyes.hint(name)
        self._worker.nudge()

    def _watch(self) -> None:
        stopping = self._worker.stopping
        while not stopping.is_set():
            try:
                for name in self._engine.watch(stopping):
                    self.hint(name)
            except EngineUnreachable:
                self._worker.nudge()
            except Exception:
                log.exception("watching the engine failed")
            stopping.wait(ENGINE_RETRY_S)

    # -- one tick --------------------------------------------------------------------------------

    def tick(self) -> float | None:
        """One pass. Returns the seconds until the next one is due, None when only a nudge can bring work."""
        now = self._clock.now()
        self._take_in(now)
        self._refresh(now)
        answered = self._look()
        # without an answer nothing is concluded about what holds resources; what only waits needs no engine
        if self._judge(answered, now):
            self._refresh(now)
        if answered:
            self._clean()
            if self._admit(now):
                self._refresh(now)
                self._dispatch_starts()
        self._patience.look(self._picture.live.values(), self.eyes.down, now)
        self._check(now)
        return self._next(now)

    def _refresh(self, now: float) -> None:
        with self.questions.held():
            news = self._picture.refresh(now)
        self._admitter.note(news)
        self._unjudged |= news.changed
        self._unpinned |= news.changed

    def _check(self, now: float) -> None:
        """Compare the picture with the records now and then; a difference is a defect, told and put right."""
        if time.monotonic() < self._check_at or not (self._picture.waiting or self._picture.live):
            return
        wrong = self._picture.check(now)
        self._check_at = time.monotonic() + CHECK_S
        if wrong:
            log.error("a defect: the control loop's picture was not that of the records: %s", ", ".join(wrong))
            self.nudge()

    def _take_in(self, now: float) -> None:
        results = self.acts.take()
        if not results:
            return
        try:
            self._results.record(results, now, self._quarantine.blame)
        except BaseException:
            self.acts.put_back(results)  # a full disk, say: their keys would stay busy for ever
            raise
        for result in results:
            error = result.error or (_unreached(result.value) if result.kind == "start" else None)
            rest = self.acts.failed(result, error) if error is not None else 0.0
            if result.kind == "stop":
                name, grace = result.subject
                self.hint(name)
                if error is None:
                    rest = grace + _ACT_RETRY_S  # the engine has its order; say it again only if it was lost
            elif result.kind == "start" and error is not None:
                self.eyes.look_again()
            if result.kind in ("start", "remove") and (number := workload_of(result)):
                self._changed(number)
            self.acts.settle(result, rest, failed=error is not None)

    def _look(self) -> bool:
        attempts = [one for unit in self._picture.live.values() for one in unit.attempts]
        answered = self.eyes.look(attempts, self._picture.limits.gpu_marks)
        for one in attempts:
            if one.state is AttemptState.RUNNING:
                self.pumps.ensure(one.workload_id, one.name)
        return answered

    def _judge(self, answered: bool, now: float) -> bool:
        """Let each workload that may have changed be decided. Returns whether anything was written."""
        picture = self._picture
        again = self._unjudged | self._quarantine.due()
        units = [picture.waiting[one] for one in again if one in picture.waiting]
        if answered:
            units += [unit for unit in picture.live.values() if unit.row.state not in TERMINAL | {State.QUEUED}]
        written = self._judgement.pass_on(units, now)
        self._unjudged.clear()
        return written

    def _admit(self, now: float) -> bool:
        picture = self._picture
        placements = self._admitter.placements(self.eyes.lost, now)
        self._pin(placements)
        if not placements:
            return False
        taken = ports_in_use(picture.live.values())
        plans: list[tuple[WorkloadRow, Write]] = []
        each(
            [(one, partial(self._place, one, found, taken, now, plans)) for one, found in placements.items()],
            self._quarantine.blame,
        )
        write_apart(self._db, [(row.id, write) for row, write in plans], self._quarantine.blame)
        FAILPOINTS.hit("after-intent")
        for row, _ in plans:
            self._changed(row.id)
        return True

    def _place(
        self, number: int, found: Placement, taken: set[int], now: float, plans: list[tuple[WorkloadRow, Write]]
    ) -> None:
        row, spec = self._picture.waiting[number].row, self._picture.specs.spec(number)
        mapped = self._site.capabilities.ports_mapped
        ports = {
            (grant.role, grant.index): choose_ports(spec.role(grant.role), mapped, taken)
            for grant in found.grants
            if spec.role(grant.role).ports
        }
        install, engine = self._site.install, self._engine.identity

        def write(session: Session) -> None:
            records.place(session, row, found, ports, install=install, engine=engine, now=now)

        plans.append((row, write))

    def _pin(self, placed: Mapping[int, Placement]) -> None:
        """Remember what the images of those are that came to wait."""
        for number in self._unpinned - placed.keys():
            unit = self._picture.waiting.get(number)
            if unit is not None:
                self._launcher.pin(self.acts, unit.row, self._picture.specs.spec(number))
            elif number not in self._picture.live:
                self._launcher.forget(number)
                self._quarantine.forget(number)
        self._unpinned.clear()

    def _dispatch_starts(self) -> None:
        for unit in self._picture.live.values():
            sound = unit.row.id not in self._picture.specs.broken and not self._quarantine.condemned(unit.row.id)
            if (
                sound
                and unit.row.state is State.PREPARING
                and any(one.state is AttemptState.PLANNED for one in unit.current)
            ):
                self._judgement.start(unit)

    def _clean(self) -> None:
        """Remove what ended tries left in the engine, and tick off workloads of which nothing is left."""
        done: list[int] = []
        for unit in self._picture.live.values():
            row = unit.row
            old = [one for one in unit.attempts if one.state is AttemptState.ENDED]
            if row.state not in TERMINAL:
                self._stop_again(one for one in old if one.number == row.attempt)
                old = [one for one in old if one.number < row.attempt]
            if old:
                self._launcher.remove(self.acts, row, old, unit.attempts)
            elif row.state in TERMINAL and not unit.attempts:
                done.append(row.id)
        if done:

            def apply(session: Session) -> None:
                for number in done:
                    records.cleaned(session, number)

            self._db.write(apply)

    def _stop_again(self, ended: Iterable[AttemptRow]) -> None:
        """Stop what somebody has started once more after its end, which the others of its gang go on without: what it
        held may be somebody else's by now."""
        for one in ended:
            seen = self.eyes.seen.get(one.name)
            if seen is not None and seen.phase is Phase.RUNNING:
                act = partial(self._engine.stop, one.name, 0)
                self.acts.run("stop", (("attempt", one.id),), (one.name, 0), act)

    def _next(self, now: float) -> float | None:
        """Seconds until the clock alone can bring work."""
        picture = self._picture
        moments = []
        due = picture.next_due()
        if due is not None:
            moments.append(due - now)
        for unit in picture.live.values():
            if unit.row.started_at is not None and unit.row.state not in TERMINAL:
                limit = picture.specs.spec(unit.row.id).time_limit
                if limit is not None:
                    moments.append(unit.row.started_at + limit - now)
        if self.eyes.down:
            moments.append(ENGINE_RETRY_S)
        if any(unit.attempts for unit in picture.live.values()):
            moments.append(SLOW_TICK_S)
        elif picture.waiting:
            moments.append(_QUEUE_TICK_S)
        for due in (self.eyes.next_due(), self._quarantine.next_due()):
            if due is not None:
                moments.append(max(_SOON_S, due - now))
        if self._judgement.again is not None:
            moments.append(self._judgement.again - now)
        if self.acts.relieve() | self._launcher.relieve():
            moments.append(_SEAT_S)
        resting = self.acts.next_free()
        if resting is not None:
            moments.append(resting)
        return max(0.0, min(moments)) if moments else None

    @property
    def engine_down(self) -> bool:
        """Whether the engine did not answer when it was last asked."""
        return self.eyes.down

    def why(self, workload_id: int) -> Reason | None:
        """See :meth:`localml.control.jobs.questions.Questions.why`."""
        return self.questions.why(workload_id)

    def _tell_of_log(self, workload_id: int, name: str, reason: str, words: str) -> bool:
        bad, now = reason != RESUMED, self._clock.now()
        log.log(logging.ERROR if bad else logging.INFO, "output of %s: %s", name, words)
        try:
            self._db.write(
                lambda s: record_event(
                    s, Subject.workload(workload_id), reason, words, now=now, warning=bad, replica=name
                )
            )
        except LocalmlError as error:
            log.error("the event could not be stored either: %s", error)
            return False
        return True


def _unreached(launch: Launch | None) -> Exception | None:
    """Why it is not known what became of a start, if it is not."""
    started = launch.started if launch is not None else ()
    return next((one.error for one in started if isinstance(one.error, EngineUnreachable)), None)
