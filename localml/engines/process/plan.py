"""From a plan to what the process engine's supervisor is told: environment, work directory, limits."""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Callable, Mapping
from pathlib import Path

from localml.core.descriptors import limit_of_children
from localml.engines.base import EngineError, Progress, ReplicaPlan
from localml.engines.process.boxes import Boxes
from localml.engines.process.cgroups import Cgroups
from localml.engines.process.launch import Launch

_HOST_ENV = ("PATH", "LANG", "TMPDIR")

Environments = Callable[[str], Mapping[str, str] | None]
Resolve = Callable[[str, Progress | None, bool], str]
"""From an image, with whom to tell of progress and whether to make what is missing, to the name of its environment."""


class LaunchMaker:
    """Makes :class:`Launch` from plans.

    Args:
        environments: additions to the environment by image name.
        cgroups: what limits can be held by control groups.
        boxes: where replicas run that have an account of their own.
        umask: of all others where there are boxes; the server's unless given.
    """

    def __init__(self, environments: Environments, cgroups: Cgroups, boxes: Boxes, umask: int | None) -> None:
        self._environments = environments
        self._cgroups = cgroups
        self._boxes = boxes
        self._umask = umask
        self._lock = threading.Lock()
        self._next_core = 0
        self.cores = sorted(os.sched_getaffinity(0))

    def make(self, plan: ReplicaPlan, default_workdir: Path) -> Launch:
        """What to run for a plan.

        Raises:
            EngineError: no command, a port that would have to be mapped, an account where there are no boxes, or a text
                that no process can be given.
        """
        for port in plan.ports:
            if port.container != port.host:
                raise EngineError(f"port {port.label}: the process engine cannot map {port.container} to {port.host}")
        workdir = self._workdir(plan, default_workdir)
        programs = self._environments(plan.image) or {}
        env = self._environment(plan, workdir, programs)
        launch = Launch(plan.command, env, workdir, (*self._limits(plan), *self._isolation(plan, programs)))
        launch.encode()  # refuse before anything is made
        return launch

    def _workdir(self, plan: ReplicaPlan, default: Path) -> str:
        """The plan's work directory where it is on this machine (through a bind, or as it is), else ``default``. What a
        box does not see is not there: nobody learns what else there is."""
        wanted = _on_this_machine(plan)
        if plan.account is not None:
            default = self._boxes.workdir(plan.name)
            wanted = wanted and self._boxes.seen(wanted, (*plan.binds, *plan.buckets))
        return wanted if wanted and os.path.isdir(wanted) else str(default)

    def _environment(self, plan: ReplicaPlan, workdir: str, programs: Mapping[str, str]) -> dict[str, str]:
        """The complete environment. Nothing else of the server's own gets in: it may hold secrets."""
        devices = ",".join(gpu.uuid for gpu in plan.gpus)
        host = {key: os.environ[key] for key in _HOST_ENV if key in os.environ}
        if plan.account is not None:
            host.pop("TMPDIR", None)  # a box has a /tmp of its own, and nobody knows its user's name
            host.update(dict.fromkeys(("USER", "LOGNAME"), f"localml-{plan.account.uid}"))
        gpus = {"NVIDIA_VISIBLE_DEVICES": devices or "void", "CUDA_VISIBLE_DEVICES": devices}
        ours = {**host, **programs}
        if plan.account is not None and "PATH" in ours:
            ours["PATH"] = self._boxes.path(ours["PATH"], programs)
        modules = [env["PYTHONPATH"] for env in (plan.env, programs) if env.get("PYTHONPATH")]
        return {"HOME": workdir, **ours, **plan.env, **gpus, **_paths("PYTHONPATH", modules)}

    def _isolation(self, plan: ReplicaPlan, programs: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
        """A box sees the programs of its image; what the plan's own environment names is no reason to show it."""
        if plan.account is not None:
            box = self._boxes.options(plan.name, plan.account, programs, (*plan.binds, *plan.buckets))
            return (*box, *([("shm", str(plan.shm))] if plan.shm else []))
        return () if self._umask is None or self._boxes.trouble else (("umask", f"{self._umask:o}"),)

    def _limits(self, plan: ReplicaPlan) -> tuple[tuple[str, str], ...]:
        held = self._cgroups.parents
        options = self._cgroups.options(plan.name, plan.cpu, plan.memory, plan.pids)
        if plan.memory is not None and "memory" not in held:
            options.append(("memory", str(plan.memory)))
        if plan.cpu is not None and "cpu" not in held and math.ceil(plan.cpu) < len(self.cores):
            options.append(("cpus", self._take_cores(math.ceil(plan.cpu))))
        if (files := limit_of_children()) is not None:
            options.append(("files", f"{files[0]}:{files[1]}"))
        return tuple(options)

    def _take_cores(self, count: int) -> str:
        """The next cores in turn, so that replicas spread over the machine."""
        with self._lock:
            first = self._next_core
            self._next_core = (first + count) % len(self.cores)
        return ",".join(str(self.cores[(first + i) % len(self.cores)]) for i in range(count))


def _paths(name: str, folders: list[str]) -> dict[str, str]:
    """What the user wants to be searched goes first, and hides nothing that the environment brings."""
    return {name: os.pathsep.join(folders)} if folders else {}


def _on_this_machine(plan: ReplicaPlan) -> str:
    """Where the plan's work directory is, or would be, on this machine; empty where it names none."""
    wanted = plan.workdir or ""
    for bind in plan.binds:
        target = bind.target.rstrip("/")
        if wanted == target or wanted.startswith(target + "/"):
            return bind.source + wanted[len(target) :]
    return wanted
