"""Looking at the machine: what localml needs, whether it is there, and what to do if not. Changes nothing."""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any

from localml.core.quantities import format_memory

if TYPE_CHECKING:
    from localml.config import Config

_GIB = 1 << 30


class Level(StrEnum):
    """How bad it is: ``warn`` limits what works, ``fail`` keeps localml from working."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Check:
    """One finding; ``advice`` is what to do, empty when nothing needs to be."""

    name: str
    level: Level
    message: str
    advice: str = ""


def examine(data: Path) -> list[Check]:
    """All checks, for a server on this data directory. A check that fails itself is a finding, too."""
    found: list[Check] = []
    for name, check in _CHECKS:
        try:
            found.extend(check(data))
        except Exception as error:
            found.append(Check(name, Level.WARN, f"could not be checked: {error}"))
    return found


def _python(_: Path) -> Iterator[Check]:
    yield Check("python", Level.OK, f"version {sys.version.split()[0]} at {sys.executable}")


def _docker(_: Path) -> Iterator[Check]:
    from localml.engines.docker import docker_available

    trouble = docker_available()
    if trouble is not None:
        advice = "Install Docker, start it, and see that this user may use it; jobs run as child processes until then."
        if Path("/var/run/docker.sock").exists() and not os.access("/var/run/docker.sock", os.R_OK | os.W_OK):
            advice = "This user may not use Docker: sudo usermod -aG docker $USER, then log in again."
        yield Check("docker", Level.WARN, trouble, advice)
        return
    from localml.engines.docker.daemon import open_client

    client: Any = open_client()
    try:
        info = client.info()
        version = str(info.get("ServerVersion"))
        yield Check("docker", Level.OK, f"version {version}, {info.get('Driver')}, cgroup v{info.get('CgroupVersion')}")
        yield from _toolkit(info)
        skew = abs(_docker_time(info) - time.time())
        if skew > 5:
            yield Check("clock", Level.WARN, f"Docker's clock is off by {skew:.0f} s", "Times of logs will be wrong.")
        yield from _disk("docker disk", Path(str(info.get("DockerRootDir") or "/")), 10 * _GIB)
    finally:
        client.close()


def _users(data: Path) -> Iterator[Check]:
    """Whether several people can use this machine without trusting each other: as the server runs, or would."""
    from localml.engines.docker import docker_available
    from localml.engines.process.boxes import trouble
    from localml.store.lock import holder

    running = holder(data) or {}
    if running.get("users"):
        yield Check("users", Level.WARN, running["users"])
    elif running["engine"] == "docker" if running else docker_available() is None:
        yield Check("users", Level.OK, "containers keep their jobs apart")
    elif running or not (reason := trouble()):
        yield Check("users", Level.OK, "child processes of each run as a user of their own, and see no other's files")
    else:
        advice = "Use Docker, or run as root; 'localml up --trust-users' runs all jobs as the server's own user."
        yield Check("users", Level.WARN, f"only administrators may run jobs: {reason}", advice)


def _docker_time(info: dict[str, Any]) -> float:
    from datetime import datetime

    text = str(info.get("SystemTime", ""))
    try:
        return datetime.fromisoformat(text[:19] + "+00:00").timestamp() if text.endswith("Z") else time.time()
    except ValueError:
        return time.time()


def _toolkit(info: dict[str, Any]) -> Iterator[Check]:
    """Whether containers can be given GPUs; asked only where there are any."""
    if not Path("/dev/nvidiactl").exists():
        return
    if "nvidia" in (info.get("Runtimes") or {}) or info.get("CDISpecDirs"):
        yield Check("container toolkit", Level.OK, "Docker can give GPUs to containers")
    else:
        advice = "Install nvidia-container-toolkit and run: sudo nvidia-ctk runtime configure --runtime=docker"
        yield Check("container toolkit", Level.WARN, "Docker has no NVIDIA runtime; device files are used", advice)


def _gpus(_: Path) -> Iterator[Check]:
    from localml.gpus import open_inventory

    inventory = open_inventory("auto")
    try:
        devices, broken = inventory.devices(), inventory.health()
        if not devices:
            there = Path("/proc/driver/nvidia").exists() or shutil.which("nvidia-smi") is not None
            advice = "The driver is installed but does not answer; see nvidia-smi." if there else ""
            yield Check("gpus", Level.WARN if there else Level.OK, f"none: {inventory.reason}", advice)
            return
        yield Check("gpus", Level.OK, f"{len(devices)}, {inventory.reason}")
        for gpu in devices:
            if gpu.uuid in broken:
                yield Check(f"gpu {gpu.label}", Level.WARN, broken[gpu.uuid], "It gets no work until it is well again.")
    finally:
        inventory.close()


def _memory(_: Path) -> Iterator[Check]:
    import psutil

    memory = psutil.virtual_memory()
    words = f"{format_memory(memory.available)} of {format_memory(memory.total)} available"
    low = memory.available < _GIB
    advice = "Close other programs, or give jobs a --memory limit." if low else ""
    yield Check("memory", Level.WARN if low else Level.OK, words, advice)


def _data(data: Path) -> Iterator[Check]:
    """The directory, or the folder in which it would be made."""
    existing = next(path for path in (data, *data.parents) if path.exists())
    if not os.access(existing, os.W_OK | os.X_OK):
        yield Check("data", Level.FAIL, f"{existing} cannot be written by this user", "Choose another one with --data.")
        return
    yield Check("data", Level.OK, f"{data}" + ("" if data.exists() else " (will be made)"))
    for secret in ("secret.key", "credentials.json"):
        path = data / secret
        if path.exists() and path.stat().st_mode & 0o077:
            yield Check("data", Level.WARN, f"{path} can be read by others", f"Run: chmod 600 {path}")
    yield from _disk("disk", existing, 5 * _GIB)
    yield Check("retention", Level.OK, _retention(existing, data))


def _retention(existing: Path, data: Path) -> str:
    """What goes by itself, by the settings of a server that would be started here and now."""
    from localml.config import load
    from localml.control.watch.upkeep import floor, rules
    from localml.core.room import disk_of

    config, disk = load(data=data), disk_of(existing)
    kept = format_memory(rules(config, disk).keep_log_bytes)
    days = f"{config.keep_logs_days:g} days" if isfinite(config.keep_logs_days) else "for ever"
    return (
        f"a server started here keeps output of what ended {days}, {kept} at most, "
        f"of a service the last {format_memory(config.service_logs)} of a stream, and less when under "
        f"{format_memory(floor(config, disk))} of the disk are free"
    )


def _disk(name: str, path: Path, enough: int) -> Iterator[Check]:
    while not path.exists():
        path = path.parent
    free = shutil.disk_usage(path).free
    level = Level.FAIL if free < enough // 20 else Level.WARN if free < enough else Level.OK
    advice = "'localml prune' and 'localml images prune' give room back." if level is not Level.OK else ""
    yield Check(name, level, f"{format_memory(free)} free at {path}", advice)


def _ports(data: Path) -> Iterator[Check]:
    from localml.config import load
    from localml.store.lock import holder

    running = holder(data)
    if running is None:
        yield from _free_ports(load(data=data))
        return
    words = f"runs: process {running['pid']} at {running['url']}" if running else "starts or ends just now"
    yield Check("server", Level.OK, words)
    yield _gateway(data)
    for opened in running.get("opened", ()):
        yield Check("server", Level.WARN, opened, "It was started with --open; without, clients send credentials.")


def _gateway(data: Path) -> Check:
    from localml.control.serving.gateway_process import find, listens_at

    port, process = listens_at(data), find(data)
    if port is not None and process is not None:
        return Check("gateway", Level.OK, f"listens at port {port}: process {process.pid}")
    if not (data / "gateway" / "routes.json").exists():
        return Check("gateway", Level.OK, "begins with the first endpoint")
    return Check("gateway", Level.WARN, "does not listen", "'localml status' and gateway/gateway.log say why.")


def _free_ports(config: Config) -> Iterator[Check]:
    from localml.control.own_ports import why_not
    from localml.control.serving.gateway_process import listens_at

    kept = listens_at(config.data)
    for port in (config.port, config.gateway_port):
        if port == kept:
            yield Check("ports", Level.OK, f"{port} is listened at by the gateway of this data directory")
        elif trouble := why_not(config.host, port):
            advice = "'localml up' takes the next one, unless you choose: localml up --port N --gateway-port M"
            yield Check("ports", Level.WARN, f"{port} {trouble}", advice)
        else:
            yield Check("ports", Level.OK, f"{port} is free")


def _images(_: Path) -> Iterator[Check]:
    from localml.core.catalog import cache_dir
    from localml.engines.docker import docker_available
    from localml.engines.runtimes import open_images

    engine = "docker" if docker_available() is None else "process"
    found = [one for one in open_images(engine, cache_dir()).status() if one.default]
    missing = [one.name for one in found if not one.built]
    if missing:
        words = f"not built for the {engine} engine: {', '.join(missing)}"
        yield Check("images", Level.WARN, words, "Run: localml images build")
    else:
        yield Check("images", Level.OK, f"built: {', '.join(one.name for one in found)}")


def _cgroups(_: Path) -> Iterator[Check]:
    if Path("/sys/fs/cgroup/cgroup.controllers").exists():
        yield Check("cgroups", Level.OK, "version 2")
    elif Path("/sys/fs/cgroup/memory").exists():
        yield Check("cgroups", Level.OK, "version 1")
    else:
        yield Check("cgroups", Level.WARN, "none are mounted", "Limits of memory and CPU cannot be enforced.")


def _clock(_: Path) -> Iterator[Check]:
    year = time.gmtime().tm_year
    if year < 2024:
        yield Check("clock", Level.FAIL, f"says that it is {year}", "Set the clock: signatures and logs depend on it.")
    else:
        yield Check("clock", Level.OK, time.strftime("%Y-%m-%d %H:%M:%S %Z"))


_CHECKS: tuple[tuple[str, Callable[[Path], Iterator[Check]]], ...] = (
    ("python", _python),
    ("docker", _docker),
    ("users", _users),
    ("gpus", _gpus),
    ("images", _images),
    ("memory", _memory),
    ("data", _data),
    ("ports", _ports),
    ("cgroups", _cgroups),
    ("clock", _clock),
)
