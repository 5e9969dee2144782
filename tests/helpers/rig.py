"""A control loop whose acts happen at once, over a real database and the fake engine, driven tick by tick."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Executor, Future
from dataclasses import replace
from math import inf
from pathlib import Path
from typing import Any

from helpers.people import add_workspaces
from localml.control.jobs.acts import Acts
from localml.control.jobs.code import CodeFolders
from localml.control.jobs.holdings import Machine
from localml.control.jobs.mounts import Mounts
from localml.control.jobs.plans import Site
from localml.control.jobs.pumps import LogPumps
from localml.control.jobs.reconciler import Reconciler
from localml.core.buckets.records import BucketRecords
from localml.core.capacity.pools import Pools
from localml.core.clock import ManualClock
from localml.core.logs.files import LogStore
from localml.core.people.identity import Caller
from localml.core.work.grants import Grants
from localml.core.work.specs import Resources, WorkloadSpec, single
from localml.core.work.states import TERMINAL
from localml.core.work.workloads import Full, Submission, Workloads
from localml.engines.base import CONTAINERS, STREAMS, Engine, EngineUnreachable, GpuGrant, Phase
from localml.engines.fake.engine import FakeEngine
from localml.objects import Buckets
from localml.store.database import Database
from localml.store.schema import prepare

ME = Caller(1, "me", True, "p", "default")
INSTALL = "fake"


class Inline(Executor):
    """Runs what it is given before returning, in the caller's thread."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        future.set_result(fn(*args, **kwargs))
        return future


class InstantPumps(LogPumps):
    """Copies a container's output when asked whether it is complete, without threads; that of ``slow`` ones takes its
    time."""

    def ensure(self, workload_id: int, name: str) -> None:
        self._ids[name] = workload_id

    def drained(self, name: str) -> bool:
        if name not in self._ids or name in self.slow:
            return False
        try:
            if self._engine.inspect(name).phase is Phase.RUNNING:
                return False
            since = {stream: self._store.size(self._ids[name], name, stream) for stream in STREAMS}
            for chunk in self._engine.logs(name, since, follow=False):
                path = self._store.path(self._ids[name], name, chunk.stream)
                path.parent.mkdir(parents=True, exist_ok=True)
                with path.open("ab") as file:
                    file.write(chunk.data)
        except EngineUnreachable:
            return False
        return True

    def __init__(self, engine: FakeEngine, store: LogStore, slow: set[str] | None = None) -> None:
        super().__init__(engine, store, done=lambda: None, changed=lambda _: None, tell=lambda *_: True)
        self._ids: dict[str, int] = {}
        self.slow: set[str] = set() if slow is None else slow


class Rig:
    """One installation, of one machine or of several of one size. ``machine`` may be replaced to change that.

    ``before`` puts something between the loop and its engine.
    """

    def __init__(
        self,
        data: Path,
        *,
        gpus: int = 4,
        cpu: float = 8,
        memory: int = 16 << 30,
        nodes: tuple[str, ...] = ("local",),
        before: Callable[[Engine], Engine] = lambda engine: engine,
        clock: Any = None,
    ) -> None:
        self.data = data
        self.clock = clock or ManualClock()
        self.nodes = nodes
        spread = replace(CONTAINERS, gangs_spread=len(nodes) > 1)
        self.engine = FakeEngine(self.clock, install=INSTALL, nodes=nodes, capabilities=spread)
        self.met = before(self.engine)  # what the loop takes for its engine
        self.machine = Machine(
            "local", cpu, memory, tuple((f"GPU-{n}", "Simulated GPU") for n in range(gpus)), max_replicas=64
        )
        self.sick: dict[str, str] = {}
        self.slow: set[str] = set()  # containers whose output is not complete yet
        self.db = Database(prepare(data))
        self.logs = LogStore(data)
        self.pools = Pools(self.db)
        add_workspaces(self.db, ME.workspace, "p0", "p1")
        self.mounts = Mounts(data, Buckets(data / "buckets"), BucketRecords(self.db, self.clock))
        self.workloads = Workloads(self.db, self.clock, check=self._granted)
        self.loop = self._loop()

    def _granted(self, submission: Submission) -> Grants:
        caller = submission.caller
        place = submission.workspace or caller.workspace
        return self.mounts.decide(submission.spec, caller, place, submission.sees)

    def _site(self) -> Site:
        return Site(
            install=INSTALL,
            node=self.nodes[0],
            capabilities=self.met.capabilities,
            bind_address="127.0.0.1",
            mounts=self.mounts,
            our_image=lambda image: False,
            default_image="base",
            user=None,
            gpu=lambda uuid: GpuGrant(uuid, 0, simulated=True),
            host_cpus=64.0,
            host_memory=64 << 30,
            replica_token=lambda attempt: f"token-{attempt}",
            code=CodeFolders(self.data),
        )

    def _loop(self) -> Reconciler:
        inline = Inline()
        acts = Acts(lambda: None, dict.fromkeys(("start", "pin", "stop", "remove"), inline), now=self.clock.now)
        return Reconciler(
            self.db,
            self.met,
            self._site(),
            self.logs,
            self.clock,
            machines=lambda: tuple(replace(self.machine, name=name) for name in self.nodes),
            unhealthy=lambda: self.sick,
            acts=acts,
            pumps=InstantPumps(self.engine, self.logs, self.slow),
        )

    def restart(self) -> None:
        """The server died and was started again: nothing that was in memory is left."""
        self.loop = self._loop()

    def submit(self, name: str, spec: WorkloadSpec | None = None, **rest: Any) -> int:
        """Queue a workload; without a spec a one-second job of one replica."""
        return self.workloads.submit(Submission(name, spec or job(), ME, **rest))

    def settle(self, ticks: int = 8) -> None:
        """Tick until nothing changes any more at this moment of the clock; every tick looks at the whole engine."""
        for _ in range(ticks):
            self.loop.eyes.look_again()
            self.loop.tick()
            self.rest()

    def rest(self) -> None:
        """Let keys that rest after a failed act be tried again."""
        self.loop.acts._held.clear()

    def get(self, number: int) -> Full:
        return self.workloads.get(number)

    def state(self, number: int) -> str:
        return str(self.get(number).row.state)

    def over(self, number: int) -> bool:
        return self.get(number).row.state in TERMINAL

    def reasons(self, number: int) -> list[str]:
        return [event.reason for event in self.workloads.events(number)]

    def close(self) -> None:
        self.db.close()


def job(seconds: float | None = 1, exit_code: int = 0, gpu: float = 0, **rest: Any) -> WorkloadSpec:
    """A job of the fake engine: ends after ``seconds`` of its clock (None: never) with ``exit_code``.

    With ``held`` it is pending before that: so many seconds, or until it is told to begin (``inf``).
    """
    env = {"FAKE_EXIT": str(exit_code)} | ({} if seconds is None else {"FAKE_SECONDS": str(seconds)})
    held = rest.pop("held", None)
    if held is not None:
        env |= {"FAKE_PENDING": "the queue is long"} | ({} if held == inf else {"FAKE_PENDING_SECONDS": str(held)})
    resources = rest.pop("resources", Resources(gpu=gpu))
    return single(["run"], env=env, resources=resources, **rest)


def wait_until(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    """Wait for something that another thread does; fails loudly instead of hanging."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "did not happen in time"
        time.sleep(0.002)
