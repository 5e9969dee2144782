"""Ports of single endpoints, beside the gateway's own: opened and closed as the table says."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping

from localml.httpd.connection import Client

log = logging.getLogger("localml.gateway")

RETRY = 2.0
"""Seconds until a port that could not be had is tried again."""


class Listeners:
    """Listens on a port for each endpoint that has one of its own.

    Args:
        client: makes a client's connection, given the endpoint that its port belongs to.
        failed: is told, as one text, which ports cannot be had and why; None when all are.
    """

    def __init__(self, host: str, backlog: int, client: Callable[[str], Client], failed: Callable[[str | None], None]):
        self._host, self._backlog, self._client, self._failed = host, backlog, client, failed
        self._wanted: dict[int, str] = {}
        self._open: dict[int, tuple[str, asyncio.Server]] = {}
        self._errors: dict[int, str] = {}
        self._lock = asyncio.Lock()

    async def want(self, ports: Mapping[int, str]) -> None:
        """From now on, listen on these: port -> endpoint. Connections of those that are closed go on."""
        self._wanted = dict(ports)
        await self._update()

    async def run(self) -> None:
        """Try again what could not be had, until cancelled."""
        while True:
            await asyncio.sleep(RETRY)
            if self._errors:
                await self._update()

    async def _update(self) -> None:
        async with self._lock:
            await self._open_and_close()

    async def _open_and_close(self) -> None:
        wanted = self._wanted
        for port in [one for one, (name, _) in self._open.items() if wanted.get(one) != name]:
            self._open.pop(port)[1].close()
        errors = {}
        for port, name in wanted.items():
            if port not in self._open:
                try:
                    self._open[port] = (name, await self._listen(port, name))
                except OSError as error:
                    errors[port] = f"port {port} of {name} cannot be listened on: {error.strerror or error}"
        if errors != self._errors:
            self._errors = errors
            for words in errors.values():
                log.error("%s; it is tried again every %g s", words, RETRY)
            self._failed("; ".join(errors.values()) or None)

    async def _listen(self, port: int, name: str) -> asyncio.Server:
        loop = asyncio.get_running_loop()
        return await loop.create_server(lambda: self._client(name), self._host, port, backlog=self._backlog)

    def close(self) -> None:
        """Take no more connections."""
        self._wanted = {}
        for _, server in self._open.values():
            server.close()
        self._open.clear()
