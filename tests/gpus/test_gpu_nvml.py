"""What users see of an NVIDIA machine's GPUs, played back from recordings."""

from __future__ import annotations

import threading
from pathlib import Path

import psutil
import pynvml
import pytest
from helpers import gpu_machines

from localml.gpus.faults import xid_fault
from localml.gpus.inventory import GpuProcess
from localml.gpus.nvml import NvmlInventory
from localml.gpus.recorded import RecordedNvml


def inventory(recording: dict[str, object]) -> NvmlInventory:
    return NvmlInventory(RecordedNvml(recording))


def next_event(found: NvmlInventory) -> tuple[str, str]:
    stop = threading.Event()
    watching = found.watch(stop)
    try:
        return next(watching)
    finally:
        stop.set()
        watching.close()


def test_workstation_card_is_described_with_its_device_files() -> None:
    (card,) = inventory(gpu_machines.rtx()).devices()
    assert card.uuid == "GPU-7a1f9f0e-2f7d-8c5b-9a44-0c6d2d1b3e5f"
    assert (card.index, card.label, card.name) == (0, "0", "NVIDIA GeForce RTX 4090")
    assert card.memory == 24_564 << 20
    assert card.device_nodes == ("/dev/nvidia0",)
    assert card.pci_bus_id == "00000000:10:00.0"
    assert (card.mig_parent, card.simulated, card.node) == (None, False, "local")


def test_usage_shows_what_the_card_does_and_who_uses_it() -> None:
    (usage,) = inventory(gpu_machines.rtx()).usage().values()
    assert (usage.utilisation, usage.memory_used, usage.temperature) == (87, 14_564 << 20, 66)
    assert usage.power == pytest.approx(312.42)
    assert usage.processes == (GpuProcess(4711, 14_000 << 20, "python3"),)
    assert usage.ecc_uncorrected is None
    assert usage.errors == (), "what a card cannot do is no error"


def test_eight_gpus_keep_the_drivers_order() -> None:
    found = inventory(gpu_machines.a100s())
    assert [gpu.index for gpu in found.devices()] == list(range(8))
    assert len({gpu.uuid for gpu in found.devices()}) == 8
    assert found.health() == {}
    assert found.reason == "NVIDIA driver 550.90.07"


def test_a_gpu_in_mig_mode_is_listed_as_its_slices() -> None:
    slices = inventory(gpu_machines.mig()).devices()
    assert len(slices) == 14
    assert all(gpu.uuid.startswith("MIG-") and gpu.name.endswith("1g.5gb") for gpu in slices)
    assert [gpu.label for gpu in slices[6:9]] == ["0:6", "1:0", "1:1"]
    assert slices[7].mig_parent == "GPU-5eed0001-1111-2222-3333-444455556666"
    assert slices[0].memory == 4_864 << 20


def test_a_slice_is_opened_by_its_own_capability_files_only(tmp_path: Path) -> None:
    for instance in (7, 8):
        for folder, minor in ((f"gi{instance}", instance * 10), (f"gi{instance}/ci0", instance * 10 + 1)):
            path = tmp_path / "gpu0" / "mig" / folder / "access"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"DeviceFileMinor: {minor}\nDeviceFileMode: 292\nDeviceFileModify: 1\n")
    found = NvmlInventory(RecordedNvml(gpu_machines.mig()), capabilities=tmp_path)
    assert found.devices()[1].device_nodes == (
        "/dev/nvidia0",
        "/dev/nvidia-caps/nvidia-cap80",
        "/dev/nvidia-caps/nvidia-cap81",
    )


def test_slots_with_gaps_and_a_mig_gpu_without_instances() -> None:
    recording = gpu_machines.mig()
    del recording["devices"][0]["mig"]["0"]
    recording["devices"][1]["mig"] = {}
    assert [gpu.label for gpu in inventory(recording).devices()] == [f"0:{slot}" for slot in range(1, 7)]


def test_a_slice_shows_its_parents_temperature_and_power() -> None:
    usage = inventory(gpu_machines.mig()).usage()
    assert {(one.temperature, one.power, one.utilisation) for one in usage.values()} == {(31, 61.5, None)}


def test_a_gpu_that_shares_the_machines_memory_reports_that_memory() -> None:
    found = inventory(gpu_machines.unified())
    (board,) = found.devices()
    assert board.memory == psutil.virtual_memory().total
    assert board.device_nodes == ()
    assert found.health() == {}
    assert found.usage()[board.uuid].temperature is None


def test_a_lost_gpu_is_unhealthy_and_the_other_one_goes_on() -> None:
    found = inventory(gpu_machines.lost())
    first, second = found.devices()
    assert list(found.health()) == [first.uuid]
    assert "fallen off the bus" in found.health()[first.uuid]
    usage = found.usage()
    assert any("GPU is lost" in error for error in usage[first.uuid].errors)
    assert usage[first.uuid].memory_used is None
    assert usage[second.uuid].temperature == 31


def test_a_gpu_that_does_not_even_say_who_it_is_is_left_out() -> None:
    recording = gpu_machines.a100s(2)
    recording["devices"][0]["error"] = pynvml.NVML_ERROR_GPU_IS_LOST
    assert [gpu.index for gpu in inventory(recording).devices()] == [1]


@pytest.mark.parametrize(
    ("query", "answer", "words"),
    [
        ("nvmlDeviceGetRemappedRows", [0, 1, 0, 1], "could not be replaced"),
        ("nvmlDeviceGetRemappedRows", [0, 1, 1, 0], "next reset"),
        ("nvmlDeviceGetPowerUsage", {"error": pynvml.NVML_ERROR_RESET_REQUIRED}, "must be reset"),
        ("nvmlDeviceGetMemoryInfo", {"error": pynvml.NVML_ERROR_UNKNOWN}, "unknown error"),
        ("nvmlDeviceGetUUID", {"error": pynvml.NVML_ERROR_GPU_NOT_FOUND}, "no longer finds"),
    ],
)
def test_health_names_the_gpu_and_the_fault(query: str, answer: object, words: str) -> None:
    driver = RecordedNvml(gpu_machines.a100s(2))
    found = NvmlInventory(driver)
    assert found.health() == {}
    driver.change(1, query, answer)
    assert list(found.health()) == [found.devices()[1].uuid]
    assert words in found.health()[found.devices()[1].uuid]


def test_an_older_gpu_is_judged_by_its_retired_pages_or_its_ecc_counter() -> None:
    driver = RecordedNvml(gpu_machines.a100s(1))
    found = NvmlInventory(driver)
    (gpu,) = found.devices()
    driver.change(0, "nvmlDeviceGetTotalEccErrors", 3)
    assert found.health() == {}, "the bad row has been replaced"
    driver.change(0, "nvmlDeviceGetRemappedRows", gpu_machines.NOT_SUPPORTED)
    assert found.health() == {gpu.uuid: "ECC: 3 uncorrected errors"}
    driver.change(0, "nvmlDeviceGetRetiredPagesPendingStatus", 0)
    assert found.health() == {}
    driver.change(0, "nvmlDeviceGetRetiredPagesPendingStatus", 1)
    assert "retired" in found.health()[gpu.uuid]


def test_a_broken_gpu_takes_all_its_slices_out() -> None:
    driver = RecordedNvml(gpu_machines.mig())
    found = NvmlInventory(driver)
    driver.change(1, "nvmlDeviceGetRemappedRows", [0, 1, 0, 1])
    assert set(found.health()) == {gpu.uuid for gpu in found.devices() if gpu.index == 1}


def test_watch_tells_of_an_xid_error_as_it_happens() -> None:
    driver = RecordedNvml(gpu_machines.a100s())
    found = NvmlInventory(driver)
    driver.happen({"device": 3, "eventType": gpu_machines.XID, "eventData": 79})
    assert next_event(found) == (found.devices()[3].uuid, "XID 79: the GPU has fallen off the bus")


def test_watch_tells_of_double_bit_errors() -> None:
    driver = RecordedNvml(gpu_machines.a100s(1))
    found = NvmlInventory(driver)
    driver.happen({"device": 0, "eventType": gpu_machines.DOUBLE_BIT})
    assert next_event(found) == (found.devices()[0].uuid, "ECC: uncorrected double-bit error")


def test_watch_ignores_errors_that_a_faulty_program_causes() -> None:
    driver = RecordedNvml(gpu_machines.a100s(2))
    found = NvmlInventory(driver)
    for xid in (13, 31, 43, 45):
        driver.happen({"device": 0, "eventType": gpu_machines.XID, "eventData": xid})
    driver.happen({"device": 1, "eventType": gpu_machines.XID, "eventData": 48})
    assert next_event(found)[0] == found.devices()[1].uuid


def test_an_event_of_one_slice_spares_the_others() -> None:
    driver = RecordedNvml(gpu_machines.mig())
    found = NvmlInventory(driver)
    driver.happen({"device": 0, "eventType": gpu_machines.XID, "eventData": 95, "gpuInstanceId": 9})
    driver.happen({"device": 1, "eventType": gpu_machines.XID, "eventData": 79})
    stop = threading.Event()
    watching = found.watch(stop)
    told = [next(watching)[0] for _ in range(8)]
    watching.close()
    assert told[0] == next(gpu.uuid for gpu in found.devices() if gpu.label == "0:2")
    assert told[1:] == [gpu.uuid for gpu in found.devices() if gpu.index == 1]


def test_an_event_of_a_gpu_that_is_gone_blames_the_one_that_is_gone() -> None:
    driver = RecordedNvml(gpu_machines.a100s())
    found = NvmlInventory(driver)
    gone = found.devices()[5].uuid
    driver.change(5, "nvmlDeviceGetUUID", gpu_machines.LOST)
    driver.happen({"device": 5, "eventType": gpu_machines.XID, "eventData": 79})
    assert next_event(found)[0] == gone


def test_a_failing_event_wait_looks_at_the_health_instead() -> None:
    driver = RecordedNvml(gpu_machines.a100s(2))
    found = NvmlInventory(driver)
    driver.change(0, "nvmlDeviceGetMemoryInfo", gpu_machines.LOST)
    driver.happen({"error": pynvml.NVML_ERROR_GPU_IS_LOST})
    assert next_event(found)[0] == found.devices()[0].uuid


def test_watch_ends_where_nothing_can_be_reported() -> None:
    recording = gpu_machines.rtx()
    recording["devices"][0]["answers"]["nvmlDeviceGetSupportedEventTypes"] = 0
    assert list(inventory(recording).watch(threading.Event())) == []


def test_watch_ends_when_it_is_stopped() -> None:
    stop = threading.Event()
    stop.set()
    assert list(inventory(gpu_machines.a100s()).watch(stop)) == []


def test_close_ends_a_watcher_before_it_lets_go_of_the_driver() -> None:
    driver = RecordedNvml(gpu_machines.a100s(1))
    found = NvmlInventory(driver)
    told: list[tuple[str, str]] = []
    first = threading.Event()

    def follow() -> None:
        for event in found.watch(threading.Event()):
            told.append(event)
            first.set()

    watcher = threading.Thread(target=follow)
    watcher.start()
    driver.happen({"device": 0, "eventType": gpu_machines.XID, "eventData": 79})
    assert first.wait(60)
    found.close()
    watcher.join(60)
    assert not watcher.is_alive()
    assert (len(told), driver.opened) == (1, 0)


def test_a_failed_start_lets_go_of_the_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    driver = RecordedNvml(gpu_machines.a100s(1))

    def broken() -> int:
        raise pynvml.NVMLError(pynvml.NVML_ERROR_UNKNOWN)

    monkeypatch.setattr(driver, "nvmlDeviceGetCount", broken)
    with pytest.raises(pynvml.NVMLError):
        NvmlInventory(driver)
    assert driver.opened == 0


def test_xids_are_explained() -> None:
    assert xid_fault(119) == "XID 119: GSP firmware does not answer"
    assert xid_fault(999) == "XID 999: critical error"
    assert xid_fault(31) is None
