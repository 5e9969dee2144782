"""Where the replicas of a workload find each other, and the environment that tells them."""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Iterable
from functools import partial

from localml.control.jobs.snapshot import AttemptRow
from localml.core.work.placeholders import Reference, expand
from localml.core.work.specs import WorkloadSpec

LOOPBACK = "127.0.0.1"
_LONGEST_LABEL = 63  # of a DNS name
_NOT_IN_NAMES = re.compile(r"[^a-z0-9-]")


def is_gang(spec: WorkloadSpec) -> bool:
    """Whether the workload gets a network of its own."""
    return spec.replicas > 1


def hostname(role: str, index: int) -> str:
    """The name under which the others of a gang reach a replica, unless :func:`host_of` says another one."""
    return f"{_NOT_IN_NAMES.sub('-', role.lower())}-{index}"


def host_of(spec: WorkloadSpec, role: str, index: int) -> str:
    """The replica's :func:`hostname`, told apart from those of roles whose names differ by case or punctuation only,
    and made to fit DNS."""
    plain = hostname(role, index)
    same = [other for other in spec.roles if hostname(other.name, index) == plain]
    if len(same) == 1 and len(plain) <= _LONGEST_LABEL and not plain.startswith("-"):
        return plain
    stem = _NOT_IN_NAMES.sub("-", role.lower())[:40].strip("-")
    return "-".join(part for part in (f"r{zlib.crc32(role.encode()):08x}", stem, str(index)) if part)


def address_of(spec: WorkloadSpec, role: str, index: int, *, names_resolve: bool) -> str:
    """Where the others of its workload, and itself, find a replica."""
    return host_of(spec, role, index) if names_resolve and is_gang(spec) else LOOPBACK


def expanded(
    spec: WorkloadSpec,
    one: AttemptRow,
    gang: Iterable[AttemptRow],
    *,
    names_resolve: bool,
    token: Callable[[], str] = lambda: "",
) -> dict[str, str]:
    """The environment of a replica's role with its placeholders replaced; see :mod:`localml.core.work.placeholders`.

    Args:
        gang: all attempts of the same try, with their ports.
        names_resolve: whether the engine gives replicas names of their own.
        token: makes the workload's own one.
    """
    members = sorted(gang, key=lambda attempt: attempt.index)
    where = partial(address_of, spec, names_resolve=names_resolve)

    def lookup(found: Reference) -> str:
        role = found.role or one.role
        if found.kind == "index":
            return str(one.index)
        if found.kind == "token":
            return token()
        if found.kind == "host":
            return where(role, one.index if found.index is None else found.index)
        if found.kind == "port":
            return _port(one, found)
        hosts = [(where(role, each.index), each) for each in members if each.role == role]
        if found.kind == "hosts":
            return ",".join(host for host, _ in hosts)
        return ",".join(f"{host}:{_port(each, found)}" for host, each in hosts)

    return {name: expand(text, lookup) for name, text in spec.role(one.role).env.items()}


def _port(one: AttemptRow, found: Reference) -> str:
    """The port that the replica listens on; 0 should it have been placed before it had this port."""
    return str((one.ports or {}).get(found.label or "", (0, 0))[0])
