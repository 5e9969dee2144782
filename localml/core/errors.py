"""Failures as codes.

The core raises :class:`LocalmlError` with a :class:`Code`; each dialect owns a total table from code to HTTP
status and vendor error code, so that a failure is worded once and rendered in every vendor's own shape.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any


class Code(StrEnum):
    """Why a request could not be carried out. Every dialect maps every member."""

    INVALID = "invalid"  # a value is missing, malformed or out of range
    UNAUTHENTICATED = "unauthenticated"  # who calls is not known, or the signature is wrong
    FORBIDDEN = "forbidden"  # who calls is known and may not do this
    NOT_FOUND = "not_found"  # the named thing does not exist
    NO_ROUTE = "no_route"  # no such URL
    METHOD_NOT_ALLOWED = "method_not_allowed"
    CONFLICT = "conflict"  # the name is taken
    WRONG_STATE = "wrong_state"  # the thing exists, but cannot do this now
    QUOTA = "quota"  # the pool's limit is short
    CAPACITY = "capacity"  # the machine never has that much
    TOO_LARGE = "too_large"  # the body or the archive is over its limit
    MEDIA_TYPE = "media_type"  # the body's Content-Type is not one that is read
    TOO_MANY_REQUESTS = "too_many_requests"  # try again after details["retry_after"] seconds
    UNAVAILABLE = "unavailable"  # the engine does not answer, or the server is going down
    STORAGE = "storage"  # the disk is full or the database cannot be written
    INTERNAL = "internal"  # a defect of localml


class LocalmlError(Exception):
    """A failure with a code that every dialect can render.

    Args:
        code: what kind of failure.
        message: one sentence for the caller; names the field and the reason.
        field: the request member at fault, if one is.
        details: extra values for machine readers (numbers that were asked for and that there are).
    """

    def __init__(
        self, code: Code, message: str, *, field: str | None = None, details: dict[str, Any] | None = None
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.field = field
        self.details = details or {}

    def __str__(self) -> str:
        return self.message


def invalid(field: str, reason: str, **details: Any) -> LocalmlError:
    """An :attr:`Code.INVALID` failure whose message starts with the field's name."""
    return LocalmlError(Code.INVALID, f"{field}: {reason}", field=field, details=details)


def not_found(what: str, name: object) -> LocalmlError:
    """A :attr:`Code.NOT_FOUND` failure that names what was looked for."""
    return LocalmlError(Code.NOT_FOUND, f"{what} '{name}' does not exist", details={"what": what})
