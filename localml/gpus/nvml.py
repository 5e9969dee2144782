"""The GPUs that NVIDIA's driver reports, through NVML."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from localml.gpus.faults import memory_fault, query_fault, xid_fault
from localml.gpus.inventory import Gpu, GpuProcess, GpuUsage

log = logging.getLogger(__name__)

CAPABILITIES = Path("/proc/driver/nvidia/capabilities")
EVENT_WAIT_MS = 500
ALL_INSTANCES = 0xFFFFFFFF  # an event's instance id when it concerns the whole GPU


@dataclass(frozen=True, slots=True)
class _Device:
    """A listed device and the handles to ask about it; ``instance`` is the GPU instance of a MIG slice."""

    gpu: Gpu
    handle: Any
    parent: Any
    parent_uuid: str
    instance: int | None = None


class NvmlInventory:
    """All GPUs of the machine; a GPU in MIG mode is listed as its slices.

    Args:
        nvml: the ``pynvml`` module, or something that answers like it.
        simulated: mark the devices as not really there.
        capabilities: where the driver describes the device files of MIG slices.

    Raises:
        nvml.NVMLError: there is no driver, or it does not answer.
    """

    def __init__(self, nvml: Any, *, simulated: bool = False, capabilities: Path = CAPABILITIES) -> None:
        self._nvml = nvml
        self._simulated = simulated
        self._capabilities = capabilities
        self._closed = False
        self._waiting = threading.Lock()  # held while NVML waits for events: it must not be shut down then
        nvml.nvmlInit()
        try:
            self._listed = tuple(self._scan())
            self.reason = f"NVIDIA driver {self._ask('nvmlSystemGetDriverVersion') or 'of unknown version'}"
        except BaseException:
            nvml.nvmlShutdown()
            raise

    def devices(self) -> tuple[Gpu, ...]:
        return tuple(device.gpu for device in self._listed)

    def usage(self) -> dict[str, GpuUsage]:
        return {device.gpu.uuid: self._usage(device) for device in self._listed}

    def health(self) -> dict[str, str]:
        faults: dict[str, str | None] = {}
        for device in self._listed:
            if device.parent_uuid not in faults:
                faults[device.parent_uuid] = self._fault(device.parent)
        return {d.gpu.uuid: fault for d in self._listed if (fault := faults[d.parent_uuid])}

    def busy(self) -> dict[str, str]:
        return {}

    def processes(self) -> dict[str, tuple[GpuProcess, ...]]:
        """The programs that compute on each device, by UUID. Those that only draw are left out."""
        return {device.gpu.uuid: self._processes(device.handle) for device in self._listed}

    def watch(self, stop: threading.Event) -> Iterator[tuple[str, str]]:
        events = self._register_events()
        if events is None:
            return
        try:
            while not stop.is_set() and not self._closed:
                try:
                    with self._waiting:
                        event = None if self._closed else self._nvml.nvmlEventSetWait_v2(events, EVENT_WAIT_MS)
                except self._nvml.NVMLError as error:
                    if error.value != self._nvml.NVML_ERROR_TIMEOUT:
                        yield from self.health().items()
                        stop.wait(EVENT_WAIT_MS / 1000)  # a lost GPU makes every wait fail at once
                    continue
                if event is not None:
                    yield from self._broken_by(event)
        finally:
            with self._waiting:
                if not self._closed:
                    self._nvml.nvmlEventSetFree(events)

    def close(self) -> None:
        self._closed = True
        with self._waiting:
            try:
                self._nvml.nvmlShutdown()
            except self._nvml.NVMLError as error:
                log.debug("NVML did not shut down: %s", error)

    def _ask(self, function: str, *arguments: Any) -> Any:
        """One query's answer, or None if the device or the driver cannot give it."""
        try:
            return getattr(self._nvml, function)(*arguments)
        except self._nvml.NVMLError:
            return None

    def _scan(self) -> Iterator[_Device]:
        for index in range(self._nvml.nvmlDeviceGetCount()):
            try:
                handle = self._nvml.nvmlDeviceGetHandleByIndex(index)
                uuid = self._nvml.nvmlDeviceGetUUID(handle)
            except self._nvml.NVMLError as error:
                log.warning("GPU %d is left out, it does not say who it is: %s", index, error)
                continue
            mode = self._ask("nvmlDeviceGetMigMode", handle)
            if mode and mode[0] == self._nvml.NVML_DEVICE_MIG_ENABLE:
                yield from self._slices(index, handle, uuid)
            else:
                yield _Device(self._describe(index, handle, uuid, handle), handle, handle, uuid)

    def _slices(self, index: int, parent: Any, parent_uuid: str) -> Iterator[_Device]:
        found = 0
        for slot in range(self._ask("nvmlDeviceGetMaxMigDeviceCount", parent) or 0):
            try:
                handle = self._nvml.nvmlDeviceGetMigDeviceHandleByIndex(parent, slot)
                uuid = self._nvml.nvmlDeviceGetUUID(handle)
            except self._nvml.NVMLError:
                continue  # slots are numbered with gaps
            found += 1
            gpu = self._describe(index, handle, uuid, parent, mig_parent=parent_uuid, slot=slot)
            instance = self._ask("nvmlDeviceGetGpuInstanceId", handle)
            yield _Device(gpu, handle, parent, parent_uuid, instance)
        if not found:
            log.warning("GPU %d is in MIG mode and has no instances, so it cannot be used", index)

    def _describe(
        self, index: int, handle: Any, uuid: str, parent: Any, *, mig_parent: str | None = None, slot: int | None = None
    ) -> Gpu:
        pci = self._ask("nvmlDeviceGetPciInfo", parent)
        return Gpu(
            uuid=uuid,
            index=index,
            name=self._ask("nvmlDeviceGetName", handle) or "NVIDIA GPU",
            memory=self._memory(handle),
            simulated=self._simulated,
            mig_parent=mig_parent,
            mig_index=slot,
            device_nodes=() if self._simulated else self._nodes(handle, parent, mig=mig_parent is not None),
            pci_bus_id=pci.busId if pci is not None else None,
        )

    def _memory(self, handle: Any) -> int:
        try:
            return int(self._nvml.nvmlDeviceGetMemoryInfo(handle).total)
        except self._nvml.NVMLError as error:
            # a GPU that shares the machine's memory has none of its own to report
            shared = error.value == self._nvml.NVML_ERROR_NOT_SUPPORTED
            return psutil.virtual_memory().total if shared else 0

    def _nodes(self, handle: Any, parent: Any, *, mig: bool) -> tuple[str, ...]:
        minor = self._ask("nvmlDeviceGetMinorNumber", parent)
        if minor is None:
            return ()
        return (f"/dev/nvidia{minor}", *(self._mig_nodes(handle, minor) if mig else ()))

    def _mig_nodes(self, handle: Any, minor: int) -> Iterator[str]:
        """The capability files that open a slice; the driver names their minor numbers below /proc."""
        gpu_instance = self._ask("nvmlDeviceGetGpuInstanceId", handle)
        compute_instance = self._ask("nvmlDeviceGetComputeInstanceId", handle)
        folder = self._capabilities / f"gpu{minor}" / "mig" / f"gi{gpu_instance}"
        for access in (folder / "access", folder / f"ci{compute_instance}" / "access"):
            try:
                lines = access.read_text().splitlines()
            except OSError:
                continue
            for line in lines:
                name, _, value = line.partition(":")
                if name == "DeviceFileMinor":
                    yield f"/dev/nvidia-caps/nvidia-cap{value.strip()}"

    def _usage(self, device: _Device) -> GpuUsage:
        nvml, errors = self._nvml, list[str]()

        def ask(function: str, handle: Any, *arguments: Any) -> Any:
            try:
                return getattr(nvml, function)(handle, *arguments)
            except nvml.NVMLError as error:
                if error.value not in (nvml.NVML_ERROR_NOT_SUPPORTED, nvml.NVML_ERROR_INVALID_ARGUMENT):
                    errors.append(f"{function}: {error}")
                return None

        memory = ask("nvmlDeviceGetMemoryInfo", device.handle)
        rates = ask("nvmlDeviceGetUtilizationRates", device.handle)
        milliwatts = ask("nvmlDeviceGetPowerUsage", device.parent)
        return GpuUsage(
            utilisation=None if rates is None else int(rates.gpu),
            memory_used=None if memory is None else int(memory.used),
            temperature=ask("nvmlDeviceGetTemperature", device.parent, nvml.NVML_TEMPERATURE_GPU),
            power=None if milliwatts is None else milliwatts / 1000,
            ecc_uncorrected=ask("nvmlDeviceGetTotalEccErrors", device.parent, *self._uncorrected()),
            processes=self._processes(device.handle),
            errors=tuple(errors),
        )

    def _uncorrected(self) -> tuple[int, int]:
        return self._nvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED, self._nvml.NVML_VOLATILE_ECC

    def _processes(self, handle: Any) -> tuple[GpuProcess, ...]:
        running = self._ask("nvmlDeviceGetComputeRunningProcesses", handle) or ()
        return tuple(
            GpuProcess(entry.pid, entry.usedGpuMemory, self._ask("nvmlSystemGetProcessName", entry.pid) or "")
            for entry in running
        )

    def _fault(self, handle: Any) -> str | None:
        for function in ("nvmlDeviceGetUUID", "nvmlDeviceGetMemoryInfo", "nvmlDeviceGetPowerUsage"):
            try:
                getattr(self._nvml, function)(handle)
            except self._nvml.NVMLError as error:
                if fault := query_fault(self._nvml, error):
                    return fault
        return memory_fault(
            self._ask("nvmlDeviceGetRemappedRows", handle),
            self._ask("nvmlDeviceGetRetiredPagesPendingStatus", handle),
            self._ask("nvmlDeviceGetTotalEccErrors", handle, *self._uncorrected()),
        )

    def _register_events(self) -> Any:
        """An event set on which all GPUs that can report errors are registered; None if none of them can."""
        wanted = self._nvml.nvmlEventTypeXidCriticalError | self._nvml.nvmlEventTypeDoubleBitEccError
        events = self._ask("nvmlEventSetCreate")
        if events is None:
            return None
        registered = 0
        for handle in {device.parent_uuid: device.parent for device in self._listed}.values():
            kinds = (self._ask("nvmlDeviceGetSupportedEventTypes", handle) or 0) & wanted
            if not kinds:
                continue
            try:
                self._nvml.nvmlDeviceRegisterEvents(handle, kinds, events)
                registered += 1
            except self._nvml.NVMLError as error:
                log.info("a GPU does not report its errors as they happen: %s", error)
        if not registered:
            self._nvml.nvmlEventSetFree(events)
            return None
        return events

    def _broken_by(self, event: Any) -> Iterable[tuple[str, str]]:
        if event.eventType == self._nvml.nvmlEventTypeXidCriticalError:
            reason = xid_fault(event.eventData)
        else:
            reason = "ECC: uncorrected double-bit error"
        if reason is None:
            return
        uuid = self._ask("nvmlDeviceGetUUID", event.device)
        if uuid is None:  # a GPU that is gone cannot say which one it was; the others answer
            yield from self.health().items()
            return
        for device in self._listed:
            whole = device.instance is None or event.gpuInstanceId == ALL_INSTANCES
            if device.parent_uuid == uuid and (whole or event.gpuInstanceId == device.instance):
                yield device.gpu.uuid, reason
