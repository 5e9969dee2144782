"""The ports of the server and its gateway: taken by somebody else they are refused by name, or give way to the next.

That something answers at a port says nothing of who it is: what counts is whether we can listen there.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Collection
from dataclasses import replace
from typing import Any

import psutil

from localml.config import Config
from localml.core.errors import Code, LocalmlError

_NEXT = 50
"""Ports that are tried after one that is taken."""


def why_not(host: str, port: int) -> str:
    """Why nobody can listen at a port of this machine now, and who does; empty when it is free, or 0 for any."""
    if not port:
        return ""
    try:
        for one in socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE):
            _try(one[0], one[4])
    except OSError as error:
        who = listener(port) if error.errno == errno.EADDRINUSE else ""
        words = "is in use" if error.errno == errno.EADDRINUSE else f"cannot be used ({error.strerror or error})"
        return f"is in use by {who}" if who else words
    return ""


def _try(family: int, address: tuple[Any, ...]) -> None:
    """Bind, as whoever listens there will; an address of a kind that this machine doesn't use is nobody's trouble."""
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            probe.bind(address)
    except OSError as error:
        if error.errno not in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
            raise


def listener(port: int) -> str:
    """Who listens at a port of this machine, in words; empty where nobody does, or that can't be known."""
    pid = listening(port)
    if pid is None:
        return ""
    try:
        return words_of(psutil.Process(pid))
    except psutil.Error:
        return f"process {pid}"


def listening(port: int) -> int | None:
    """Number of the process that listens at a port of this machine; None where that can't be known."""
    try:
        found = psutil.net_connections("tcp")
    except (psutil.Error, OSError):
        return None
    there = (one.pid for one in found if one.status == psutil.CONN_LISTEN and one.laddr and one.laddr.port == port)
    return next((pid for pid in there if pid), None)


def words_of(process: psutil.Process) -> str:
    """A process for a message.

    Raises:
        psutil.Error: it has gone, or is another user's.
    """
    what = "another localml's gateway" if "localml.gateway" in process.cmdline() else process.name()
    return f"process {process.pid} ({what})"


def next_free(host: str, port: int, others: Collection[int] = ()) -> int:
    """The port, or the first one after it that can be listened at; 0, for any, where none of the next can."""
    for one in range(port, min(port + _NEXT, 65536)):
        if one not in others and not why_not(host, one):
            return one
    return 0


def settled(config: Config) -> tuple[Config, list[str]]:
    """The settings with ports that can be had, and a sentence for each that had to give way.

    Raises:
        LocalmlError: ``CONFLICT`` naming the setting: a port that was asked for is taken.
    """
    from localml.control.serving.gateway_process import listens_at  # late: it looks for ports here, too

    moved: list[str] = []
    kept = listens_at(config.data, config.host)
    asked = "gateway_port" in config.asked
    if kept is not None and not asked:
        config = replace(config, gateway_port=kept)
    firm = {config.gateway_port} if asked or kept is not None else set()
    if "port" in config.asked and asked and config.port and config.port == config.gateway_port:
        words = f"{config.port} is the server's own port; choose another one with --gateway-port, or 0 for any"
        raise LocalmlError(Code.CONFLICT, f"gateway_port: {words}", field="gateway_port")
    port = _have(config, "port", "the server", firm, moved)
    if config.gateway_port != kept:
        config = replace(config, gateway_port=_have(config, "gateway_port", "the gateway", {port}, moved))
    return replace(config, port=port), moved


def _have(config: Config, name: str, whose: str, others: Collection[int], moved: list[str]) -> int:
    port: int = getattr(config, name)
    trouble = why_not(config.host, port)
    if not trouble and port and port in others and name not in config.asked:
        trouble = "is the gateway's" if name == "port" else "is the server's own"
    if not trouble:
        return port
    if name in config.asked:
        option = f"--{name.replace('_', '-')}"
        words = f"{name}: {port} on {config.host} {trouble}; choose another one with {option}, or 0 for any"
        raise LocalmlError(Code.CONFLICT, words, field=name)
    found = next_free(config.host, port, others)
    moved.append(f"port {port} {trouble}; {whose} takes {found or 'a free one'}")
    return found
