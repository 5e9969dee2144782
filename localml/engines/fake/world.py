"""What outlives an engine object, as containers outlive the server: its replicas, each as its environment tells."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from localml.engines.base import STREAMS, LogChunk, Observed, Phase, ReplicaPlan, Stream
from localml.engines.hints import Hints


@dataclass
class Replica:
    """A replica that the engine took; ``over`` is set when it notices that ``ends_at`` has come.

    One that is held (``FAKE_PENDING``) has no ``started_at`` before it begins, at ``begins_at`` if that is known.
    """

    plan: ReplicaPlan
    labels: Mapping[str, str]
    started_at: float | None = None
    begins_at: float | None = None
    output: dict[Stream, list[tuple[float, bytes]]] = field(default_factory=lambda: {name: [] for name in STREAMS})
    ends_at: float | None = None
    outcome: tuple[int | None, int | None] = (0, None)  # exit code and signal, once ends_at has come
    oom_killed: bool = False
    interrupted: str = ""
    over: bool = False

    @classmethod
    def taken(cls, plan: ReplicaPlan, labels: Mapping[str, str], now: float) -> Replica:
        """A new one, which begins when its environment says so."""
        made = cls(plan, labels)
        if "FAKE_PENDING" not in plan.env:
            made.begins_at = now
        elif "FAKE_PENDING_SECONDS" in plan.env:
            made.begins_at = now + float(plan.env["FAKE_PENDING_SECONDS"])
        return made

    @property
    def held(self) -> bool:
        """Whether it has not begun, and has not been given up either."""
        return self.started_at is None and not self.over

    def begin(self, at: float) -> None:
        """Let it begin, with the end and the output that its environment asks for."""
        env = self.plan.env
        self.started_at = at
        if "FAKE_SECONDS" in env:
            self.end(at + float(env["FAKE_SECONDS"]), int(env.get("FAKE_EXIT", "0")), None)
        if "FAKE_OUTPUT" in env:
            self.output["stdout"].append((at, env["FAKE_OUTPUT"].encode()))

    def end(self, at: float, exit_code: int | None, signal: int | None) -> None:
        """Let it end at a time."""
        self.ends_at = at
        self.outcome = (exit_code, signal)

    def observed(self) -> Observed:
        """How it is."""
        exit_code, signal = self.outcome if self.over else (None, None)
        return Observed(
            name=self.plan.name,
            phase=Phase.EXITED if self.over else Phase.PENDING if self.held else Phase.RUNNING,
            reason=self.plan.env["FAKE_PENDING"] if self.held else "",
            error="stopped before it began" if self.over and self.started_at is None else "",
            exit_code=exit_code,
            signal=signal,
            oom_killed=self.oom_killed,
            interrupted=self.interrupted if self.over else "",
            started_at=self.started_at,
            finished_at=self.ends_at if self.over else None,
            address="127.0.0.1",
            labels=self.labels,
            handle={"fake": self.plan.name},
        )

    def written(self, stream: Stream, since: int) -> Iterator[LogChunk]:
        """What it wrote to a stream from a byte offset on."""
        position = 0
        for at, data in self.output[stream]:
            rest = data[max(0, since - position) :]
            position += len(data)
            if rest:
                yield LogChunk(stream, rest, at)


class World:
    """All replicas and networks, and who wants to hear of changes."""

    def __init__(self) -> None:
        self.changed = threading.Condition(threading.RLock())
        self.replicas: dict[str, Replica] = {}
        self.networks: set[str] = set()
        self.watchers: list[Hints] = []

    def hint(self, name: str) -> None:
        """Tell them that a replica changed."""
        for watcher in self.watchers:
            watcher.tell(name)
        self.changed.notify_all()
