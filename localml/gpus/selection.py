"""Which GPUs localml uses: the value of ``--gpus`` made into an inventory."""

from __future__ import annotations

import importlib
import logging
import os
import re
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import psutil

from localml.core.errors import invalid
from localml.gpus.inventory import MAX_SIMULATED, Gpu, GpuUsage, Inventory, NoInventory, SimulatedInventory
from localml.gpus.nvml import NvmlInventory
from localml.gpus.recorded import load

log = logging.getLogger(__name__)

FIELD = "gpus"
FORMS = "auto, free, none, simulated:N, recorded:FILE, or a list of indices or UUIDs such as 0,1"
_NUMBER = re.compile(r"[0-9]{1,3}")
_LABEL = re.compile(r"[0-9]{1,3}(:[0-9]{1,3})?")
_UUID = re.compile(r"(GPU|MIG)-[0-9A-Za-z/-]{4,}")

IsOurs = Callable[[int], bool]


def descends_from_us(pid: int) -> bool:
    """Whether a process is this one or was started by it, directly or not."""
    try:
        return pid == os.getpid() or any(parent.pid == os.getpid() for parent in psutil.Process(pid).parents())
    except psutil.Error:
        return False


def runs_in(pid: int, containers: Callable[[], Iterable[str]]) -> bool:
    """Whether a process is ours, or runs in one of these containers. They are asked for only where that matters."""
    if descends_from_us(pid):
        return True
    try:
        cgroup = Path(f"/proc/{pid}/cgroup").read_text()
    except OSError:
        return False
    return any(container in cgroup for container in containers())


def open_inventory(spec: str, nvml: Any = None, *, is_ours: IsOurs = descends_from_us) -> Inventory:
    """The inventory that ``--gpus`` asks for.

    ``auto``: all GPUs of the driver, none without a driver. ``free``: those on which nobody else's program computes
    now; :meth:`Inventory.busy` tells when that changes for one of them. ``none``. ``simulated:N``: N devices that do
    not exist (1 to 64). ``recorded:FILE``: devices like those of another machine, simulated as well. A list picks
    GPUs by index, by ``index:slot`` of a MIG slice, or by UUID or its unique beginning.

    Args:
        spec: the text.
        nvml: answers like the ``pynvml`` module; None takes that module.
        is_ours: whether a process id belongs to localml's own work; asked for ``free`` only.

    Raises:
        LocalmlError: ``INVALID`` for field ``gpus`` when the text is none of these, a listed GPU does not exist, or
            a list was given and no driver answers.
    """
    spec = spec.strip()
    kind, colon, rest = spec.partition(":")
    if spec == "none":
        return NoInventory()
    if kind == "simulated" and colon:
        return _simulated(rest)
    if kind == "recorded" and rest:
        return NvmlInventory(load(Path(rest)), simulated=True)
    if spec == "auto":
        return _detected(nvml)
    if spec == "free":
        found = _detected(nvml)
        return FreeInventory(found, is_ours) if isinstance(found, NvmlInventory) else found
    tokens = [token.strip() for token in spec.split(",")]
    if not all(_LABEL.fullmatch(token) or _UUID.fullmatch(token) for token in tokens):
        raise invalid(FIELD, f"must be {FORMS}; not {spec!r}")
    return _picked(tokens, nvml)


def _simulated(count: str) -> Inventory:
    if not _NUMBER.fullmatch(count) or not 1 <= int(count) <= MAX_SIMULATED:
        raise invalid(FIELD, f"simulated:N takes a number from 1 to {MAX_SIMULATED}, not {count!r}")
    return SimulatedInventory(int(count))


def _detected(nvml: Any) -> Inventory:
    """The driver's GPUs, or none with the reason why the driver does not answer."""
    if nvml is None:
        nvml = importlib.import_module("pynvml")  # late: a machine without GPUs need not pay for it
    try:
        return NvmlInventory(nvml)
    except nvml.NVMLError as error:
        if error.value == nvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH:
            log.warning("The NVIDIA driver was updated while it was loaded; GPUs can be used after a reboot")
        return NoInventory(f"no NVIDIA driver answers: {str(error).removesuffix(' ()')}")


def _picked(tokens: list[str], nvml: Any) -> Inventory:
    found = _detected(nvml)
    if not isinstance(found, NvmlInventory):
        raise invalid(FIELD, f"no GPU can be picked: {found.reason}")
    try:
        chosen: dict[str, Gpu] = {}
        for token in tokens:
            for gpu in _matching(token, found.devices()):
                if gpu.uuid in chosen:
                    raise invalid(FIELD, f"GPU {token} is named twice")
                chosen[gpu.uuid] = gpu
    except BaseException:
        found.close()
        raise
    return SubsetInventory(found, set(chosen))


def _matching(token: str, devices: tuple[Gpu, ...]) -> list[Gpu]:
    """The devices that a token names: a MIG GPU's index or UUID stands for all of its slices."""
    known = ", ".join(f"{gpu.label} ({gpu.uuid})" for gpu in devices) or "none"
    if _LABEL.fullmatch(token):
        found = [gpu for gpu in devices if token in (gpu.label, str(gpu.index))]
    else:
        exact = [gpu for gpu in devices if token in (gpu.uuid, gpu.mig_parent)]
        found = exact or [gpu for gpu in devices if gpu.uuid.startswith(token)]
        if not exact and len(found) > 1:
            raise invalid(FIELD, f"{token} is the beginning of several UUIDs; known: {known}")
    if not found:
        raise invalid(FIELD, f"there is no GPU {token}; known: {known}")
    return found


class SubsetInventory:
    """Some of a driver's devices; the others are treated as if they were not there."""

    def __init__(self, whole: NvmlInventory, uuids: set[str]) -> None:
        self._whole = whole
        self._devices = tuple(gpu for gpu in whole.devices() if gpu.uuid in uuids)
        self._uuids = frozenset(gpu.uuid for gpu in self._devices)
        self.reason = f"{whole.reason}; {len(self._devices)} of {len(whole.devices())} devices"

    def devices(self) -> tuple[Gpu, ...]:
        return self._devices

    def usage(self) -> dict[str, GpuUsage]:
        return {uuid: usage for uuid, usage in self._whole.usage().items() if uuid in self._uuids}

    def health(self) -> dict[str, str]:
        return {uuid: reason for uuid, reason in self._whole.health().items() if uuid in self._uuids}

    def busy(self) -> dict[str, str]:
        return {}

    def watch(self, stop: threading.Event) -> Iterator[tuple[str, str]]:
        return (event for event in self._whole.watch(stop) if event[0] in self._uuids)

    def close(self) -> None:
        self._whole.close()


class FreeInventory(SubsetInventory):
    """The devices on which nobody else computed when it was opened; :meth:`busy` looks again.

    Programs that only draw, such as a desktop, do not count.
    """

    def __init__(self, whole: NvmlInventory, is_ours: IsOurs) -> None:
        self._is_ours = is_ours
        taken = _taken(whole, is_ours)
        super().__init__(whole, {gpu.uuid for gpu in whole.devices()} - set(taken))

    def busy(self) -> dict[str, str]:
        return {uuid: who for uuid, who in _taken(self._whole, self._is_ours).items() if uuid in self._uuids}


def _taken(whole: NvmlInventory, is_ours: IsOurs) -> dict[str, str]:
    taken: dict[str, str] = {}
    for uuid, processes in whole.processes().items():
        foreign = [process for process in processes if not is_ours(process.pid)]
        if foreign:
            taken[uuid] = "used by " + ", ".join(f"{p.name or 'process'} ({p.pid})" for p in foreign)
    return taken
