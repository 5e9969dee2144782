"""Who may change which users, and how."""

from __future__ import annotations

from localml.core.errors import Code, LocalmlError, not_found
from localml.core.people.identity import Caller
from localml.dialects.openpai.schemas import UserUpdate
from localml.platform import Platform


def admin_only(caller: Caller) -> None:
    """Refuse everybody but administrators."""
    if not caller.admin:
        raise LocalmlError(Code.FORBIDDEN, "not authorized")


def upsert(platform: Platform, caller: Caller, update: UserUpdate) -> None:
    """Add or change a user. Administrators may do so with all; others may change their own password.

    Raises:
        LocalmlError: ``FORBIDDEN``, ``WRONG_STATE`` for a user to add who exists already, ``NOT_FOUND`` for one to
            change who does not.
    """
    known = any(user.name == update.username for user in platform.identity.users())
    if not caller.admin and (update.username != caller.name or update.admin or update.modify is False):
        raise LocalmlError(Code.FORBIDDEN, "not authorized")
    if known and update.modify is False:
        raise LocalmlError(Code.WRONG_STATE, f"user '{update.username}' exists")
    if not known and update.modify:
        raise not_found("user", update.username)
    if known:
        admin = update.admin if caller.admin else None
        platform.identity.set_password(update.username, update.password, admin=admin)
    else:
        platform.identity.create_user(update.username, update.password, admin=bool(update.admin))
