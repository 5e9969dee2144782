"""A machine's NVML answers as a JSON file: taken on one machine, played back on any other.

``python -m localml.gpus.recorded FILE.json`` records the machine it runs on, and ``--gpus recorded:FILE.json``
declares GPUs like that machine's. A recording holds one answer for each query; a query that failed holds its error::

    {"system": {"nvmlSystemGetDriverVersion": "550.90.07"},
     "process_names": {"4711": "python"},
     "devices": [{"answers": {"nvmlDeviceGetName": "NVIDIA A100-SXM4-80GB",
                              "nvmlDeviceGetPowerUsage": {"error": 3}, ...},
                  "mig": {"0": {"answers": {...}}}}],
     "events": [{"device": 0, "eventType": 8, "eventData": 79}]}
"""

from __future__ import annotations

import json
import sys
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from localml.core.errors import invalid

SYSTEM_QUERIES = ("nvmlSystemGetDriverVersion",)

DEVICE_QUERIES: dict[str, tuple[str, ...]] = {
    "nvmlDeviceGetUUID": (),
    "nvmlDeviceGetName": (),
    "nvmlDeviceGetPciInfo": (),
    "nvmlDeviceGetMinorNumber": (),
    "nvmlDeviceGetMemoryInfo": (),
    "nvmlDeviceGetUtilizationRates": (),
    "nvmlDeviceGetTemperature": ("NVML_TEMPERATURE_GPU",),
    "nvmlDeviceGetPowerUsage": (),
    "nvmlDeviceGetTotalEccErrors": ("NVML_MEMORY_ERROR_TYPE_UNCORRECTED", "NVML_VOLATILE_ECC"),
    "nvmlDeviceGetRemappedRows": (),
    "nvmlDeviceGetRetiredPagesPendingStatus": (),
    "nvmlDeviceGetComputeRunningProcesses": (),
    "nvmlDeviceGetSupportedEventTypes": (),
    "nvmlDeviceGetMigMode": (),
    "nvmlDeviceGetMaxMigDeviceCount": (),
    "nvmlDeviceGetGpuInstanceId": (),
    "nvmlDeviceGetComputeInstanceId": (),
}
"""What localml asks of a device, with the constants that each query takes after the handle."""


def load(path: Path, *, field: str = "gpus") -> RecordedNvml:
    """The recording in a file.

    Raises:
        LocalmlError: ``INVALID`` when there is no such file or it holds no recording.
    """
    try:
        recording = json.loads(path.read_text())
        if not isinstance(recording, dict) or not isinstance(recording.get("devices"), list):
            raise ValueError("it has no list 'devices'")
        return RecordedNvml(recording)
    except (OSError, ValueError) as error:
        raise invalid(field, f"cannot read the recording {str(path)!r}: {error}") from error


def record(nvml: Any) -> dict[str, Any]:
    """Ask a driver all that localml ever asks, and keep the answers as JSON values."""
    nvml.nvmlInit()
    try:
        devices = [_record_handle(nvml, index) for index in range(nvml.nvmlDeviceGetCount())]
        pids = {
            process["pid"]
            for device in devices
            for answers in (device["answers"], *(part["answers"] for part in device.get("mig", {}).values()))
            for process in _listed(answers.get("nvmlDeviceGetComputeRunningProcesses"))
        }
        names = {str(pid): _answer(nvml, nvml.nvmlSystemGetProcessName, pid) for pid in sorted(pids)}
        system = {name: _answer(nvml, getattr(nvml, name)) for name in SYSTEM_QUERIES}
        return {"system": system, "process_names": names, "devices": devices, "events": []}
    finally:
        nvml.nvmlShutdown()


def _record_handle(nvml: Any, index: int) -> dict[str, Any]:
    try:
        handle = nvml.nvmlDeviceGetHandleByIndex(index)
    except nvml.NVMLError as error:
        return {"answers": {}, "error": error.value}
    answers = _record_answers(nvml, handle)
    slices: dict[str, Any] = {}
    count = answers["nvmlDeviceGetMaxMigDeviceCount"]
    for slot in range(count if isinstance(count, int) else 0):
        try:
            part = nvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, slot)
        except nvml.NVMLError:
            continue
        slices[str(slot)] = {"answers": _record_answers(nvml, part)}
    return {"answers": answers, "mig": slices} if slices else {"answers": answers}


def _record_answers(nvml: Any, handle: Any) -> dict[str, Any]:
    return {
        query: _answer(nvml, getattr(nvml, query), handle, *(getattr(nvml, name) for name in constants))
        for query, constants in DEVICE_QUERIES.items()
    }


def _answer(nvml: Any, query: Callable[..., Any], *arguments: Any) -> Any:
    try:
        return _plain(query(*arguments))
    except nvml.NVMLError as error:
        return {"error": error.value}


def _plain(value: Any) -> Any:
    """An answer as JSON: NVML's structures become objects, its tuples lists."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    if isinstance(value, (list, tuple)):
        return [_plain(entry) for entry in value]
    names = [entry[0] for entry in value._fields_] if hasattr(value, "_fields_") else list(vars(value))
    return {name: _plain(getattr(value, name)) for name in names}


def _listed(answer: Any) -> list[Any]:
    return answer if isinstance(answer, list) else []


@dataclass(eq=False)
class _Handle:
    """Stands for a driver's handle: what it answers, and the slices below it."""

    answers: dict[str, Any]
    slices: dict[int, _Handle] = field(default_factory=dict)
    error: int | None = None


class RecordedNvml:
    """Answers as the ``pynvml`` module did when the recording was made.

    Queries are played back by name; constants and error classes are those of the installed ``pynvml``. Each event of
    the recording happens once; :meth:`change` and :meth:`happen` let a test go on from there.
    """

    def __init__(self, recording: dict[str, Any]) -> None:
        import pynvml

        self._pynvml = pynvml
        self._system = recording.get("system", {})
        self._names = recording.get("process_names", {})
        self._devices = [_handle(entry) for entry in recording["devices"]]
        self._events: deque[dict[str, Any]] = deque(recording.get("events", ()))
        self._happened = threading.Condition()
        self.opened = 0
        """How many times it was initialised and not shut down."""

    def __getattr__(self, name: str) -> Any:
        if name in DEVICE_QUERIES:
            return lambda handle, *constants: self._play(handle.answers, name)
        if name in SYSTEM_QUERIES:
            return lambda: self._play(self._system, name)
        if name.startswith(("NVML", "nvmlEventType")):
            return getattr(self._pynvml, name)
        raise AttributeError(f"a recording does not answer {name}")

    def change(self, device: int, query: str, answer: Any) -> None:
        """From now on this device, as listed in the recording, answers a query otherwise."""
        self._devices[device].answers[query] = answer

    def happen(self, event: dict[str, Any]) -> None:
        """Let an event happen now, written as in a recording's ``events``."""
        with self._happened:
            self._events.append(event)
            self._happened.notify_all()

    def nvmlInit(self) -> None:
        self.opened += 1

    def nvmlShutdown(self) -> None:
        self.opened -= 1

    def nvmlDeviceGetCount(self) -> int:
        return len(self._devices)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> _Handle:
        handle = self._devices[index]
        if handle.error is not None:
            raise self._pynvml.NVMLError(handle.error)
        return handle

    def nvmlDeviceGetMigDeviceHandleByIndex(self, handle: _Handle, slot: int) -> _Handle:
        if slot not in handle.slices:
            raise self._pynvml.NVMLError(self._pynvml.NVML_ERROR_NOT_FOUND)
        return handle.slices[slot]

    def nvmlSystemGetProcessName(self, pid: int) -> Any:
        return self._play(self._names, str(pid), missing=self._pynvml.NVML_ERROR_NOT_FOUND)

    def nvmlEventSetCreate(self) -> list[_Handle]:
        return []

    def nvmlDeviceRegisterEvents(self, handle: _Handle, kinds: int, events: list[_Handle]) -> None:
        events.append(handle)

    def nvmlEventSetWait_v2(self, events: list[_Handle], timeout_ms: int) -> SimpleNamespace:
        with self._happened:
            if not self._happened.wait_for(lambda: bool(self._events), timeout_ms / 1000):
                raise self._pynvml.NVMLError(self._pynvml.NVML_ERROR_TIMEOUT)
            event = self._events.popleft()
        if "error" in event:
            raise self._pynvml.NVMLError(event["error"])
        return SimpleNamespace(
            device=self._devices[event["device"]],
            eventType=event["eventType"],
            eventData=event.get("eventData", 0),
            gpuInstanceId=event.get("gpuInstanceId", 0xFFFFFFFF),
        )

    def nvmlEventSetFree(self, events: list[_Handle]) -> None:
        events.clear()

    def _play(self, answers: dict[str, Any], name: str, missing: int | None = None) -> Any:
        fallback = self._pynvml.NVML_ERROR_NOT_SUPPORTED if missing is None else missing
        answer = answers.get(name, {"error": fallback})
        if isinstance(answer, dict) and "error" in answer:
            raise self._pynvml.NVMLError(answer["error"])
        return _structured(answer)


def _handle(entry: Any) -> _Handle:
    if not isinstance(entry, dict) or not isinstance(entry.get("answers"), dict):
        raise ValueError("each entry of 'devices' must have 'answers'")
    slices = {int(slot): _handle(part) for slot, part in entry.get("mig", {}).items()}
    return _Handle(entry["answers"], slices, entry.get("error"))


def _structured(answer: Any) -> Any:
    if isinstance(answer, dict):
        return SimpleNamespace(**answer)
    return [_structured(entry) for entry in answer] if isinstance(answer, list) else answer


def main(arguments: list[str]) -> int:
    """Record this machine into the file named by the one argument."""
    if len(arguments) != 1:
        sys.stderr.write("usage: python -m localml.gpus.recorded FILE.json\n")
        return 2
    import pynvml

    try:
        recording = record(pynvml)
    except pynvml.NVMLError as error:
        sys.stderr.write(f"no NVIDIA driver answers: {error}\n")
        return 1
    Path(arguments[0]).write_text(json.dumps(recording, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
