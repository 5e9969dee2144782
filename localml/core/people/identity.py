"""Who calls: users, their key pairs and tokens."""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from dataclasses import dataclass

from sqlmodel import Session, col, delete, select

from localml.core.capacity.tables import PoolGrant
from localml.core.clock import Clock
from localml.core.errors import Code, LocalmlError, invalid
from localml.core.people.secrets import Vault, hash_password, hash_token, new_access_key, new_token, password_matches
from localml.core.people.tables import AccessKey, Token, User
from localml.core.ports import Store

ADMIN = "admin"
"""The administrator that every installation has: made at first start, never removed or demoted."""
USER_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._~-]{0,127}")


@dataclass(frozen=True, slots=True)
class Caller:
    """A known user, as handed to the other parts of the core."""

    id: int
    name: str
    admin: bool
    project: str
    org: str


@dataclass(frozen=True, slots=True)
class Credentials:
    """Everything a vendor's client may ask for. Shown once; only the data directory's owner can read it again."""

    user: str
    password: str
    access_key: str
    secret_key: str
    project_id: str
    token: str


def caller_of(user: User) -> Caller:
    """The value that stands for a user row."""
    return Caller(user.id or 0, user.name, user.admin, user.project, user.org)


class Identity:
    """Finds out who calls. Key pairs are cached until one changes, because every signed request asks."""

    def __init__(self, store: Store, vault: Vault, clock: Clock) -> None:
        self._store = store
        self._vault = vault
        self._clock = clock
        self._keys: dict[str, tuple[Caller, str]] = {}
        self._tokens: dict[str, tuple[Caller, float | None]] = {}
        self._stamps: dict[str, tuple[Caller, str]] = {}
        self._changes = 0  # so that what was read before a change is not cached after it

    def create_user(self, name: str, password: str, *, admin: bool = False, org: str = "default") -> Caller:
        """Add a user.

        Raises:
            LocalmlError: ``INVALID`` (name or password), ``CONFLICT`` when the name is taken.
        """
        if not USER_NAME.fullmatch(name):
            raise invalid(
                "name",
                f"{name!r} must start with a letter, a digit or '_' and hold at most 128 letters, digits, . _ ~ -",
            )
        if not password:
            raise invalid("password", "must not be empty")
        hashed = hash_password(password)

        def act(session: Session) -> User:
            if session.exec(select(User).where(User.name == name)).first():
                raise LocalmlError(Code.CONFLICT, f"user '{name}' exists", field="name")
            user = User(
                name=name,
                password_hash=hashed,
                admin=admin,
                project=secrets.token_hex(16),
                org=org,
                created_at=self._clock.now(),
            )
            session.add(user)
            session.flush()
            return user

        return caller_of(self._store.write(act))

    def set_password(self, name: str, password: str, *, admin: bool | None = None) -> None:
        """Change a user's password, and with ``admin`` also whether it is an administrator.

        Raises:
            LocalmlError: ``NOT_FOUND`` if there is none of that name, ``WRONG_STATE`` when it must stay administrator.
        """
        if not password:
            raise invalid("password", "must not be empty")
        if name == ADMIN and admin is False:
            raise LocalmlError(Code.WRONG_STATE, f"admin: user '{ADMIN}' stays an administrator", field="admin")
        hashed = hash_password(password)

        def act(session: Session) -> None:
            user = _user_row(session, name)
            user.password_hash = hashed
            user.admin = user.admin if admin is None else admin
            session.add(user)

        self._store.write(act)
        self.forget()

    def remove_user(self, name: str) -> None:
        """Remove a user with its keys and tokens. Its workloads go on, and keep its name.

        Raises:
            LocalmlError: ``NOT_FOUND`` if there is none of that name, ``WRONG_STATE`` for :data:`ADMIN`.
        """
        if name == ADMIN:
            raise LocalmlError(Code.WRONG_STATE, f"name: user '{ADMIN}' cannot be removed", field="name")

        def act(session: Session) -> None:
            user = _user_row(session, name)
            session.execute(delete(AccessKey).where(col(AccessKey.user_id) == user.id))
            session.execute(delete(Token).where(col(Token.user_id) == user.id))
            session.execute(delete(PoolGrant).where(col(PoolGrant.user_id) == user.id))
            session.delete(user)

        self._store.write(act)
        self.forget()

    def stamp(self, name: str) -> tuple[Caller, str]:
        """A user, and a text that changes with its password and is another one for a later user of the same name.

        For tokens that are signed and not stored: such a token holds name and stamp, and is good for as long as the
        stamp is the user's. Raises ``NOT_FOUND`` if there is no such user.
        """
        found = self._stamps.get(name)
        if found is None:
            changes = self._changes
            with self._store.read() as session:
                user = _user_row(session, name)
            text = hmac.digest(self.signing_key("stamp"), f"{user.project}:{user.password_hash}".encode(), "sha256")
            found = (caller_of(user), text.hex()[:32])
            if changes == self._changes:
                self._stamps[name] = found
        return found

    def signing_key(self, purpose: str) -> bytes:
        """A secret key of this installation, another one for each purpose."""
        return self._vault.derive(purpose)

    def create_key(self, caller: Caller) -> tuple[str, str]:
        """Give a user a new key pair (access key, secret key)."""
        access, secret = new_access_key()
        sealed = self._vault.seal(secret)
        now = self._clock.now()
        self._store.write(lambda s: s.add(AccessKey(id=access, user_id=caller.id, secret=sealed, created_at=now)))
        return access, secret

    def create_token(self, caller: Caller, *, purpose: str = "api", lifetime: float | None = None) -> str:
        """Give a user a new bearer token; ``lifetime`` in seconds, None for ever."""
        token = new_token()
        now = self._clock.now()
        row = Token(
            hash=hash_token(token),
            user_id=caller.id,
            purpose=purpose,
            created_at=now,
            expires_at=None if lifetime is None else now + lifetime,
        )
        self._store.write(lambda s: s.add(row))
        return token

    def first_credentials(self) -> Credentials | None:
        """On an empty installation make the administrator with all kinds of credentials; None on any other."""
        with self._store.read() as session:
            if session.exec(select(User.id)).first() is not None:
                return None
        password = secrets.token_urlsafe(12)
        caller = self.create_user(ADMIN, password, admin=True)
        access, secret = self.create_key(caller)
        return Credentials(caller.name, password, access, secret, caller.project, self.create_token(caller))

    def by_key(self, access_key: str) -> tuple[Caller, str]:
        """The user of an access key, and its secret for checking a signature.

        Raises:
            LocalmlError: ``UNAUTHENTICATED`` when there is no such key.
        """
        cached = self._keys.get(access_key)
        if cached is not None:
            return cached
        with self._store.read() as session:
            key = session.get(AccessKey, access_key)
            user = session.get(User, key.user_id) if key is not None and key.disabled_at is None else None
        if key is None or user is None:
            raise LocalmlError(Code.UNAUTHENTICATED, "the access key is not known")
        found = (caller_of(user), self._vault.unseal(key.secret))
        self._keys[access_key] = found
        return found

    def by_token(self, token: str) -> Caller:
        """The user of a bearer token.

        Raises:
            LocalmlError: ``UNAUTHENTICATED`` when it is unknown or has expired.
        """
        hashed = hash_token(token)
        found = self._tokens.get(hashed)
        if found is None:
            with self._store.read() as session:
                row = session.get(Token, hashed)
                user = session.get(User, row.user_id) if row is not None else None
            if row is None or user is None:
                raise LocalmlError(Code.UNAUTHENTICATED, "the token is not known")
            found = self._tokens[hashed] = (caller_of(user), row.expires_at)
        caller, expires_at = found
        if expires_at is not None and expires_at <= self._clock.now():
            raise LocalmlError(Code.UNAUTHENTICATED, "the token has expired")
        return caller

    def by_password(self, name: str, password: str) -> Caller:
        """The user with this name and password.

        Raises:
            LocalmlError: ``UNAUTHENTICATED``; the message does not tell which of the two is wrong.
        """
        with self._store.read() as session:
            user = session.exec(select(User).where(User.name == name)).first()
        stored = user.password_hash if user is not None else _NOBODY
        if not password_matches(stored, password) or user is None:
            raise LocalmlError(Code.UNAUTHENTICATED, "user name or password is wrong")
        return caller_of(user)

    def user(self, name: str) -> Caller:
        """The user of this name; ``NOT_FOUND`` if there is none."""
        return self.stamp(name)[0]

    def users(self) -> list[Caller]:
        """All users, oldest first."""
        with self._store.read() as session:
            return [caller_of(user) for user in session.exec(select(User).order_by(col(User.id)))]

    def forget(self) -> None:
        """Drop what is cached, after a user, key or token was changed."""
        self._changes += 1
        self._keys.clear()
        self._tokens.clear()
        self._stamps.clear()


def _user_row(session: Session, name: str) -> User:
    user = session.exec(select(User).where(User.name == name)).first()
    if user is None:
        raise LocalmlError(Code.NOT_FOUND, f"user '{name}' does not exist")
    return user


# compared against when there is no such user, so that the answer takes as long
_NOBODY = "scrypt:32768:8:1$localml$" + hashlib.sha512(b"nobody").hexdigest()
