"""The ports of the server and its gateway: taken by somebody else they are refused by name, or give way to the next.

That something answers at a port says nothing of who it is: what counts is whether we can listen there.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Collection
from contextlib import suppress
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
        return f"is in use by {who}" if who else f"cannot be used ({error.strerror or error})"
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
    """Who listens at a port of this machine, in words; empty where that can't be known."""
    try:
        found = [one for one in psutil.net_connections("tcp") if one.laddr and one.laddr.port == port]
    except (psutil.Error, OSError):
        return ""
    pid = next((one.pid for one in found if one.status == psutil.CONN_LISTEN and one.pid), None)
    if pid is None:
        return "somebody else's process" if any(one.status == psutil.CONN_LISTEN for one in found) else ""
    with suppress(psutil.Error):
        process = psutil.Process(pid)
        what = "another localml's gateway" if "localml.gateway" in process.cmdline() else process.name()
        return f"process {pid} ({what})"
    return f"process {pid}"


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
    if kept is not None and ("gateway_port" not in config.asked or config.gateway_port in (0, kept)):
        config = replace(config, gateway_port=kept)
    else:
        kept = None
    port = _have(config, "port", "the server", {config.gateway_port}, moved)
    gateway_port = kept if kept is not None else _have(config, "gateway_port", "the gateway", {port}, moved)
    return replace(config, port=port, gateway_port=gateway_port), moved


def _have(config: Config, name: str, whose: str, others: Collection[int], moved: list[str]) -> int:
    port: int = getattr(config, name)
    trouble = why_not(config.host, port)
    if not trouble:
        return port
    if name in config.asked:
        option = f"--{name.replace('_', '-')}"
        words = f"{name}: {port} on {config.host} {trouble}; choose another one with {option}, or 0 for any"
        raise LocalmlError(Code.CONFLICT, words, field=name)
    found = next_free(config.host, port, others)
    moved.append(f"port {port} {trouble}; {whose} takes {found or 'a free one'}")
    return found
