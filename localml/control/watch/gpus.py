"""Fencing a GPU as soon as its driver says that it is broken."""

from __future__ import annotations

from localml.control.jobs.hardware import Hardware
from localml.control.worker import Worker
from localml.gpus import Inventory


class GpuWatch:
    """Waits for the driver's events on a thread of its own; where no GPU is real it never starts."""

    def __init__(self, gpus: Inventory, hardware: Hardware) -> None:
        self._gpus = gpus
        self._hardware = hardware
        self._worker = Worker("gpu-watch", self.watch, what="watching the GPUs")

    def start(self) -> None:
        """Begin to watch."""
        if any(not gpu.simulated for gpu in self._gpus.devices()):
            self._worker.start()

    def close(self) -> None:
        """End the thread."""
        self._worker.close()

    def watch(self) -> float | None:
        """Fence what the driver reports, until this is closed; over at once where no device can report anything."""
        for gpu, reason in self._gpus.watch(self._worker.stopping):
            self._hardware.mark_gpu(gpu, reason, fenced=True)
        return None
