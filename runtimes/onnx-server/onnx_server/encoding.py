"""Bodies that clients send compressed, as Triton's client does on request."""

from __future__ import annotations

import zlib

from onnx_server.errors import RequestError, bad

CODINGS = (b"gzip", b"deflate")
"""What ``Content-Encoding`` may say."""
_GZIP_OR_ZLIB = 47
"""zlib's ``wbits``: the largest window, and the format as the first bytes tell."""


def decompressed(body: bytes, limit: int) -> bytes:
    """A body as it was before its client compressed it.

    Args:
        limit: bytes that it may have; no more are ever unpacked.

    Raises:
        RequestError: 400 when it is damaged, 413 when it is larger.
    """
    stream = zlib.decompressobj(_GZIP_OR_ZLIB)
    try:
        plain = stream.decompress(body, limit + 1)
    except zlib.error as error:
        raise bad(f"the body is not compressed as Content-Encoding says: {error}") from None
    if len(plain) > limit:
        raise RequestError(413, f"uncompressed, the body has more than the {limit} bytes that are taken")
    if not stream.eof:
        raise bad("the compressed body is cut short")
    return plain
