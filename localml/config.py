"""Settings of one server: command line over environment (``LOCALML_*``) over the data directory's file
(:mod:`localml.config_file`) over defaults, as one frozen value. Ports and GPUs that neither of them says are those of
the last start on the data directory.

Plain code instead of a settings library: there are a dozen settings, and the usual library alone would take a fifth
of the time in which ``localml up`` has to answer.
"""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, fields, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from localml import config_file
from localml.core.errors import LocalmlError, invalid
from localml.core.home import expanded, home
from localml.core.quantities import parse_days, parse_size

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
LEAST_ALGORITHM_MEMORY = 256 << 20
"""What Optuna takes for the smallest of searches, and some more."""
SIZES = ("memory", "keep_logs", "service_logs", "free_disk", "algorithm_memory")
OPENABLE = {
    "mlbench": "MLBench asks nobody on this machine who they are: each account and each job here may start programs, "
    "stop and delete runs and read their output, in the administrator's name",
}
"""What ``--open`` can name, and what is said of it at the start."""


def default_data() -> Path:
    """``~/.localml``."""
    return home("--data (or LOCALML_DATA)") / ".localml"


@dataclass(frozen=True, slots=True)
class Config:
    """What ``localml up`` was told.

    ``cpus`` (cores) and ``memory`` (bytes) declare another size than the machine's own, for tests of scheduling.
    ``cpu_overcommit`` is how many cores may be reserved for each there is; memory and GPUs are never overcommitted.
    ``abandon`` names a kind of engine that has work; at this start all that it has is taken for lost.
    ``asked`` are those of ``port`` and ``gateway_port`` that somebody chose; the others give way where they are taken.
    ``max_replicas`` is how many containers run at a time (0: sixteen per core).
    ``inherit_proxy`` gives jobs the server's proxies (:mod:`localml.engines.proxies`).
    ``trust_users`` lets jobs of all users run as the server's own user on an engine that cannot keep them apart;
    where it can, ``uids`` is the number that the users' accounts begin with.
    ``hosts`` are further names under which this server may be called (Host header).
    What is kept, and for how long (:mod:`localml.control.watch.upkeep`; days may be ``inf``): output of what ended so
    many days ago (``keep_logs_days``) and of all that ended together (``keep_logs``, bytes; None: a tenth of the file
    system, at most 50 GiB); of each stream of a service its last ``service_logs`` bytes; records of what was removed
    (``keep_removed_days``) and of jobs that ended (``keep_jobs_days``); events (``keep_events_days``).
    ``free_disk`` is how much of the disk stays free in bytes (None: the fiftieth part, 1 to 10 GiB).
    ``algorithm_seconds`` and ``algorithm_memory`` (bytes) are what a search's algorithm may take for a proposal.
    ``open`` are APIs that ask nobody on this machine for credentials, ``closed`` has every operation ask that can
    (``dialects/kit/open.py``). ``images`` says, where there are no containers, which runtime of the catalogue (or
    ``host``) the images stand for whose names match a pattern; the first that matches counts. ``cache`` is where
    downloads and builds are kept; in the data directory by default.
    """

    data: Path
    host: str = "127.0.0.1"
    port: int = DEFAULT_PORT
    gateway_port: int = DEFAULT_GATEWAY_PORT
    asked: tuple[str, ...] = ()
    engine: str = "auto"
    abandon: str = ""
    gpus: str = "auto"
    auth: bool = True
    cpus: float | None = None
    memory: int | None = None
    cpu_overcommit: float = 1.0
    max_replicas: int = 0
    threads: int = 32
    trust_users: bool = False
    inherit_proxy: bool = False
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
    algorithm_seconds: float = 120.0
    algorithm_memory: int = 4 << 30
    images: Mapping[str, str] = field(default_factory=dict)

    @property
    def opened(self) -> list[str]:
        """What is open because somebody asked for it, a sentence for each."""
        return [OPENABLE[name] for name in self.open]

    def __post_init__(self) -> None:
        if self.cache == Path():  # never whatever folder the process happens to be in
            object.__setattr__(self, "cache", self.data / "cache")
        if self.engine not in ENGINES:
            raise invalid("engine", f"must be one of {', '.join(ENGINES)}, not {self.engine!r}")
        if self.abandon not in ("", "docker", "process"):
            raise invalid("abandon", f"must be docker or process, not {self.abandon!r}")
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
        if self.cpus is not None and not 0 < self.cpus < float("inf"):
            raise invalid("cpus", f"must be more than 0, not {self.cpus:g}")
        if not 0 < self.cpu_overcommit < float("inf"):
            raise invalid("cpu-overcommit", f"must be more than 0, not {self.cpu_overcommit:g}")
        if self.max_replicas < 0:
            raise invalid("max-replicas", f"must not be negative, not {self.max_replicas}")
        if self.service_logs < LEAST_SERVICE_LOGS:
            raise invalid("service-logs", f"must be at least {LEAST_SERVICE_LOGS} bytes, not {self.service_logs}")
        if not 0 < self.algorithm_seconds < float("inf"):
            raise invalid("algorithm-seconds", f"must be more than 0, not {self.algorithm_seconds:g}")
        if self.algorithm_memory < LEAST_ALGORITHM_MEMORY:
            words = f"must be at least {LEAST_ALGORITHM_MEMORY} bytes, not {self.algorithm_memory}"
            raise invalid("algorithm-memory", words)
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
    """The settings from the environment and the file, overridden by those ``given`` that are not None.

    Raises:
        LocalmlError: ``INVALID`` naming the setting.
    """
    said = {name: value for name, value in given.items() if value is not None}
    said = {**_from_environment(environment), **said}
    data = expanded(said.pop("data", None) or default_data(), "data").absolute()
    values: dict[str, Any] = {"cache": _cache(), **from_file(data, environment), **said}
    values.setdefault("asked", tuple(name for name in _PORTS if name in values))
    return replace(Config(data=data), **{**config_file.remembered(data), **values})


def recalled(data: Path, environment: Mapping[str, str] = os.environ, **given: Any) -> dict[str, Any]:
    """What :func:`load` takes from the last start on a data directory, where that is not the default."""
    said = {name: value for name, value in given.items() if value is not None}
    chosen = {**from_file(data, environment), **_from_environment(environment), **said}
    return {
        name: value
        for name, value in config_file.remembered(data).items()
        if name not in chosen and value != _DEFAULTS[name]
    }


def _from_environment(environment: Mapping[str, str]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for name, convert in _FROM_ENVIRONMENT.items():
        text = environment.get(f"LOCALML_{name.upper()}")
        if text:
            try:
                values[name] = convert(text)
            except ValueError as error:
                raise invalid(f"LOCALML_{name.upper()}", f"{text!r} is not valid: {error}") from error
    if environment.get("LOCALML_NO_AUTH", "").lower() in ("1", "true", "yes"):
        values["auth"] = False
    return values


def from_file(data: Path, environment: Mapping[str, str] = os.environ) -> dict[str, Any]:
    """What the file of a data directory says.

    Raises:
        LocalmlError: ``INVALID`` naming the file and the setting; of one that is not known the nearest that is.
    """
    found = config_file.values_of(data, environment)
    try:
        return {known(name): _of_toml(name, value) for name, value in found.items()}
    except LocalmlError as error:
        where = config_file.place(data, environment)
        raise LocalmlError(error.code, f"{error.message} (in {where})", field=error.field) from error


def known(name: str) -> str:
    """The name of a setting that a file may have.

    Raises:
        LocalmlError: ``INVALID`` with the nearest one, or all.
    """
    from difflib import get_close_matches

    plain = name.replace("-", "_")
    if plain in IN_FILE:
        return plain
    near = get_close_matches(plain, IN_FILE, 1)
    words = f"did you mean '{near[0]}'?" if near else f"settings are {', '.join(IN_FILE)}"
    raise invalid("config", f"'{name}' is no setting; {words}")


def convert(name: str, text: str) -> Any:
    """A setting's value from a text.

    Raises:
        LocalmlError: ``INVALID``, naming it.
    """
    try:
        return _truth(text) if name == "auth" else _FROM_ENVIRONMENT[name](text)
    except (ValueError, LocalmlError) as error:
        reason = str(error).removeprefix(f"LOCALML_{name.upper()}: ")
        raise invalid(name, f"{text!r} is not valid: {reason}") from error


def _of_toml(name: str, value: Any) -> Any:
    """A setting's value from what a TOML file has."""
    plain = known(name)
    if plain == "images":
        if not isinstance(value, dict) or not all(isinstance(one, str) for one in value.values()):
            raise invalid(plain, 'must be a table of texts: "PATTERN" = "RUNTIME"')
        return value
    if isinstance(value, list):
        if plain not in _LISTS or not all(isinstance(one, str) for one in value):
            raise invalid(plain, "must be no list" if plain not in _LISTS else "must be a list of texts")
        return tuple(value)
    if isinstance(value, dict):
        raise invalid(plain, "must be no table")
    return convert(plain, str(value))


class Setting(NamedTuple):
    """What holds for a server that starts now, and who says so: environment, file, last start or default."""

    name: str
    value: Any
    source: str


def settings(data: Path, environment: Mapping[str, str] = os.environ) -> list[Setting]:
    """All settings of a data directory that a file may have, without what a command line says."""
    sources = {
        "environment": _from_environment(environment),
        "file": from_file(data, environment),
        "last start": config_file.remembered(data),
    }
    defaults = Config(data=data)
    found = []
    for name in IN_FILE:
        source = next((one for one, values in sources.items() if name in values), "default")
        value = sources[source][name] if source in sources else getattr(defaults, name)
        found.append(Setting(name, value, source))
    return found


def _cache() -> Path:
    """Without a home directory it is in the data directory."""
    from localml.core.catalog import cache_dir  # late: the commands that only ask for the defaults should start fast

    try:
        return cache_dir()
    except LocalmlError:
        return Path()


def _names(text: str) -> tuple[str, ...]:
    return tuple(one.strip() for one in text.split(",") if one.strip())


def _pairs(text: str) -> dict[str, str]:
    """``PATTERN=RUNTIME,PATTERN=RUNTIME``."""
    parts = [one.rpartition("=") for one in _names(text)]
    wrong = [value or name for name, sign, value in parts if not (name.strip() and sign and value.strip())]
    if wrong:
        raise ValueError(f"must be PATTERN=RUNTIME, parted by commas, not {wrong[0]!r}")
    return {name.strip(): value.strip() for name, _, value in parts}


def _whole(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise ValueError("must be a whole number") from None


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ValueError("must be a number") from None


def _truth(text: str) -> bool:
    words = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}
    if text.lower() not in words:
        raise ValueError(f"must be one of {', '.join(words)}")
    return words[text.lower()]


_FROM_ENVIRONMENT: dict[str, Any] = {
    "data": Path,
    "host": str,
    "port": _whole,
    "gateway_port": _whole,
    "engine": str,
    "abandon": str,
    "gpus": str,
    "cpus": _number,
    "cpu_overcommit": _number,
    "max_replicas": _whole,
    "threads": _whole,
    "hosts": _names,
    "open": _names,
    "images": _pairs,
    "closed": _truth,
    "trust_users": _truth,
    "inherit_proxy": _truth,
    "uids": _whole,
    "algorithm_seconds": _number,
    **{name: partial(parse_size, field=f"LOCALML_{name.upper()}") for name in SIZES},
    **{name: partial(parse_days, field=f"LOCALML_{name.upper()}") for name in _DAYS},
}
BOOLEANS = tuple(one.name for one in fields(Config) if isinstance(one.default, bool))
"""The settings that are true or false."""
_LISTS = ("hosts", "open")
_NOT_IN_FILE = ("data", "cache", "abandon", "asked")
"""Where the file lies, what all data directories share, and what is said for one start alone."""
IN_FILE = [one.name for one in fields(Config) if one.name not in _NOT_IN_FILE]
"""The settings that a file may have."""
_DEFAULTS = {one.name: one.default for one in fields(Config)}
