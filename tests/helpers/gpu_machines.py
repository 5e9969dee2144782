"""Recordings of machines as NVML describes them, for playing back where there is no GPU."""

from __future__ import annotations

from typing import Any

NOT_SUPPORTED = {"error": 3}
LOST = {"error": 15}
XID = 8
DOUBLE_BIT = 2
ALL_EVENTS = 0x1F


def device(name: str, uuid: str, index: int, memory: int, **changed: Any) -> dict[str, Any]:
    """A healthy, idle data-centre GPU."""
    answers = {
        "nvmlDeviceGetUUID": uuid,
        "nvmlDeviceGetName": name,
        "nvmlDeviceGetPciInfo": {"busId": f"00000000:{0x10 + index:02X}:00.0"},
        "nvmlDeviceGetMinorNumber": index,
        "nvmlDeviceGetMemoryInfo": {"total": memory, "free": memory - (500 << 20), "used": 500 << 20},
        "nvmlDeviceGetUtilizationRates": {"gpu": 0, "memory": 0},
        "nvmlDeviceGetTemperature": 31,
        "nvmlDeviceGetPowerUsage": 61_500,
        "nvmlDeviceGetTotalEccErrors": 0,
        "nvmlDeviceGetRemappedRows": [0, 0, 0, 0],
        "nvmlDeviceGetRetiredPagesPendingStatus": NOT_SUPPORTED,
        "nvmlDeviceGetComputeRunningProcesses": [],
        "nvmlDeviceGetSupportedEventTypes": ALL_EVENTS,
        "nvmlDeviceGetMigMode": [0, 0],
        "nvmlDeviceGetMaxMigDeviceCount": 7,
        "nvmlDeviceGetGpuInstanceId": NOT_SUPPORTED,
        "nvmlDeviceGetComputeInstanceId": NOT_SUPPORTED,
    }
    return {"answers": answers | changed}


def machine(*devices: dict[str, Any], names: dict[str, Any] | None = None) -> dict[str, Any]:
    return {
        "system": {"nvmlSystemGetDriverVersion": "550.90.07"},
        "process_names": names or {},
        "devices": list(devices),
        "events": [],
    }


def rtx() -> dict[str, Any]:
    """A workstation with one consumer card: no MIG, no ECC, a user's training on it."""
    card = device(
        "NVIDIA GeForce RTX 4090",
        "GPU-7a1f9f0e-2f7d-8c5b-9a44-0c6d2d1b3e5f",
        0,
        24_564 << 20,
        nvmlDeviceGetUtilizationRates={"gpu": 87, "memory": 40},
        nvmlDeviceGetMemoryInfo={"total": 24_564 << 20, "free": 10_000 << 20, "used": 14_564 << 20},
        nvmlDeviceGetTemperature=66,
        nvmlDeviceGetPowerUsage=312_420,
        nvmlDeviceGetTotalEccErrors=NOT_SUPPORTED,
        nvmlDeviceGetRemappedRows=NOT_SUPPORTED,
        nvmlDeviceGetMigMode=NOT_SUPPORTED,
        nvmlDeviceGetMaxMigDeviceCount=0,
        nvmlDeviceGetComputeRunningProcesses=[{"pid": 4711, "usedGpuMemory": 14_000 << 20}],
    )
    return machine(card, names={"4711": "python3"})


def a100s(count: int = 8) -> dict[str, Any]:
    """A server with A100s; a colleague computes on the third one."""
    cards = [
        device("NVIDIA A100-SXM4-80GB", f"GPU-a100000{i}-0000-4000-8000-00000000000{i}", i, 81_920 << 20)
        for i in range(count)
    ]
    if count > 2:
        cards[2]["answers"]["nvmlDeviceGetComputeRunningProcesses"] = [{"pid": 999_001, "usedGpuMemory": None}]
    return machine(*cards, names={"999001": "julia"})


def h200() -> dict[str, Any]:
    return machine(device("NVIDIA H200", "GPU-4200aaaa-bbbb-cccc-dddd-eeeeffff0000", 0, 143_771 << 20))


def mig() -> dict[str, Any]:
    """Two A100s cut into seven slices each."""
    cards = []
    for index in range(2):
        parent = f"GPU-5eed000{index}-1111-2222-3333-444455556666"
        card = device(
            "NVIDIA A100-SXM4-40GB",
            parent,
            index,
            40_960 << 20,
            nvmlDeviceGetMigMode=[1, 1],
            nvmlDeviceGetUtilizationRates=NOT_SUPPORTED,
        )
        card["mig"] = {
            str(slot): device(
                "NVIDIA A100-SXM4-40GB MIG 1g.5gb",
                f"MIG-{index}{slot}000000-aaaa-5bbb-8ccc-dddddddddddd",
                index,
                4_864 << 20,
                nvmlDeviceGetGpuInstanceId=7 + slot,
                nvmlDeviceGetComputeInstanceId=0,
                nvmlDeviceGetUtilizationRates=NOT_SUPPORTED,
                nvmlDeviceGetMigMode=NOT_SUPPORTED,
                nvmlDeviceGetMaxMigDeviceCount=NOT_SUPPORTED,
                nvmlDeviceGetMinorNumber=NOT_SUPPORTED,
            )
            for slot in range(7)
        }
        cards.append(card)
    return machine(*cards)


def lost() -> dict[str, Any]:
    """Two cards: the first is listed but has fallen off the bus, the second is sound."""
    first, second = (
        device("NVIDIA L4", f"GPU-1057000{i}-1111-4222-8333-444444444444", i, 23_034 << 20) for i in range(2)
    )
    for query in first["answers"]:
        if query not in ("nvmlDeviceGetUUID", "nvmlDeviceGetName", "nvmlDeviceGetPciInfo"):
            first["answers"][query] = LOST
    return machine(first, second)


def unified() -> dict[str, Any]:
    """A board whose GPU uses the machine's memory and that hardly answers anything."""
    card = device("NVIDIA GB10", "GPU-61000000-1111-4222-8333-444444444444", 0, 1)
    keep = ("nvmlDeviceGetUUID", "nvmlDeviceGetName", "nvmlDeviceGetComputeRunningProcesses")
    card["answers"] = {query: card["answers"][query] if query in keep else NOT_SUPPORTED for query in card["answers"]}
    return machine(card)


ALL = {"rtx": rtx, "a100s": a100s, "h200": h200, "mig": mig, "lost": lost, "unified": unified}
