"""How this API words failures. The document has no body for them: clients rely on the status, people on the words,
which the vendor's client looks for in ``error``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from typing import Any

from flask import request

from localml.core.errors import Code, LocalmlError
from localml.dialects.wmla.environment import BASE

ERRORS: dict[Code, HTTPStatus] = {
    Code.INVALID: HTTPStatus.BAD_REQUEST,
    Code.UNAUTHENTICATED: HTTPStatus.UNAUTHORIZED,
    Code.FORBIDDEN: HTTPStatus.FORBIDDEN,
    Code.NOT_FOUND: HTTPStatus.NOT_FOUND,
    Code.NO_ROUTE: HTTPStatus.NOT_FOUND,
    Code.METHOD_NOT_ALLOWED: HTTPStatus.METHOD_NOT_ALLOWED,
    Code.CONFLICT: HTTPStatus.CONFLICT,
    Code.WRONG_STATE: HTTPStatus.CONFLICT,
    Code.QUOTA: HTTPStatus.BAD_REQUEST,
    Code.CAPACITY: HTTPStatus.BAD_REQUEST,
    Code.TOO_LARGE: HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    Code.MEDIA_TYPE: HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
    Code.TOO_MANY_REQUESTS: HTTPStatus.TOO_MANY_REQUESTS,
    Code.UNAVAILABLE: HTTPStatus.SERVICE_UNAVAILABLE,
    Code.STORAGE: HTTPStatus.INSUFFICIENT_STORAGE,
    Code.INTERNAL: HTTPStatus.INTERNAL_SERVER_ERROR,
}
"""Code -> HTTP status, unless an operation lists others (``details["status"]``)."""


_WITHOUT_FORBIDDEN = (f"{BASE}/execs", f"{BASE}/hypersearch/algorithm/debug")
"""Where the document lists no 403; its 401 says that the request was denied, too."""
_STUDY = re.compile(r"\bstudy '")
_NAMED = {
    "search": "hpoName",
    "study": "hpoName",
    "algorithm": "algoName",
    "application": "appid",
    "executor": "executorid",
}
"""What is not found -> the member of the request that names it."""


def render_error(error: LocalmlError) -> tuple[int, dict[str, Any]]:
    """HTTP status and body of a failure."""
    status = int(error.details.get("status", ERRORS[error.code]))
    if (
        status == HTTPStatus.FORBIDDEN
        and "refused" not in error.details
        and request.path.startswith(_WITHOUT_FORBIDDEN)
    ):
        status = int(HTTPStatus.UNAUTHORIZED)
    field = error.field or _NAMED.get(error.details.get("what", ""))
    return status, {"error": _in_words(error.message), "field": field, "code": status}


def _in_words(message: str) -> str:
    """What the core calls a study is a search here."""
    return _STUDY.sub("search '", message)


@contextmanager
def answered(statuses: dict[Code, HTTPStatus]) -> Iterator[None]:
    """Failures of these codes that are raised inside get the statuses that an operation lists for them."""
    try:
        yield
    except LocalmlError as error:
        if error.code not in statuses or "status" in error.details:
            raise
        told = {**error.details, "status": int(statuses[error.code])}
        raise LocalmlError(error.code, error.message, field=error.field, details=told) from error
