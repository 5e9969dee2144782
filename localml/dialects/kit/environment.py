"""What a client of one of the APIs needs: where the server is, and credentials."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from localml.core.errors import Code, LocalmlError, invalid
from localml.core.people.allow import MACHINE, Thing, allow, may
from localml.core.people.identity import Caller, Credentials
from localml.core.people.rights import Action, ThingKind
from localml.core.people.scopes import Scope
from localml.dialects import REGISTRY, served
from localml.platform import Platform

_OWN = (
    "only the administrator's credentials are kept here; make your own with 'localml keys create' (Cloud-ML) or "
    "'localml token create', and use your name and password (OpenPAI)"
)


def environment(
    platform: Platform, caller: Caller, dialect: str, url: str, gateway: str | None = None
) -> dict[str, Any]:
    """Endpoint and credentials for one API: the administrator's, for administrators.

    ``url`` is the server's, ``endpoint`` the API's own; ``variables`` are the environment variables that the vendor's
    client, or scripts written for it, read (the dialect's ``environment.py``), with ``gateway``, where endpoints are,
    as the one that ``GATEWAY`` names there; ``served`` says whether this version answers them. Where clients take
    credentials from the address alone (``ADDRESS_RIGHTS``), ``url`` holds name and a token with these rights in that
    user's own workspace; other users get theirs, too.

    Raises:
        LocalmlError: ``INVALID`` when there is no such API, ``FORBIDDEN`` for whom there is none.
    """
    names = [one.name for one in REGISTRY]
    if dialect not in names:
        raise invalid("dialect", f"must be one of {', '.join(names)}, not {dialect!r}")
    its = import_module(f"localml.dialects.{dialect}.environment")
    rights: tuple[str, ...] = getattr(its, "ADDRESS_RIGHTS", ())
    if not rights and not may(caller, Action.ADMINISTER, MACHINE):
        raise LocalmlError(Code.FORBIDDEN, _OWN)
    allow(caller, Action.CREATE, Thing.of_user(caller, caller.name, ThingKind.TOKEN))
    user = platform.identity.user(platform.credentials.user) if caller.admin else caller
    credentials = platform.credentials if caller.admin else Credentials(user.name, "", "", "", user.workspace, "")
    endpoint = url + its.BASE
    if rights:
        token = platform.tokens.kept(user, dialect, Scope.of(rights, workspace=user.workspace))
        url = url.replace("://", f"://{user.name}:{token}@", 1)
    variables = its.variables(credentials, url, endpoint)
    if gateway is not None and (name := getattr(its, "GATEWAY", None)):
        variables[name] = gateway
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
        "variables": variables,
    }
