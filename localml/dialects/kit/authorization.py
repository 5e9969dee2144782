"""HTTP's own ways to say who calls: a bearer token, or Basic with a password or a token."""

from __future__ import annotations

from werkzeug.datastructures import Authorization

from localml.core.errors import Code, LocalmlError
from localml.core.people.allow import MACHINE, may
from localml.core.people.identity import Caller
from localml.core.people.rights import Action
from localml.platform import Platform

CHALLENGE = 'Basic realm="localml"'
"""What a 401 says that it wants (RFC 9110, 11.6.1)."""


def credentials(header: str | None) -> Authorization | None:
    """What an ``Authorization`` header says; None when it says nothing that can be read.

    Werkzeug's own reading fails with what is no ASCII where it expects base64.
    """
    try:
        return Authorization.from_header(header)
    except ValueError:
        return None


def caller_by(platform: Platform, given: Authorization | None, address: str | None) -> Caller | None:
    """Whom the ``Authorization`` header names; None when it is not there, or says it in another way.

    Args:
        address: where the request comes from.

    Raises:
        LocalmlError: ``UNAUTHENTICATED`` when what it says is wrong, ``TOO_MANY_REQUESTS`` after many wrong ones.
    """
    if given is None:
        return None
    if given.type == "bearer" and given.token:
        return platform.identity.by_token(given.token)
    if given.type == "basic" and given.username:
        return platform.identity.by_basic(given.username, given.password or "", address or "")
    return None


def metrics_reader(platform: Platform, header: str | None, address: str | None) -> None:
    """Let in who may read ``/metrics``: administrators, because it names what belongs to all, with any token of theirs
    that may read the machine.

    Args:
        header: the text of ``Authorization``.
        address: where the request comes from.

    Raises:
        LocalmlError: ``UNAUTHENTICATED``, ``TOO_MANY_REQUESTS``, ``FORBIDDEN``.
    """
    if not platform.config.auth:
        return
    caller = caller_by(platform, credentials(header), address)
    if caller is None:
        words = "send 'Authorization: Bearer TOKEN' or HTTP Basic, of an administrator"
        raise LocalmlError(Code.UNAUTHENTICATED, words)
    if not (caller.admin and may(caller, Action.READ, MACHINE)):
        words = "metrics name what belongs to all: they are for administrators, by a token that may read the machine"
        raise LocalmlError(Code.FORBIDDEN, words)
