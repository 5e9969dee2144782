"""Who calls an API that has no authentication: programs on this machine, and nobody else unasked.

A start of a run is a plain form, which any web page could make a browser on this machine send; browsers say where
such a request comes from, and those of other sites are refused.
"""

from __future__ import annotations

import ipaddress
from urllib.parse import urlsplit

from flask import Request

from localml.core.errors import Code, LocalmlError
from localml.core.people.identity import ADMIN, Caller
from localml.platform import Platform

WORKERS_SEND = "mlbench.record_metric"
"""What the containers of a run may call, whose addresses are not this machine's."""
_OWN_SITE = (None, "same-origin", "none")


def authenticate(platform: Platform, request: Request) -> Caller:
    """The administrator for programs on this machine, else whom the credentials name.

    Raises:
        LocalmlError: ``FORBIDDEN`` for pages of other sites, ``UNAUTHENTICATED`` from elsewhere without credentials.
    """
    _refuse_other_sites(request)
    given = request.authorization
    if given is not None and given.type == "bearer" and given.token:
        return platform.identity.by_token(given.token)
    if given is not None and given.type == "basic" and given.username:
        return platform.identity.by_password(given.username, given.password or "")
    if _from_here(request.remote_addr) or request.endpoint == WORKERS_SEND or not platform.config.auth:
        return platform.identity.user(ADMIN)
    raise LocalmlError(
        Code.UNAUTHENTICATED,
        "from another machine this API wants a user name and password: http://USER:PASSWORD@HOST:PORT",
    )


def _refuse_other_sites(request: Request) -> None:
    origin = request.headers.get("Origin")
    foreign = origin is not None and urlsplit(origin).netloc != request.host
    if foreign or request.headers.get("Sec-Fetch-Site") not in _OWN_SITE:
        raise LocalmlError(Code.FORBIDDEN, "pages of other sites may not call this API")


def _from_here(address: str | None) -> bool:
    try:
        found = ipaddress.ip_address(address or "")
    except ValueError:
        return False
    mapped = found.ipv4_mapped if isinstance(found, ipaddress.IPv6Address) else None
    return (mapped or found).is_loopback
