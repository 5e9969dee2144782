"""How this dialect words failures: one shape for all of them, and an HTTP status for every code."""

from __future__ import annotations

from typing import Any

from localml.core.errors import Code, LocalmlError

STATUS: dict[Code, int] = {
    Code.INVALID: 400,
    Code.UNAUTHENTICATED: 401,
    Code.FORBIDDEN: 403,
    Code.NOT_FOUND: 404,
    Code.NO_ROUTE: 404,
    Code.METHOD_NOT_ALLOWED: 405,
    Code.CONFLICT: 409,
    Code.WRONG_STATE: 409,
    Code.QUOTA: 422,
    Code.CAPACITY: 422,
    Code.TOO_LARGE: 413,
    Code.MEDIA_TYPE: 415,
    Code.TOO_MANY_REQUESTS: 429,
    Code.UNAVAILABLE: 503,
    Code.STORAGE: 507,
    Code.INTERNAL: 500,
}
"""A total table; ``tests/dialects/native`` proves that it is."""


def error_body(error: LocalmlError) -> dict[str, Any]:
    """``{"error": {"code", "message", "field", "details"}}``; ``field`` is null when no member is at fault."""
    return {
        "error": {
            "code": error.code.value,
            "message": error.message,
            "field": error.field,
            "details": error.details,
        }
    }


def render_error(error: LocalmlError) -> tuple[int, dict[str, Any]]:
    """HTTP status and body of a failure."""
    return STATUS[error.code], error_body(error)
