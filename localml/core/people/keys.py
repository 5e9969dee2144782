"""Key pairs of signing schemes as their owners handle them: list and end. The identity makes and judges them."""

from __future__ import annotations

from dataclasses import dataclass

from sqlmodel import Session, col, select

from localml.core.errors import not_found
from localml.core.people.identity import Identity
from localml.core.people.recognition import user_row
from localml.core.people.tables import AccessKey
from localml.core.people.tokens import chosen
from localml.core.ports import Store


@dataclass(frozen=True, slots=True)
class KeyInfo:
    """What is known of a key pair: all but its secret. ``id`` is the access key. Times in seconds; ``used_at`` to the
    hour."""

    id: str
    name: str
    made_by: str
    created_at: float
    used_at: float | None


class Keys:
    """The service over key pairs."""

    def __init__(self, store: Store, identity: Identity) -> None:
        self._store = store
        self._identity = identity

    def of(self, user: str) -> list[KeyInfo]:
        """A user's key pairs, oldest first; ``NOT_FOUND`` for no such user."""
        with self._store.read() as session:
            return [_info(row) for row in _rows(session, user)]

    def find(self, access_key: str) -> KeyInfo:
        """What is known of a key pair; ``NOT_FOUND`` when there is none."""
        with self._store.read() as session:
            row = session.get(AccessKey, access_key)
        if row is None:
            raise not_found("key", access_key)
        return _info(row)

    def revoke(self, user: str, reference: str) -> KeyInfo:
        """End one of a user's key pairs, by access key or name.

        Raises:
            LocalmlError: ``NOT_FOUND``; ``CONFLICT`` when several have the name.
        """

        def act(session: Session) -> KeyInfo:
            found = chosen("key", _rows(session, user), reference, lambda one: one.id)
            session.delete(found)
            return _info(found)

        return self._identity.change(act)


def _rows(session: Session, user: str) -> list[AccessKey]:
    query = select(AccessKey).where(AccessKey.user_id == user_row(session, user).id)
    return list(session.exec(query.order_by(col(AccessKey.created_at), col(AccessKey.id))))


def _info(row: AccessKey) -> KeyInfo:
    return KeyInfo(row.id, row.name, row.made_by, row.created_at, row.used_at)
