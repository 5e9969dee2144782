"""How large a request's body may be. Each operation says so; who calls is asked first, then this, and only then is a
byte of the body read by the app.

The server calls the app before a large body, or the word to go on and send it, has gone over the wire. A body without a
length (chunked) is refused when it passes the limit. What anybody may call takes little.
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
from localml.core.limits import MOST_VALUES

_LIMIT, _VALUES = "localml_body_limit", "localml_body_values"
_SLASHES = re.compile("/{2,}")

STRANGERS = 32 << 10
"""Bytes of a body that an operation takes at most when it does not ask who calls."""

View = TypeVar("View", bound=Callable[..., Any])


def body_limit(limit: int | None, *, values: int = MOST_VALUES) -> Callable[[View], View]:
    """Decorates an operation, below ``@api.post(...)``: bytes that its body may have, in place of the dialect's
    ``max_body``. None has no limit but the server's; such an operation reads ``request.stream`` piece by piece.

    Args:
        values: of JSON, that the body may have.
    """

    def mark(view: View) -> View:
        setattr(view, _LIMIT, limit)
        setattr(view, _VALUES, values)
        return view

    return mark


def merged(path: str) -> str:
    """A path as it is routed: ``/a//b`` is ``/a/b``."""
    return _SLASHES.sub("/", path)


def _limit(app: Flask, endpoint: str | None) -> int | None:
    view = app.view_functions.get(endpoint or "")
    found: int | None = getattr(view, _LIMIT, app.config["MAX_CONTENT_LENGTH"])
    return found


def most_values(app: Flask, endpoint: str | None) -> int:
    """How many values of JSON an operation's body may have."""
    return int(getattr(app.view_functions.get(endpoint or ""), _VALUES, MOST_VALUES))


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


def set_limit(app: Flask, request: Request, *, stranger: bool) -> None:
    """Have a body end in ``TOO_LARGE`` when more of it is read than the operation takes, of a ``stranger`` at most."""
    limit = _limit(app, request.endpoint)
    if limit is None:
        limit = sys.maxsize  # None would mean the app's own limit (since Flask 3.1)
    request.max_content_length = min(limit, STRANGERS) if stranger else limit


def check_length(request: Request) -> None:
    """Refuse a body whose declared length is over the limit that was set.

    Raises:
        LocalmlError: ``TOO_LARGE`` with both numbers.
    """
    limit = request.max_content_length
    if limit is not None and (request.content_length or 0) > limit:
        words = f"the body has {request.content_length} bytes, and this request may have {limit}"
        raise LocalmlError(Code.TOO_LARGE, words, details={"size": request.content_length, "limit": limit})
