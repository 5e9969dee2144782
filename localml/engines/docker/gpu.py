"""How leased GPUs are handed to a container, by what the daemon offers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from localml.engines.base import GpuGrant

VISIBLE = "NVIDIA_VISIBLE_DEVICES"
CUDA_VISIBLE = "CUDA_VISIBLE_DEVICES"
CONTROL_NODES = ("/dev/nvidiactl", "/dev/nvidia-uvm", "/dev/nvidia-uvm-tools", "/dev/nvidia-modeset")


@dataclass(frozen=True, slots=True)
class GpuRuntime:
    """The ways in which a daemon can give GPUs to a container.

    ``default_nvidia``: containers get the NVIDIA runtime unless they name another one. ``control_nodes``: the
    driver's device files, besides those of single GPUs, that exist on this machine.
    """

    nvidia: bool = False
    cdi: bool = False
    default_nvidia: bool = False
    control_nodes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class GpuOptions:
    """What to add to a container's creation: members of ``HostConfig``, and variables that no user may override."""

    host_config: dict[str, Any] = field(default_factory=dict)
    env: dict[str, str] = field(default_factory=dict)


def gpu_runtime(info: Mapping[str, Any], control_nodes: Iterable[str] = CONTROL_NODES) -> GpuRuntime:
    """Read ``docker info``. CDI is on when the daemon names folders for CDI specifications (Docker 25 and later)."""
    return GpuRuntime(
        nvidia="nvidia" in (info.get("Runtimes") or {}),
        cdi=bool(info.get("CDISpecDirs")),
        default_nvidia=info.get("DefaultRuntime") == "nvidia",
        control_nodes=tuple(node for node in control_nodes if Path(node).exists()),
    )


def gpu_options(grants: Iterable[GpuGrant], runtime: GpuRuntime) -> GpuOptions:
    """Make exactly the leased GPUs visible, and none if there are none.

    Real GPUs are asked for by UUID through the NVIDIA runtime, else by CDI name, else as device files (the
    image then has to bring the driver's libraries). ``NVIDIA_VISIBLE_DEVICES`` is always set: CUDA base images
    bake in ``all``, and a daemon whose default is the NVIDIA runtime obeys the variable. Simulated GPUs exist
    only as names, so ``CUDA_VISIBLE_DEVICES`` gives these too, and the NVIDIA runtime must not look for them.
    """
    leased = tuple(grants)
    if not leased:
        return GpuOptions(env={VISIBLE: "void"})
    uuids = ",".join(grant.uuid for grant in leased)
    real = tuple(grant for grant in leased if not grant.simulated)
    if not real:
        plain = {"Runtime": "runc"} if runtime.default_nvidia else {}
        return GpuOptions(host_config=plain, env={VISIBLE: uuids, CUDA_VISIBLE: uuids})
    return GpuOptions(host_config=_devices(real, runtime), env={VISIBLE: uuids})


def _devices(real: tuple[GpuGrant, ...], runtime: GpuRuntime) -> dict[str, Any]:
    if runtime.nvidia:
        request = {"DeviceIDs": [grant.uuid for grant in real], "Capabilities": [["gpu"]]}
        return {"DeviceRequests": [request]}
    if runtime.cdi:
        names = [f"nvidia.com/gpu={grant.uuid}" for grant in real]
        return {"DeviceRequests": [{"Driver": "cdi", "DeviceIDs": names}]}
    nodes = dict.fromkeys([*(node for grant in real for node in grant.device_nodes), *runtime.control_nodes])
    return {"Devices": [{"PathOnHost": node, "PathInContainer": node, "CgroupPermissions": "rwm"} for node in nodes]}
