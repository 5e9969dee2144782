"""What is known of the engine's side, and what is not: "it did not answer" is never read as "it is gone"."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable

from localml.control.jobs.acts import Acts
from localml.control.jobs.decide import AttemptView, Begun, Ended
from localml.control.jobs.pumps import LogPumps
from localml.core.work.causes import OOM_WORDS, Cause, classify
from localml.core.work.states import AttemptState
from localml.engines.base import Engine, EngineUnreachable, Observed, Phase

log = logging.getLogger("localml.control")


class Observations:
    """The engine's last answers, kept between ticks.

    A full look (:meth:`look`) replaces everything; hints look at single containers. ``complete`` tells whether a
    name that is missing may be read as gone.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._known: dict[str, Observed] = {}
        self.complete = False
        self.unreachable: str | None = None

    def look(self, running: Iterable[str] = ()) -> bool:
        """Ask for all containers. Returns whether the engine answered.

        Args:
            running: containers that must be there; one that the list leaves out is asked for by its name, because
                to hold it for gone costs its work.
        """
        return self._ask(lambda: self._look_all(running))

    def glance(self, names: Iterable[str]) -> bool:
        """Ask for single containers. Returns whether the engine answered."""
        return self._ask(lambda: self._look_at(names))

    def _ask(self, question: Callable[[], None]) -> bool:
        try:
            question()
        except EngineUnreachable as error:
            self.unreachable = str(error)
            self.complete = False
            return False
        self.unreachable = None
        return True

    def _look_all(self, running: Iterable[str]) -> None:
        found = dict(self._engine.list())
        for name in set(running) - set(found):
            found[name] = self._engine.inspect(name)
            if found[name].phase is not Phase.GONE:
                log.warning("the engine's list left out %s, which is there", name)
        self._known = found
        self.complete = True

    def _look_at(self, names: Iterable[str]) -> None:
        for name in names:
            known = self._known.get(name)
            if known is None or known.phase is not Phase.EXITED:  # an end is final
                self._known[name] = self._engine.inspect(name)

    def learn(self, observed: Observed) -> None:
        """Take in what an act was told; an end that is already known is never taken back by an older answer."""
        known = self._known.get(observed.name)
        if known is None or known.phase is not Phase.EXITED:
            self._known[observed.name] = observed

    def get(self, name: str) -> Observed | None:
        """The last answer about a container; None when nothing is known."""
        found = self._known.get(name)
        if found is None and self.complete:
            return Observed(name, Phase.GONE)
        return found

    def names(self) -> set[str]:
        """All containers that exist, as far as known."""
        return {name for name, one in self._known.items() if one.phase is not Phase.GONE}


class EngineWorld:
    """The engine's side as :func:`localml.control.jobs.decide.decide` wants it."""

    def __init__(
        self, seen: Observations, pumps: LogPumps, acts: Acts, tail: Callable[[str], bytes], now: float
    ) -> None:
        self._seen = seen
        self._pumps = pumps
        self._acts = acts
        self._tail = tail
        self._now = now

    def busy(self, attempt: AttemptView) -> bool:
        return self._acts.busy(("attempt", attempt.id))

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
        return Ended(seen.exit_code, seen.signal, cause, message, seen.finished_at or self._now, drained)

    def _recorded(self, attempt: AttemptView, seen: Observed) -> Ended:
        """The end of a program whose exit is recorded: whatever became of its container does not take that back."""
        drained = self._pumps.drained(attempt.name)
        known = Observed(attempt.name, Phase.EXITED, attempt.exit_code, attempt.signal)
        cause, message = self._classify(known, drained)
        if drained and seen.phase is Phase.GONE:
            message = f"{message}; its container vanished before its end was recorded"
        return Ended(attempt.exit_code, attempt.signal, cause, message, attempt.exited_at or self._now, drained)

    def _classify(self, seen: Observed, drained: bool) -> tuple[Cause | None, str]:
        if not drained:
            return (Cause.OOM, OOM_WORDS) if seen.oom_killed else (None, "")
        if seen.error and seen.exit_code is None and seen.signal is None:
            return Cause.ENGINE_LOST, seen.error
        tail = b"" if seen.exit_code == 0 else self._tail(seen.name)
        cause, message = classify(seen.exit_code, seen.signal, oom_killed=seen.oom_killed, log_tail=tail)
        return cause, f"{message} ({seen.error})" if seen.error else message
