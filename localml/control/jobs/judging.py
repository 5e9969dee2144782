"""Judging workloads: what is decided of each, written down, and handed to the threads of slow acts."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from functools import partial

from localml.control.jobs import records
from localml.control.jobs.acts import Acts
from localml.control.jobs.apart import Write, each, write_apart
from localml.control.jobs.decide import AttemptView, Decision, Discard, EndAttempt, Exit, Move, Start, Stop, decide
from localml.control.jobs.launcher import Launcher
from localml.control.jobs.looking import Eyes
from localml.control.jobs.observe import EngineWorld
from localml.control.jobs.picture import Picture
from localml.control.jobs.pumps import LogPumps
from localml.control.jobs.quarantine import Quarantine
from localml.control.jobs.snapshot import Unit, WorkloadRow, view_of
from localml.core.failpoints import FAILPOINTS
from localml.core.logs.files import LogStore
from localml.core.work.causes import Cause
from localml.core.work.states import State
from localml.engines.base import STREAMS, Engine, Stream
from localml.store.database import Database

log = logging.getLogger("localml.control")

_TAIL = 4096


class Judgement:
    """Lets :func:`decide` judge, and carries out what it says.

    Attributes:
        again: when something that was not decided the last time will be; seconds since the epoch, None if nothing.
    """

    def __init__(
        self,
        db: Database,
        engine: Engine,
        logs: LogStore,
        picture: Picture,
        eyes: Eyes,
        pumps: LogPumps,
        acts: Acts,
        launcher: Launcher,
        quarantine: Quarantine,
        changed: Callable[[int], None],
    ) -> None:
        self._db = db
        self._engine = engine
        self._logs = logs
        self._picture = picture
        self._eyes = eyes
        self._pumps = pumps
        self._acts = acts
        self._launcher = launcher
        self._quarantine = quarantine
        self._changed = changed
        self.again: float | None = None

    def pass_on(self, units: Iterable[Unit], now: float) -> bool:
        """Decide each, write the outcome in one transaction, start the slow acts.

        Returns:
            Whether anything was written.

        Raises:
            LocalmlError: the database takes nothing now.
        """
        units = list(units)
        judged: list[tuple[Unit, list[Decision]]] = []
        names = {one.name: unit.row.id for unit in units for one in unit.attempts}
        world = EngineWorld(
            self._eyes.seen, self._pumps, self._acts, lambda name: self._last_words(names[name], name), now
        )

        def judge(unit: Unit) -> None:
            if not self._quarantine.rests(unit.row.id) and (steps := self._decisions(unit, world, now)):
                judged.append((unit, steps))

        each([(unit.row.id, partial(judge, unit)) for unit in units], self._quarantine.blame)
        writes = [(unit.row, [step for step in steps if isinstance(step, records.Written)]) for unit, steps in judged]
        writes = [(row, steps) for row, steps in writes if steps]
        self._write(writes, now)
        self.again = world.soon
        each([(unit.row.id, partial(self._act, unit, steps)) for unit, steps in judged], self._quarantine.blame)
        return bool(writes)

    def start(self, unit: Unit) -> None:
        """Start what is planned of a workload."""
        self._launcher.start(self._acts, unit.row, self._picture.specs.spec(unit.row.id), unit.current)

    def _last_words(self, number: int, name: str) -> bytes:
        try:
            return self._logs.tail(number, name, "stderr", _TAIL)
        except OSError as error:  # a bad disk changes no verdict
            log.error("the output of %s cannot be read: %s", name, error)
            return b""

    def _decisions(self, unit: Unit, world: EngineWorld, now: float) -> list[Decision]:
        number = unit.row.id
        spec = self._picture.specs.spec(number)
        condemned = self._picture.specs.broken.get(number) or self._quarantine.condemned(number)
        decisions = decide(view_of(unit, spec, self._eyes.lost, condemned), world, now)
        if decisions or unit.row.state is not State.QUEUED:
            return decisions
        broken = self._picture.broken_dependency(number)
        if broken is None:
            return []
        words = f"workload {broken}, which this one depends on, did not succeed"
        return [Move(State.FAILED, "Failed", words, True, {"cause": Cause.DEPENDENCY, "message": words})]

    def _write(self, writes: list[tuple[WorkloadRow, list[records.Written]]], now: float) -> None:
        def part(row: WorkloadRow, steps: list[records.Written]) -> Write:
            return lambda session: records.carry_out(session, row, steps, partial(self._log_files, row.id), now)

        write_apart(self._db, [(row.id, part(row, steps)) for row, steps in writes], self._quarantine.blame)
        if any(isinstance(step, Exit) for _, steps in writes for step in steps):
            FAILPOINTS.hit("after-exit")
        for row, steps in writes:
            for step in steps:
                if isinstance(step, EndAttempt):
                    self._pumps.forget(step.attempt.name)
            self._changed(row.id)

    def _log_files(self, number: int, one: AttemptView) -> dict[Stream, tuple[str, int]]:
        logs, name = self._logs, one.name
        return {stream: (logs.relative(number, name, stream), logs.kept(number, name, stream)) for stream in STREAMS}

    def _act(self, unit: Unit, steps: list[Decision]) -> None:
        for step in steps:
            if isinstance(step, Stop):
                name, grace = step.attempt.name, step.grace
                act = partial(self._engine.stop, name, grace)
                self._acts.run("stop", (("attempt", step.attempt.id),), (name, grace), act)
            elif isinstance(step, Discard):
                one = next(one for one in unit.attempts if one.id == step.attempt.id)
                self._launcher.discard(self._acts, unit.row, one, step.failed)
            elif isinstance(step, Start):
                self.start(unit)
