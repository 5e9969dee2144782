"""Failures of all kinds as :class:`LocalmlError`, so that a dialect renders one kind only."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from pydantic import ValidationError
from werkzeug.exceptions import ClientDisconnected, HTTPException, MethodNotAllowed

from localml.core.errors import Code, LocalmlError, invalid

CODES = {
    401: Code.UNAUTHENTICATED,
    403: Code.FORBIDDEN,
    404: Code.NO_ROUTE,
    405: Code.METHOD_NOT_ALLOWED,
    413: Code.TOO_LARGE,
    415: Code.MEDIA_TYPE,
    429: Code.TOO_MANY_REQUESTS,
    503: Code.UNAVAILABLE,
}

_BOUNDS = {"less_than", "less_than_equal", "greater_than", "greater_than_equal"}
_LENGTHS = {"string_too_long", "string_too_short"}
_LONGEST = 40


class BrokenSchema(LocalmlError):
    """What a request says has not the form that its operation takes; nothing has looked at what it asks for."""


def from_pydantic(error: ValidationError) -> BrokenSchema:
    """The first thing that is wrong with a request, as field and reason."""
    first = error.errors(include_url=False, include_context=False)[0]
    field = ".".join(str(part) for part in first["loc"]) or "body"
    reason = "is required" if first["type"] == "missing" else _reason(first["msg"])
    return BrokenSchema(Code.INVALID, f"{field}: {reason}{_given(first['type'], first['input'])}", field=field)


def _given(kind: str, value: object) -> str:
    """The number that is out of bounds, which pydantic says of lists only."""
    if kind in _BOUNDS:
        text = str(value)
        return f", not {text if len(text) <= _LONGEST else text[:_LONGEST] + '...'}"
    return f", not {len(value)}" if kind in _LENGTHS and isinstance(value, str) else ""


def _reason(message: str) -> str:
    for start in ("Value error, ", "Assertion failed, ", "Input "):
        if message.startswith(start):
            return message.removeprefix(start)
    return message[:1].lower() + message[1:]


def from_http(error: HTTPException, path: str) -> LocalmlError:
    """What Werkzeug and Flask raise by themselves. A 405 has the methods that would do in ``details['allowed']``."""
    status = error.code or 500
    code = CODES.get(status, Code.INVALID if status < 500 else Code.INTERNAL)
    if isinstance(error, MethodNotAllowed):
        allowed = sorted(set(error.valid_methods or ()) - {"HEAD", "OPTIONS"})
        return LocalmlError(code, f"only {', '.join(allowed)} can be done here", details={"allowed": allowed})
    if isinstance(error, ClientDisconnected):
        return invalid("body", str(error.__context__ or "broke off before its end"))
    if code is Code.NO_ROUTE:
        return LocalmlError(code, f"nothing is served at {path[:200]}")
    if code is Code.TOO_LARGE:
        return LocalmlError(code, "the body is larger than this request may have")
    return LocalmlError(code, str(error.description or error.name))


@contextmanager
def renamed(**names: str) -> Iterator[None]:
    """Failures raised inside name the vendor's request members instead of the core's (``cpu="cpu_limit"``)."""
    try:
        yield
    except LocalmlError as error:
        name = names.get(error.field or "")
        if name is None:
            raise
        _, _, reason = error.message.partition(f"{error.field}: ")
        words = f"{name}: {reason}" if error.message.startswith(f"{error.field}: ") else error.message
        raise LocalmlError(error.code, words, field=name, details=error.details) from error
