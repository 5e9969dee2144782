"""A control loop on its own thread, over a real engine whose verbs fail: threads, pumps and time are real."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from helpers.faults import Faulty
from helpers.rig import Rig
from localml.control.jobs.reconciler import Reconciler
from localml.core.clock import SystemClock
from localml.engines.base import Engine, LogChunk, Stream


class Gated(Faulty):
    """An engine whose output comes only while ``gate`` is open."""

    def __init__(self, engine: Engine, *given: Any, **more: Any) -> None:
        super().__init__(engine, *given, **more)
        self.gate = threading.Event()
        self.gate.set()

    def logs(self, name: str, since: Mapping[Stream, int], *, follow: bool, place: str = "") -> Iterator[LogChunk]:
        self.gate.wait()
        yield from super().logs(name, since, follow=follow, place=place)


class LiveRig(Rig):
    """An installation that runs. ``size`` is that of :class:`helpers.rig.Rig`."""

    def __init__(self, data: Path, engine: Faulty, **size: Any) -> None:
        self.faulty = engine
        super().__init__(data, before=lambda _: engine, clock=SystemClock(), **size)  # type: ignore[arg-type,return-value]
        self.loop.start()

    def _loop(self) -> Reconciler:
        loop = Reconciler(
            self.db,
            self.faulty,  # type: ignore[arg-type]
            self._site(),
            self.logs,
            self.clock,
            machines=lambda: (self.machine,),
        )
        self.workloads._changed = lambda _: loop.nudge()
        return loop

    def close(self) -> None:
        """End the loop, and whatever runs."""
        self.loop.close()
        self.faulty.calm()
        for name in self.faulty.list():
            self.faulty.remove(name)
        self.faulty.close()
        super().close()
