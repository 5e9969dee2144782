"""Access tokens: JSON web tokens signed with a key of this installation, good until they expire or the user changes."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import jwt
from flask import Request

from localml.core.errors import Code, LocalmlError
from localml.core.people.identity import ADMIN, Caller
from localml.dialects.openpai.errors import no_token
from localml.platform import Platform

LIFETIME_S = 24 * 3600
"""Seconds that a token lives when none are asked for, as in the vendor's server."""
ALGORITHM = "HS256"
_PURPOSE = "openpai-token"


def issue_token(
    platform: Platform, username: str, password: str, lifetime: int | None, address: str = ""
) -> tuple[str, bool]:
    """A token for a user, and whether that is an administrator.

    Args:
        lifetime: seconds; :data:`LIFETIME_S` when None.
        address: where the password comes from.

    Raises:
        LocalmlError: ``UNAUTHENTICATED`` when name or password is wrong, ``TOO_MANY_REQUESTS`` for who guesses.
    """
    platform.identity.by_password(username, password, address)
    caller, stamp = platform.identity.stamp(username)
    now = int(platform.clock.now())
    claims = {
        "username": caller.name,
        "admin": caller.admin,
        "stamp": stamp,
        "iat": now,
        "exp": now + (LIFETIME_S if lifetime is None else lifetime),
    }
    return jwt.encode(claims, _key(platform), ALGORITHM), caller.admin


def authenticate(platform: Platform, request: Request) -> Caller:
    """The caller of a request; the administrator where authentication is switched off.

    Takes the tokens of :func:`issue_token` and those of the installation's own API.

    Raises:
        LocalmlError: ``UNAUTHENTICATED`` for a token that is missing, wrong, expired or withdrawn.
    """
    if not platform.config.auth:
        return platform.identity.user(ADMIN)
    given = request.authorization
    if given is None or given.type != "bearer" or not given.token:
        raise no_token()
    if given.token.count(".") == 2:
        return _by_claims(platform, given.token)
    return platform.identity.by_token(given.token)


def _by_claims(platform: Platform, token: str) -> Caller:
    try:
        claims = _claims(token, _key(platform))
        caller, stamp = platform.identity.stamp(str(claims["username"]))
    except jwt.InvalidTokenError as error:
        raise _refused() from error
    except LocalmlError as error:
        if error.code is Code.NOT_FOUND:
            raise _refused() from error
        raise
    if claims["stamp"] != stamp or claims["exp"] <= platform.clock.now():
        raise _refused()
    return caller


@lru_cache(256)
def _claims(token: str, key: bytes) -> dict[str, Any]:
    """What a token says, once its signature was found good. Kept, because a client sends the same one each time;
    whether it is still good is asked each time."""
    # the platform's clock judges the expiry, which tests move
    options: Any = {"verify_exp": False, "verify_iat": False, "require": ["username", "stamp", "exp"]}
    found: dict[str, Any] = jwt.decode(token, key, [ALGORITHM], options=options)
    return found


def _key(platform: Platform) -> bytes:
    return platform.identity.signing_key(_PURPOSE)


def _refused() -> LocalmlError:
    return LocalmlError(Code.UNAUTHENTICATED, "not authorized")
