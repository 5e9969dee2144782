"""The machine as its owner sees it: its size, its GPUs with who holds them, and what is kept from new work."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cache

from sqlmodel import Session, col, select

from localml.control.jobs.holdings import LOCAL, Machine
from localml.core.capacity.tables import GpuLease, GpuMark, NodeMark
from localml.core.clock import Clock
from localml.core.errors import Code, LocalmlError
from localml.core.events.records import record_event
from localml.core.quantities import format_memory
from localml.core.subjects import PLATFORM
from localml.core.work.specs import WorkloadSpec
from localml.engines.base import GpuGrant
from localml.gpus import Gpu, Inventory
from localml.store.database import Database

_EPSILON = 1e-9
_REPLICAS_PER_CORE = 16


@dataclass(frozen=True, slots=True)
class GpuView:
    """A GPU, who holds it, and what keeps it from new work (empty when nothing does)."""

    gpu: Gpu
    leases: tuple[GpuLease, ...]
    mark: GpuMark | None
    trouble: str
    discreet: str = ""  # the same without what other programs of the machine are called


@dataclass(frozen=True, slots=True)
class Size:
    """What the settings say of the machine: another size than its own (None: its own), and how much is overcommitted.

    ``memory`` in bytes; ``max_replicas`` 0 is sixteen for each core.
    """

    cpus: float | None = None
    memory: int | None = None
    cpu_overcommit: float = 1.0
    max_replicas: int = 0


class Hardware:
    """One machine."""

    def __init__(self, db: Database, gpus: Inventory, clock: Clock, size: Size) -> None:
        self._db = db
        self._gpus = gpus
        self._clock = clock
        self._size = size
        self._by_uuid = {gpu.uuid: gpu for gpu in gpus.devices()}

    @property
    def cores(self) -> float:
        """Cores of the machine, declared or real, before overcommitment."""
        return self._size.cpus or float(os.cpu_count() or 1)

    def machine(self) -> Machine:
        """Size of the machine as admission sees it: declared or real, GPUs that others use left out."""
        memory = self._size.memory or _physical_memory()
        busy = self._gpus.busy()
        gpus = tuple((gpu.uuid, gpu.name) for gpu in self._gpus.devices() if gpu.uuid not in busy)
        replicas = self._size.max_replicas or max(1, int(_REPLICAS_PER_CORE * self.cores))
        return Machine(LOCAL, self.cores * self._size.cpu_overcommit, memory, gpus, replicas)

    def check(self, spec: WorkloadSpec) -> None:
        """Refuse at once what this machine never has. More cores than there are is not refused: who asks for them gets
        all there are, once it has the machine to itself (:mod:`localml.control.jobs.admission`).

        Raises:
            LocalmlError: ``CAPACITY`` with what was asked for and what there is.
        """
        machine = self.machine()
        all_gpus = self._gpus.devices()
        memory = gpu = 0.0
        for role in spec.roles:
            need = role.resources
            matching = [one for one in all_gpus if need.gpu_type is None or need.gpu_type.lower() in one.name.lower()]
            if need.gpu > len(matching):
                kind = f"GPUs of type {need.gpu_type}" if need.gpu_type else "GPUs"
                raise _too_much("gpu", need.gpu, len(matching), kind)
            memory += (need.memory or 0) * role.count
            gpu += need.gpu * role.count
        for what, asked, there, unit in (
            ("memory", memory, float(machine.memory), "of memory"),
            ("gpu", gpu, float(len(all_gpus)), "GPUs"),
        ):
            if asked > there + _EPSILON:
                raise _too_much(what, asked, there, unit)

    def grant(self, uuid: str) -> GpuGrant:
        """What an engine must know of a leased GPU."""
        gpu = self._by_uuid.get(uuid)
        if gpu is None:  # leased by an earlier run with another set of GPUs
            return GpuGrant(uuid, 0, simulated=True)
        return GpuGrant(uuid, gpu.index, simulated=gpu.simulated, device_nodes=gpu.device_nodes)

    def gpu_views(self) -> list[GpuView]:
        """All GPUs with their leases and marks."""
        health, busy = self._gpus.health(), self._gpus.busy()
        with self._db.read() as session:
            marks = {mark.gpu: mark for mark in session.exec(select(GpuMark).where(GpuMark.node == LOCAL))}
            leases: dict[str, list[GpuLease]] = {}
            for lease in session.exec(select(GpuLease).where(col(GpuLease.released_at).is_(None))):
                leases.setdefault(lease.gpu, []).append(lease)
        return [
            GpuView(
                gpu,
                tuple(leases.get(gpu.uuid, ())),
                marks.get(gpu.uuid),
                health.get(gpu.uuid) or busy.get(gpu.uuid, ""),
                health.get(gpu.uuid) or ("used by others" if gpu.uuid in busy else ""),
            )
            for gpu in self._gpus.devices()
        ]

    def mark_gpu(self, uuid: str, reason: str, *, fenced: bool = False) -> None:
        """Give this GPU no new work; what runs on it goes on."""
        now = self._clock.now()

        def act(session: Session) -> None:
            session.merge(GpuMark(gpu=uuid, node=LOCAL, reason=reason, fenced=fenced, at=now))
            what = "fenced" if fenced else "drained"
            record_event(session, PLATFORM, f"Gpu{what.capitalize()}", f"GPU {uuid} is {what}: {reason}", now=now)

        self._db.write(act)

    def unmark_gpu(self, uuid: str) -> None:
        """Give this GPU work again."""

        def act(session: Session) -> None:
            mark = session.get(GpuMark, (uuid, LOCAL))
            if mark is not None:
                session.delete(mark)
                record_event(session, PLATFORM, "GpuUndrained", f"GPU {uuid} takes work again", now=self._clock.now())

        self._db.write(act)

    def find_gpu(self, label: str) -> Gpu:
        """A GPU by UUID, by the start of it, or by index."""
        found = [gpu for gpu in self._gpus.devices() if label in (gpu.uuid, gpu.label) or gpu.uuid.startswith(label)]
        if len(found) != 1:
            raise LocalmlError(
                Code.NOT_FOUND, f"gpu: {label!r} names {len(found)} of the {len(self._gpus.devices())} GPUs here"
            )
        return found[0]

    def drain(self, reason: str) -> None:
        """Start nothing new on this machine; what runs goes on."""
        now = self._clock.now()

        def act(session: Session) -> None:
            session.merge(NodeMark(node=LOCAL, reason=reason, at=now))
            record_event(session, PLATFORM, "Drained", f"the machine takes no new work: {reason}", now=now)

        self._db.write(act)

    def undrain(self) -> None:
        """Start work again."""

        def act(session: Session) -> None:
            mark = session.get(NodeMark, LOCAL)
            if mark is not None:
                session.delete(mark)
                record_event(session, PLATFORM, "Undrained", "the machine takes work again", now=self._clock.now())

        self._db.write(act)

    def drained(self) -> NodeMark | None:
        """The mark of a drained machine."""
        with self._db.read() as session:
            return session.get(NodeMark, LOCAL)


@cache
def _physical_memory() -> int:
    """Bytes of this machine."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _too_much(what: str, asked: float, there: float, unit: str) -> LocalmlError:
    show = (lambda amount: format_memory(int(amount))) if what == "memory" else "{:g}".format
    return LocalmlError(
        Code.CAPACITY,
        f"{what}: {show(asked)} {unit} were asked for, this machine has {show(there)}",
        field=what,
        details={"asked": asked, "available": there},
    )
