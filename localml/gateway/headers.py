"""HTTP heads: which headers end at the gateway, and how a head is put together for the other side."""

from __future__ import annotations

import json
from collections.abc import Iterable

from localml.core.serving.specs import REPLICA_TOKEN
from localml.httpd.headers import FRAMING, Header, dropped

VARIANT = b"x-localml-variant"
TOKEN_HEADERS = ("authorization", "x-auth-token", "x-user-token")
"""Where clients put their token, the first first."""
REPLICA = REPLICA_TOKEN.lower().encode()
# the gateway is what clients see, so what a client says of proxies before it is not believed
_NOT_FORWARDED = FRAMING | {b"host", b"expect", b"forwarded", b"x-forwarded-for", b"x-forwarded-host"}
_NOT_FORWARDED |= {b"x-forwarded-proto", b"x-forwarded-prefix", REPLICA}
CREDENTIALS = frozenset(name.encode() for name in TOKEN_HEADERS)


def request_lines(
    headers: Iterable[Header], connection: bytes | None, *, hide_credentials: bool, extra: bytes
) -> bytearray:
    """The request's end-to-end headers and ``extra`` lines, without the end of the head."""
    skip = dropped(_NOT_FORWARDED, connection)
    if hide_credentials:
        skip |= CREDENTIALS
    lines = bytearray(extra)
    for lowered, name, value in headers:
        if lowered not in skip:
            lines += b"%b: %b\r\n" % (name, value)
    return lines


def answer_lines(headers: Iterable[Header], connection: bytes | None, location: bytes | None) -> bytearray:
    """The answer's end-to-end headers with ``location`` (if given) in place of its own, without the end of the head."""
    skip = dropped(FRAMING, connection) | {VARIANT, REPLICA}
    lines = bytearray()
    for lowered, name, value in headers:
        if lowered in skip:
            continue
        if lowered == b"location" and location is not None:
            value = location
        lines += b"%b: %b\r\n" % (name, value)
    return lines


def public_location(location: bytes, origin: bytes, prefix: bytes, target: bytes) -> bytes:
    """A redirect of a replica as the client can follow it.

    Args:
        location: as the replica gave it; relative ones and those to other hosts stay as they are.
        origin: ``http://host:port`` of the replica.
        prefix: the path prefix under which the client sees the replica.
        target: what the replica sees in its place.
    """
    if location.startswith(origin + b"/"):
        path = location[len(origin) :]
    elif location.startswith(b"/") and not location.startswith(b"//"):
        path = location
    else:
        return location
    if target and path != target and not path.startswith(target + b"/"):
        return path
    return prefix + path[len(target) :]


def failure_body(status: int, code: str, message: str) -> bytes:
    """The gateway's own failures; ``error`` is where the Open Inference Protocol has its text."""
    return json.dumps({"error": message, "code": code, "status": status}).encode() + b"\n"


def tokens_of(authorization: bytes | None, *others: bytes | None) -> list[bytes]:
    """The tokens in the values of :data:`TOKEN_HEADERS`; the first is the one that counts."""
    found = []
    if authorization is not None and authorization[:7].lower() == b"bearer ":
        found.append(authorization[7:].strip())
    return [*found, *(one for one in others if one is not None)]
