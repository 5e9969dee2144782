"""Listening sockets, and taking connections from them.

Not the event loop's own server: when the system has no descriptor left, uvloop's closes clients' connections unseen, or
stops listening for good.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
from collections.abc import Callable, Sequence
from typing import Any

from localml.core.log_limits import Sparing

log = logging.getLogger("localml.httpd")

BACKLOG = 1024
_VANISHED = ((socket.TCP_KEEPIDLE, 20), (socket.TCP_KEEPINTVL, 10), (socket.TCP_KEEPCNT, 4))
"""When a peer that says nothing is asked for by the system, in seconds, and how often before it is given up: a machine
that vanished leaves no other trace on a connection on which nothing is sent."""
PAUSE = 0.5
"""Seconds until connections are taken again when the system could give none."""
_AT_ONCE = 64
_ATTEMPTS = 20
_LOOPBACK = "127.0.0.1"
_Address = tuple[socket.AddressFamily, tuple[Any, ...]]
_NOT_HERE = frozenset({errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT})
"""A name may have an address of a kind that this machine (or container) does not use."""


class _Listening(socket.socket):
    """A listening socket, and one that keeps others from a place where its clients may look for it."""

    beside: socket.socket | None = None

    def close(self) -> None:
        if self.beside is not None:
            self.beside.close()
        super().close()


class Acceptor:
    """Takes connections from listening sockets. Made and used on an event loop.

    Args:
        sockets: closed with :meth:`close`.
        client: makes a connection's protocol.
        short: called when the system has no descriptor for another connection, to give some back.
    """

    def __init__(
        self,
        sockets: Sequence[socket.socket],
        client: Callable[[], asyncio.BaseProtocol],
        short: Callable[[], None] = lambda: None,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._sockets, self._client, self._short = list(sockets), client, short
        self._tasks: set[asyncio.Task[None]] = set()
        self._log = Sparing(log)
        self._pause: asyncio.TimerHandle | None = None
        for one in self._sockets:
            one.setblocking(False)
        self._begin()

    @property
    def port(self) -> int:
        """That is listened on."""
        return int(self._sockets[0].getsockname()[1])

    def close(self) -> None:
        """Take no more connections."""
        if self._pause is not None:
            self._pause.cancel()
        for one in self._sockets:
            self._loop.remove_reader(one)
            one.close()
        self._sockets.clear()

    def _begin(self) -> None:
        self._pause = None
        for one in self._sockets:
            self._loop.add_reader(one, self._take, one)

    def _take(self, listener: socket.socket) -> None:
        for _ in range(_AT_ONCE):
            try:
                connection, _ = listener.accept()
            except (BlockingIOError, InterruptedError):
                return
            except ConnectionAbortedError:
                continue
            except OSError as error:
                self._wait(error)
                return
            task = self._loop.create_task(self._connect(connection))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _connect(self, connection: socket.socket) -> None:
        try:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            for option, value in _VANISHED:
                connection.setsockopt(socket.IPPROTO_TCP, option, value)
            await self._loop.connect_accepted_socket(self._client, connection)
        except Exception as error:  # it has gone already
            log.debug("a connection came to nothing: %r", error)
            connection.close()

    def _wait(self, error: OSError) -> None:
        """Listen again in a moment; asking at once would only get the same answer."""
        self._log.warning("accept", "no connection can be taken for now: %s", error.strerror or error)
        for one in self._sockets:
            self._loop.remove_reader(one)
        self._pause = self._loop.call_later(PAUSE, self._begin)
        self._short()


def listen(host: str, port: int) -> list[socket.socket]:
    """Listening sockets at each address of a host, all on one port.

    At 127.0.0.1 alone, the same port of [::1] is kept free: it is what ``localhost`` means to many clients, who would
    tell their secrets to any account of this machine that waited for them there.

    Args:
        host: empty for all addresses of this machine.
        port: 0 for one that is free at all of them.

    Raises:
        OSError: the name has no address here, or the port is in use at one of them.
    """
    found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    addresses: list[_Address] = list(dict.fromkeys((one[0], one[4]) for one in found))
    for _ in range(_ATTEMPTS):
        try:
            return _listen_at(addresses, port)
        except OSError as error:
            if port or error.errno != errno.EADDRINUSE:
                raise
    raise OSError(errno.EADDRINUSE, f"no port is free at all addresses of {host}")


def _listen_at(addresses: list[_Address], port: int) -> list[socket.socket]:
    sockets: list[socket.socket] = []
    try:
        for family, address in addresses:
            try:
                one = _bound(family, (address[0], port, *address[2:]))
            except OSError as error:
                if error.errno not in _NOT_HERE or (not sockets and address == addresses[-1][1]):
                    raise
                continue
            sockets.append(one)
            fixed, port = bool(port), int(one.getsockname()[1])
            if len(addresses) == 1 and address[0] == _LOOPBACK:
                one.beside = _kept(port, fixed=fixed)
            one.listen(BACKLOG)
    except BaseException:
        for other in sockets:
            other.close()
        raise
    return sockets


def _kept(port: int, *, fixed: bool) -> socket.socket | None:
    """A socket that has the port of [::1], where nothing answers; None where there is no such address."""
    try:
        one = socket.socket(socket.AF_INET6, socket.SOCK_STREAM)
    except OSError:
        return None
    try:
        one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        one.bind(("::1", port))  # without SO_REUSEADDR, with which others could have it, too
        return one
    except OSError as error:
        one.close()
        if error.errno == errno.EADDRINUSE and not fixed:
            raise
        if error.errno == errno.EADDRINUSE:
            log.warning("somebody else listens at [::1]:%d: who calls localhost may reach that", port)
        return None


def _bound(family: socket.AddressFamily, address: tuple[Any, ...]) -> _Listening:
    one = _Listening(family, socket.SOCK_STREAM)
    try:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        one.bind(address)
    except BaseException:
        one.close()
        raise
    return one
