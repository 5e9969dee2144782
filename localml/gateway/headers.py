"""HTTP heads: which headers end at the gateway, and how a head is put together for the other side."""

from __future__ import annotations

import json
from collections.abc import Iterable
from http import HTTPStatus

Header = tuple[bytes, bytes, bytes]
"""(name in lower case, name as it came, value)"""

VARIANT = b"x-localml-variant"
HOP_BY_HOP = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    }
)
"""Headers of one connection, not of the message (RFC 9110, 7.6.1)."""
_FRAMING = HOP_BY_HOP | {b"content-length"}
# the gateway is what clients see, so what a client says of proxies before it is not believed
_NOT_FORWARDED = _FRAMING | {b"host", b"expect", b"forwarded", b"x-forwarded-for", b"x-forwarded-host"}
_NOT_FORWARDED |= {b"x-forwarded-proto", b"x-forwarded-prefix"}
CREDENTIALS = frozenset({b"authorization", b"x-auth-token"})
_REASONS = {status.value: status.phrase.encode() for status in HTTPStatus}
CHUNKED = b"transfer-encoding: chunked\r\n"
LAST_CHUNK = b"0\r\n\r\n"


def tokens(value: bytes) -> list[bytes]:
    """The members of a comma-separated header, in lower case."""
    return [token.strip().lower() for token in value.split(b",")]


def dropped(common: frozenset[bytes], connection: bytes | None) -> frozenset[bytes]:
    """``common`` and what this message's Connection header names besides."""
    if connection is None:
        return common
    lowered = connection.lower()
    if lowered in (b"keep-alive", b"close"):
        return common
    return common | frozenset(tokens(lowered))


def length_line(length: int | None) -> bytes:
    """The header that frames a body: of ``length`` bytes, or in chunks."""
    return CHUNKED if length is None else b"content-length: %d\r\n" % length


def chunk(data: bytes) -> bytes:
    """``data`` (not empty) as one chunk."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def reason(status: int) -> bytes:
    """The usual phrase of a status; empty for an unknown one."""
    return _REASONS.get(status, b"")


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
    skip = dropped(_FRAMING, connection) | {VARIANT}
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
