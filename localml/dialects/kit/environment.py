"""What a client of one of the APIs needs: where the server is, and the administrator's credentials."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from localml.core.errors import invalid
from localml.core.people.identity import Credentials
from localml.dialects import REGISTRY, served


def environment(credentials: Credentials, dialect: str, url: str) -> dict[str, Any]:
    """Endpoint and credentials for one API.

    ``url`` is the server's, ``endpoint`` the API's own; ``variables`` are the environment variables that the vendor's
    client, or scripts written for it, read (the dialect's ``environment.py``); ``served`` says whether this version
    answers them.

    Raises:
        LocalmlError: ``INVALID`` when there is no such API.
    """
    names = [one.name for one in REGISTRY]
    if dialect not in names:
        raise invalid("dialect", f"must be one of {', '.join(names)}, not {dialect!r}")
    its = import_module(f"localml.dialects.{dialect}.environment")
    endpoint = url + its.BASE
    return {
        "dialect": dialect,
        "url": url,
        "endpoint": endpoint,
        "access_key": credentials.access_key,
        "secret_key": credentials.secret_key,
        "user": credentials.user,
        "password": credentials.password,
        "project_id": credentials.project_id,
        "token": credentials.token,
        "served": dialect in served(),
        "variables": its.variables(credentials, url, endpoint),
    }
