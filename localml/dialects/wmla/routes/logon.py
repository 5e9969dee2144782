"""Logging on: a token for a name and a password; and off."""

from __future__ import annotations

from typing import Any

from flask import request

from localml.core.errors import Code, LocalmlError
from localml.core.people.allow import Thing, allow
from localml.core.people.rights import Action, ThingKind
from localml.dialects.kit import Operations, caller, platform
from localml.dialects.wmla.auth import given_token
from localml.dialects.wmla.document import SCHEME, failures
from localml.dialects.wmla.schemas.logon import AccessToken

LIFETIME_S = 12 * 3600.0
"""Seconds that a token lives."""
PURPOSE = "wmla-logon"
TAGS: list[Any] = [{"name": "Authentication"}]

api = Operations("wmla_logon", __name__, url_prefix="/auth/v1", abp_security=[{SCHEME: []}])


@api.get("/logon", operation_id="logon", tags=TAGS, responses={200: AccessToken, **failures(403)})
def logon() -> dict[str, str]:
    """Get a token"""
    allow(caller(), Action.CREATE, Thing.of_user(caller(), caller().name, ThingKind.TOKEN))
    made = platform().identity.create_token(caller(), purpose=PURPOSE, lifetime=LIFETIME_S, name=PURPOSE)
    return {"accessToken": made}


@api.post("/logoff", operation_id="logoff", tags=TAGS, responses={200: None, **failures(403)})
def logoff() -> dict[str, Any]:
    """End the token that is sent, if it was got by logging on"""
    token = given_token(request)
    if token is not None:
        _end(token)
    return {}


def _end(token: str) -> None:
    try:
        found = platform().tokens.find(token)
        if found.purpose == PURPOSE:
            platform().tokens.revoke(caller().name, found.id)
    except LocalmlError as error:
        if error.code is not Code.NOT_FOUND:  # a run's, or somebody else has ended it meanwhile
            raise
