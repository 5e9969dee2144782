"""What a machine's GPUs look like to the rest of localml, and the inventories that need no driver."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

NODE = "local"
"""The name of this machine in a placement."""

SIMULATED_MEMORY = 16 << 30
MAX_SIMULATED = 64


@dataclass(frozen=True, slots=True)
class Gpu:
    """A device that one workload can be given: a whole GPU, or one MIG slice of a GPU.

    ``uuid`` is NVML's (``GPU-...`` or ``MIG-...``); ``index`` and ``pci_bus_id`` are those of the physical GPU, and
    ``mig_index`` counts the slices of one GPU. ``memory`` is in bytes, 0 when the driver does not tell.
    ``device_nodes`` are the device's own files, for engines without the NVIDIA runtime; the control files that all
    GPUs share (``/dev/nvidiactl``, ``/dev/nvidia-uvm``) are not among them.
    """

    uuid: str
    index: int
    name: str
    memory: int
    node: str = NODE
    simulated: bool = False
    mig_parent: str | None = None
    mig_index: int | None = None
    device_nodes: tuple[str, ...] = ()
    pci_bus_id: str | None = None

    @property
    def label(self) -> str:
        """The short name that ``--gpus`` takes: ``0`` for a GPU, ``0:3`` for its MIG slice 3."""
        return str(self.index) if self.mig_index is None else f"{self.index}:{self.mig_index}"


@dataclass(frozen=True, slots=True)
class GpuProcess:
    """A program that computes on a GPU. ``memory`` in bytes, None when the driver keeps it to itself."""

    pid: int
    memory: int | None
    name: str


@dataclass(frozen=True, slots=True)
class GpuUsage:
    """What a GPU does right now. A value that the device cannot give is None.

    ``utilisation`` in percent of the time, ``memory_used`` in bytes, ``temperature`` in degrees Celsius, ``power``
    in watts, ``ecc_uncorrected`` since the driver was loaded. A MIG slice shows its parent's temperature and power.
    ``errors`` names the queries that failed for another reason than not being supported.
    """

    utilisation: int | None = None
    memory_used: int | None = None
    temperature: int | None = None
    power: float | None = None
    ecc_uncorrected: int | None = None
    processes: tuple[GpuProcess, ...] = ()
    errors: tuple[str, ...] = ()


class Inventory(Protocol):
    """The GPUs that localml may use. Nothing is asked of the driver unless a method is called."""

    reason: str
    """One sentence on where the devices come from, or why there are none."""

    def devices(self) -> tuple[Gpu, ...]:
        """The devices in order of index; the same answer for the life of the inventory."""
        ...

    def usage(self) -> dict[str, GpuUsage]:
        """What each device does right now, by UUID."""
        ...

    def health(self) -> dict[str, str]:
        """The devices that must get no work because they are broken: UUID to reason. Empty when all is well."""
        ...

    def busy(self) -> dict[str, str]:
        """The devices that somebody else uses right now: UUID to who. Empty unless opened as ``free``."""
        ...

    def watch(self, stop: threading.Event) -> Iterator[tuple[str, str]]:
        """UUID and reason of each device that breaks from now on; blocks in between.

        Ends within about a second after ``stop`` is set or :meth:`close` is called, and at once where no device
        can report anything; :meth:`health` tells of such devices when asked.
        """
        ...

    def close(self) -> None:
        """Let go of the driver. A watcher ends; the other methods may not be called any more."""
        ...


class NoInventory:
    """A machine without GPUs, or one whose GPUs localml shall leave alone."""

    def __init__(self, reason: str = "GPUs are switched off") -> None:
        self.reason = reason

    def devices(self) -> tuple[Gpu, ...]:
        return ()

    def usage(self) -> dict[str, GpuUsage]:
        return {}

    def health(self) -> dict[str, str]:
        return {}

    def busy(self) -> dict[str, str]:
        return {}

    def watch(self, stop: threading.Event) -> Iterator[tuple[str, str]]:
        """Nothing can break, so there is nothing to wait for."""
        yield from ()

    def close(self) -> None:
        pass


class SimulatedInventory:
    """Devices that do not exist, for trying queues, quotas and pinning on a machine without GPUs.

    UUIDs depend on the position only, so that leases survive a restart. What the devices report is set with
    :meth:`fail`, :meth:`heal` and :meth:`set_usage`.
    """

    def __init__(self, count: int, *, name: str = "Simulated GPU", memory: int = SIMULATED_MEMORY) -> None:
        if not 1 <= count <= MAX_SIMULATED:
            raise ValueError(f"1 to {MAX_SIMULATED} GPUs can be simulated, not {count}")
        self.reason = f"{count} simulated; no real GPU is used"
        self._devices = tuple(
            Gpu(uuid=f"GPU-SIMULATED-{index:04d}", index=index, name=name, memory=memory, simulated=True)
            for index in range(count)
        )
        self._usage = {gpu.uuid: GpuUsage(utilisation=0, memory_used=0) for gpu in self._devices}
        self._health: dict[str, str] = {}
        self._broken: queue.SimpleQueue[tuple[str, str] | None] = queue.SimpleQueue()

    def devices(self) -> tuple[Gpu, ...]:
        return self._devices

    def usage(self) -> dict[str, GpuUsage]:
        return dict(self._usage)

    def health(self) -> dict[str, str]:
        return dict(self._health)

    def busy(self) -> dict[str, str]:
        return {}

    def watch(self, stop: threading.Event) -> Iterator[tuple[str, str]]:
        while not stop.is_set():
            try:
                event = self._broken.get(timeout=1.0)
            except queue.Empty:
                continue
            if event is None:
                return
            yield event

    def close(self) -> None:
        self._broken.put(None)

    def fail(self, uuid: str, reason: str) -> None:
        """Break a device: :meth:`health` names it from now on and a watcher is told."""
        self._known(uuid)
        self._health[uuid] = reason
        self._broken.put((uuid, reason))

    def heal(self, uuid: str) -> None:
        """Repair a device; repairing a healthy one changes nothing."""
        self._known(uuid)
        self._health.pop(uuid, None)

    def set_usage(self, uuid: str, usage: GpuUsage) -> None:
        """What :meth:`usage` answers for a device from now on."""
        self._known(uuid)
        self._usage[uuid] = usage

    def _known(self, uuid: str) -> None:
        if uuid not in self._usage:
            raise KeyError(f"there is no simulated GPU {uuid}")
