"""A container sees exactly the GPUs that it leased, whatever way the daemon has to give them."""

from __future__ import annotations

from pathlib import Path

import pytest

from localml.engines.base import GpuGrant, ReplicaPlan
from localml.engines.docker.containers import container_config
from localml.engines.docker.gpu import GpuRuntime, gpu_options, gpu_runtime

FIRST = GpuGrant("GPU-aaaa", 0, device_nodes=("/dev/nvidia0",))
SECOND = GpuGrant("GPU-bbbb", 1, device_nodes=("/dev/nvidia1",))
SIMULATED = GpuGrant("GPU-simulated-0", 0, simulated=True)


@pytest.mark.parametrize("runtime", [GpuRuntime(), GpuRuntime(nvidia=True, default_nvidia=True), GpuRuntime(cdi=True)])
def test_without_a_lease_no_gpu_is_visible(runtime: GpuRuntime) -> None:
    options = gpu_options((), runtime)
    assert options.env == {"NVIDIA_VISIBLE_DEVICES": "void"}
    assert options.host_config == {}


def test_the_nvidia_runtime_is_asked_for_gpus_by_uuid() -> None:
    options = gpu_options((FIRST, SECOND), GpuRuntime(nvidia=True, cdi=True))
    assert options.host_config == {
        "DeviceRequests": [{"DeviceIDs": ["GPU-aaaa", "GPU-bbbb"], "Capabilities": [["gpu"]]}]
    }
    assert options.env == {"NVIDIA_VISIBLE_DEVICES": "GPU-aaaa,GPU-bbbb"}


def test_without_the_nvidia_runtime_cdi_names_are_used() -> None:
    options = gpu_options((SECOND,), GpuRuntime(cdi=True))
    assert options.host_config == {"DeviceRequests": [{"Driver": "cdi", "DeviceIDs": ["nvidia.com/gpu=GPU-bbbb"]}]}


def test_with_neither_the_device_files_of_the_leased_gpus_are_passed_and_no_others() -> None:
    options = gpu_options((SECOND,), GpuRuntime(control_nodes=("/dev/nvidiactl", "/dev/nvidia-uvm")))
    nodes = [device["PathOnHost"] for device in options.host_config["Devices"]]
    assert nodes == ["/dev/nvidia1", "/dev/nvidiactl", "/dev/nvidia-uvm"]


def test_device_files_that_two_mig_instances_share_are_passed_once() -> None:
    shared = ("/dev/nvidia0", "/dev/nvidia-caps/nvidia-cap1")
    grants = (GpuGrant("MIG-1", 0, device_nodes=shared), GpuGrant("MIG-2", 0, device_nodes=shared))
    options = gpu_options(grants, GpuRuntime())
    assert [device["PathInContainer"] for device in options.host_config["Devices"]] == list(shared)


def test_simulated_gpus_are_named_but_never_asked_for() -> None:
    options = gpu_options((SIMULATED,), GpuRuntime(nvidia=True))
    assert options.host_config == {}
    assert options.env == {
        "NVIDIA_VISIBLE_DEVICES": "GPU-simulated-0",
        "CUDA_VISIBLE_DEVICES": "GPU-simulated-0",
    }


def test_an_nvidia_default_runtime_is_kept_from_looking_for_simulated_gpus() -> None:
    options = gpu_options((SIMULATED,), GpuRuntime(nvidia=True, default_nvidia=True))
    assert options.host_config == {"Runtime": "runc"}


@pytest.mark.parametrize(
    ("info", "expected"),
    [
        ({"Runtimes": {"runc": {}, "nvidia": {}}, "DefaultRuntime": "runc"}, GpuRuntime(nvidia=True)),
        ({"Runtimes": {"nvidia": {}}, "DefaultRuntime": "nvidia"}, GpuRuntime(nvidia=True, default_nvidia=True)),
        ({"Runtimes": {"runc": {}}, "CDISpecDirs": ["/etc/cdi"]}, GpuRuntime(cdi=True)),
        ({"Runtimes": None, "CDISpecDirs": []}, GpuRuntime()),
    ],
)
def test_what_the_daemon_offers_is_read_from_its_own_description(info: dict, expected: GpuRuntime) -> None:
    assert gpu_runtime(info, control_nodes=()) == expected


def test_only_device_files_that_exist_are_passed(tmp_path: Path) -> None:
    there = tmp_path / "nvidiactl"
    there.touch()
    assert gpu_runtime({}, (str(there), str(tmp_path / "missing"))).control_nodes == (str(there),)


def test_a_users_variable_does_not_widen_the_lease() -> None:
    plan = ReplicaPlan("a-b", "image", env={"NVIDIA_VISIBLE_DEVICES": "all", "KEEP": "me"}, gpus=(FIRST,))
    config = container_config(
        plan, install="i", network="n", cores=1, gpu=gpu_options(plan.gpus, GpuRuntime(nvidia=True))
    )
    assert sorted(config["Env"]) == ["KEEP=me", "NVIDIA_VISIBLE_DEVICES=GPU-aaaa"]
