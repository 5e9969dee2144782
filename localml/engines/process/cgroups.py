"""Limits by control group for the process engine, where somebody has delegated one to us.

A control group is only used when it is ours to use: version 2 with systemd's mark of delegation (``Delegate=yes``
of a service), or a folder that the caller names. Being root and able to write is no permission: the groups of a
machine belong to its service manager.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path

_CONTROLLERS = ("cpu", "memory", "pids")
_CPU_PERIOD = 100_000  # microseconds, the kernel's default
_DELEGATED = ("user.delegate", "trusted.delegate")


@dataclass(frozen=True, slots=True)
class Cgroups:
    """Where groups of replicas are made: one parent folder for each controller (version 2: the same one)."""

    parents: dict[str, Path]

    def options(self, name: str, cpu: float | None, memory: int | None, pids: int | None) -> list[tuple[str, str]]:
        """The supervisor's options ``cgroup`` and ``set`` for one replica: those limits that a group can hold."""
        by_folder: dict[Path, list[str]] = {}
        for controller, parent in self.parents.items():
            unified = (parent / "cgroup.controllers").exists()
            for setting in _settings(controller, unified, cpu, memory, pids):
                by_folder.setdefault(parent / name, []).append(setting)
        options: list[tuple[str, str]] = []
        for folder, settings in by_folder.items():
            options.append(("cgroup", str(folder)))
            options += [("set", setting) for setting in settings]
        return options


def kill_group(folder: Path) -> bool:
    """Kill what is left in a group and remove it; whether it is gone. For groups that lost their supervisor."""
    try:
        for pid in map(int, (folder / "cgroup.procs").read_text().split()):
            if pid == 0:  # one of another namespace, which has no number here; to kill 0 would be to kill ourselves
                return False
            os.kill(pid, 9)
        os.rmdir(folder)
    except FileNotFoundError:
        return True
    except (OSError, ValueError):
        return False
    return True


def named(folder: Path) -> Cgroups:
    """The group in ``folder``, given by the user: of version 2, or one controller of version 1."""
    unified = folder / "cgroup.controllers"
    if unified.exists():
        enabled = (folder / "cgroup.subtree_control").read_text().split()
        return Cgroups({name: folder for name in _CONTROLLERS if name in enabled})
    marks = {"memory": "memory.limit_in_bytes", "cpu": "cpu.cfs_quota_us", "pids": "pids.max"}
    return Cgroups({name: folder for name, mark in marks.items() if (folder / mark).exists()})


def delegated(process: Path = Path("/proc/self"), root: Path = Path("/sys/fs/cgroup")) -> Cgroups:
    """The nearest delegated group above this process, with those controllers that it passes on; perhaps none.

    A group that holds processes cannot pass controllers on, so the server must sit in a leaf of it
    (``DelegateSubgroup=`` of systemd).
    """
    try:
        own = next(line[3:] for line in (process / "cgroup").read_text().splitlines() if line.startswith("0::"))
        folder = root / own.strip("/")
        while folder != root:
            if _is_delegated(folder) and _enable(folder):
                return named(folder)
            folder = folder.parent
    except (OSError, StopIteration):
        pass  # no control groups of version 2 here
    return Cgroups({})


def _settings(controller: str, unified: bool, cpu: float | None, memory: int | None, pids: int | None) -> list[str]:
    if controller == "cpu" and cpu is not None:
        quota = max(1000, math.ceil(cpu * _CPU_PERIOD))
        if unified:
            return [f"cpu.max={quota} {_CPU_PERIOD}"]
        return [f"cpu.cfs_period_us={_CPU_PERIOD}", f"cpu.cfs_quota_us={quota}"]
    if controller == "memory" and memory is not None:
        return [f"memory.max={memory}", "memory.oom.group=1"] if unified else [f"memory.limit_in_bytes={memory}"]
    if controller == "pids" and pids is not None:
        return [f"pids.max={pids}"]
    return []


def _is_delegated(folder: Path) -> bool:
    for mark in _DELEGATED:
        try:
            if os.getxattr(folder, mark) == b"1":
                return os.access(folder, os.W_OK)
        except OSError:
            continue
    return False


def _enable(folder: Path) -> bool:
    """Pass the controllers on to groups below; whether at least one is."""
    available = (folder / "cgroup.controllers").read_text().split()
    enabled = (folder / "cgroup.subtree_control").read_text().split()
    for controller in set(_CONTROLLERS) & set(available) - set(enabled):
        try:
            (folder / "cgroup.subtree_control").write_text(f"+{controller}")
        except OSError:
            continue  # processes in the way, or not passed on to us
    enabled = (folder / "cgroup.subtree_control").read_text().split()
    return any(controller in enabled for controller in _CONTROLLERS)
