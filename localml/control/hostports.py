"""Ports of the machine that somebody else has."""

from __future__ import annotations

import socket
from collections.abc import Mapping

from localml.control.plans import choose_ports
from localml.core.specs import Port, Role


def other_host_ports(role: Role, ports: Mapping[str, tuple[int, int]], *, isolated: bool) -> dict[str, tuple[int, int]]:
    """Other host ports in place of those that were chosen first.

    What an isolated replica listens on stays as it is: the others of its gang may have been told already.
    """
    fresh = choose_ports(role, isolated, {host for _, host in ports.values()})
    if not isolated:
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
