"""Addresses of this machine as the client at hand can use them."""

from __future__ import annotations

from dataclasses import replace
from urllib.parse import urlsplit

from flask import request

from localml.core.instances.tools import Access
from localml.core.work.workloads import Full
from localml.dialects.kit.context import platform

WILDCARDS = ("0.0.0.0", "::")
"""All addresses of the machine: what one listens on, and nobody can call."""


def called(host: str) -> str:
    """A host; in place of a wildcard the one by which the client has called us."""
    return (urlsplit(f"//{request.host}").hostname or "127.0.0.1") if host in WILDCARDS else host


def reachable(host: str) -> str:
    """The same as URLs have it: IPv6 in brackets."""
    host = called(host)
    return f"[{host}]" if ":" in host else host


def gateway_url() -> str | None:
    """Where the client reaches the gateway; None while its port is not known."""
    url = platform().gateway_url
    return None if url is None else f"http://{reachable(platform().config.host)}:{urlsplit(url).port}"


def access_of(full: Full) -> Access:
    """Where the client reaches a notebook or TensorBoard, see :meth:`localml.core.instances.tools.Tools.access`."""
    found = platform().tools.access(full)
    if platform().config.host not in WILDCARDS:
        return found
    host = reachable(platform().config.host)
    old, new = f"http://{found.host}:", f"http://{host}:"
    base, url = (one and one.replace(old, new, 1) for one in (found.base, found.url))
    return replace(found, host=host, base=base, url=url)
