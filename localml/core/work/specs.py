"""What a user asks for, as frozen values: a workload has roles, a role has replicas of one command.

These are validated once, stored as JSON, and never changed afterwards. Unknown members are refused, because this
is also the body of our own API; the dialects translate their vendors' bodies into it.
"""

from __future__ import annotations

import os
import re
from pathlib import Path, PurePosixPath
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationInfo, field_validator, model_validator

from localml.core.errors import invalid
from localml.core.quantities import parse_duration, parse_memory
from localml.core.work.placeholders import Reference, references

NAME = re.compile(r"^(?!\.{1,2}$)[A-Za-z0-9._~][A-Za-z0-9._~-]{0,127}$")
ROLE_NAME = re.compile(r"^[A-Za-z0-9._~-]{1,64}$")
ENV_NAME = re.compile(r"^[A-Za-z_][A-Za-z0-9_.~-]*$")


CODE = re.compile(r"sha256:[0-9a-f]{64}")
UNPRIVILEGED = 1024
"""The first port of a machine that is not one of the system's."""
PIDS = 4096
"""Processes and threads that a replica has at most unless it asks for another number."""
LONGEST_GRACE = 3600.0
"""Seconds that a program may take at most to end after it was told to."""
_THREADS_MAX = Path("/proc/sys/kernel/threads-max")


def most_pids(setting: Path = _THREADS_MAX) -> int:
    """Processes and threads that one replica of a user may ask for, and that a user has in all where nothing else
    limits them: an eighth of what this machine can have."""
    try:
        return max(PIDS, int(setting.read_text()) // 8)
    except (OSError, ValueError):  # not Linux
        return PIDS


class Frozen(BaseModel):
    """Base of all specs: immutable, strict about members it does not know, and without infinite numbers: JSON, as which
    they are stored, has none."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def _seconds(value: Any, info: ValidationInfo) -> Any:
    return parse_duration(value, info.field_name or "time") if isinstance(value, str) else value


Seconds = Annotated[float, BeforeValidator(_seconds)]
"""Text such as ``90s``, ``8h`` or ``1d12h`` is taken, too."""


class Resources(Frozen):
    """What one replica needs. An amount left out is not limited, and of none but the cores anything is reserved then
    (:mod:`localml.core.work.reservations`).

    ``cpu`` in cores, memory amounts in bytes (text such as ``512M`` is taken), ``gpu`` as a whole number of
    devices, or a fraction of one between 0 and 1 which is shared with others. ``pids`` is the most processes and
    threads there may be, :data:`PIDS` when left out.
    """

    cpu: float | None = Field(default=None, gt=0, le=4096)
    memory: int | None = Field(default=None, ge=4 << 20)
    gpu: float = Field(default=0, ge=0, le=1024)
    gpu_type: str | None = None
    shm: int | None = Field(default=None, ge=1 << 16)
    pids: int | None = Field(default=None, ge=1)

    @field_validator("memory", "shm", mode="before")
    @classmethod
    def _amount(cls, value: Any, info: ValidationInfo) -> Any:
        return parse_memory(value, info.field_name or "memory") if isinstance(value, str) else value

    @field_validator("gpu")
    @classmethod
    def _whole_or_fraction(cls, value: float) -> float:
        if value > 1 and value != int(value):
            raise ValueError("more than one GPU must be a whole number")
        return value

    @property
    def whole_gpus(self) -> int:
        """Devices taken exclusively."""
        return int(self.gpu) if self.gpu >= 1 else 0

    @property
    def gpu_fraction(self) -> float:
        """Share of one device, 0 when whole devices or none are asked for."""
        return self.gpu if 0 < self.gpu < 1 else 0.0


class Mount(Frozen):
    """A folder that the replica sees.

    ``source`` is an object URI (``fds://bucket/key``), an absolute path of the machine, or ``workspace:NAME`` for
    a folder that localml keeps for the user.
    """

    source: str = Field(min_length=1)
    target: str
    read_only: bool = False

    @field_validator("target")
    @classmethod
    def _absolute(cls, value: str) -> str:
        if not value.startswith("/") or ".." in value.split("/"):
            raise ValueError("must be an absolute path without '..'")
        return value


class Port(Frozen):
    """A port that others may reach; 0 lets localml choose a free one.

    With ``container`` and ``host`` both 0 the two are the same number, so that the port is found under it from inside
    and from outside. A ``host`` port of the user's own choice that is taken fails the workload. ``prefer`` is the host
    port that is chosen if it is free.
    """

    label: str = Field(min_length=1, max_length=64)
    container: int = Field(default=0, ge=0, le=65535)
    host: int = Field(default=0, ge=0, le=65535)
    prefer: int = Field(default=0, ge=0, le=65535)
    publish: bool = True


def need_unprivileged(port: int | None, field: str) -> None:
    """Refuse a port of the machine that is one of the system's; 0 and None are none.

    Raises:
        LocalmlError: ``INVALID`` naming the field.
    """
    if port and port < UNPRIVILEGED:
        raise invalid(field, f"port {port} is for administrators; others have those from {UNPRIVILEGED} on")


class RetryPolicy(Frozen):
    """How often a failed workload is tried again, and how long it waits: ``backoff * factor**n`` seconds.

    Attributes:
        limit: tries after failures that are the program's own; None: as many as it takes.
        faultless: what was not the program's fault is tried again as often as it takes, not some times only
            (:data:`localml.core.work.causes.FREE_RETRIES`).
    """

    limit: int | None = Field(default=0, ge=0, le=1000)
    faultless: bool = False
    backoff: Seconds = Field(default=1.0, ge=0)
    factor: float = Field(default=2.0, ge=1)
    max_backoff: Seconds = Field(default=300.0, ge=0)

    def delay(self, attempt: int) -> float:
        """Seconds to wait before try ``attempt`` (1 is the first retry)."""
        try:
            return float(min(self.max_backoff, self.backoff * self.factor ** max(0, min(attempt - 1, 64))))
        except OverflowError:
            return self.max_backoff


class Completion(Frozen):
    """When a role decides its workload.

    ``min_failed`` failed replicas end the workload as failed at once (None: never); ``min_succeeded`` succeeded
    ones end it as succeeded (None: the role is done when all its replicas have succeeded).
    """

    min_failed: int | None = Field(default=1, ge=1)
    min_succeeded: int | None = Field(default=None, ge=1)


class Role(Frozen):
    """Replicas of one command. ``service`` roles (parameter servers) run until the others are done.

    Values of ``env`` may refer to where the workload's replicas are: ``%{index}``, ``%{host}``, ``%{port:LABEL}``,
    ``%{addresses:ROLE:LABEL}`` and the others of :mod:`localml.core.work.placeholders`, whose ``literal`` protects a
    user's text. ``registry_auth`` is the object URI of a file with registry, user name and password on a line each; it
    is read when the image is pulled, and what it holds is never stored. ``sealed_env`` holds secret variables as
    :class:`localml.core.people.sealing.Sealer` made them; they are opened only for the container. ``command`` is run in
    place of what the image starts; with ``keep_entrypoint`` the image's own ENTRYPOINT gets it, as ``docker run`` does.
    """

    name: str = "main"
    image: str = ""
    command: tuple[str, ...] = ()
    env: dict[str, str] = Field(default_factory=dict)
    resources: Resources = Resources()
    count: int = Field(default=1, ge=1, le=1000)
    ports: tuple[Port, ...] = ()
    completion: Completion = Completion()
    service: bool = False
    workdir: str | None = None
    sealed_env: dict[str, str] = Field(default_factory=dict)
    registry_auth: str | None = None
    keep_entrypoint: bool = False

    @field_validator("name")
    @classmethod
    def _role_name(cls, value: str) -> str:
        if not ROLE_NAME.fullmatch(value):
            raise ValueError("must be 1 to 64 letters, digits, '.', '_', '~' or '-'")
        return value

    @field_validator("env", "sealed_env")
    @classmethod
    def _env(cls, value: dict[str, str]) -> dict[str, str]:
        for name, text in value.items():
            if not ENV_NAME.fullmatch(name):
                raise ValueError(f"{name!r} is no name of an environment variable")
            if "\0" in text:
                raise ValueError(f"{name} holds a NUL byte")
        return value

    @field_validator("command")
    @classmethod
    def _command(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if any("\0" in word for word in value):
            raise ValueError("a word holds a NUL byte")
        return value

    @model_validator(mode="after")
    def _labels_differ(self) -> Role:
        labels = [port.label for port in self.ports]
        if len(set(labels)) != len(labels):
            raise ValueError("ports: labels must differ")
        return self


class RegistryAuth(Frozen):
    """Credentials for pulling a private image. Never stored: kept in memory until the image is here."""

    registry: str = ""
    username: str
    password: str = Field(repr=False)


class WorkloadSpec(Frozen):
    """A whole request: what to run, with what, in which order, and when to give up.

    ``min_succeeded`` succeeded replicas, of whatever roles, end the workload as succeeded. One with ``until_stopped``
    never succeeds: that a program of it ends, with whatever exit code, is a failure to be retried, and its time limit
    stops it. ``idle_limit``: seconds without activity after which it is stopped (notebooks and
    TensorBoards only: see :mod:`localml.control.watch.idle`). ``objects`` are URIs that its programs use:
    their buckets are seen, too, if the owner may read them; those of its workspace are seen anyway. ``code`` names an
    archive that was sent before: each replica has a copy of what is in it, where it starts, and below which a relative
    ``workdir`` lies. ``files`` are small texts by their paths below the folder where each replica starts: the copy of
    its code, or an empty folder of the same kind.
    """

    roles: Annotated[tuple[Role, ...], Field(min_length=1)]
    priority: int = Field(default=0, ge=-1000, le=1000)
    retries: RetryPolicy = RetryPolicy()
    time_limit: Seconds | None = Field(default=None, gt=0)
    stop_grace: Seconds = Field(default=10.0, ge=0, le=LONGEST_GRACE)
    depends_on: tuple[Annotated[int, Field(ge=1, lt=1 << 63)], ...] = ()
    mounts: tuple[Mount, ...] = ()
    objects: tuple[str, ...] = ()
    code: str | None = Field(default=None, pattern=f"^{CODE.pattern}$")
    files: dict[str, str] = Field(default_factory=dict)
    min_succeeded: int | None = Field(default=None, ge=1)
    until_stopped: bool = False
    idle_limit: Seconds | None = Field(default=None, gt=0)

    @field_validator("depends_on")
    @classmethod
    def _each_once(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(dict.fromkeys(value))

    @field_validator("files")
    @classmethod
    def _paths(cls, value: dict[str, str]) -> dict[str, str]:
        for path in value:
            if not _is_path_below(path):
                raise ValueError(f"{path!r} is no path below a folder")
            if any(str(parent) in value for parent in PurePosixPath(path).parents):
                raise ValueError(f"{path!r} lies in what is a file itself")
        return value

    @model_validator(mode="after")
    def _consistent(self) -> WorkloadSpec:
        names = [role.name for role in self.roles]
        if len(set(names)) != len(names):
            raise ValueError("roles: names must differ")
        if all(role.service for role in self.roles):
            raise ValueError("roles: at least one must not be a service, or the workload never ends")
        return self

    @model_validator(mode="after")
    def _references_lead_somewhere(self) -> WorkloadSpec:
        roles = {role.name: role for role in self.roles}
        for role in self.roles:
            for name, text in role.env.items():
                for one in references(text):
                    if not _known(one, roles.get(one.role or role.name)):
                        raise ValueError(f"roles: env {name} of '{role.name}' refers to what the workload has not")
        return self

    @property
    def replicas(self) -> int:
        """How many containers run at a time."""
        return sum(role.count for role in self.roles)

    def role(self, name: str) -> Role:
        """The role of that name."""
        return next(role for role in self.roles if role.name == name)


def _is_path_below(path: str) -> bool:
    parts = path.split("/")
    return "\0" not in path and all(0 < len(os.fsencode(part)) <= 255 and part not in (".", "..") for part in parts)


def _known(one: Reference, role: Role | None) -> bool:
    if role is None or (one.index is not None and one.index >= role.count):
        return False
    return one.label is None or any(port.label == one.label for port in role.ports)


def single(
    command: tuple[str, ...] | list[str],
    *,
    image: str = "",
    resources: Resources | None = None,
    env: dict[str, str] | None = None,
    **rest: Any,
) -> WorkloadSpec:
    """The spec of the commonest case: one replica of one command."""
    role = Role(image=image, command=tuple(command), resources=resources or Resources(), env=env or {})
    return WorkloadSpec(roles=(role,), **rest)
