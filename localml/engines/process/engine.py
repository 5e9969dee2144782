"""The process engine: replicas as child processes, each in a folder of its own, each under a small supervisor.

Made for machines without a container engine and for tests: a job starts in milliseconds. Replicas whose plan names an
account run in a box (:mod:`localml.engines.process.box`), where the machine lets us make some; all others are not
isolated, and :meth:`ProcessEngine.nodes` says so. The supervisor (:mod:`localml.engines.process.supervisor`) survives
the server, which finds everything again by what lies on disk (:mod:`localml.engines.process.folder`).
"""

from __future__ import annotations

import contextlib
import logging
import os
import platform
import socket
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

import psutil

from localml.core.failpoints import FAILPOINTS
from localml.core.work.specs import RegistryAuth
from localml.engines.base import (
    LABEL_INSTALL,
    Capabilities,
    EngineError,
    EngineUnreachable,
    ExecResult,
    ExecStream,
    LogChunk,
    NodeInfo,
    Observed,
    Phase,
    Progress,
    ReplicaPlan,
    Stream,
    Usage,
)
from localml.engines.hints import Hints
from localml.engines.process import cgroups
from localml.engines.process import io as process_io
from localml.engines.process.boxes import Boxes
from localml.engines.process.ends import observed, settled, supervisor_of
from localml.engines.process.exec import open_beside
from localml.engines.process.exits import Watched
from localml.engines.process.folder import UNFINISHED, PlanRecord, ReplicaDir
from localml.engines.process.launch import Launch
from localml.engines.process.plan import Environments, LaunchMaker, Resolve
from localml.engines.process.spawn import Spawner
from localml.engines.process.supervisors import Supervisors
from localml.engines.process.writes import WriteWatcher

_log = logging.getLogger(__name__)

_NAME_LOCKS = 64
_SPARES = 16
"""Folders of removed replicas that are kept for new ones."""
_REMOVE_WAIT = 10.0
"""Seconds that a killed replica may take to end before its removal is given up."""


class ProcessEngine:
    """Replicas as process groups of this machine.

    Limits: with a delegated control group (``cgroup``, or found by :func:`localml.engines.process.cgroups.delegated`)
    cpu, memory and number of processes are held by the kernel, and an out-of-memory kill is known as such. Without,
    cpu becomes affinity to that many cores (rounded up), memory becomes RLIMIT_DATA of each process -- not
    RLIMIT_AS, which would count the address space that CUDA reserves (tens of gigabytes) and every mapped model
    file -- and the number of processes is not limited (RLIMIT_NPROC counts all processes of the user).

    No port is mapped: a published one must be the same on both sides. Binds are paths of this machine, told in ``env``.

    Args:
        root: the folder for the replicas' folders; made if missing. It must not be shared between machines.
        install: id of this installation; replicas of others in the same root are left alone.
        environments: from what ``resolve`` gave to variables such as PATH; None for the machine's own programs.
        resolve: from an image's name to the environment that it stands for, made if need be; by default that name.
        cgroup: a control group to use; default is the delegated one, if there is one.
        umask: of replicas without account, beside such that have one; the server's unless given.
        hidden: folders of which replicas in boxes see nothing but what they are given, such as the data directory.
    """

    name = identity = "process"

    def __init__(
        self,
        root: Path,
        install: str,
        *,
        environments: Environments | None = None,
        resolve: Resolve | None = None,
        cgroup: Path | None = None,
        hidden: Sequence[Path] = (),
        umask: int | None = None,
    ) -> None:
        self._root = root.absolute()
        self._resolve = resolve
        self._install = install
        self._cgroups = cgroups.named(cgroup) if cgroup else cgroups.delegated()
        spawner = self._prepare_root(hidden)
        self._launches = LaunchMaker(environments or (lambda image: None), self._cgroups, self._boxes, umask)
        self.capabilities = Capabilities(accounts=not self._boxes.trouble, exposes=self._boxes.exposes)
        self._name_locks = [threading.RLock() for _ in range(_NAME_LOCKS)]
        self._plans: dict[str, PlanRecord] = {}
        self._ended: dict[str, Observed] = {}
        self._failed: set[str] = set()
        self._spares: deque[ReplicaDir] = deque()
        self._hints = Hints()
        self._closed = threading.Event()
        self._writes = WriteWatcher()
        self._supervisors = Supervisors(self._root, spawner, self._on_exit)

    def nodes(self) -> tuple[NodeInfo, ...]:
        """This machine, as far as this process may use it."""
        node = NodeInfo(
            name=socket.gethostname(),
            cpu=float(len(self._launches.cores)),
            memory=psutil.virtual_memory().total,
            engine=self.name,
            version=platform.release(),
            isolation=self._boxes.isolation,
        )
        return (node,)

    def resolve_image(
        self, image: str, progress: Progress | None = None, *, pull: bool = True, auth: RegistryAuth | None = None
    ) -> str:
        """The environment that it stands for, made if need be: an image is a choice among what is installed here."""
        return image if self._resolve is None else self._resolve(image, progress, pull)

    def image_user(self, image: str) -> str:
        """Nobody: whom a replica runs as its plan says."""
        return ""

    def start(self, plan: ReplicaPlan) -> Observed:
        """Start the replica's supervisor, or find the replica. See :meth:`Engine.start`.

        Raises:
            EngineError: no command, a port to be mapped, another installation's name, the system's refusal (full disk).
        """
        folder = self._folder(plan.name)
        with self._name_lock(plan.name):
            seen = self._observe(plan.name)
            if seen.phase is Phase.CREATED and folder.drop_other(self._launches.make(plan, folder.path / "work")):
                self._plans.pop(plan.name)  # it was made for what was decided then
                seen = self._observe(plan.name)
            if seen.phase is Phase.GONE:
                there = folder.plan()
                if there is None:
                    self._create(folder, plan)
                    FAILPOINTS.hit("after-create")
                elif there.labels.get(LABEL_INSTALL) != self._install:
                    raise EngineError(f"{plan.name} belongs to another installation")
            # One that was just made may have been begun by another engine: a supervisor too many finds that itself.
            if seen.phase in (Phase.GONE, Phase.CREATED):
                self._supervisors.spawn(plan.name)
                FAILPOINTS.hit("after-start")
                seen = self._observe(plan.name)
            return seen

    def hidden_mounts(self) -> None:
        """None: what boxes are shown they find themselves, following no links."""

    def inspect(self, name: str) -> Observed:
        """See :meth:`Engine.inspect`. Reads the replica's folder; an ended one is remembered.

        Of one whose folder somebody has deleted nobody could tell how it ends: it is killed before it is called gone.

        Raises:
            EngineError: it is not killed; it hangs in the kernel.
        """
        with self._name_lock(name):
            seen = self._observe(name)
        if seen.phase is Phase.GONE and (left := process_io.kill_supervised(self._folder(name).path)):
            raise EngineError(f"{name}: its folder is gone, and its processes do not end: {', '.join(map(str, left))}")
        return seen

    def list(self) -> dict[str, Observed]:
        """See :meth:`Engine.list`."""
        try:
            names = sorted(name for name in os.listdir(self._root) if not name.startswith("."))
        except OSError as error:
            raise EngineUnreachable(f"{self._root}: {error.strerror}") from error
        seen = {name: self._inspect_anyway(name) for name in names}
        return {name: observed for name, observed in seen.items() if observed.phase is not Phase.GONE}

    def _inspect_anyway(self, name: str) -> Observed:
        """One of many: what cannot be read of one replica says nothing about the others, and is no proof of an end."""
        try:
            return self.inspect(name)
        except EngineUnreachable as error:
            os.stat(self._root)
            process_io.tell_once(f"nothing is known of {name}, which counts as running: {error}")
            return Observed(name, Phase.RUNNING, labels={LABEL_INSTALL: self._install}, error=str(error))

    def stop(self, name: str, grace: float) -> None:
        """See :meth:`Engine.stop`. Returns at once; the supervisor keeps the time, not this process."""
        folder = self._folder(name)
        with self._name_lock(name):
            seen = self._observe(name)
            if seen.phase not in (Phase.CREATED, Phase.RUNNING):
                return
            grace = max(0.0, grace)
            try:
                folder.ask_to_stop(grace)
            except EngineError as error:  # the disk is full: its supervisor may take another grace, we do not
                if self._supervisors.find(name) is None:
                    raise
                _log.warning("%s is stopped all the same: %s", name, error)
            # Only now look for the supervisor: one that takes its lock after this look finds the wish itself.
            if watched := self._supervisors.find(name):
                self._supervisors.stop(name, watched, grace)
            elif seen.phase is Phase.CREATED:
                self._supervisors.spawn(name)  # it records the wish as the end, and runs nothing

    def remove(self, name: str) -> None:
        """See :meth:`Engine.remove`. A replica that still runs is killed first.

        Raises:
            EngineError: it cannot be killed (stuck in the kernel) or its files cannot be deleted.
        """
        folder = self._folder(name)
        self.stop(name, 0.0)
        self._wait_ended(name)
        with self._name_lock(name):
            if self._observe(name).phase is Phase.GONE:
                if not folder.exists():
                    folder.delete()  # of a removal that a server's death cut short
                return
            FAILPOINTS.hit("before-remove")
            wanted = len(self._spares) < _SPARES and not self._closed.is_set()
            with folder.owned() as owned:
                folder.forget()
                spare = folder.emptied() if owned and wanted else None
            for memory in (self._plans, self._ended):
                memory.pop(name, None)
            self._supervisors.forget(name)
            self._failed.discard(name)
            if spare is None:
                folder.delete()
            else:
                self._spares.append(spare)

    def remove_network(self, network: str) -> None:
        """Nothing to do: replicas share the machine's network."""

    def networks(self) -> set[str]:
        """None: replicas share the machine's network."""
        return set()

    def logs(self, name: str, since: Mapping[Stream, int], *, follow: bool, place: str = "") -> Iterator[LogChunk]:
        """See :meth:`Engine.logs`."""
        if self.inspect(name).phase is Phase.GONE:
            return iter(())
        folder, watch = self._folder(name).path, partial(self._writes.watch, name)
        return process_io.read_logs(folder, since, lambda: self._is_over(name, 0.0), follow, watch)

    def carried(self, name: str, upto: Mapping[Stream, int]) -> None:
        """Punches holes into the replica's own copy. See :meth:`Engine.carried`."""
        process_io.forget_output(self._folder(name).path, upto)

    def stats(self, name: str) -> Usage | None:
        """See :meth:`Engine.stats`. Memory is the sum of resident sizes, so shared pages count more than once."""
        pid = supervisor_of(self._folder(name)) if self.inspect(name).phase is Phase.RUNNING else None
        return None if pid is None else process_io.usage_below(pid)

    def exec(self, name: str, command: tuple[str, ...], *, timeout: float = 60.0) -> ExecResult:
        """See :meth:`Engine.exec`. Runs with the replica's environment and work directory.

        Raises:
            EngineError: the replica does not run, or the command did not end in time.
        """
        plan = self._running_plan(name)
        with self._boxes.beside(self._folder(name), plan, Launch(command, plan.env, plan.workdir)) as beside:
            return process_io.run_beside(beside, timeout)

    def open(
        self,
        name: str,
        command: tuple[str, ...],
        *,
        tty: tuple[int, int] | None = None,
        env: Mapping[str, str] | None = None,
    ) -> ExecStream:
        """See :meth:`Engine.open`. What the command leaves behind is killed when the stream is closed, because no
        container would end it."""
        plan = self._running_plan(name)
        launch = Launch(command, {**plan.env, **(env or {})}, plan.workdir)
        with self._boxes.beside(self._folder(name), plan, launch) as beside:
            return open_beside(beside, tty)

    def _running_plan(self, name: str) -> PlanRecord:
        with self._name_lock(name):
            running = self._observe(name).phase is Phase.RUNNING
            plan = self._plan(name)
        if not running or plan is None:
            raise EngineError(f"{name} does not run")
        return plan

    def watch(self, stop: threading.Event) -> Iterator[str]:
        """See :meth:`Engine.watch`: the name of each replica that ends, at once; sleeps in between."""
        names = self._hints.subscribe(stop)
        self._supervisors.warm_up()
        self.list()  # puts the replicas of an earlier server under watch
        return names

    def close(self) -> None:
        """End the watching. Replicas and their supervisors go on."""
        self._closed.set()
        self._supervisors.close()
        self._writes.close()
        while self._spares:
            self._spares.popleft().delete()
        self._hints.close()

    def _prepare_root(self, hidden: Sequence[Path]) -> Spawner:
        try:
            self._root.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._boxes = Boxes(self._root, hidden)
            for left in self._root.glob(f"{UNFINISHED}*"):
                if ReplicaDir(left).abandoned():
                    ReplicaDir(left).delete()
            return Spawner(self._root, *filter(None, [self._boxes.program]))
        except OSError as error:
            raise EngineError(f"cannot use {self._root}: {error.strerror}") from error

    def _create(self, folder: ReplicaDir, plan: ReplicaPlan) -> None:
        launch = self._launches.make(plan, folder.path / "work")
        labels = {**plan.labels, LABEL_INSTALL: self._install}
        try:
            spare = self._spares.popleft()
        except IndexError:
            spare = None
        self._plans[plan.name] = folder.create(plan, labels, launch, spare)

    def _observe(self, name: str) -> Observed:
        """What the folder says; under the name's lock.

        Raises:
            EngineUnreachable: the folder cannot be read; nothing is known then.
        """
        try:
            return self._read_phase(name, self._folder(name))
        except OSError as error:
            raise EngineUnreachable(f"{error.filename or self._root}: {error.strerror}") from error

    def _read_phase(self, name: str, folder: ReplicaDir) -> Observed:
        plan = self._plan(name)
        if plan is None or plan.labels.get(LABEL_INSTALL) != self._install:
            return Observed(name, Phase.GONE)
        if name in self._ended:
            return self._ended[name]
        if (end := folder.end()) is None:
            running = folder.running()
            if self._supervisors.find(name):
                return observed(name, folder, plan, Phase.RUNNING, running)
            # It may have ended between the two looks, and only then is the folder complete.
            if (end := folder.end()) is None:
                running = folder.running()
                if running is None and name not in self._failed:
                    return observed(name, folder, plan, Phase.CREATED, None)
                end = settled(name, folder, running, self._cgroups)
        if end is None:
            return observed(name, folder, plan, Phase.RUNNING, folder.running())
        self._ended[name] = observed(name, folder, plan, Phase.EXITED, folder.running(), end)
        return self._ended[name]

    def _on_exit(self, watched: Watched) -> None:
        """A supervisor has ended (on the watcher's thread): remember why, and tell the watchers."""
        name, folder = watched.name, self._folder(watched.name)
        # A folder that cannot be read now is looked at again when somebody asks.
        with self._name_lock(name), contextlib.suppress(OSError, EngineUnreachable):
            ended = self._supervisors.gone(watched) and folder.exists() and folder.end() is None
            if ended and supervisor_of(folder) is None:
                self._failed.add(name)
            self._observe(name)
        if notes := folder.notes():
            _log.warning("%s: %s", name, notes.strip())
        self._writes.wake(name)
        self._hints.tell(name)

    def _is_over(self, name: str, wait: float) -> bool:
        """Wait up to ``wait`` seconds for a replica's end; whether there is nothing more to come."""
        with self._name_lock(name):
            seen = self._observe(name)
            watched = self._supervisors.known(name)
        if self._closed.is_set() or seen.phase in (Phase.EXITED, Phase.GONE):
            return True
        if wait > 0:
            if watched is None:
                self._closed.wait(wait)
            else:
                watched.ended.wait(wait)
        return False

    def _wait_ended(self, name: str) -> None:
        deadline = time.monotonic() + _REMOVE_WAIT
        while not self._is_over(name, min(0.2, deadline - time.monotonic())):
            if time.monotonic() > deadline:
                raise EngineError(f"{name} does not end, though it was killed; its processes hang in the kernel")
        if watched := self._supervisors.known(name):
            watched.ended.wait(max(0.0, deadline - time.monotonic()))  # until it is reaped

    def _plan(self, name: str) -> PlanRecord | None:
        folder = self._folder(name)
        if not folder.exists():
            os.stat(self._root)  # a root that is gone (unmounted) says nothing about replicas
            for memory in (self._plans, self._ended):
                memory.pop(name, None)
            return None
        if name not in self._plans:
            plan = folder.plan()
            if plan is None:
                return None
            self._plans[name] = plan
        return self._plans[name]

    def _folder(self, name: str) -> ReplicaDir:
        if not name or name.startswith(".") or "/" in name or "\0" in name:
            raise EngineError(f"{name!r} is no name of a replica")
        return ReplicaDir(f"{self._root}/{name}")

    def _name_lock(self, name: str) -> threading.RLock:
        """Many names share a lock: a lock for each would have to be thrown away again, safely."""
        return self._name_locks[hash(name) % _NAME_LOCKS]
