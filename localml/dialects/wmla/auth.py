"""Who calls: HTTP Basic, or a token that was got by logging on, as a bearer token or in ``X-Auth-Token``."""

from __future__ import annotations

from flask import Request

from localml.core.errors import Code, LocalmlError
from localml.core.people.identity import ADMIN, Caller
from localml.dialects.kit.authorization import caller_by
from localml.platform import Platform

TOKEN_HEADER = "X-Auth-Token"


def authenticate(platform: Platform, request: Request) -> Caller:
    """Whom the credentials name; the administrator where authentication is switched off.

    Raises:
        LocalmlError: ``UNAUTHENTICATED``, saying what is expected.
    """
    if not platform.config.auth:
        return platform.identity.user(ADMIN)
    found = caller_by(platform, request.authorization, request.remote_addr)
    if found is not None:
        return found
    if token := given_token(request):
        return platform.identity.by_token(token)
    raise LocalmlError(
        Code.UNAUTHENTICATED,
        f"this API wants HTTP Basic, or a token as 'Authorization: Bearer TOKEN' or in {TOKEN_HEADER}",
    )


def given_token(request: Request) -> str | None:
    """The token that a request has, in one header or the other; None when it has none."""
    given = request.authorization
    if given is not None and given.type == "bearer":
        return given.token
    return request.headers.get(TOKEN_HEADER) or None
