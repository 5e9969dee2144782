"""Who may change which users, and how."""

from __future__ import annotations

from localml.core.errors import Code, LocalmlError, not_found
from localml.core.people.allow import Thing, may
from localml.core.people.identity import Caller
from localml.core.people.rights import Action
from localml.dialects.openpai.schemas import UserUpdate
from localml.platform import Platform


def need(caller: Caller, action: Action, thing: Thing) -> None:
    """Make sure that the caller may do this, in the vendor's one word for all that may not be."""
    if not may(caller, action, thing):
        raise LocalmlError(Code.FORBIDDEN, "not authorized")


def upsert(platform: Platform, caller: Caller, update: UserUpdate) -> None:
    """Add or change a user. Administrators may do so with all; others may change their own password.

    Raises:
        LocalmlError: ``FORBIDDEN``, ``WRONG_STATE`` for a user to add who exists already, ``NOT_FOUND`` for one to
            change who does not.
    """
    known = any(user.name == update.username for user in platform.identity.users())
    user = Thing.of_user(caller, update.username)
    need(caller, Action.CHANGE if update.modify is not False else Action.CREATE, user)
    if update.admin:
        need(caller, Action.ADMINISTER, user)
    if known and update.modify is False:
        raise LocalmlError(Code.WRONG_STATE, f"user '{update.username}' exists")
    if not known and update.modify:
        raise not_found("user", update.username)
    if known:
        admin = update.admin if caller.admin else None
        platform.identity.set_password(update.username, update.password, admin=admin, by=caller)
    else:
        platform.identity.create_user(update.username, update.password, admin=bool(update.admin), by=caller)


def remove(platform: Platform, caller: Caller, name: str) -> None:
    """Remove a user. An administrator has to become an ordinary user before.

    Raises:
        LocalmlError: ``WRONG_STATE`` for an administrator, ``NOT_FOUND``.
    """
    if platform.identity.user(name).admin:
        raise LocalmlError(Code.WRONG_STATE, f"'{name}' is an administrator; change that first (admin: false)")
    platform.identity.remove_user(name, by=caller)
