"""Tokens as their owners handle them: list and revoke. :mod:`localml.core.people.identity` makes and judges them."""

from __future__ import annotations

import base64
import hmac
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from sqlmodel import Session, col, select

from localml.core.clock import Clock
from localml.core.errors import Code, LocalmlError, not_found
from localml.core.people import memberships
from localml.core.people.allow import Thing, may
from localml.core.people.identity import Caller, Identity, callers
from localml.core.people.recognition import user_row
from localml.core.people.revocation import need_current
from localml.core.people.rights import Action
from localml.core.people.scopes import Scope
from localml.core.people.secrets import hash_token
from localml.core.people.tables import AccessKey, Token, User
from localml.core.ports import Store

Row = TypeVar("Row", Token, AccessKey)

ID_LENGTH = 12
"""Digits of a token's hash that name it; they say nothing of the token."""


@dataclass(frozen=True, slots=True)
class TokenInfo:
    """What is known of a token: all but the token itself. Times in seconds; ``used_at`` to the hour."""

    id: str
    name: str
    purpose: str
    scope: Scope
    made_by: str
    created_at: float
    expires_at: float | None
    used_at: float | None


class Tokens:
    """The service over tokens."""

    def __init__(self, store: Store, clock: Clock, identity: Identity) -> None:
        self._store = store
        self._clock = clock
        self._identity = identity
        self._all: tuple[int, list[tuple[str, float | None, Caller]]] = (-1, [])

    def of(self, user: str) -> list[TokenInfo]:
        """A user's tokens, those that have expired too, oldest first; ``NOT_FOUND`` for no such user."""
        with self._store.read() as session:
            return [_info(row) for row in _rows(session, user)]

    def find(self, token: str) -> TokenInfo:
        """What is known of a token; ``NOT_FOUND`` when it is none."""
        with self._store.read() as session:
            row = session.get(Token, hash_token(token))
        if row is None:
            raise not_found("token", "given")
        return _info(row)

    def kept(self, user: Caller, purpose: str, scope: Scope) -> str:
        """A token that can be shown again: the same each time until it is ended, and another one then. It is not
        stored either, but derived from what is: the installation's key, and when it was made.

        Args:
            purpose: what it is for, which is its name, too.
        """
        key, stored = self._identity.signing_key("kept-token"), scope.as_json()

        def known(session: Session) -> str | None:
            query = select(Token).where(Token.user_id == user.id, Token.purpose == purpose)
            rows = [row for row in session.exec(query) if row.scope == stored and row.expires_at is None]
            return next((one for row in rows if hash_token(one := _derived(key, row)) == row.hash), None)

        def make(session: Session) -> str:
            need_current(session, user)
            found, now = known(session), self._clock.now()
            if found is None:
                row = Token(hash="", user_id=user.id, purpose=purpose, name=purpose, scope=stored, created_at=now)
                row.made_by = user.name
                found = _derived(key, row)
                row.hash = hash_token(found)
                session.add(row)
            return found

        with self._store.read() as session:
            found = known(session)
        if found is None:
            found = self._store.write(make)
            self._identity.added()
        return found

    def that_may(self, action: Action, thing: Thing, *, administrators: bool = False) -> tuple[str, ...]:
        """SHA-256 (hex) of all tokens that have not expired and with which their owners may do this, sorted.

        Args:
            administrators: only theirs.
        """
        now = self._clock.now()
        return tuple(
            hashed
            for hashed, expires_at, caller in self._known()
            if (expires_at is None or expires_at > now)
            and (caller.admin or not administrators)
            and may(caller, action, thing)
        )

    def hashes(self) -> tuple[str, ...]:
        """SHA-256 (hex) of all tokens, sorted."""
        return tuple(hashed for hashed, _, _ in self._known())

    def _known(self) -> list[tuple[str, float | None, Caller]]:
        """All tokens with their ends and who calls with them, kept until somebody changes: endpoints ask often."""
        version = self._identity.version
        if self._all[0] != version:
            with self._store.read() as session:
                rows = session.exec(select(Token).order_by(Token.hash)).all()
                users = session.exec(memberships.living().where(col(User.id).in_({row.user_id for row in rows})))
                owners = {caller.id: caller for caller in callers(session, users)}
            found = [
                (row.hash, row.expires_at, replace(owners[row.user_id], scope=Scope.stored(row.scope)))
                for row in rows
                if row.user_id in owners
            ]
            self._all = version, found
        return self._all[1]

    def revoke(self, user: str, reference: str) -> TokenInfo:
        """End one of a user's tokens, by id or name.

        Raises:
            LocalmlError: ``NOT_FOUND``; ``CONFLICT`` when several have the name.
        """

        def act(session: Session) -> TokenInfo:
            found = chosen("token", _rows(session, user), reference, _id)
            session.delete(found)
            return _info(found)

        return self._identity.change(act)


def _derived(key: bytes, row: Token) -> str:
    text = f"{row.user_id}:{row.purpose}:{row.created_at!r}"
    return base64.urlsafe_b64encode(hmac.digest(key, text.encode(), "sha256")).rstrip(b"=").decode()


def chosen(noun: str, rows: Sequence[Row], reference: str, id_of: Callable[[Row], str]) -> Row:
    """The one of a user's credentials that is meant, by id or by the name that its owner gave it.

    Raises:
        LocalmlError: ``NOT_FOUND``; ``CONFLICT`` when several have the name.
    """
    found = [one for one in rows if id_of(one) == reference] or [
        one for one in rows if reference and one.name == reference
    ]
    if not found:
        raise not_found(noun, reference)
    if len(found) > 1:
        words = ", ".join(map(id_of, found))
        raise LocalmlError(Code.CONFLICT, f"several {noun}s are named '{reference}'; say which by id: {words}")
    return found[0]


def _rows(session: Session, user: str) -> list[Token]:
    query = select(Token).where(Token.user_id == user_row(session, user).id)
    return list(session.exec(query.order_by(col(Token.created_at), col(Token.hash))))


def _id(row: Token) -> str:
    return row.hash[:ID_LENGTH]


def _info(row: Token) -> TokenInfo:
    scope = Scope.stored(row.scope)
    return TokenInfo(_id(row), row.name, row.purpose, scope, row.made_by, row.created_at, row.expires_at, row.used_at)
