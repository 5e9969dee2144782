"""HTTP heads: which headers belong to one connection only, and what frames a body."""

from __future__ import annotations

from http import HTTPStatus

Header = tuple[bytes, bytes, bytes]
"""(name in lower case, name as it came, value)"""

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
FRAMING = HOP_BY_HOP | {b"content-length"}
_REASONS = {status.value: status.phrase.encode() for status in HTTPStatus}
CHUNKED = b"transfer-encoding: chunked\r\n"
LAST_CHUNK = b"0\r\n\r\n"
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


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
