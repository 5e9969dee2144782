"""An engine in memory, for tests of scheduling: no process runs, time is a clock, and failures come on request.

    clock = ManualClock()
    engine = FakeEngine(clock, cpu=8, memory=32 << 30)
    engine.start(ReplicaPlan("a", "image", env={"FAKE_SECONDS": "60", "FAKE_EXIT": "3"}))
    clock.advance(60)
    assert engine.inspect("a").exit_code == 3

What a replica does is said in its environment, so that a test can submit it through any API:

* ``FAKE_SECONDS``: it ends so many seconds after its start; without, it runs until :meth:`FakeEngine.finish`.
* ``FAKE_EXIT``: its exit code then (default 0).
* ``FAKE_OUTPUT``: text that it writes to stdout at its start.
* ``FAKE_PENDING``: the engine holds it, for the reason that this text gives, until :meth:`FakeEngine.begin`; with
  ``FAKE_PENDING_SECONDS`` it begins by itself after that time.
* ``FAKE_IGNORE_TERM``: SIGTERM does nothing to it; it ends by SIGKILL when the grace is over.

The engine notices that time has passed whenever it is asked something; :meth:`FakeEngine.tick` makes it look, so
that those who :meth:`FakeEngine.watch` or follow a log hear of it.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Literal, get_args

from localml.core.clock import Clock, SystemClock
from localml.core.failpoints import FAILPOINTS
from localml.core.work.specs import RegistryAuth
from localml.engines.base import (
    CONTAINERS,
    LABEL_INSTALL,
    STREAMS,
    Capabilities,
    EngineError,
    EngineUnreachable,
    ExecResult,
    ExecStream,
    ImageMissing,
    LogChunk,
    NodeInfo,
    Observed,
    Phase,
    PortTaken,
    Progress,
    ReplicaPlan,
    Stream,
    Usage,
)
from localml.engines.fake.exec import FakeExec
from localml.engines.fake.world import Replica, World
from localml.engines.hints import Hints

Verb = Literal[
    "nodes", "resolve_image", "start", "inspect", "list", "stop", "remove", "remove_network", "networks", "logs",
    "stats", "exec", "open", "watch",
]  # fmt: skip
VERBS: tuple[Verb, ...] = get_args(Verb)

_SIGKILL, _SIGTERM = 9, 15


class ServerDied(BaseException):
    """Raised by a verb after its act took effect, in place of the death of the process that called it."""


class FakeEngine:
    """See the module. All methods may be called from any thread.

    Args:
        clock: the time; :class:`localml.core.clock.ManualClock` puts the test in charge of it.
        cpu: cores of each machine that it plays.
        memory: bytes of each machine.
        install: id of this installation.
        nodes: names of the machines; where there are several, a plan must name one of them.
        capabilities: what it claims to do.

    Attributes:
        unreachable: while True, every verb raises :class:`EngineUnreachable` and nothing changes.
        missing_images: names that :meth:`resolve_image` and :meth:`start` do not find.
        exec_result: what :meth:`exec` answers, and what a command of :meth:`open` does.
    """

    name = identity = "fake"

    def __init__(
        self,
        clock: Clock | None = None,
        *,
        cpu: float = 16.0,
        memory: int = 64 << 30,
        install: str = "fake",
        nodes: tuple[str, ...] = ("fake",),
        capabilities: Capabilities = CONTAINERS,
    ) -> None:
        self.capabilities = capabilities
        self.unreachable = False
        self.missing_images: set[str] = set()
        self.exec_result = ExecResult(0, b"", b"")
        self._clock = clock or SystemClock()
        self._cpu = cpu
        self._memory = memory
        self._install = install
        self._nodes = nodes
        self._hints = Hints()
        self._world = World()
        self._world.watchers.append(self._hints)
        self._on_start: list[Callable[[ReplicaPlan], None]] = []
        self._failures: list[tuple[Verb, Exception]] = []
        self._deaths: list[Verb] = []
        self._closed = False

    # What a test says

    def restarted(self) -> FakeEngine:
        """A new engine over the same replicas, as a restarted server has it; injected failures are not kept."""
        engine = FakeEngine(
            self._clock,
            cpu=self._cpu,
            memory=self._memory,
            install=self._install,
            nodes=self._nodes,
            capabilities=self.capabilities,
        )
        engine._world = self._world
        self._world.watchers.append(engine._hints)
        return engine

    def on_start(self, callback: Callable[[ReplicaPlan], None]) -> None:
        """Have ``callback`` called with the plan of each replica that starts; it may call :meth:`write` and
        :meth:`finish`."""
        self._on_start.append(callback)

    def finish(
        self,
        name: str,
        exit_code: int | None = 0,
        *,
        signal: int | None = None,
        oom_killed: bool = False,
        interrupted: str = "",
    ) -> None:
        """End a running replica now; one that has ended stays as it is. With ``signal``, that ended it and there is
        no exit code; ``interrupted`` says why it was this engine's own end.

        Raises:
            KeyError: there is none of that name.
        """
        with self._world.changed:
            self.tick()
            replica = self._world.replicas[name]
            if not replica.over:
                replica.oom_killed, replica.interrupted = oom_killed, interrupted
                replica.end(self._clock.now(), None if signal else exit_code, signal)
                self.tick()

    def begin(self, name: str) -> None:
        """Let a replica that is held begin now.

        Raises:
            KeyError: there is none of that name.
        """
        with self._world.changed:
            replica = self._world.replicas[name]
            if replica.held:
                replica.begins_at = self._clock.now()
            self.tick()

    def write(self, name: str, stream: Stream, data: bytes) -> None:
        """Let a replica have written ``data``.

        Raises:
            KeyError: there is none of that name.
        """
        with self._world.changed:
            self._world.replicas[name].output[stream].append((self._clock.now(), data))
            self._world.changed.notify_all()

    def lose(self, name: str) -> None:
        """Make a replica gone with its output, as if somebody had removed it behind localml's back."""
        with self._world.changed:
            self._world.replicas.pop(name, None)
            self._world.hint(name)

    def fail_next(self, verb: Verb, error: Exception, times: int = 1) -> None:
        """Have the next calls of a verb raise ``error`` and do nothing."""
        with self._world.changed:
            self._failures += [(_known(verb), error)] * times

    def crash_after(self, verb: Verb) -> None:
        """Have the next call of a verb raise :class:`ServerDied` after it took effect."""
        with self._world.changed:
            self._deaths.append(_known(verb))

    def tick(self) -> None:
        """Let what is due by the clock happen, and tell the watchers."""
        with self._world.changed:
            now = self._clock.now()
            for name, replica in list(self._world.replicas.items()):
                if replica.held and replica.begins_at is not None and replica.begins_at <= now:
                    self._let_begin(replica, replica.begins_at)
                if not replica.over and replica.ends_at is not None and replica.ends_at <= now:
                    replica.over = True
                    self._world.hint(name)

    # The verbs of Engine

    def nodes(self) -> tuple[NodeInfo, ...]:
        """The machines that the constructor was told to play."""
        with self._verb("nodes"):
            isolation = "complete: nothing runs"
            return tuple(NodeInfo(name, self._cpu, self._memory, self.name, "1", isolation) for name in self._nodes)

    def resolve_image(
        self,
        image: str,
        progress: Progress | None = None,
        *,
        pull: bool = True,
        auth: RegistryAuth | None = None,
    ) -> str:
        """The name itself, unless it is in :attr:`missing_images`."""
        with self._verb("resolve_image"):
            self._need_image(image)
            return image

    def image_user(self, image: str) -> str:
        """See :meth:`Engine.image_user`: root."""
        return ""

    def start(self, plan: ReplicaPlan) -> Observed:
        """See :meth:`Engine.start`."""
        with self._verb("start"):
            if plan.name not in self._world.replicas:
                self._need_image(plan.image)
                self._need_node(plan)
                self._need_ports(plan)
                self._take(plan)
                FAILPOINTS.hit("after-create")
                FAILPOINTS.hit("after-start")
            return self._observe(plan.name)

    def hidden_mounts(self) -> None:
        """See :meth:`localml.engines.base.Engine.hidden_mounts`."""

    def inspect(self, name: str) -> Observed:
        """See :meth:`Engine.inspect`."""
        with self._verb("inspect"):
            return self._observe(name)

    def list(self) -> dict[str, Observed]:
        """See :meth:`Engine.list`."""
        with self._verb("list"):
            return {name: self._observe(name) for name in sorted(self._world.replicas)}

    def stop(self, name: str, grace: float) -> None:
        """See :meth:`Engine.stop`. The grace counts by the clock."""
        with self._verb("stop"):
            replica = self._world.replicas.get(name)
            if replica is None or replica.over:
                return
            now = self._clock.now()
            if replica.held or "FAKE_IGNORE_TERM" not in replica.plan.env:
                replica.end(now, None, _SIGTERM)
            elif replica.ends_at is None or replica.ends_at > now + grace:
                replica.end(now + grace, None, _SIGKILL)
            self.tick()

    def remove(self, name: str) -> None:
        """See :meth:`Engine.remove`."""
        with self._verb("remove"):
            FAILPOINTS.hit("before-remove")
            if self._world.replicas.pop(name, None) is not None:
                self._world.hint(name)

    def remove_network(self, network: str) -> None:
        """See :meth:`Engine.remove_network`."""
        with self._verb("remove_network"):
            users = [name for name, replica in self._world.replicas.items() if replica.plan.network == network]
            if users:
                raise EngineError(f"network {network} is used by {', '.join(users)}")
            self._world.networks.discard(network)

    def networks(self) -> set[str]:
        """See :meth:`Engine.networks`."""
        with self._verb("networks"):
            return set(self._world.networks)

    def logs(self, name: str, since: Mapping[Stream, int], *, follow: bool, place: str = "") -> Iterator[LogChunk]:
        """See :meth:`Engine.logs`: what :meth:`write` was given."""
        with self._verb("logs"):
            return self._read_logs(name, dict(since), follow)

    def carried(self, name: str, upto: Mapping[Stream, int]) -> None:
        """Nothing: what a test has written stays to be looked at."""

    def stats(self, name: str) -> Usage | None:
        """Full use of what the plan asked for, since the start; None if it does not run."""
        with self._verb("stats"):
            if self._observe(name).phase is not Phase.RUNNING:
                return None
            replica = self._world.replicas[name]
            now = self._clock.now()
            seconds = (now - (replica.started_at or now)) * (replica.plan.cpu or 1.0)
            return Usage(at=now, cpu_seconds=seconds, memory=replica.plan.memory or 0, pids=1)

    def exec(self, name: str, command: tuple[str, ...], *, timeout: float = 60.0) -> ExecResult:
        """:attr:`exec_result`, if the replica runs."""
        with self._verb("exec"):
            if self._observe(name).phase is not Phase.RUNNING:
                raise EngineError(f"{name} does not run")
            return self.exec_result

    def open(
        self,
        name: str,
        command: tuple[str, ...],
        *,
        tty: tuple[int, int] | None = None,
        env: Mapping[str, str] | None = None,
    ) -> ExecStream:
        """A command that writes :attr:`exec_result`, then what it reads, and ends with its input."""
        with self._verb("open"):
            if self._observe(name).phase is not Phase.RUNNING:
                raise EngineError(f"{name} does not run")
            return FakeExec(self.exec_result)

    def watch(self, stop: threading.Event) -> Iterator[str]:
        """See :meth:`Engine.watch`."""
        with self._verb("watch"):
            return self._hints.subscribe(stop)

    def close(self) -> None:
        """End the watching and following. Replicas go on."""
        with self._world.changed:
            self._closed = True
            self._world.changed.notify_all()
        self._hints.close()

    @contextlib.contextmanager
    def _verb(self, verb: Verb) -> Iterator[None]:
        """What all verbs have in common: the lock, the passing of time, and injected failures."""
        with self._world.changed:
            if self.unreachable:
                raise EngineUnreachable("the fake engine was told not to answer")
            for index, (failing, error) in enumerate(self._failures):
                if failing == verb:
                    del self._failures[index]
                    raise error
            self.tick()
            yield
            if verb in self._deaths:
                self._deaths.remove(verb)
                raise ServerDied(f"after {verb}")

    def _take(self, plan: ReplicaPlan) -> None:
        labels = {**plan.labels, LABEL_INSTALL: self._install}
        self._world.replicas[plan.name] = Replica.taken(plan, labels, self._clock.now())
        if plan.network:
            self._world.networks.add(plan.network)
        self.tick()

    def _let_begin(self, replica: Replica, at: float) -> None:
        replica.begin(at)
        for callback in self._on_start:
            callback(replica.plan)
        if "FAKE_PENDING" in replica.plan.env:
            self._world.hint(replica.plan.name)

    def _observe(self, name: str) -> Observed:
        replica = self._world.replicas.get(name)
        return replica.observed() if replica is not None else Observed(name, Phase.GONE)

    def _need_image(self, image: str) -> None:
        if image in self.missing_images:
            raise ImageMissing(f"image {image} is not here")

    def _need_node(self, plan: ReplicaPlan) -> None:
        if len(self._nodes) > 1 and plan.node not in self._nodes:
            raise EngineError(f"there is no node '{plan.node}'; there are {', '.join(self._nodes)}")

    def _need_ports(self, plan: ReplicaPlan) -> None:
        wanted = {port.host for port in plan.ports}
        for name, replica in self._world.replicas.items():
            if replica.plan.node != plan.node and len(self._nodes) > 1:
                continue
            taken = wanted & {port.host for port in replica.plan.ports}
            if taken and not replica.over:
                raise PortTaken(f"port {min(taken)} is used by {name}")

    def _read_logs(self, name: str, given: dict[Stream, int], follow: bool) -> Iterator[LogChunk]:
        while True:
            with self._world.changed:
                self.tick()
                replica = self._world.replicas.get(name)
                if replica is None:
                    return
                ended = replica.over or self._closed or not follow
                chunks = [chunk for stream in STREAMS for chunk in replica.written(stream, given.get(stream, 0))]
                if not chunks and not ended:
                    self._world.changed.wait()
                    continue
            for chunk in chunks:
                given[chunk.stream] = given.get(chunk.stream, 0) + len(chunk.data)
                yield chunk
            if ended:
                return


def _known(verb: Verb) -> Verb:
    if verb not in VERBS:
        raise ValueError(f"{verb!r} is no verb of an engine; known: {', '.join(VERBS)}")
    return verb
