"""How the REST server words failures: ``{"error": ..., "message": ...}``, each operation with a code of its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from flask import request

from localml.core.errors import Code, LocalmlError
from localml.dialects.kit.errors import BrokenSchema

NOT_AUTHORIZED = ("NotAuthorized", "not authorized")
NO_TOKEN = "No authorization token was found"
BROKEN = ("ParameterValidationError", "Could not validate request data.\n")
NO_API = "NoApiError"
INTERNAL = "InternalServerError"


@dataclass(frozen=True, slots=True)
class Failure:
    """How an operation fails: its error code, its words, and the status of a failure that is the client's doing.

    Without words the message is the reason alone. Without a status it is HTTP's own, as where the vendor's 500 is a
    failure of the server.
    """

    error: str
    message: str
    client: int | None = 500


FAILURES: dict[str, Failure] = {
    "issue_token": Failure("AuthenticationFailed", "authentication failed", 401),
    "upsert_user": Failure("UpdateFailed", "update failed"),
    "remove_user": Failure("RemoveFailed", "remove failed"),
    "assign_virtual_clusters": Failure("UpdateVcFailed", "update user virtual cluster failed"),
    "list_jobs": Failure("GetJobListError", "get job list error", None),
    "submit_job": Failure("JobUpdateError", "job update error", 400),
    "set_execution_type": Failure("JobExecuteError", "job execute error"),
    "list_virtual_clusters": Failure("GetVirtualClusterListError", "get virtual cluster list error", None),
    "get_virtual_cluster": Failure(INTERNAL, "internal server error", None),
}
"""Operation -> its failure. All others answer :data:`INTERNAL` and the reason."""
_OTHERS = Failure(INTERNAL, "", None)
_HTTP = {Code.NOT_FOUND: 404, Code.CONFLICT: 409, Code.WRONG_STATE: 409, Code.TOO_LARGE: 413, Code.MEDIA_TYPE: 415}

CLIENT, CALLER, SERVER, ADDRESS, PATIENCE = "client", "caller", "server", "address", "patience"
KINDS: dict[Code, str] = {
    Code.INVALID: CLIENT,
    Code.UNAUTHENTICATED: CALLER,
    Code.FORBIDDEN: CALLER,
    Code.NOT_FOUND: CLIENT,
    Code.NO_ROUTE: ADDRESS,
    Code.METHOD_NOT_ALLOWED: ADDRESS,
    Code.CONFLICT: CLIENT,
    Code.WRONG_STATE: CLIENT,
    Code.QUOTA: CLIENT,
    Code.CAPACITY: CLIENT,
    Code.TOO_LARGE: CLIENT,
    Code.MEDIA_TYPE: CLIENT,
    Code.TOO_MANY_REQUESTS: PATIENCE,
    Code.UNAVAILABLE: SERVER,
    Code.STORAGE: SERVER,
    Code.INTERNAL: SERVER,
}
"""Whose doing a failure is; the operation and this decide status and code."""


def render_error(error: LocalmlError) -> tuple[int, dict[str, Any]]:
    """HTTP status and body of a failure of the operation at hand."""
    if "missing" in error.details:
        return 404, _body(error.details["missing"], error.message)
    if "refused" in error.details:  # whoever asks; the vendor has no such answer
        return 403, _body(NOT_AUTHORIZED[0], error.message)
    kind = KINDS[error.code]
    if kind == ADDRESS:
        return (404 if error.code is Code.NO_ROUTE else 405), _body(NO_API, error.message)
    operation = (request.endpoint or "").rpartition(".")[2]
    failure = FAILURES.get(operation, _OTHERS)
    if kind == CALLER:
        return 401, _refusal(error, failure if operation == "issue_token" else None)
    if _breaks_schema(error) and operation != "issue_token":  # of that one the document states the only failure
        return 500, _body(BROKEN[0], BROKEN[1] + error.message)
    if kind == PATIENCE:
        return 429, _body("TooManyRequests", error.message)
    # on its own, this is what the vendor says of a name that is taken; of a bucket's there is more to say
    reason = "" if error.code is Code.CONFLICT and error.field != "outputDir" else error.message
    words = ": ".join(part for part in (failure.message, reason) if part)
    unknown = kind == SERVER or "unknown" in error.details
    status = 500 if unknown else failure.client or _HTTP.get(error.code, 400)
    if operation == "issue_token" and kind == SERVER:
        return 500, _body(INTERNAL, error.message)
    return status, _body(failure.error, words)


def missing_job(name: str) -> LocalmlError:
    """The 404 of an operation that shows a job."""
    return LocalmlError(Code.NOT_FOUND, f"could not find job {name}", details={"missing": "JobNotFound"})


def missing_cluster(name: str) -> LocalmlError:
    """The 404 of an operation that shows a virtual cluster."""
    words = f"could not find virtual cluster {name}"
    return LocalmlError(Code.NOT_FOUND, words, details={"missing": "VirtualClusterNotFound"})


def unknown_cluster(name: str, field: str) -> LocalmlError:
    """The 500 of an operation that is to use a virtual cluster which there is not."""
    words = f"could not find virtual cluster {name}"
    return LocalmlError(Code.NOT_FOUND, words, field=field, details={"unknown": field})


def no_token() -> LocalmlError:
    """The 401 of a request that brings none."""
    return LocalmlError(Code.UNAUTHENTICATED, NO_TOKEN, details={"token": None})


def _breaks_schema(error: LocalmlError) -> bool:
    return isinstance(error, BrokenSchema) or (error.code is Code.INVALID and error.field == "body")


def _refusal(error: LocalmlError, login: Failure | None) -> dict[str, Any]:
    if login is not None:
        return _body(login.error, login.message)
    return _body(NOT_AUTHORIZED[0], NO_TOKEN if "token" in error.details else NOT_AUTHORIZED[1])


def _body(error: str, message: str) -> dict[str, Any]:
    return {"error": error, "message": message}
