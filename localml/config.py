"""Settings of one server: command line over environment (``LOCALML_*``) over defaults, as one frozen value.

Plain code instead of a settings library: there are a dozen settings, and the usual library alone would take a fifth
of the time in which ``localml up`` has to answer.
"""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from localml.core.errors import invalid
from localml.core.quantities import parse_memory

ENGINES = ("auto", "docker", "process", "fake")
DEFAULT_PORT = 7070
DEFAULT_GATEWAY_PORT = 7071
DEFAULT_UIDS = 2_000_000_000
"""Above what is given to people (to 60000), service managers, containers (to 1879048191) and subordinate uids."""
_HOST = re.compile(r"[A-Za-z0-9._-]+")
_LAST_UIDS = (1 << 32) - (1 << 24)
LOOPBACK = ("127.0.0.1", "localhost", "::1")
LEAST_SERVICE_LOGS = 64 << 10
"""Bytes: less would give less than a screen of long lines."""
_PORTS = ("port", "gateway_port")
_DAYS = ("keep_logs_days", "keep_removed_days", "keep_jobs_days", "keep_events_days")
_SIZES = ("memory", "keep_logs", "service_logs", "free_disk")
OPENABLE = {
    "mlbench": "MLBench asks nobody on this machine who they are: each account and each job here may start programs, "
    "stop and delete runs and read their output, in the administrator's name",
}
"""What ``--open`` can name, and what is said of it at the start."""


def default_data() -> Path:
    """``~/.localml``."""
    return Path.home() / ".localml"


@dataclass(frozen=True, slots=True)
class Config:
    """What ``localml up`` was told.

    ``cpus`` (cores) and ``memory`` (bytes) declare another size than the machine's own, for tests of scheduling.
    ``cpu_overcommit`` is how many cores may be reserved per real one; memory and GPUs are never overcommitted.
    ``asked`` are those of ``port`` and ``gateway_port`` that somebody chose; the others give way where they are taken.
    ``max_replicas`` is how many containers run at a time (0: sixteen per core).
    ``trust_users`` lets jobs of all users run as the server's own user on an engine that cannot keep them apart;
    where it can, ``uids`` is the number that the users' accounts begin with.
    ``hosts`` are further names under which this server may be called (Host header).
    What is kept, and for how long (:mod:`localml.control.watch.upkeep`; days may be ``inf``): output of what ended so
    many days ago (``keep_logs_days``) and of all that ended together (``keep_logs``, bytes; None: a tenth of the file
    system, at most 50 GiB); of each stream of a service its last ``service_logs`` bytes; records of what was removed
    (``keep_removed_days``) and of jobs that ended (``keep_jobs_days``); events (``keep_events_days``).
    ``free_disk`` is how much of the disk stays free in bytes (None: the fiftieth part, 1 to 10 GiB).
    ``open`` are APIs that ask nobody on this machine for credentials, ``closed`` has every operation ask that can
    (``dialects/kit/open.py``). ``cache`` is where downloads and builds are kept; in the data directory by default.
    """

    data: Path
    host: str = "127.0.0.1"
    port: int = DEFAULT_PORT
    gateway_port: int = DEFAULT_GATEWAY_PORT
    asked: tuple[str, ...] = ()
    engine: str = "auto"
    gpus: str = "auto"
    auth: bool = True
    cpus: float | None = None
    memory: int | None = None
    cpu_overcommit: float = 4.0
    max_replicas: int = 0
    threads: int = 32
    trust_users: bool = False
    uids: int = DEFAULT_UIDS
    hosts: tuple[str, ...] = ()
    open: tuple[str, ...] = ()
    closed: bool = False
    cache: Path = Path()
    keep_logs: int | None = None
    keep_logs_days: float = 30.0
    keep_removed_days: float = 30.0
    keep_jobs_days: float = 365.0
    keep_events_days: float = 90.0
    service_logs: int = 64 << 20
    free_disk: int | None = None

    @property
    def opened(self) -> list[str]:
        """What is open because somebody asked for it, a sentence for each."""
        return [OPENABLE[name] for name in self.open]

    def __post_init__(self) -> None:
        if self.cache == Path():  # never whatever folder the process happens to be in
            object.__setattr__(self, "cache", self.data / "cache")
        if self.engine not in ENGINES:
            raise invalid("engine", f"must be one of {', '.join(ENGINES)}, not {self.engine!r}")
        if not 0 <= self.port <= 65535:
            raise invalid("port", f"must be between 0 and 65535, not {self.port}")
        if not self.auth and self.host not in LOOPBACK:
            raise invalid("no-auth", f"is only allowed on loopback, not on {self.host}")
        unknown = [name for name in self.open if name not in OPENABLE]
        if unknown:
            raise invalid("open", f"must be {' or '.join(OPENABLE)}, not {unknown[0]!r}")
        if self.open and self.closed:
            raise invalid("closed", "cannot be together with open")
        for name in self.hosts:
            _check_host(name)
        if not 1000 <= self.uids <= _LAST_UIDS:
            raise invalid("uids", f"must be between 1000 and {_LAST_UIDS}, not {self.uids}")
        if self.cpus is not None and self.cpus <= 0:
            raise invalid("cpus", f"must be more than 0, not {self.cpus:g}")
        if self.service_logs < LEAST_SERVICE_LOGS:
            raise invalid("service-logs", f"must be at least {LEAST_SERVICE_LOGS} bytes, not {self.service_logs}")
        for name in _DAYS:
            if not getattr(self, name) >= 0:  # not a number is neither
                raise invalid(name.replace("_", "-"), f"must not be negative, not {getattr(self, name):g}")


def _check_host(name: str) -> None:
    """Without a port, as it is compared."""
    with suppress(ValueError):
        ipaddress.ip_address(name)
        return
    if not _HOST.fullmatch(name):
        raise invalid("allow-host", f"{name!r} is no name or address (without scheme, port or brackets)")


def load(environment: Mapping[str, str] = os.environ, **given: Any) -> Config:
    """The settings from the environment, overridden by those ``given`` that are not None.

    Raises:
        LocalmlError: ``INVALID`` naming the setting.
    """
    from localml.core.catalog import cache_dir  # late: the commands that only ask for the defaults should start fast

    values: dict[str, Any] = {"data": default_data(), "cache": cache_dir()}
    for name, convert in _FROM_ENVIRONMENT.items():
        text = environment.get(f"LOCALML_{name.upper()}")
        if text:
            try:
                values[name] = convert(text)
            except ValueError as error:
                raise invalid(f"LOCALML_{name.upper()}", f"{text!r} is not valid: {error}") from error
    if environment.get("LOCALML_NO_AUTH", "").lower() in ("1", "true", "yes"):
        values["auth"] = False
    values.update({name: value for name, value in given.items() if value is not None})
    values.setdefault("asked", tuple(name for name in _PORTS if name in values))
    values["data"] = Path(values["data"]).expanduser().absolute()
    return replace(Config(data=values.pop("data")), **values)


def _names(text: str) -> tuple[str, ...]:
    return tuple(one.strip() for one in text.split(",") if one.strip())


def _truth(text: str) -> bool:
    words = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}
    if text.lower() not in words:
        raise ValueError(f"must be one of {', '.join(words)}")
    return words[text.lower()]


_FROM_ENVIRONMENT: dict[str, Any] = {
    "data": Path,
    "host": str,
    "port": int,
    "gateway_port": int,
    "engine": str,
    "gpus": str,
    "cpus": float,
    "cpu_overcommit": float,
    "max_replicas": int,
    "threads": int,
    "hosts": _names,
    "open": _names,
    "closed": _truth,
    "trust_users": _truth,
    "uids": int,
    **{name: partial(parse_memory, field=f"LOCALML_{name.upper()}") for name in _SIZES},
    **dict.fromkeys(_DAYS, float),
}
