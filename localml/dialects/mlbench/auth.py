"""Who calls: HTTP Basic or a bearer token.

The vendor's client knows no credentials and takes them from the address that it is given, as any client of HTTP does:
``http://USER:TOKEN@HOST:PORT``, which ``localml env mlbench`` prints.
"""

from __future__ import annotations

from urllib.parse import urlsplit

from flask import Request

from localml.core.errors import Code, LocalmlError
from localml.core.people.identity import ADMIN, Caller
from localml.dialects.kit.open import opened
from localml.platform import Platform

API = "mlbench"
CHALLENGE = 'Basic realm="localml"'
"""What a 401 says that it wants (RFC 9110, 11.6.1)."""
_OWN_SITE = (None, "same-origin", "none")


def authenticate(platform: Platform, request: Request) -> Caller:
    """Whom the credentials name; the administrator where authentication is switched off, or where MLBench was opened
    (``up --open mlbench``) and a program on this machine sends none.

    Raises:
        LocalmlError: ``FORBIDDEN`` for pages of other sites, ``UNAUTHENTICATED``.
    """
    _refuse_other_sites(request)
    if not platform.config.auth:
        return platform.identity.user(ADMIN)
    given = request.authorization
    if given is not None and given.type == "bearer" and given.token:
        return platform.identity.by_token(given.token)
    if given is not None and given.type == "basic" and given.username:
        return platform.identity.by_basic(given.username, given.password or "", request.remote_addr or "")
    if given is None and opened(platform.config, API, request):
        return platform.identity.user(ADMIN)
    raise LocalmlError(
        Code.UNAUTHENTICATED,
        "this API wants credentials: the address that 'localml env mlbench' prints, http://USER:TOKEN@HOST:PORT",
    )


def _refuse_other_sites(request: Request) -> None:
    origin = request.headers.get("Origin")
    foreign = origin is not None and urlsplit(origin).netloc != request.host
    if foreign or request.headers.get("Sec-Fetch-Site") not in _OWN_SITE:
        raise LocalmlError(Code.FORBIDDEN, "pages of other sites may not call this API")
