"""Who calls: HTTP Basic or a bearer token.

The vendor's client knows no credentials and takes them from the address that it is given, as any client of HTTP does:
``http://USER:TOKEN@HOST:PORT``, which ``localml env mlbench`` prints.
"""

from __future__ import annotations

from flask import Request

from localml.core.errors import Code, LocalmlError
from localml.core.people.identity import ADMIN, Caller
from localml.dialects.kit.authorization import caller_by
from localml.dialects.kit.open import opened
from localml.platform import Platform

API = "mlbench"


def authenticate(platform: Platform, request: Request) -> Caller:
    """Whom the credentials name; the administrator where authentication is switched off, or where MLBench was opened
    (``up --open mlbench``) and a program on this machine sends none.

    Raises:
        LocalmlError: ``UNAUTHENTICATED``, saying what is expected.
    """
    if not platform.config.auth:
        return platform.identity.user(ADMIN)
    found = caller_by(platform, request.authorization, request.remote_addr)
    if found is not None:
        return found
    if "Authorization" not in request.headers and opened(platform.config, API, request):
        return platform.identity.user(ADMIN)
    raise LocalmlError(
        Code.UNAUTHENTICATED,
        "this API wants credentials: the address that 'localml env mlbench' prints, http://USER:TOKEN@HOST:PORT",
    )
