"""The loop's eyes: when the engine is asked, about what, and who is told when it does not answer."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from functools import partial

from sqlmodel import Session, col, select

from localml.control.jobs import records
from localml.control.jobs.acts import Acts
from localml.control.jobs.asking import Asker
from localml.control.jobs.observe import Observations
from localml.control.jobs.snapshot import AttemptRow
from localml.core.clock import Clock
from localml.core.events.records import record_event
from localml.core.subjects import PLATFORM
from localml.core.work.states import AttemptState
from localml.core.work.tables import Attempt
from localml.engines.base import Engine
from localml.store.database import Database

log = logging.getLogger("localml.control")

_IN_THE_ENGINE = (AttemptState.PENDING, AttemptState.RUNNING)

SLOW_TICK_S = 5.0
ENGINE_RETRY_S = 1.0


class Eyes:
    """Looks at single containers when the engine hints at them, and at all every few seconds while something is there.

    Args:
        node: the machine whose GPUs ``unhealthy`` tells of.
        unhealthy: asked with every slow look: GPU -> why it is unusable.

    Attributes:
        lost: unusable GPUs and why.
        down: whether the engine did not answer when it was last asked.
    """

    def __init__(
        self,
        db: Database,
        engine: Engine,
        clock: Clock,
        acts: Acts,
        *,
        node: str,
        unhealthy: Callable[[], Mapping[str, str]],
    ) -> None:
        self._db = db
        self._engine = engine
        self._clock = clock
        self._acts = acts
        self._node = node
        self._unhealthy = unhealthy
        self.seen = Observations(engine, Asker(f"the {engine.name} engine"), clock.now)
        self._ask_gpus = Asker("the GPUs' driver")
        self.lost: dict[str, str] = {}
        self.down = False
        self._hints: set[str] = set()
        self._lock = threading.Lock()
        self._look_at = 0.0  # monotonic time of the next full look

    def hint(self, name: str) -> None:
        """Look at this container soon."""
        with self._lock:
            self._hints.add(name)

    def look_again(self) -> None:
        """The next look is at everything."""
        self._look_at = 0.0

    def look(self, attempts: Collection[AttemptRow], marked: Collection[tuple[str, str]]) -> bool:
        """Look as far as that is due. False when the engine does not answer: then nothing is concluded.

        Args:
            attempts: all that the engine may have something of.
            marked: GPUs (node, UUID) that get no new work already.
        """
        with self._lock:
            hints, self._hints = self._hints, set()
        known = {one.name for one in attempts}
        # what is being started is looked at when its start is recorded: until then its end could not be
        early = {one.name for one in attempts if one.state is AttemptState.PLANNED} & hints
        hints -= early
        self.seen.forget_missing(known)
        hints |= self._doubtful()
        answered = True
        if self._look_at == 0.0 or (time.monotonic() >= self._look_at and known) or not self.seen.complete:
            answered = self.seen.look(one.name for one in attempts if one.state in _IN_THE_ENGINE)
            self._look_at = time.monotonic() + (SLOW_TICK_S if answered else ENGINE_RETRY_S)
            if answered:
                self._check_gpus(marked)
                self._sweep(known)
        elif hints & known:
            answered = self.seen.glance(hints & known)
        with self._lock:
            self._hints |= early if answered else early | hints
        self._tell(answered)
        return answered

    def _doubtful(self) -> set[str]:
        now = self._clock.now()
        return {name for name, due in self.seen.doubts().items() if due <= now}

    def next_due(self) -> float | None:
        """When something should be looked for again because it was not found; seconds since the epoch."""
        return min(self.seen.doubts().values(), default=None)

    def _check_gpus(self, marked: Collection[tuple[str, str]]) -> None:
        """Fence GPUs that have become unhealthy; who runs on them is decided by the same tick."""
        try:
            self.lost = self._ask_gpus(lambda: dict(self._unhealthy()))
        except Exception:  # what was known of them stands, and nobody waits for them
            log.exception("the GPUs' health could not be asked for")
        fresh = {gpu: why for gpu, why in self.lost.items() if (self._node, gpu) not in marked}
        if not fresh:
            return
        now = self._clock.now()

        def apply(session: Session) -> None:
            for gpu, why in fresh.items():
                records.fence(session, gpu, self._node, why, now=now)

        self._db.write(apply)

    @property
    def silence(self) -> str:
        """Why nothing begins: the engine does not answer. Empty while it does."""
        return f"the {self._engine.name} engine does not answer: {self.seen.unreachable}" if self.down else ""

    def _tell(self, answered: bool) -> None:
        if answered == (not self.down):
            return
        self.down = not answered
        reason, words = (
            ("EngineAnswers", f"the {self._engine.name} engine answers again")
            if answered
            else ("EngineUnreachable", self.silence)
        )
        log.warning(words)
        now = self._clock.now()
        self._db.write(lambda s: record_event(s, PLATFORM, reason, words, now=now, warning=not answered))

    def _sweep(self, known: Iterable[str]) -> None:
        """Remove containers with our label that no record speaks of: every record is written before its container."""
        for name in self.seen.names() - set(known):
            if self._recorded(name):
                continue
            log.warning("removing container %s: no record speaks of it", name)
            self._acts.run("remove", (("orphan", name),), name, partial(self._engine.remove, name))

    def _recorded(self, name: str) -> bool:
        with self._db.read() as session:
            query = select(Attempt.id).where(Attempt.name == name, col(Attempt.removed).is_(False))
            return session.exec(query).first() is not None
