"""What is known of the engine's side, and what is not: "it did not answer" is never read as "it is gone"."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable

from localml.control.jobs.acts import Acts
from localml.control.jobs.asking import Asker
from localml.control.jobs.decide import AttemptView, Begun, Ended
from localml.control.jobs.pumps import LogPumps
from localml.core.quantities import format_duration
from localml.core.work.causes import OOM_WORDS, Cause, classify
from localml.core.work.states import AttemptState
from localml.engines.base import Engine, EngineUnreachable, Observed, Phase

log = logging.getLogger("localml.control")

START_TRIES, START_S = 10, 600.0
"""So often and for so long a start is tried of which an engine that answers does not say what became of it."""
GONE_AGAIN_S = 3.0
"""Seconds between the two looks after which a container that was there is believed to be gone."""
EXIT_S = 0.1
"""Seconds for which a program's exit waits for the rest of its output, which most often is there by then: exit and end
are then written at once, and a short job costs no transaction more."""


class Observations:
    """The engine's last answers, kept between ticks.

    A full look (:meth:`look`) replaces everything; hints look at single containers. ``complete`` tells whether there
    has been one since the engine answered last. That a container is gone costs its work, so it is believed only when
    two looks some seconds apart found nothing: an engine that has just come back may not know all of its own yet. In
    between nothing is known of it.

    Args:
        ask: asks the engine something, and gives its answer.
        now: seconds since the epoch.
    """

    def __init__(self, engine: Engine, ask: Asker, now: Callable[[], float]) -> None:
        self._engine = engine
        self._question = ask
        self._now = now
        self._known: dict[str, Observed] = {}
        self._missed: dict[str, float] = {}  # name -> when it was first not found
        self._over: dict[str, float] = {}  # name -> when it was first found to have ended
        self.complete = False
        self.unreachable: str | None = None

    def look(self, running: Iterable[str] = ()) -> bool:
        """Ask for all containers. Returns whether the engine answered.

        Args:
            running: containers that must be there; one that the list leaves out is asked for by its name.
        """
        return self._ask(lambda: self._look_all(running))

    def glance(self, names: Iterable[str]) -> bool:
        """Ask for single containers. Returns whether the engine answered."""
        return self._ask(lambda: self._look_at(names))

    def _ask(self, question: Callable[[], None]) -> bool:
        """An answer that cannot be understood is none either."""
        try:
            question()
        except Exception as error:
            if not isinstance(error, EngineUnreachable):
                log.warning("the engine's answer could not be used", exc_info=True)
            self.unreachable = str(error) or type(error).__name__
            self.complete = False
            return False
        self.unreachable = None
        return True

    def _look_all(self, running: Iterable[str]) -> None:
        before = self._known
        self._known = self._question(lambda: dict(self._engine.list()))
        missing = set(running) - set(self._known)
        self._missed = {name: at for name, at in self._missed.items() if name in missing}
        self._known |= {name: before[name] for name in missing if name in before}
        self._look_at(missing)
        over = [name for name, one in self._known.items() if one.phase is Phase.EXITED]
        self._over = {name: self._over.get(name, self._now()) for name in over}
        self.complete = True

    def _look_at(self, names: Iterable[str]) -> None:
        wanted = [name for name in names if not self._is_over(name)]
        for seen in self._question(lambda: [self._look_for(name) for name in wanted]) if wanted else ():
            if seen is not None:
                self._take(seen)

    def _is_over(self, name: str) -> bool:
        """An end is final."""
        known = self._known.get(name)
        return known is not None and known.phase is Phase.EXITED

    def _look_for(self, name: str) -> Observed | None:
        """Ask for one by its name. An answer about it alone that cannot be used leaves what was known of it: None."""
        try:
            return self._engine.inspect(name)
        except EngineUnreachable:
            raise
        except Exception as error:
            log.warning("nothing could be learned of %s: %s", name, error)
            return None

    def _take(self, seen: Observed) -> None:
        if seen.phase is not Phase.GONE:
            self._missed.pop(seen.name, None)
        elif self._now() - self._missed.setdefault(seen.name, self._now()) < GONE_AGAIN_S:
            self._known.pop(seen.name, None)
            return
        if seen.phase is Phase.EXITED:
            self._over.setdefault(seen.name, self._now())
        self._known[seen.name] = seen

    def learn(self, observed: Observed) -> None:
        """Take in what an act was told; an end that is already known is never taken back by an older answer."""
        if not self._is_over(observed.name):
            self._take(observed)

    def forget_missing(self, known: Collection[str]) -> None:
        """Nobody asks for any others than these."""
        self._missed = {name: at for name, at in self._missed.items() if name in known}

    def doubts(self) -> dict[str, float]:
        """Containers that were not found once, and when they should be looked for again; seconds since the epoch."""
        return {name: at + GONE_AGAIN_S for name, at in self._missed.items() if name not in self._known}

    def get(self, name: str) -> Observed | None:
        """The last answer about a container; None when nothing is known."""
        return self._known.get(name)

    def settles_at(self, name: str) -> float:
        """When an exit has been known for long enough to be written down; seconds since the epoch."""
        return self._over.get(name, 0.0) + EXIT_S

    def names(self) -> set[str]:
        """All containers that exist, as far as known."""
        return {name for name, one in self._known.items() if one.phase is not Phase.GONE}


class EngineWorld:
    """The engine's side as :func:`localml.control.jobs.decide.decide` wants it.

    Attributes:
        soon: when an exit that was told of will be no longer fresh; None if none is.
    """

    def __init__(
        self, seen: Observations, pumps: LogPumps, acts: Acts, tail: Callable[[str], bytes], now: float
    ) -> None:
        self._seen = seen
        self._pumps = pumps
        self._acts = acts
        self._tail = tail
        self.soon: float | None = None
        self._now = now

    def busy(self, attempt: AttemptView) -> bool:
        return self._acts.busy(("attempt", attempt.id))

    def hopeless(self, attempt: AttemptView) -> str:
        """It is tried only while the engine answers, so that one that is away for hours costs nobody a job."""
        trouble = self._acts.trouble(("attempt", attempt.id))
        if trouble is None or trouble.times < START_TRIES or trouble.at - trouble.since < START_S:
            return ""
        lasted = format_duration(trouble.at - trouble.since)
        return f"the engine has not started it in {trouble.times} tries within {lasted}: {trouble.words}"

    def begun(self, attempt: AttemptView) -> Begun | None:
        seen = self._seen.get(attempt.name)
        if seen is None or seen.phase not in (Phase.RUNNING, Phase.EXITED):
            return None
        if seen.started_at is None:
            return Begun(self._now, seen.address) if seen.phase is Phase.RUNNING else None
        return Begun(min(seen.started_at, self._now), seen.address)

    def ended(self, attempt: AttemptView) -> Ended | None:
        seen = self._seen.get(attempt.name)
        if attempt.exited_at is not None and seen is not None and seen.phase is not Phase.EXITED:
            return self._recorded(attempt, seen)
        if seen is None or seen.phase in (Phase.RUNNING, Phase.CREATED, Phase.PENDING):
            return None
        if seen.phase is Phase.GONE:
            return Ended(None, None, Cause.ENGINE_LOST, "the container is gone from the engine", self._now, True)
        # what never began has written nothing, and nobody carries its output
        drained = attempt.state is AttemptState.PENDING or self._pumps.drained(attempt.name)
        cause, message = self._classify(seen, drained)
        settles = self._seen.settles_at(attempt.name)
        fresh = not drained and attempt.exited_at is None and settles > self._now >= settles - EXIT_S
        if fresh:
            self.soon = min(self.soon or settles, settles)
        at = seen.finished_at or self._now
        return Ended(seen.exit_code, seen.signal, cause, message, at, drained, fresh=fresh)

    def _recorded(self, attempt: AttemptView, seen: Observed) -> Ended:
        """The end of a program whose exit is recorded: whatever became of its container does not take that back."""
        drained = self._pumps.drained(attempt.name)
        told = attempt.exit_code is not None or attempt.signal is not None
        lost = "" if told else "the container was removed before the engine told how it ended"
        known = Observed(attempt.name, Phase.EXITED, attempt.exit_code, attempt.signal, error=lost)
        cause, message = self._classify(known, drained)
        if drained and seen.phase is Phase.GONE:
            message = f"{message}; its container vanished before its end was recorded"
        at, again = attempt.exited_at or self._now, seen.phase is Phase.RUNNING
        return Ended(attempt.exit_code, attempt.signal, cause, message, at, drained, again=again)

    def _classify(self, seen: Observed, drained: bool) -> tuple[Cause | None, str]:
        if seen.interrupted:
            return Cause.ENGINE_LOST, seen.interrupted
        if not drained:
            return (Cause.OOM, OOM_WORDS) if seen.oom_killed else (None, "")
        if seen.error and seen.exit_code is None and seen.signal is None:
            return Cause.ENGINE_LOST, seen.error
        tail = b"" if seen.exit_code == 0 else self._tail(seen.name)
        cause, message = classify(seen.exit_code, seen.signal, oom_killed=seen.oom_killed, log_tail=tail)
        return cause, f"{message} ({seen.error})" if seen.error else message
