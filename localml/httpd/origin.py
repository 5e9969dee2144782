"""Whether a request is meant for this server, and whether a page of some other site makes it.

A browser on this machine reaches what listens on loopback, and does so for every page that it is shown. What it says of
itself cannot be changed by a page: ``Host`` has the name that the page used (RFC 9110, 7.2), ``Origin`` the page's own
site (RFC 6454) and ``Sec-Fetch-Site`` how the two are related (W3C Fetch Metadata).
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterable

FOREIGN_HOST = (
    "the Host header names another machine than this one; a name or address that is this one's, too, is given to the "
    "server at its start: localml up --allow-host NAME, or LOCALML_HOSTS=NAME,..."
)
FOREIGN_PAGE = "pages of other sites may change nothing here"
REFUSED = "localml.refused"
"""Key of the WSGI environment: why the request is refused (403), whatever it asks for and whoever asks."""
LOCAL_ADDRESS = "localml.local_address"
"""Key of the WSGI environment: the address of this machine that the connection has come to."""
_NOBODYS = "*"
"""No machine is called so."""
_SAFE = frozenset({"GET", "HEAD", "OPTIONS", "TRACE"})
"""They change nothing (RFC 9110, 9.2.1); no answer permits a page to read it, so these may be asked from anywhere."""
_OWN_SITE = frozenset({None, "same-origin", "none"})


def own_names(host: str, more: Iterable[str] = ()) -> frozenset[str]:
    """What a server that listens at ``host`` is called, beside its addresses: its name, localhost, and ``more``."""
    names = {"localhost", "127.0.0.1", "::1", host, socket.gethostname(), "host.docker.internal", *more}
    return frozenset(name.lower().rstrip(".") for name in names)


def is_own_host(host: str, names: frozenset[str], local_address: str) -> bool:
    """Whether a ``Host`` header names this machine. Against DNS rebinding, where a browser sends the name of the site
    that lured it.

    Args:
        host: as it came; empty where there is none, which only programs send.
        local_address: where the connection has come to.
    """
    name = _name(host)
    if not name or name in names or name == local_address:
        return True
    found = _address(name)
    return found is not None and (found.is_loopback or found == _address(local_address))


def _name(host: str) -> str:
    has_port = host.count(":") == 1 or "]:" in host
    name, port = host.rsplit(":", 1) if has_port else (host, "")
    return _NOBODYS if port.strip("0123456789") else name.strip("[]").lower().rstrip(".")


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        found = ipaddress.ip_address(text.partition("%")[0] if ":" in text else text)  # of IPv6 the zone is no part
    except ValueError:
        return None
    return getattr(found, "ipv4_mapped", None) or found


def from_foreign_page(method: str, host: str, origin: str | None, fetch_site: str | None) -> bool:
    """Whether a request that may change something was made by a page of another site, as browsers tell: scheme, name
    and port of the page's site all have to be this server's.

    Args:
        host, origin, fetch_site: the headers ``Host``, ``Origin`` and ``Sec-Fetch-Site``; None for one that is missing.
    """
    if method in _SAFE:
        return False
    if fetch_site not in _OWN_SITE:
        return True
    if origin is None:
        return False
    scheme, _, site = origin.lower().partition("://")
    return scheme != "http" or not host or _with_port(site) != _with_port(host.lower())


def _with_port(site: str) -> str:
    return site if site.rpartition(":")[2].isdigit() and not site.endswith("]") else f"{site}:80"
