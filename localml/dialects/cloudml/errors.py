"""How Cloud-ML words failures: ``{"error": true, "message": ...}`` with one of six statuses."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from localml.core.errors import Code, LocalmlError, invalid
from localml.dialects.cloudml.auth import REFUSED

INVALID = "Invalid argument: {message}."
EXCEPTION = "Exception: {message}"
AS_IT_IS = "{message}"

ERRORS: dict[Code, tuple[int, str]] = {
    Code.INVALID: (403, INVALID),
    Code.UNAUTHENTICATED: (401, REFUSED),
    Code.FORBIDDEN: (403, AS_IT_IS),
    Code.NOT_FOUND: (404, AS_IT_IS),
    Code.NO_ROUTE: (404, AS_IT_IS),
    Code.METHOD_NOT_ALLOWED: (405, "Support {allowed} only"),
    Code.CONFLICT: (403, INVALID),
    Code.WRONG_STATE: (403, AS_IT_IS),
    Code.QUOTA: (413, AS_IT_IS),
    Code.CAPACITY: (413, AS_IT_IS),
    Code.TOO_LARGE: (413, AS_IT_IS),
    Code.MEDIA_TYPE: (403, INVALID),
    Code.TOO_MANY_REQUESTS: (429, AS_IT_IS),
    Code.UNAVAILABLE: (503, EXCEPTION),
    Code.STORAGE: (503, EXCEPTION),
    Code.INTERNAL: (503, EXCEPTION),
}
"""Code -> HTTP status and text. The vendor has no error codes beside the status, and no 400, 409 or 500."""

_ORDER = "POST GET DELETE"  # as the vendor lists them


def render_error(error: LocalmlError) -> tuple[int, dict[str, Any]]:
    """HTTP status and body of a failure."""
    status, text = ERRORS[error.code]
    if "said" in error.details:
        return status, {"error": True, "message": error.details["said"]}
    methods = "/".join(sorted(error.details.get("allowed", ()), key=_ORDER.find))
    if text == INVALID:
        return status, {"error": True, "message": text.format(message=error.message.rstrip("."))}
    return status, {"error": True, "message": text.format(message=error.message, allowed=methods)}


@contextmanager
def worded(texts: Mapping[Code, str]) -> Iterator[None]:
    """Failures raised inside are told in an operation's own words: code -> text, which may hold ``{message}``."""
    try:
        yield
    except LocalmlError as error:
        if error.code not in texts:
            raise
        said = texts[error.code].format(message=error.message)
        raise LocalmlError(error.code, error.message, field=error.field, details={"said": said}) from error


def missing(text: str) -> LocalmlError:
    """A 404 in the words of the operation."""
    return LocalmlError(Code.NOT_FOUND, text)


def need_org(text: str = "Need org_id parameter.") -> LocalmlError:
    """The 403 for a request whose organisation cannot be told."""
    return LocalmlError(Code.FORBIDDEN, text, field="org_id")


def foreign_org(org: str) -> LocalmlError:
    """The 403 for an organisation that is not the caller's, or that does not exist."""
    return invalid("org_id", f"{org[:100]!r} is not an organisation that this access key may act for")
