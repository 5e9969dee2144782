"""What can go wrong, with the HTTP status that tells it."""

from __future__ import annotations


class RequestError(Exception):
    """A request that gets an error instead of an answer.

    Args:
        status: HTTP status.
        message: what was expected, for the caller.
        retry_after: seconds after which trying again makes sense; None where it doesn't.
    """

    def __init__(self, status: int, message: str, retry_after: int | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.retry_after = retry_after


class LoadError(Exception):
    """A model that cannot be served; the text says why."""


def bad(message: str) -> RequestError:
    """A request that is not as the protocol or the model wants it (400)."""
    return RequestError(400, message)


def unavailable(message: str) -> RequestError:
    """The model cannot answer now but may soon (503)."""
    return RequestError(503, message, retry_after=1)
