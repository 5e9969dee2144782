"""The loop that makes what is into what is wanted. It alone moves states.

One tick: take in the results of slow acts, read a snapshot, look at the engine, let :func:`decide` judge every
workload, write its decisions in one transaction, admit from the queue, then hand slow acts to threads. Start-up is
the same tick: what an earlier process left behind is found by name and adopted, finished or removed. A tick runs
when somebody nudges (a commit, an act's end, an engine's hint) and every few seconds while something runs; with
nothing active the loop sleeps until it is nudged.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from functools import partial

from sqlmodel import Session, col, select

from localml.control.jobs import records
from localml.control.jobs.acts import Acts
from localml.control.jobs.admission import Admission, Reason, admit
from localml.control.jobs.decide import Decision, Discard, EndAttempt, Move, Start, Stop, View, decide
from localml.control.jobs.hostports import choose_ports
from localml.control.jobs.launcher import Launch, Launcher
from localml.control.jobs.observe import EngineWorld, Observations
from localml.control.jobs.plans import Site
from localml.control.jobs.pumps import LogPumps
from localml.control.jobs.snapshot import (
    Machine,
    Snapshot,
    SpecCache,
    WorkloadRow,
    broken_dependency,
    holders_of,
    load,
    node_of,
    pools_of,
    view_of,
    waiting_of,
)
from localml.core.clock import Clock
from localml.core.errors import LocalmlError
from localml.core.failpoints import FAILPOINTS
from localml.core.logs.files import LogStore
from localml.core.work.causes import Cause
from localml.core.work.lifecycle import record_event
from localml.core.work.states import TERMINAL, AttemptState, State
from localml.core.work.tables import Attempt
from localml.engines.base import STREAMS, Engine, EngineUnreachable
from localml.store.database import Database

log = logging.getLogger("localml.control")

SLOW_TICK_S = 5.0
_ENGINE_RETRY_S = 1.0
_STORAGE_RETRY_S = 2.0
_ACT_RETRY_S = 1.0
_LONG_TICK_S = 0.02
_QUEUE_TICK_S = 30.0
_TAIL = 4096


class Reconciler:
    """The control loop of one installation.

    Args:
        db: where the records are.
        engine: where the containers are.
        site: what all plans share.
        machine: asked on every pass for the size of the machine and its GPUs.
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
        machine: Callable[[], Machine],
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
        self._machine = machine
        self._unhealthy = unhealthy
        self._changed = changed
        self._specs = SpecCache()
        self._seen = Observations(engine)
        self.acts = acts or Acts(self.nudge)
        self.pumps = pumps or LogPumps(engine, logs, done=self.nudge, changed=changed, trouble=self._log_trouble)
        self._launcher = Launcher(db, engine, site, clock)
        self._lost: dict[str, str] = {}
        self._wake = threading.Event()
        self._stop = threading.Event()
        self._hints: set[str] = set()
        self._hint_lock = threading.Lock()
        self._look_at = 0.0  # monotonic time of the next full look at the engine
        self._engine_down = False
        self._log_full: set[int] = set()
        self._threads: list[threading.Thread] = []

    # -- life ------------------------------------------------------------------------------------

    def start(self) -> None:
        """Run the loop and the engine watcher on threads of their own."""
        for name, target in (("reconciler", self._run), ("engine-watch", self._watch)):
            thread = threading.Thread(target=target, name=f"localml-{name}", daemon=True)
            self._threads.append(thread)
            thread.start()

    def close(self) -> None:
        """Stop the loop. Containers go on; the next start adopts them."""
        self._stop.set()
        self._wake.set()
        for thread in self._threads:
            thread.join(timeout=5)
        self.acts.close()
        self.pumps.close()

    def nudge(self) -> None:
        """Something changed: look soon."""
        self._wake.set()

    def hint(self, name: str) -> None:
        """The engine says that this container changed: look at it soon."""
        with self._hint_lock:
            self._hints.add(name)
        self._wake.set()

    def _run(self) -> None:
        while not self._stop.is_set():
            self._wake.clear()
            began = time.thread_time()
            delay = self._tick_safely()
            spent = time.thread_time() - began
            # long ticks take at most half of the time, so that a burst of nudges leaves room for everybody else
            if spent > _LONG_TICK_S and self._stop.wait(min(spent, 0.25)):
                return
            self._wake.wait(delay)

    def _tick_safely(self) -> float | None:
        try:
            return self.tick()
        except LocalmlError as error:
            log.error("the control loop waits: %s", error)
            return _STORAGE_RETRY_S
        except Exception:
            log.exception("a tick failed; the next one looks again")
            return SLOW_TICK_S

    def _watch(self) -> None:
        while not self._stop.is_set():
            try:
                for name in self._engine.watch(self._stop):
                    self.hint(name)
            except EngineUnreachable:
                self._wake.set()
            except Exception:
                log.exception("watching the engine failed")
            self._stop.wait(_ENGINE_RETRY_S)

    # -- one tick --------------------------------------------------------------------------------

    def tick(self) -> float | None:
        """One pass. Returns the seconds until the next one is due, None when only a nudge can bring work."""
        now = self._clock.now()
        self._take_in(now)
        snapshot = self._load()
        answered = self._observe(snapshot)
        # without an answer nothing is concluded about what holds resources; what only waits needs no engine
        if self._judge(snapshot, snapshot.active if answered else snapshot.queued, now):
            snapshot = self._load()
        if answered:
            self._clean(snapshot)
            if self._admit(snapshot, now):
                snapshot = self._load()
                self._dispatch_starts(snapshot)
        return self._next(snapshot, now)

    def _load(self) -> Snapshot:
        with self._db.read() as session:
            return load(session, self._specs, self._site.node)

    def _take_in(self, now: float) -> None:
        results = self.acts.take()
        if not results:
            return
        try:
            self._launcher.record(results, self._seen, now)
        except BaseException:
            self.acts.put_back(results)  # a full disk, say: their keys would stay busy for ever
            raise
        for result in results:
            rest = _ACT_RETRY_S if result.error is not None else 0.0
            if result.kind == "stop":
                name, grace = result.subject
                self.hint(name)
                rest = max(rest, grace + _ACT_RETRY_S)  # the engine has its order; say it again only if it was lost
            elif result.kind == "start" and result.value is not None and _unreached(result.value):
                self._look_at = 0.0
            self.acts.settle(result, rest)

    def _observe(self, snapshot: Snapshot) -> bool:
        """Look at the engine as far as that is due. False when it does not answer: then nothing is concluded."""
        with self._hint_lock:
            hints, self._hints = self._hints, set()
        everything = [one for attempts in snapshot.attempts.values() for one in attempts]
        uncleaned = {one.name for one in everything}
        # what is being started is looked at when its start is recorded: until then its end could not be
        early = {one.name for one in everything if one.state is AttemptState.PLANNED} & hints
        hints -= early
        answered = True
        if self._look_at == 0.0 or (time.monotonic() >= self._look_at and uncleaned) or not self._seen.complete:
            answered = self._seen.look(one.name for one in everything if one.state is AttemptState.RUNNING)
            self._look_at = time.monotonic() + (SLOW_TICK_S if answered else _ENGINE_RETRY_S)
            if answered:
                self._check_gpus(snapshot)
                self._sweep(uncleaned)
        elif hints & uncleaned:
            answered = self._seen.glance(hints & uncleaned)
        with self._hint_lock:
            self._hints |= early if answered else early | hints
        self._tell_engine(answered)
        for one in everything:
            if one.state is AttemptState.RUNNING:
                self.pumps.ensure(one.workload_id, one.name)
        return answered

    def _check_gpus(self, snapshot: Snapshot) -> None:
        """Fence GPUs that have become unhealthy; who runs on them is decided by the same tick."""
        self._lost = dict(self._unhealthy())
        fresh = {gpu: why for gpu, why in self._lost.items() if gpu not in snapshot.gpu_marks}
        if not fresh:
            return
        now = self._clock.now()

        def apply(session: Session) -> None:
            for gpu, why in fresh.items():
                records.fence(session, gpu, self._site.node, why, now=now)

        self._db.write(apply)

    def _tell_engine(self, answered: bool) -> None:
        if answered == (not self._engine_down):
            return
        self._engine_down = not answered
        reason, words = (
            ("EngineAnswers", f"the {self._engine.name} engine answers again")
            if answered
            else ("EngineUnreachable", f"the {self._engine.name} engine does not answer: {self._seen.unreachable}")
        )
        log.warning(words)
        now = self._clock.now()
        self._db.write(lambda s: record_event(s, None, reason, words, now=now, warning=not answered))

    def _sweep(self, known: set[str]) -> None:
        """Remove containers with our label that no record speaks of: every record is written before its container."""
        for name in self._seen.names() - known:
            if self._recorded(name):
                continue
            log.warning("removing container %s: no record speaks of it", name)
            self.acts.run("remove", (("orphan", name),), name, partial(self._engine.remove, name))

    def _recorded(self, name: str) -> bool:
        with self._db.read() as session:
            query = select(Attempt.id).where(Attempt.name == name, col(Attempt.removed).is_(False))
            return session.exec(query).first() is not None

    def _judge(self, snapshot: Snapshot, rows: list[WorkloadRow], now: float) -> bool:
        """Let each workload be decided, write the outcome, start the slow acts. True if anything was written."""
        names = {one.name: one.workload_id for attempts in snapshot.attempts.values() for one in attempts}

        def tail(name: str) -> bytes:
            return self._logs.tail(names[name], name, "stderr", _TAIL)

        world = EngineWorld(self._seen, self.pumps, self.acts, tail, now)
        judged: list[tuple[WorkloadRow, View, list[Decision]]] = []
        for row in rows:
            spec = self._specs.spec(row.id)
            view = view_of(row, snapshot.current(row), spec, self._lost)
            decisions = decide(view, world, now)
            broken = broken_dependency(row, snapshot, spec) if row.state is State.QUEUED and not decisions else None
            if broken is not None:
                words = f"workload {broken}, which this one depends on, did not succeed"
                decisions = [Move(State.FAILED, "Failed", words, True, {"cause": Cause.DEPENDENCY, "message": words})]
            if decisions:
                judged.append((row, view, decisions))
        writes = [(row, step) for row, _, steps in judged for step in steps if isinstance(step, Move | EndAttempt)]
        if writes:
            self._write(writes, now)
        for row, _, steps in judged:
            self._act(snapshot, row, steps)
        return bool(writes)

    def _write(self, writes: list[tuple[WorkloadRow, Move | EndAttempt]], now: float) -> None:
        def apply(session: Session) -> None:
            for row, step in writes:
                if isinstance(step, Move):
                    records.move(session, row, step, now=now)
                else:
                    sizes = {
                        stream: (
                            self._logs.relative(row.id, step.attempt.name, stream),
                            self._logs.size(row.id, step.attempt.name, stream),
                        )
                        for stream in STREAMS
                    }
                    records.settle(session, step, row, sizes, now)

        self._db.write(apply)
        for row, step in writes:
            if isinstance(step, EndAttempt):
                self.pumps.forget(step.attempt.name)
            self._changed(row.id)

    def _act(self, snapshot: Snapshot, row: WorkloadRow, steps: list[Decision]) -> None:
        for step in steps:
            if isinstance(step, Stop):
                name, grace = step.attempt.name, step.grace
                act = partial(self._engine.stop, name, grace)
                self.acts.run("stop", (("attempt", step.attempt.id),), (name, grace), act)
            elif isinstance(step, Discard):
                self._launcher.discard(self.acts, step.attempt)
            elif isinstance(step, Start):
                self._launcher.start(self.acts, row, self._specs.spec(row.id), snapshot.current(row))

    def _admit(self, snapshot: Snapshot, now: float) -> bool:
        queued = snapshot.queued
        if not queued:
            return False
        answer = self._pass(snapshot, self._specs, now)
        for number in answer.reasons:
            self._launcher.pin(self.acts, snapshot.workloads[number], self._specs.spec(number))
        if not answer.placements:
            return False
        taken = self._ports_in_use(snapshot)
        plans = []
        for number, placement in answer.placements.items():
            row, spec = snapshot.workloads[number], self._specs.spec(number)
            ports = {
                (grant.role, grant.index): choose_ports(spec.role(grant.role), self._site.isolated, taken)
                for grant in placement.grants
                if spec.role(grant.role).ports
            }
            plans.append((row, placement, ports))

        def apply(session: Session) -> None:
            for row, placement, ports in plans:
                records.place(session, row, placement, ports, install=self._site.install, now=now)

        self._db.write(apply)
        FAILPOINTS.hit("after-intent")
        for row, _, _ in plans:
            self._changed(row.id)
        return True

    def _pass(self, snapshot: Snapshot, specs: SpecCache, now: float) -> Admission:
        return admit(
            waiting_of(snapshot, specs, now),
            node_of(snapshot, self._machine(), self._lost),
            pools_of(snapshot),
            holders_of(snapshot, specs),
            now,
        )

    @staticmethod
    def _ports_in_use(snapshot: Snapshot) -> set[int]:
        return {
            int(host)
            for attempts in snapshot.attempts.values()
            for one in attempts
            for _, host in (one.ports or {}).values()
        }

    def _dispatch_starts(self, snapshot: Snapshot) -> None:
        for row in snapshot.active:
            if row.state is not State.PREPARING:
                continue
            planned = [one for one in snapshot.current(row) if one.state is AttemptState.PLANNED]
            if planned:
                self._launcher.start(self.acts, row, self._specs.spec(row.id), snapshot.current(row))

    def _clean(self, snapshot: Snapshot) -> None:
        """Remove what ended tries left in the engine, and tick off workloads of which nothing is left."""
        done: list[int] = []
        for row in snapshot.workloads.values():
            attempts = snapshot.attempts.get(row.id, [])
            old = [one for one in attempts if one.state is AttemptState.ENDED]
            if row.state not in TERMINAL:
                old = [one for one in old if one.number < row.attempt]
            if old:
                self._launcher.remove(self.acts, row, old, attempts)
            elif row.state in TERMINAL and not attempts:
                done.append(row.id)
        if done:

            def apply(session: Session) -> None:
                for number in done:
                    records.cleaned(session, number)

            self._db.write(apply)

    def _next(self, snapshot: Snapshot, now: float) -> float | None:
        """Seconds until the clock alone can bring work."""
        moments = []
        for row in snapshot.active:
            if row.not_before is not None and row.state is State.QUEUED:
                moments.append(row.not_before - now)
            limit = self._specs.spec(row.id).time_limit
            if limit is not None and row.started_at is not None:
                moments.append(row.started_at + limit - now)
        if self._engine_down:
            moments.append(_ENGINE_RETRY_S)
        if snapshot.attempts:
            moments.append(SLOW_TICK_S)
        elif snapshot.queued:
            moments.append(_QUEUE_TICK_S)
        resting = self.acts.next_free()
        if resting is not None:
            moments.append(resting)
        return max(0.0, min(moments)) if moments else None

    @property
    def engine_down(self) -> bool:
        """Whether the engine did not answer when it was last asked."""
        return self._engine_down

    # -- questions from outside ------------------------------------------------------------------

    def why(self, workload_id: int) -> Reason | None:
        """Why a queued workload does not run, from a fresh pass; None when it is not queued."""
        now = self._clock.now()
        specs = SpecCache()  # this runs on the caller's thread; the loop's own cache is the loop's
        with self._db.read() as session:
            snapshot = load(session, specs, self._site.node)
        return self._pass(snapshot, specs, now).reasons.get(workload_id)

    def _log_trouble(self, workload_id: int, name: str, words: str) -> None:
        if workload_id in self._log_full:
            return
        self._log_full.add(workload_id)
        now = self._clock.now()
        log.error("workload %s: %s", workload_id, words)
        try:
            self._db.write(
                lambda s: record_event(s, workload_id, "LogStalled", words, now=now, warning=True, replica=name)
            )
        except LocalmlError as error:
            self._log_full.discard(workload_id)  # told at the next failure that finds room for it
            log.error("the event could not be stored either: %s", error)


def _unreached(launch: Launch) -> bool:
    return any(isinstance(one.error, EngineUnreachable) for one in launch.started)
