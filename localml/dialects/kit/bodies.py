"""How large a request's body may be. Each operation says so, and it is looked at before a byte of the body is read.

The server calls the app before a large body, or the word to go on and send it, has gone over the wire. A body without a
length (chunked) is refused when it passes the limit.
"""

from __future__ import annotations

import io
import re
import sys
from collections.abc import Callable
from typing import Any, BinaryIO, TypeVar

from flask import Flask, Request
from werkzeug.exceptions import ClientDisconnected

from localml.core.errors import Code, LocalmlError

_LIMIT = "localml_body_limit"
_SLASHES = re.compile("/{2,}")

View = TypeVar("View", bound=Callable[..., Any])


def body_limit(limit: int | None) -> Callable[[View], View]:
    """Decorates an operation, below ``@api.post(...)``: bytes that its body may have, in place of the dialect's
    ``max_body``. None has no limit but the server's; such an operation reads ``request.stream`` piece by piece."""

    def mark(view: View) -> View:
        setattr(view, _LIMIT, limit)
        return view

    return mark


def merged(path: str) -> str:
    """A path as it is routed: ``/a//b`` is ``/a/b``."""
    return _SLASHES.sub("/", path)


def _limit(app: Flask, endpoint: str | None) -> int | None:
    view = app.view_functions.get(endpoint or "")
    found: int | None = getattr(view, _LIMIT, app.config["MAX_CONTENT_LENGTH"])
    return found


class CappedStream(io.RawIOBase):
    """A body without a length of its own, which fails as soon as more than ``limit`` bytes of it have come.

    Werkzeug's own stream answers the first ``limit`` bytes as if that were all to who reads everything at once.
    """

    def __init__(self, stream: BinaryIO, limit: int) -> None:
        self._stream, self._limit, self._size = stream, limit, 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        """Read on; ``TOO_LARGE`` past the limit."""
        try:
            data = self._stream.read(len(buffer))
        except (OSError, ValueError):
            raise ClientDisconnected from None
        self._size += len(data)
        if self._size > self._limit:
            words = f"the body has more than the {self._limit} bytes that this request may have"
            raise LocalmlError(Code.TOO_LARGE, words, details={"limit": self._limit})
        buffer[: len(data)] = data
        return len(data)


def enforce(app: Flask, request: Request) -> None:
    """Refuse a body whose length is over the operation's limit; one without a length when it passes the limit.

    Raises:
        LocalmlError: ``TOO_LARGE`` with both numbers.
    """
    limit = _limit(app, request.endpoint)
    # None would mean the app's own limit (since Flask 3.1)
    request.max_content_length = sys.maxsize if limit is None else limit
    if limit is not None and (request.content_length or 0) > limit:
        words = f"the body has {request.content_length} bytes, and this request may have {limit}"
        raise LocalmlError(Code.TOO_LARGE, words, details={"size": request.content_length, "limit": limit})
