"""Ports of this machine: free ones to choose from, and those that somebody else has."""

from __future__ import annotations

import random
import socket
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from itertools import repeat
from pathlib import Path

from localml.core.work.specs import Port, Role

_OUTGOING = Path("/proc/sys/net/ipv4/ip_local_port_range")
_LOWEST = 20_000
_TRIES = 200
_random = random.SystemRandom()


def choose_ports(role: Role, mapped: bool, taken: set[int]) -> dict[str, tuple[int, int]]:
    """label -> (container port, host port) for one replica; host 0 where nothing is published.

    Free host ports are found by binding; a port that somebody takes before the container starts is reported by the
    engine and chosen anew.

    Args:
        mapped: whether the engine maps ports; else a replica listens on the machine's own.
        taken: ports of the machine that others have; what is chosen is added.
    """
    chosen: dict[str, tuple[int, int]] = {}
    with ExitStack() as held:
        for port in role.ports:
            needs_host = port.publish or not mapped
            host = _host_port(port, taken, held) if needs_host else 0
            container = host if not mapped else (port.container or host or free_port(taken, held))
            chosen[port.label] = (container, host)
    return chosen


def _host_port(port: Port, taken: set[int], held: ExitStack) -> int:
    if port.host:
        taken.add(port.host)
        return port.host
    if port.prefer and port.prefer not in taken and is_free(port.prefer):
        taken.add(port.prefer)
        return port.prefer
    return free_port(taken, held)


def free_port(taken: set[int], held: ExitStack) -> int:
    """A port of this machine that nobody listens on; it is added to those that are ``taken`` already.

    Until somebody listens on it, a moment or a minute later, it is nobody's. So it is not one of those that the system
    gives to outgoing connections, if there are others.

    Args:
        held: keeps it bound until all ports are chosen, or the same one could be found twice.
    """
    for wanted in _candidates():
        probe = held.enter_context(socket.socket(socket.AF_INET, socket.SOCK_STREAM))
        try:
            probe.bind(("", wanted))
        except OSError:
            continue
        number = int(probe.getsockname()[1])
        if number not in taken:
            taken.add(number)
            return number
    raise AssertionError("the candidates never end")


def _candidates() -> Iterator[int]:
    """Ports below those of outgoing connections, in an order that no other process has; then 0, for any."""
    try:
        first_outgoing = int(_OUTGOING.read_text().split()[0])
    except (OSError, ValueError, IndexError):  # not Linux
        first_outgoing = 0
    below = range(_LOWEST, first_outgoing)
    yield from _random.sample(below, min(_TRIES, len(below)))
    yield from repeat(0)


def other_host_ports(role: Role, ports: Mapping[str, tuple[int, int]], *, mapped: bool) -> dict[str, tuple[int, int]]:
    """Other host ports in place of those that were chosen first.

    What a replica with mapped ports listens on stays as it is: the others of its gang may have been told already.
    """
    fresh = choose_ports(role, mapped, {host for _, host in ports.values()})
    if not mapped:
        return fresh
    return {label: (ports.get(label, pair)[0], pair[1]) for label, pair in fresh.items()}


def taken_port(role: Role) -> Port | None:
    """The first of the ports that the role insists on which cannot be bound on this machine now; None if all can."""
    return next((port for port in role.ports if port.host and not is_free(port.host)), None)


def is_free(port: int) -> bool:
    """Whether it can be bound on this machine now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except OSError:
            return False
    return True
