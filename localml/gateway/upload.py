"""A request's body on its way to a replica, kept while it is small, so that it can be sent to another one."""

from __future__ import annotations

from localml.core.serving.routes_table import Limits
from localml.gateway.admission import Refused
from localml.gateway.upstream import Connection
from localml.httpd.headers import LAST_CHUNK, chunk
from localml.httpd.pace import Pace
from localml.httpd.request import Request

KEPT = 1 << 20
"""Bytes of a body that are kept for another attempt; a body that turns out larger is streamed and sent once."""


class Upload:
    """One request's body. Small ones of known length are read whole first and go out with the head in one write."""

    def __init__(self, request: Request, limits: Limits) -> None:
        self._request, self._limits = request, limits
        self._kept: list[bytes] = []
        self._size = 0
        self._pace = Pace()
        self._dropped = False  # too much has gone by to be kept
        if request.length is not None and request.length > limits.max_body:
            raise self._too_large()
        self.small = request.length is not None and request.length <= KEPT

    @property
    def replayable(self) -> bool:
        """Everything that was read is still here."""
        return not self._dropped

    async def prepare(self) -> None:
        """Read a small body whole, so that no replica waits for a slow client."""
        if self.small and not self._kept and self._request.length:
            if self._request.body.ended:
                self._kept.append(self._request.body.take())
                return
            while piece := await self._piece():
                self._keep(piece)

    async def send(self, connection: Connection, head: bytes) -> None:
        """Write the head and the body to a replica.

        Raises:
            Refused: 408 or 413; the replica has got a part.
            BadRequest: the client's body broke off.
            ConnectionResetError, TimeoutError: the replica went away, or does not read.
        """
        if self.small:
            connection.write(b"".join([head, *self._kept]) if self._kept else head)
            return
        connection.write(head)
        for piece in self._kept:
            self._write(connection, piece)
        while piece := await self._piece():
            self._keep(piece)
            self._write(connection, piece)
            await connection.drain(self._limits.timeout_s)
        if self._request.length is None:
            connection.write(LAST_CHUNK)

    def _write(self, connection: Connection, piece: bytes) -> None:
        connection.write(piece if self._request.length is not None else chunk(piece))

    async def _piece(self) -> bytes:
        try:
            return await self._pace.read(self._request.body)
        except TimeoutError:
            raise Refused(408, "slow_client", "the body comes too slowly") from None

    def _keep(self, piece: bytes) -> None:
        self._size += len(piece)
        if self._size > self._limits.max_body:
            raise self._too_large()
        if self._size <= KEPT:
            self._kept.append(piece)
        else:
            self._kept.clear()
            self._dropped = True

    def _too_large(self) -> Refused:
        return Refused(413, "too_large", f"the body has more than the {self._limits.max_body} bytes that are taken")
