"""Who calls: users, their key pairs and tokens, and what they are in which workspace."""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import dataclass

from sqlmodel import Session, col, delete

from localml.core.capacity.tables import PoolGrant
from localml.core.errors import Code, LocalmlError, invalid
from localml.core.people import memberships, revocation
from localml.core.people.recognition import Caller as Caller
from localml.core.people.recognition import Recognition, caller_of, user_row
from localml.core.people.recognition import callers as callers
from localml.core.people.revocation import Ended, need_current
from localml.core.people.scopes import EVERYTHING, Scope
from localml.core.people.secrets import (
    hash_password,
    hash_random_password,
    hash_token,
    new_access_key,
    new_password,
    new_token,
)
from localml.core.people.tables import AccessKey, Membership, Token, User
from localml.core.rows import need_few

ADMIN = "admin"
"""The administrator that every installation has: made at first start, never removed or demoted."""
USER_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._~-]{0,127}")
_LAPSED_S = 7 * 24 * 3600.0
"""Seconds that a token which has expired is still listed."""


@dataclass(frozen=True, slots=True)
class Credentials:
    """Everything a vendor's client may ask for. Shown once; only the data directory's owner can read it again."""

    user: str
    password: str
    access_key: str
    secret_key: str
    project_id: str
    token: str


class Identity(Recognition):
    """Users and what they get in with: made, changed, ended, and recognized."""

    def create_user(
        self,
        name: str,
        password: str,
        *,
        admin: bool = False,
        org: str = "default",
        generated: bool = False,
        by: Caller | None = None,
    ) -> Caller:
        """Add a user with a workspace of its own.

        Args:
            org: id of the workspace that is its organisation, made if there is none; empty for none.
            generated: the password is one of :func:`localml.core.people.secrets.new_password`.
            by: who asks.

        Raises:
            LocalmlError: ``INVALID`` (name, password, or an organisation that is somebody's own workspace),
                ``CONFLICT`` when the name is taken, ``UNAUTHENTICATED`` when who asks was shut out meanwhile.
        """
        if not USER_NAME.fullmatch(name):
            raise invalid(
                "name",
                f"{name!r} must start with a letter, a digit or '_' and hold at most 128 letters, digits, . _ ~ -",
            )
        if not password:
            raise invalid("password", "must not be empty")
        hashed = hash_random_password(password) if generated else hash_password(password)

        def act(session: Session) -> Caller:
            need_current(session, by)
            if session.exec(memberships.living(name)).first():
                raise LocalmlError(Code.CONFLICT, f"user '{name}' exists", field="name")
            now, own = self._clock.now(), memberships.new_id()
            user = User(name=name, password_hash=hashed, admin=admin, workspace=own, org=org, created_at=now)
            session.add(user)
            session.flush()
            memberships.settle(session, user, now=now)
            return caller_of(session, user)

        return self._store.write(act)

    def set_password(
        self,
        name: str,
        password: str,
        *,
        admin: bool | None = None,
        generated: bool = False,
        by: Caller | None = None,
    ) -> Ended:
        """Change a user's password, and with ``admin`` also whether it is an administrator.

        Everything that the user gets in with ends: tokens, keys, what is signed, sessions and streams.

        Args:
            generated: as for :meth:`create_user`.
            by: who asks.

        Raises:
            LocalmlError: ``NOT_FOUND`` if there is none of that name, ``WRONG_STATE`` when it must stay administrator,
                ``UNAUTHENTICATED`` when who asks was shut out meanwhile.
        """
        if not password:
            raise invalid("password", "must not be empty")
        if name == ADMIN and admin is False:
            raise LocalmlError(Code.WRONG_STATE, f"admin: user '{ADMIN}' stays an administrator", field="admin")
        hashed = hash_random_password(password) if generated else hash_password(password)

        def act(session: Session) -> Ended:
            need_current(session, by)
            user = user_row(session, name)
            user.password_hash = hashed
            if admin is not None and admin != user.admin:
                user.admin = admin
                memberships.lead(session, user, now=self._clock.now())
            return revocation.end_all(session, user)

        return self.change(act)

    def end_credentials(self, name: str, *, by: Caller | None = None) -> Ended:
        """End all that a user gets in with but the password, as a new one does; fails as :meth:`set_password`."""

        def act(session: Session) -> Ended:
            need_current(session, by)
            return revocation.end_all(session, user_row(session, name))

        return self.change(act)

    def remove_user(self, name: str, *, by: Caller | None = None) -> None:
        """Remove a user with its keys and tokens. Its workloads go on, and keep its name and its workspace: what it
        left is nobody's but its own, also when another user gets the name.

        Raises:
            LocalmlError: ``NOT_FOUND`` if there is none of that name, ``WRONG_STATE`` for :data:`ADMIN`,
                ``UNAUTHENTICATED`` when who asks was shut out meanwhile.
        """
        if name == ADMIN:
            raise LocalmlError(Code.WRONG_STATE, f"name: user '{ADMIN}' cannot be removed", field="name")

        def act(session: Session) -> None:
            need_current(session, by)
            user = user_row(session, name)
            revocation.end_all(session, user)
            session.execute(delete(PoolGrant).where(col(PoolGrant.user_id) == user.id))
            session.execute(delete(Membership).where(col(Membership.user_id) == user.id))
            user.removed_at, user.password_hash, user.admin, user.org = self._clock.now(), "", False, ""
            session.add(user)

        self.change(act)

    def create_key(self, caller: Caller, *, name: str = "", by: Caller | None = None) -> tuple[str, str]:
        """Give a user a new key pair (access key, secret key).

        Args:
            name: what its owner calls it.
            by: who asks; the user itself when left out.

        Raises:
            LocalmlError: ``UNAUTHENTICATED`` when either was shut out meanwhile.
        """
        access, secret = new_access_key()
        row = AccessKey(
            id=access,
            user_id=caller.id,
            secret=self._vault.seal(secret),
            name=name,
            made_by=(by or caller).name,
            created_at=self._clock.now(),
        )

        def act(session: Session) -> None:
            need_current(session, caller, by)
            need_few(session, AccessKey, "keys", col(AccessKey.user_id) == caller.id)
            session.add(row)

        self._store.write(act)
        return access, secret

    def create_token(
        self,
        caller: Caller,
        *,
        purpose: str = "api",
        lifetime: float | None = None,
        name: str = "",
        scope: Scope = EVERYTHING,
        by: Caller | None = None,
    ) -> str:
        """Give a user a new bearer token, which is shown this once.

        Args:
            lifetime: seconds; None for ever.
            name: what its owner calls it.
            scope: what it is good for.
            by: who asks; the user itself when left out.

        Raises:
            LocalmlError: ``UNAUTHENTICATED`` when either was shut out meanwhile.
        """
        token = new_token()
        now = self._clock.now()
        row = Token(
            hash=hash_token(token),
            user_id=caller.id,
            purpose=purpose,
            name=name,
            made_by=(by or caller).name,
            scope=scope.as_json(),
            created_at=now,
            expires_at=None if lifetime is None else now + lifetime,
        )

        def act(session: Session) -> None:
            need_current(session, caller, by)
            session.execute(delete(Token).where(col(Token.expires_at) < now - _LAPSED_S))
            if lifetime is None:  # others go by themselves
                need_few(session, Token, "tokens", col(Token.user_id) == caller.id, col(Token.expires_at).is_(None))
            session.add(row)

        self._store.write(act)
        self.added()
        return token

    def first_credentials(self) -> Credentials | None:
        """On an empty installation make the administrator with all kinds of credentials; None on any other."""
        with self._store.read() as session:
            if session.exec(memberships.living()).first() is not None:
                return None
        password = new_password()
        caller = self.create_user(ADMIN, password, admin=True, generated=True)
        access, secret = self.create_key(caller)
        return Credentials(caller.name, password, access, secret, caller.workspace, self.create_token(caller))

    def user(self, name: str) -> Caller:
        """The user of this name; ``NOT_FOUND`` if there is none."""
        found = self._users.get(name)
        if found is None:
            changes = self._changes
            with self._store.read() as session:
                caller = caller_of(session, user_row(session, name))
            found = self._remember(self._users, name, caller, changes)
        return found

    def owner(self, number: int) -> Caller:
        """The user of this number, for what goes on in its name; one that was removed may nothing any more.
        ``NOT_FOUND`` if there never was one."""
        found = self._owners.get(number)
        if found is None:
            changes = self._changes
            with self._store.read() as session:
                found = self._remember(self._owners, number, _owner(session, number), changes)
        return found

    def number(self, name: str) -> int | None:
        """The number of the user who has this name now; None if nobody has."""
        with suppress(LocalmlError):
            return self.user(name).id
        return None

    def was_called(self, number: int, name: str, at: float) -> bool:
        """Whether the user of this number had this name at a time that is known to the second."""
        with self._store.read() as session:
            user = session.get(User, number)
        if user is None or user.name != name:
            return False
        return int(user.created_at) <= at and (user.removed_at is None or at <= user.removed_at)

    def users(self) -> list[Caller]:
        """All users, oldest first."""
        with self._store.read() as session:
            return callers(session, session.exec(memberships.living().order_by(col(User.id))))


def _owner(session: Session, number: int) -> Caller:
    user = session.get(User, number)
    if user is None:
        raise LocalmlError(Code.NOT_FOUND, f"user {number} does not exist")
    if user.removed_at is not None:
        return Caller(number, user.name, False, user.workspace, "")
    return caller_of(session, user)
