"""Questions from outside of the loop: why a workload waits, or what it waits for before it is over."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from localml.control.jobs.admitter import Admitter
from localml.control.jobs.demands import Node, Reason
from localml.control.jobs.looking import Eyes
from localml.control.jobs.patience import Patience
from localml.control.jobs.picture import Picture
from localml.control.jobs.snapshot import AttemptRow, Unit, load_states
from localml.core.clock import Clock
from localml.core.quantities import format_duration
from localml.core.work.states import HOLDING, AttemptState, State
from localml.store.database import Database

_NEW_S = 0.5


class Questions:
    """Answers from the loop's picture, which nobody changes meanwhile.

    Args:
        told: what was last said of the images that a workload waits for.
    """

    def __init__(
        self,
        db: Database,
        picture: Picture,
        eyes: Eyes,
        admitter: Admitter,
        patience: Patience,
        clock: Clock,
        told: Callable[[int], str],
    ) -> None:
        self._db = db
        self._picture = picture
        self._eyes = eyes
        self._admitter = admitter
        self._patience = patience
        self._clock = clock
        self._told = told
        self._still = threading.Condition()

    @contextmanager
    def held(self) -> Iterator[None]:
        """While the loop changes the picture; those who wait for news of it hear of them then."""
        with self._still:
            yield
            self._still.notify_all()

    def why(self, workload_id: int) -> Reason | None:
        """Why a workload waits: what a fresh pass says of a queued one, what the engine says of one that it has not
        begun, what keeps one whose program has exited, what one that is stuck waits for; None when it does not wait."""
        now = self._clock.now()
        with self._db.read_raw() as connection:
            state = load_states(connection, [workload_id]).get(workload_id)
        if state in HOLDING:
            with self._still:
                unit = self._picture.live.get(workload_id)
            return self._under_way(unit, now) if unit is not None else None
        if state is not State.QUEUED:
            return self._patience.reason(workload_id, now)  # its containers cannot be removed, perhaps
        with self._still:
            # what was just submitted is taken in a moment later
            self._still.wait_for(lambda: workload_id in self._picture.waiting, _NEW_S)
            unit = self._picture.waiting.get(workload_id)
            if unit is not None:
                return self._admitter.reason(unit, self._eyes.lost, now) or self._silence()
        return Reason("new", "the control loop has not looked at it yet")

    def nodes(self) -> list[Node]:
        """The machines, and what is free and held on each."""
        with self._still:
            return self._admitter.nodes(self._admitter.machines(), self._eyes.lost)

    def _silence(self) -> Reason | None:
        """Nothing begins while the engine does not answer."""
        words = self._eyes.silence
        return Reason("engine", words) if words else None

    def _under_way(self, unit: Unit, now: float) -> Reason | None:
        stuck = self._patience.reason(unit.row.id, now)
        if stuck is not None:
            return stuck
        if words := self._told(unit.row.id):
            return Reason("image", words)
        for one in unit.current if unit.row.state is State.PREPARING else ():
            if one.state is AttemptState.PENDING:
                seen = self._eyes.seen.get(one.name)
                words = (seen.reason if seen is not None else "") or one.message or "the engine has not begun it"
                return Reason("pending", f"{one.role}-{one.index} waits in the engine: {words}")
        if unit.row.state is State.PREPARING and (silence := self._silence()):
            return silence
        left = [one for one in unit.current if one.state is not AttemptState.ENDED]
        if left and not any(one.holds for one in left):
            return Reason("draining", _draining(left, now))
        return None


def _draining(left: list[AttemptRow], now: float) -> str:
    last = max(left, key=lambda one: one.exited_at or 0.0)
    how = f" with exit code {last.exit_code}" if last.exit_code is not None else ""
    since = format_duration(max(0.0, now - (last.exited_at or now)))
    return f"the program ended{how} {since} ago; its output is being copied"
