"""A request as its connection hands it on, and what is none."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from localml.httpd.headers import Header
from localml.httpd.wire import Incoming


class BadRequest(Exception):
    """The client's bytes are not HTTP, or break off. ``status`` is how it is answered where that is possible."""

    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.status = status


@dataclass(slots=True)
class Request:
    """One request's head, and its body as it arrives. ``length`` is None for a chunked body."""

    method: bytes
    target: bytes
    http10: bool
    headers: list[Header]
    first: dict[bytes, bytes]
    """lower-case name -> the first value"""
    keep_alive: bool
    body: Incoming
    length: int | None = 0
    websocket: bool = False
    started_at: float = field(default_factory=time.monotonic)
    """When its head was complete; a loop's own clock stands still for as long as the loop works."""

    def check(self, *, may_upgrade: bool) -> None:
        """Find out from the headers how the body is framed, and what is wrong with them.

        Args:
            may_upgrade: the connection could go over to another protocol after this request.

        Raises:
            BadRequest: see the words.
        """
        first = self.first
        # A whole URL is for a proxy (RFC 9112, 3.2.1), and says beside the Host header once more whom it is for.
        if not self.target.startswith(b"/") and self.target != b"*" and self.method != b"CONNECT":
            raise BadRequest("the request's target must be a path: this is no proxy")
        if sum(lowered == b"host" for lowered, _, _ in self.headers) > 1:
            raise BadRequest("there is more than one Host header")
        if b"transfer-encoding" in first:
            if first[b"transfer-encoding"].lower() != b"chunked":
                raise BadRequest("no other Transfer-Encoding than chunked is served here")
            self.length = None
        elif b"content-length" in first:
            self.length = int(first[b"content-length"])
        self.websocket = may_upgrade and self.method == b"GET" and first.get(b"upgrade", b"").lower() == b"websocket"

    @property
    def connection(self) -> bytes | None:
        return self.first.get(b"connection")

    @property
    def expects_continue(self) -> bool:
        """The client keeps its body back until it is told to go on, or refused (RFC 9110, 10.1.1)."""
        return not self.http10 and self.first.get(b"expect", b"").lower() == b"100-continue"
