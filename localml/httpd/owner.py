"""What a server is to its clients' connections."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from localml.httpd.connection import Client
    from localml.httpd.request import Request


class Owner(Protocol):
    """What clients belong to."""

    closing: bool
    """It is going down: answers ask the client to leave."""

    def arrived(self, client: Client) -> None:
        """A client has connected."""

    def left(self, client: Client) -> None:
        """Its connection has ended."""

    async def handle(self, request: Request, client: Client) -> None:
        """Answer a request; called for one at a time of each client."""

    def failure(self, status: int, code: str, message: str) -> bytes:
        """The JSON body of an answer to what is no request (``bad_request``), or to a defect (``internal``)."""

    async def lead_in(self, client: Client) -> None:
        """Serve a client that speaks HTTP/2; what it sends is in its tunnel."""
