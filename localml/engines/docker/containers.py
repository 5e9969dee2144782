"""From a replica's plan to the daemon's words, and from the daemon's words to what was observed."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from localml.engines.base import LABEL_INSTALL, Bind, Observed, Phase, ReplicaPlan
from localml.engines.docker.gpu import GpuOptions

LABEL_NAME = "localml.name"
"""The name that the plan gave, which Docker's rules for names may not allow as it is."""
LABEL_ROTATE = "localml.rotate"
"""Carried by containers whose log is rotated."""

_ALLOWED_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]+")
_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9_.-]")
_LEAST_MEMORY = 6 << 20  # the daemon refuses less
_LEAST_CPU = 0.01

LOG_CONFIG = {"Type": "local", "Config": {"max-size": "1t", "max-file": "1", "compress": "false"}}
"""The ``local`` driver, because ``json-file`` replaces bytes that are no UTF-8.

A job's is never rotated in practice: rotation loses lines under a follower (seen with Docker 20.10), and our
own log store prunes. The driver's file goes when the container is removed.
"""

ROTATED_LOG_CONFIG = {"Type": "local", "Config": {"max-size": "32m", "max-file": "2", "compress": "false"}}
"""For what writes for as long as it is wanted; read by :class:`localml.engines.docker.rotated.RotatedStream`."""

_PHASES = {
    "created": Phase.CREATED,
    "running": Phase.RUNNING,
    "paused": Phase.RUNNING,
    "restarting": Phase.RUNNING,
    "removing": Phase.EXITED,
    "exited": Phase.EXITED,
    "dead": Phase.EXITED,
}


BEING_REMOVED = ("removing", "dead")
"""States of what somebody removes, or could not remove to the end: it has ended, and its name is not free yet."""

_KILLED = 137  # what a forced removal ends with
_REMOVED = "somebody removed the container"
_EXITED = re.compile(r"Exited \((\d+)\)")


def container_name(name: str) -> str:
    """The container's name for a plan's name: the same, unless Docker does not allow it."""
    if _ALLOWED_NAME.fullmatch(name):
        return name
    digest = hashlib.sha256(name.encode()).hexdigest()[:8]
    return f"lml-{_NOT_IN_NAMES.sub('_', name)}-{digest}"


def container_config(plan: ReplicaPlan, *, install: str, network: str, cores: int, gpu: GpuOptions) -> dict[str, Any]:
    """The body of ``POST /containers/create``. ``cores`` caps the CPU limit: the daemon refuses more than it has."""
    config: dict[str, Any] = {
        "Image": plan.image,
        "Env": [f"{key}={value}" for key, value in {**plan.env, **gpu.env}.items()],
        "Labels": {**plan.labels, **_rotated(plan), LABEL_INSTALL: install, LABEL_NAME: plan.name},
        "ExposedPorts": {f"{port.container}/tcp": {} for port in plan.ports},
        "StopSignal": "SIGTERM",
        "HostConfig": {**_host_config(plan, network, cores), **gpu.host_config},
    }
    if plan.command:
        config |= {"Cmd": list(plan.command)} | ({} if plan.keep_entrypoint else {"Entrypoint": []})
    if plan.network and plan.hostname:
        config["NetworkingConfig"] = {"EndpointsConfig": {network: {"Aliases": [plan.hostname]}}}
    optional = {"WorkingDir": plan.workdir, "User": plan.user, "Hostname": plan.hostname}
    return config | {key: value for key, value in optional.items() if value}


def _rotated(plan: ReplicaPlan) -> dict[str, str]:
    return {LABEL_ROTATE: ""} if plan.rotate else {}


def _host_config(plan: ReplicaPlan, network: str, cores: int) -> dict[str, Any]:
    config: dict[str, Any] = {
        "NetworkMode": network,
        "Init": True,  # reaps zombies and hands signals on to programs that are no good init
        "SecurityOpt": ["no-new-privileges"],
        "CapDrop": ["MKNOD", "NET_RAW"],  # a disk's device file in a bucket; packets in another container's name
        "LogConfig": ROTATED_LOG_CONFIG if plan.rotate else LOG_CONFIG,
        "PortBindings": {
            f"{port.container}/tcp": [{"HostIp": plan.bind_address, "HostPort": str(port.host)}] for port in plan.ports
        },
        # Mounts and not Binds: a source that is missing is an error here, and not a new folder owned by root.
        "Mounts": [
            {"Type": "bind", "Source": bind.source, "Target": bind.target, "ReadOnly": bind.read_only}
            for bind in (*plan.binds, *plan.buckets)
        ]
        + _common_folders(plan.buckets),
    }
    if plan.cpu is not None:
        config["NanoCpus"] = int(max(_LEAST_CPU, min(plan.cpu, cores)) * 1e9)
    if plan.memory is not None:
        config["Memory"] = config["MemorySwap"] = max(plan.memory, _LEAST_MEMORY)
    if plan.shm is not None:
        config["ShmSize"] = plan.shm
    if plan.groups:
        config["GroupAdd"] = [str(one) for one in plan.groups]
    if plan.pids is not None:
        config["PidsLimit"] = plan.pids
    return config


def _common_folders(buckets: Iterable[Bind]) -> list[dict[str, Any]]:
    """What the buckets are mounted into: empty folders in memory that take nothing else, so that what a program writes
    beside the buckets fails and is not lost."""
    return [
        {"Type": "tmpfs", "Target": folder, "ReadOnly": True, "TmpfsOptions": {"Mode": 0o755}}
        for folder in sorted({bind.target.rpartition("/")[0] for bind in buckets})
    ]


def phase_of(status: str) -> Phase:
    """The phase for ``State.Status`` of an inspection, which is ``State`` of a listing; an unknown one is no end."""
    return _PHASES.get(status, Phase.RUNNING)


def name_of(labels: Mapping[str, str], fallback: str) -> str:
    """The plan's name for a container with these labels."""
    return labels.get(LABEL_NAME) or fallback.removeprefix("/")


def row_name(row: Mapping[str, Any]) -> str:
    """The plan's name for a container of a listing; one that is being removed may have no other."""
    return name_of(row["Labels"] or {}, next(iter(row["Names"] or ()), ""))


def observed(inspection: Mapping[str, Any]) -> Observed:
    """Read an answer of ``GET /containers/{id}/json``.

    What a forced removal has killed did not end by itself: it has no exit code, and ``error`` says what happened.
    """
    state = inspection["State"]
    labels = inspection["Config"].get("Labels") or {}
    phase = phase_of(state["Status"])
    networks = (inspection.get("NetworkSettings") or {}).get("Networks") or {}
    addresses = (endpoint.get("IPAddress") for endpoint in networks.values())
    started_at, finished_at = timestamp(state.get("StartedAt", "")), timestamp(state.get("FinishedAt", ""))
    if started_at is not None and finished_at is not None:
        finished_at = max(finished_at, started_at)  # the daemon notes a quick end before it notes the start
    oom_killed = bool(state.get("OOMKilled"))
    code = state["ExitCode"] if phase is Phase.EXITED else None
    own = state["Status"] not in BEING_REMOVED or (started_at is not None and (oom_killed or code != _KILLED))
    return Observed(
        name=name_of(labels, inspection["Name"]),
        phase=phase,
        exit_code=code if own else None,
        oom_killed=oom_killed,
        started_at=started_at,
        finished_at=finished_at if phase is Phase.EXITED else None,
        address=next((address for address in addresses if address), None),
        error=state.get("Error", "") if own else _REMOVED,
        labels=labels,
        handle={"id": inspection["Id"]},
    )


def listed(row: Mapping[str, Any], *, puzzling: bool = False) -> Observed:
    """What a listing alone tells of a container: no times, and no address.

    Args:
        puzzling: the daemon says no more of it. Then nothing is concluded from an end that it lists.
    """
    phase = phase_of(row["State"])
    found = _EXITED.match(row.get("Status") or "")
    ended = phase is Phase.EXITED and not puzzling
    return Observed(
        name=row_name(row),
        phase=Phase.RUNNING if puzzling and phase is Phase.EXITED else phase,
        exit_code=int(found[1]) if found and ended else None,
        error="the daemon does not tell how it ended" if ended and not found else "",
        labels=row["Labels"] or {},
        handle={"id": row["Id"]},
    )


def timestamp(text: str) -> float | None:
    """Seconds since the epoch of the daemon's RFC 3339 time; None for its zero time."""
    if not text or text.startswith("0001-"):
        return None
    return datetime.fromisoformat(text).timestamp()
