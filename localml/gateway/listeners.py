"""Ports of single endpoints, beside the gateway's own: opened and closed as the table says."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable, Mapping

from localml.httpd.accept import Acceptor, listen

log = logging.getLogger("localml.gateway")

RETRY = 2.0
"""Seconds until a port that could not be had is tried again."""


class Listeners:
    """Listens on a port for each endpoint that has one of its own.

    Args:
        accept: takes connections from sockets, for the endpoint that their port belongs to.
        failed: is told, as one text, which ports cannot be had and why; None when all are.
    """

    def __init__(
        self,
        host: str,
        accept: Callable[[list[socket.socket], str], Acceptor],
        failed: Callable[[str | None], None],
    ) -> None:
        self._host, self._accept, self._failed = host, accept, failed
        self._wanted: dict[int, str] = {}
        self._open: dict[int, tuple[str, Acceptor]] = {}
        self._errors: dict[int, str] = {}

    def want(self, ports: Mapping[int, str]) -> None:
        """From now on, listen on these: port -> endpoint. Connections of those that are closed go on."""
        self._wanted = dict(ports)
        self._update()

    async def run(self) -> None:
        """Try again what could not be had, until cancelled."""
        while True:
            await asyncio.sleep(RETRY)
            if self._errors:
                self._update()

    def _update(self) -> None:
        wanted = self._wanted
        for port in [one for one, (name, _) in self._open.items() if wanted.get(one) != name]:
            self._open.pop(port)[1].close()
        errors = {}
        for port, name in wanted.items():
            if port not in self._open:
                try:
                    self._open[port] = (name, self._accept(listen(self._host, port), name))
                except OSError as error:
                    errors[port] = f"port {port} of {name} cannot be listened on: {error.strerror or error}"
        if errors != self._errors:
            self._errors = errors
            for words in errors.values():
                log.error("%s; it is tried again every %g s", words, RETRY)
            self._failed("; ".join(errors.values()) or None)

    def close(self) -> None:
        """Take no more connections."""
        self._wanted = {}
        for _, acceptor in self._open.values():
            acceptor.close()
        self._open.clear()
