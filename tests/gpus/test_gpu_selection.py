"""What ``--gpus`` accepts, and which devices it gives."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import pynvml
import pytest
from helpers import gpu_machines

from localml.core.errors import Code, LocalmlError
from localml.gpus import GpuUsage, Inventory, NoInventory, SimulatedInventory, open_inventory
from localml.gpus.recorded import RecordedNvml, load, main, record
from localml.gpus.selection import descends_from_us, runs_in


def without_driver(error: int) -> SimpleNamespace:
    def init() -> None:
        raise pynvml.NVMLError(error)

    return SimpleNamespace(
        nvmlInit=init,
        NVMLError=pynvml.NVMLError,
        NVML_ERROR_LIB_RM_VERSION_MISMATCH=pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH,
    )


def labels(found: Inventory) -> list[str]:
    return [gpu.label for gpu in found.devices()]


def test_none_leaves_all_gpus_alone() -> None:
    found = open_inventory("none", RecordedNvml(gpu_machines.a100s()))
    assert isinstance(found, NoInventory)
    assert (found.devices(), found.usage(), found.health(), found.busy()) == ((), {}, {}, {})
    assert list(found.watch(threading.Event())) == []
    found.close()


def test_auto_takes_all_there_are() -> None:
    assert labels(open_inventory(" auto ", RecordedNvml(gpu_machines.a100s()))) == [str(i) for i in range(8)]


@pytest.mark.parametrize("spec", ["auto", "free"])
def test_a_machine_without_a_driver_has_no_gpus_and_the_reason_is_known(spec: str) -> None:
    found = open_inventory(spec, without_driver(pynvml.NVML_ERROR_LIBRARY_NOT_FOUND))
    assert found.devices() == ()
    assert "NVML Shared Library Not Found" in found.reason


def test_a_driver_updated_under_a_running_machine_is_reported(caplog: pytest.LogCaptureFixture) -> None:
    assert open_inventory("auto", without_driver(pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH)).devices() == ()
    assert "reboot" in caplog.text


def test_auto_without_a_gpu_says_nothing() -> None:
    code = "from localml.gpus import open_inventory; open_inventory('auto').close()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, timeout=60)
    assert (done.stdout, done.stderr) == (b"", b"")


def test_nvml_is_not_loaded_unless_it_is_needed() -> None:
    code = (
        "import sys; from localml.gpus import open_inventory; open_inventory('none'); open_inventory('simulated:2');"
        "sys.exit('pynvml' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_free_leaves_out_a_gpu_that_a_colleague_uses() -> None:
    driver = RecordedNvml(gpu_machines.a100s())
    found = open_inventory("free", driver)
    assert labels(found) == ["0", "1", "3", "4", "5", "6", "7"]
    assert found.busy() == {}
    driver.change(0, "nvmlDeviceGetComputeRunningProcesses", [{"pid": 999_001, "usedGpuMemory": 1}])
    assert found.busy() == {found.devices()[0].uuid: "used by julia (999001)"}
    assert len(found.devices()) == 7, "what is listed stays listed"


def test_free_keeps_a_gpu_on_which_our_own_work_runs() -> None:
    found = open_inventory("free", RecordedNvml(gpu_machines.a100s()), is_ours=lambda pid: pid == 999_001)
    assert len(found.devices()) == 8


def test_our_own_work_is_this_process_and_what_it_started() -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        assert descends_from_us(os.getpid())
        assert descends_from_us(child.pid)
        assert not descends_from_us(os.getppid())
    finally:
        child.communicate(b"\n", timeout=30)
    assert not descends_from_us(child.pid)


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("0,1", ["0", "1"]),
        ("7, 2", ["2", "7"]),
        ("GPU-a1000003-0000-4000-8000-000000000003", ["3"]),
        ("GPU-a1000004,5", ["4", "5"]),
    ],
)
def test_gpus_are_picked_by_index_or_uuid(spec: str, expected: list[str]) -> None:
    assert labels(open_inventory(spec, RecordedNvml(gpu_machines.a100s()))) == expected


def test_slices_are_picked_one_by_one_or_by_their_gpu() -> None:
    driver = RecordedNvml(gpu_machines.mig())
    assert labels(open_inventory("0:3,1:0", driver)) == ["0:3", "1:0"]
    assert labels(open_inventory("MIG-02000000", driver)) == ["0:2"]
    assert labels(open_inventory("1", driver)) == [f"1:{slot}" for slot in range(7)]
    assert len(open_inventory("GPU-5eed0000-1111-2222-3333-444455556666", driver).devices()) == 7


def test_gpus_that_were_not_picked_are_never_spoken_of() -> None:
    driver = RecordedNvml(gpu_machines.lost())
    found = open_inventory("1", driver)
    (only,) = found.devices()
    assert (set(found.usage()), found.health(), found.busy()) == ({only.uuid}, {}, {})
    driver.happen({"device": 0, "eventType": gpu_machines.XID, "eventData": 79})
    driver.happen({"device": 1, "eventType": gpu_machines.XID, "eventData": 74})
    assert next(iter(found.watch(threading.Event()))) == (only.uuid, "XID 74: NVLink error")
    found.close()
    assert driver.opened == 0


REFUSED = """
all auto,0 0, -1 simulated simulated: simulated:0 simulated:65 simulated:x simulated:² gpu-0 0;1 8 0,0
GPU-ffffffff GPU-a100 0,GPU-a1000000 recorded: 0:1:2 none,none
"""


@pytest.mark.parametrize("spec", ["", *REFUSED.split()])
def test_anything_else_is_refused_by_field(spec: str) -> None:
    driver = RecordedNvml(gpu_machines.a100s())
    with pytest.raises(LocalmlError) as caught:
        open_inventory(spec, driver)
    assert (caught.value.code, caught.value.field) == (Code.INVALID, "gpus")
    assert driver.opened == 0


def test_picking_without_a_driver_says_why_it_cannot_be() -> None:
    with pytest.raises(LocalmlError, match="Driver Not Loaded"):
        open_inventory("0", without_driver(pynvml.NVML_ERROR_DRIVER_NOT_LOADED))


def test_simulated_gpus_are_marked_and_keep_their_uuids() -> None:
    found = open_inventory("simulated:4")
    assert [gpu.uuid for gpu in found.devices()] == [gpu.uuid for gpu in open_inventory("simulated:4").devices()]
    assert all(gpu.simulated and gpu.memory == 16 << 30 and not gpu.device_nodes for gpu in found.devices())
    assert set(found.usage()) == {gpu.uuid for gpu in found.devices()}


def test_a_simulated_gpu_can_break_be_watched_and_heal() -> None:
    found = SimulatedInventory(2)
    uuid = found.devices()[1].uuid
    found.fail(uuid, "XID 79: pulled out")
    assert found.health() == {uuid: "XID 79: pulled out"}
    stop = threading.Event()
    watching = found.watch(stop)
    assert next(watching) == (uuid, "XID 79: pulled out")
    found.close()
    assert list(watching) == []
    found.heal(uuid)
    assert found.health() == {}
    found.set_usage(uuid, GpuUsage(utilisation=50))
    assert found.usage()[uuid].utilisation == 50
    with pytest.raises(KeyError):
        found.fail("GPU-else", "no such device")


@pytest.mark.parametrize("name", sorted(gpu_machines.ALL))
def test_a_recording_of_a_played_back_machine_is_the_recording(name: str) -> None:
    recording = gpu_machines.ALL[name]()
    again = record(RecordedNvml(recording))
    assert (
        open_inventory("auto", RecordedNvml(again)).devices()
        == open_inventory("auto", RecordedNvml(recording)).devices()
    )
    assert again["devices"] == record(RecordedNvml(again))["devices"]
    assert again["process_names"] == recording["process_names"]


def test_a_recorded_machine_can_be_declared_and_is_marked_simulated(tmp_path: Path) -> None:
    file = tmp_path / "server.json"
    file.write_text(json.dumps(gpu_machines.mig()))
    found = open_inventory(f"recorded:{file}")
    assert len(found.devices()) == 14
    assert all(gpu.simulated and gpu.device_nodes == () for gpu in found.devices())


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"devices": [1]}', '{"devices": [{"answers": {}, "mig": {"x": 1}}]}']
)
def test_a_file_that_is_no_recording_is_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "bad.json"
    file.write_text(text)
    with pytest.raises(LocalmlError, match="recording"):
        load(file)


def test_the_recorder_explains_itself(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert "FILE.json" in capsys.readouterr().err


@pytest.fixture
def real() -> Inventory:
    found = open_inventory("auto")
    if not found.devices():
        pytest.skip(f"no NVIDIA GPU: {found.reason}")
    return found


@pytest.mark.gpu
def test_the_gpus_of_this_machine(real: Inventory, tmp_path: Path) -> None:
    usage, health = real.usage(), real.health()
    for gpu in real.devices():
        assert gpu.uuid.startswith(("GPU-", "MIG-"))
        assert gpu.memory > 1 << 30
        assert Path(gpu.device_nodes[0]).exists()
        assert usage[gpu.uuid].errors == () or gpu.uuid in health
    file = tmp_path / "here.json"
    assert main([str(file)]) == 0
    assert [gpu.uuid for gpu in open_inventory(f"recorded:{file}").devices()] == [gpu.uuid for gpu in real.devices()]
    real.close()


def test_ours_are_children_of_this_process_and_what_runs_in_our_containers() -> None:
    def never() -> list[str]:
        raise AssertionError("a child of this process needs no look at the containers")

    assert runs_in(os.getpid(), never)
    parent = os.getppid()
    group = Path(f"/proc/{parent}/cgroup").read_text().splitlines()[0]
    assert not runs_in(parent, list)
    assert not runs_in(parent, lambda: ["0123456789ab"])
    assert runs_in(parent, lambda: ["0123456789ab", group])
    assert not runs_in(2**22 + 1, lambda: [group])  # there is no such process
