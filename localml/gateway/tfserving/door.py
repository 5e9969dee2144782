"""Where HTTP/2 comes in: the gRPC server is started for its first client, and clients are joined to it."""

from __future__ import annotations

import asyncio
import importlib
import logging
from typing import Any

from localml.gateway.routing import Router
from localml.gateway.tunnel import join
from localml.httpd.wire import Incoming, Wire

log = logging.getLogger("localml.gateway")

MISSING = "gRPC needs two more packages: pip install 'localml[grpc]'"


class Unavailable(Exception):
    """There is no gRPC server, and this is why."""


class Door:
    """The gRPC server of one gateway, or none as long as nobody asked for it.

    Args:
        router: finds the endpoint that a request names.
    """

    def __init__(self, router: Router) -> None:
        self._router = router
        self._gateway = ""
        self._start: asyncio.Task[Any] | None = None
        self._only: dict[int, str] = {}  # our port of a connection to the server -> the endpoint that it is for

    def open(self, gateway: str) -> None:
        """``gateway`` is the URL under which this process reaches its own gateway."""
        self._gateway = gateway

    async def lead_in(self, client: Wire, only: str = "") -> None:
        """Join a client, whose ``tunnel`` holds its first bytes, to the gRPC server until one of them ends.

        Args:
            only: the endpoint that it may ask for; all when empty.

        Raises:
            Unavailable: there is none.
        """
        port = await self._port()
        transport, server = await client.loop.create_connection(_ServerSide, "127.0.0.1", port)
        own = int(transport.get_extra_info("sockname")[1])
        self._only[own] = only
        try:
            await join(client, server)
        finally:
            del self._only[own]

    async def close(self, grace: float) -> None:
        """Let calls in flight finish for ``grace`` seconds; their clients are told to leave."""
        if self._start is None:
            return
        try:
            service = await self._start
        except Unavailable:
            return
        await service.stop(grace)

    async def _port(self) -> int:
        if self._start is None:
            self._start = asyncio.get_running_loop().create_task(self._begin())
        try:
            service = await asyncio.shield(self._start)  # a client that leaves does not take the start with it
        except Unavailable:
            raise
        except Exception:
            self._start = None  # no ports left, say: the next client tries again
            raise
        return int(service.port)

    async def _begin(self) -> Any:
        try:  # in a thread, because the import takes half a second
            service = await asyncio.to_thread(importlib.import_module, "localml.gateway.tfserving.service")
        except ImportError as error:
            log.warning("a client speaks gRPC, which is not installed (%s): %s", error, MISSING)
            raise Unavailable(MISSING) from error
        return await service.start(self._router, self._gateway, self._only)


class _ServerSide(Wire):
    """The connection to the gRPC server on behalf of a client."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.tunnel = Incoming(self)

    def data_received(self, data: bytes) -> None:
        assert self.tunnel is not None
        self.tunnel.feed(data)
