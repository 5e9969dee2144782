"""Whether what a submission asks for stays within the limits of :mod:`localml.core.limits`, all of it taken together.

This is asked once, before anything is stored, and not of specs that are read back: those of an earlier version stay
what they are.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from localml.core import limits
from localml.core.limits import need_at_most
from localml.core.work.placeholders import references
from localml.core.work.specs import Role, WorkloadSpec

_ADDRESS = 80
"""Bytes of a replica's address in a list of them: a role's name, its index, a port."""

_MOST = {
    "roles": limits.MOST_ROLES,
    "mounts": limits.MOST_MOUNTS,
    "files": limits.MOST_FILES,
    "objects": limits.MOST_OBJECTS,
    "depends_on": limits.MOST_DEPENDENCIES,
}
_MOST_OF_ROLE = {"ports": limits.MOST_PORTS, "env": limits.MOST_VARIABLES, "sealed_env": limits.MOST_VARIABLES}


def need_few(field: str, value: Any) -> None:
    """Refuse what is meant to be a spec, and is not read yet, for the number of its members alone.

    Raises:
        LocalmlError: as :func:`need_within`.
    """
    _need_few(field, value, _MOST)
    roles = value.get("roles") if isinstance(value, dict) else None
    for place, role in enumerate(roles if isinstance(roles, list) else ()):
        _need_few(f"{field}.roles.{place}", role, _MOST_OF_ROLE)


def _need_few(field: str, value: Any, most: dict[str, int]) -> None:
    for name, allowed in most.items() if isinstance(value, dict) else ():
        if isinstance(value.get(name), list | dict):
            need_at_most(f"{field}.{name}", len(value[name]), allowed, f"members of {name}")


def need_within(spec: WorkloadSpec, *, gang: int | None = None) -> None:
    """Refuse a spec that is too large as a whole. What costs nothing to count is counted first.

    Args:
        gang: replicas that find each other, at most; None for as many as there may be.

    Raises:
        LocalmlError: ``INVALID`` naming the member, with what was given and what is allowed.
    """
    need_at_most("roles", len(spec.roles), limits.MOST_ROLES, "roles")
    most = limits.MOST_REPLICAS if gang is None else min(gang, limits.MOST_REPLICAS)
    need_at_most("count", spec.replicas, most, "replicas of all roles together")
    ports = sum(len(role.ports) * role.count for role in spec.roles)
    need_at_most("ports", ports, limits.MOST_PORTS, "ports of all replicas together")
    need_at_most("mounts", len(spec.mounts), limits.MOST_MOUNTS, "mounts")
    need_at_most("files", len(spec.files), limits.MOST_FILES, "files")
    size = sum(_size(name) + _size(text) for name, text in spec.files.items())
    need_at_most("files", size, limits.MOST_FILE_BYTES, "bytes of files with their names")
    need_at_most("objects", len(spec.objects), limits.MOST_OBJECTS, "URIs of objects")
    need_at_most("depends_on", len(spec.depends_on), limits.MOST_DEPENDENCIES, "workloads to wait for")
    for field, seconds in _times(spec):
        need_at_most(field, seconds, limits.MOST_SECONDS, "seconds")
    for mount in spec.mounts:
        _need_short("mounts", mount.source, mount.target)
    _need_short("objects", *spec.objects)
    counts = {role.name: role.count for role in spec.roles}
    for role in spec.roles:
        _need_role(role, counts)


def _times(spec: WorkloadSpec) -> Iterator[tuple[str, float]]:
    yield "time_limit", spec.time_limit or 0
    yield "idle_limit", spec.idle_limit or 0
    yield "retries.backoff", spec.retries.backoff
    yield "retries.max_backoff", spec.retries.max_backoff


def _need_short(field: str, *texts: str | None) -> None:
    for text in texts:
        need_at_most(field, _size(text or ""), limits.MOST_PATH, "bytes")


def _need_role(role: Role, counts: dict[str, int]) -> None:
    _need_short("image", role.image)
    _need_short("workdir", role.workdir)
    _need_short("registry_auth", role.registry_auth)
    _need_short("gpu_type", role.resources.gpu_type)
    need_at_most("pids", role.resources.pids or 0, limits.MOST_PIDS, "processes and threads")
    need_at_most("memory", role.resources.memory or 0, limits.MOST_BYTES, "bytes")
    need_at_most("shm", role.resources.shm or 0, limits.MOST_BYTES, "bytes")
    need_at_most("env", len(role.env) + len(role.sealed_env), limits.MOST_VARIABLES, "variables")
    total = 0
    for word in role.command:
        total += _need_string("command", _size(word))
    for name, text in (*role.env.items(), *role.sealed_env.items()):
        total += _need_string("env", _size(name) + 1 + _size(text) + _written_out(text, role, counts))
    need_at_most("command", total, limits.MOST_ARGUMENTS, "bytes of command and variables together")


def _need_string(field: str, size: int) -> int:
    need_at_most(field, size + 1, limits.MOST_STRING, "bytes in one word or variable")
    return size + 1


def _written_out(text: str, role: Role, counts: dict[str, int]) -> int:
    """Bytes that lists of addresses add to a value, at most."""
    lists = (one for one in references(text) if one.kind in ("hosts", "addresses"))
    return sum(_ADDRESS * counts.get(one.role or role.name, 0) for one in lists)


def _size(text: str) -> int:
    return len(text.encode(errors="surrogatepass")) if not text.isascii() else len(text)
