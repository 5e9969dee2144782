"""Ending what a user gets in with, inside a transaction of whoever asks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlalchemy import func
from sqlmodel import Session, col, delete, select

from localml.core.errors import Code, LocalmlError
from localml.core.people.tables import AccessKey, Token, User

if TYPE_CHECKING:
    from localml.core.people.identity import Caller


@dataclass(frozen=True, slots=True)
class Ended:
    """How many credentials were ended; sessions and signed tokens are not counted, and end as well."""

    tokens: int = 0
    keys: int = 0


def end_all(session: Session, user: User) -> Ended:
    """End a user's tokens and keys, and all that was made out of its credentials: what is signed holds a generation."""
    ended = Ended(_take(session, Token, user), _take(session, AccessKey, user))
    user.generation += 1
    session.add(user)
    session.flush()
    return ended


def _take(session: Session, table: type[Token] | type[AccessKey], user: User) -> int:
    number = session.exec(select(func.count()).select_from(table).where(table.user_id == user.id)).one()
    session.execute(delete(table).where(col(table.user_id) == user.id))
    return number


def need_current(session: Session, *callers: Caller | None) -> None:
    """Make sure that nobody's credentials were ended since the request at hand was let in: nothing that lets somebody
    in comes of one that was overtaken by that.

    Raises:
        LocalmlError: ``UNAUTHENTICATED``.
    """
    for caller in callers:
        if caller is None:
            continue
        user = session.get(User, caller.id)
        if user is None or user.removed_at is not None or user.generation != caller.generation:
            raise LocalmlError(Code.UNAUTHENTICATED, f"the credentials of {caller.name} were ended meanwhile")
