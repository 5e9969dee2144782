"""An engine before any other one whose verbs fail, by a seed: before they have acted or after it, with errors of all
kinds, or by not finding what is there."""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from localml.engines.base import Engine, EngineError, EngineUnreachable, LogChunk, Observed, Phase, ReplicaPlan, Stream

T = TypeVar("T")

ERRORS: tuple[Callable[[], Exception], ...] = (
    lambda: EngineError("500 Server Error: something went wrong"),
    lambda: EngineError("removal of the container is already in progress"),
    lambda: EngineUnreachable("the daemon does not answer"),
    lambda: ConnectionResetError(104, "Connection reset by peer"),
    lambda: OSError(5, "Input/output error"),
    lambda: ValueError("Expecting value: line 1 column 1 (char 0)"),
    lambda: KeyError("State"),
)
VERBS = ("resolve_image", "start", "inspect", "list", "stop", "remove", "remove_network", "networks")


@dataclass(frozen=True)
class Fault:
    """What one call does instead: raise, after having acted or before; or not find what is there (no error)."""

    error: Exception | None
    after: bool = False


class Faulty:
    """Wraps an engine. What it does not know of is the engine's own.

    Args:
        engine: any one.
        chance: decides; the same seed over the same calls gives the same faults.
        rate: share of calls that fail.
        pause: called before some calls, as a slow daemon would.
        verbs: those that fail. ``logs`` breaks off, too, if it is among them.

    Attributes:
        faults: how many there were of each verb.
    """

    def __init__(
        self,
        engine: Engine,
        chance: random.Random | None = None,
        rate: float = 0.0,
        *,
        pause: Callable[[], object] = lambda: None,
        verbs: tuple[str, ...] = VERBS,
    ) -> None:
        self.engine = engine
        self.rate = rate
        self.faults: Counter[str] = Counter()
        self._chance = chance or random.Random(0)
        self._pause = pause
        self._verbs = verbs
        self._planned: list[tuple[str, Fault]] = []
        self._denied: set[str] = set()  # containers that were not found though they are there, the last time
        self._lock = threading.RLock()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.engine, name)

    def next(self, verb: str, error: Exception | None, *, after: bool = False, times: int = 1) -> None:
        """The next calls of a verb do this."""
        self._planned += [(verb, Fault(error, after))] * times

    def calm(self) -> None:
        """From now on all is well."""
        self.rate = 0.0
        self._planned.clear()

    def resolve_image(self, *args: Any, **kwargs: Any) -> str:
        return self._do("resolve_image", lambda: self.engine.resolve_image(*args, **kwargs))

    def start(self, plan: ReplicaPlan) -> Observed:
        return self._do("start", lambda: self.engine.start(plan))

    def inspect(self, name: str) -> Observed:
        if self._denies("inspect", name):
            return Observed(name, Phase.GONE)
        return self._do("inspect", lambda: self.engine.inspect(name))

    def list(self) -> dict[str, Observed]:
        found = self._do("list", self.engine.list)
        return {name: one for name, one in found.items() if not self._denies("list", name)}

    def stop(self, name: str, grace: float) -> None:
        self._do("stop", lambda: self.engine.stop(name, grace))

    def remove(self, name: str) -> None:
        self._do("remove", lambda: self.engine.remove(name))

    def remove_network(self, network: str) -> None:
        self._do("remove_network", lambda: self.engine.remove_network(network))

    def networks(self) -> set[str]:
        return self._do("networks", self.engine.networks)

    def logs(self, name: str, since: Mapping[Stream, int], *, follow: bool, place: str = "") -> Iterator[LogChunk]:
        """Breaks off somewhere, if it is to."""
        fault = self._draw("logs")
        if fault is not None and not fault.after and fault.error is not None:
            raise fault.error
        for number, chunk in enumerate(self.engine.logs(name, since, follow=follow, place=place)):
            yield chunk
            if fault is not None and fault.error is not None and number == 1:
                raise fault.error

    # -- what goes wrong -------------------------------------------------------------------------

    def _do(self, verb: str, act: Callable[[], T]) -> T:
        self._pause()
        fault = self._draw(verb)
        if fault is None or fault.error is None:
            return act()
        if fault.after:
            act()
        raise fault.error

    def _denies(self, verb: str, name: str) -> bool:
        """Whether it says, wrongly, that there is no such container; never twice in a row of the same."""
        with self._lock:
            if name in self._denied and verb == "inspect":
                self._denied.discard(name)
                return False
            planned = next((one for one in self._planned if one == (verb, Fault(None))), None)
            if planned is not None:
                self._planned.remove(planned)
            if planned is None and not (verb in self._verbs and self._chance.random() < self.rate / 4):
                return False
            self.faults[f"{verb}: not found"] += 1
            if verb == "inspect":
                self._denied.add(name)
            return True

    def _draw(self, verb: str) -> Fault | None:
        with self._lock:
            for index, (planned, fault) in enumerate(self._planned):
                if planned == verb and fault.error is not None:
                    del self._planned[index]
                    self.faults[verb] += 1
                    return fault
            if verb not in self._verbs or self._chance.random() >= self.rate:
                return None
            self.faults[verb] += 1
            return Fault(self._chance.choice(ERRORS)(), self._chance.random() < 0.5)
