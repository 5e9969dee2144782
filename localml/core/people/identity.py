"""Who calls: users, their key pairs and tokens, and what they are in which workspace."""

from __future__ import annotations

import hashlib
import hmac
import re
import threading
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import TypeVar

from sqlalchemy import update
from sqlmodel import Session, col, delete, select

from localml.core.capacity.tables import PoolGrant
from localml.core.clock import Clock
from localml.core.errors import Code, LocalmlError, invalid
from localml.core.people import memberships, run_tokens
from localml.core.people.rights import MemberRole
from localml.core.people.scopes import EVERYTHING, Scope
from localml.core.people.secrets import (
    Vault,
    hash_password,
    hash_random_password,
    hash_token,
    new_access_key,
    new_password,
    new_token,
    password_matches,
)
from localml.core.people.tables import AccessKey, Membership, Token, User
from localml.core.ports import Store

T = TypeVar("T")

ADMIN = "admin"
"""The administrator that every installation has: made at first start, never removed or demoted."""
USER_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._~-]{0,127}")
_USED_S = 3600.0
"""Seconds between two notes of a token's use; a note is a commit."""


@dataclass(frozen=True, slots=True)
class Caller:
    """A known user, as handed to the other parts of the core.

    Attributes:
        workspace: id of the user's own workspace.
        org: id of the workspace that is the user's organisation; empty for none.
        roles: workspace's id -> what the user is there.
        scope: what the credentials leave in of all that.
    """

    id: int
    name: str
    admin: bool
    workspace: str
    org: str
    roles: Mapping[str, MemberRole] = field(default_factory=dict, hash=False)
    scope: Scope = EVERYTHING


@dataclass(frozen=True, slots=True)
class Credentials:
    """Everything a vendor's client may ask for. Shown once; only the data directory's owner can read it again."""

    user: str
    password: str
    access_key: str
    secret_key: str
    project_id: str
    token: str


@dataclass(slots=True)
class _KnownToken:
    caller: Caller
    expires_at: float | None
    used_at: float


def callers(session: Session, users: Iterable[User]) -> list[Caller]:
    """The values that stand for user rows."""
    found = list(users)
    roles = memberships.roles(session, [user.id or 0 for user in found])
    return [Caller(one.id or 0, one.name, one.admin, one.workspace, one.org, roles[one.id or 0]) for one in found]


def _caller(session: Session, user: User) -> Caller:
    return callers(session, [user])[0]


class Identity:
    """Finds out who calls. Answers are cached until something changes, because every request asks.

    Attributes:
        nudge: told after each change; whoever keeps what follows from it (the gateway's table) looks again.
    """

    def __init__(self, store: Store, vault: Vault, clock: Clock) -> None:
        self.nudge: Callable[[], None] = lambda: None
        self._store = store
        self._vault = vault
        self._clock = clock
        self._users: dict[str, Caller] = {}
        self._keys: dict[str, tuple[Caller, str]] = {}
        self._tokens: dict[str, _KnownToken] = {}
        self._stamps: dict[str, tuple[Caller, str]] = {}
        self._changes = 0  # so that what was read before a change is not cached after it
        self._lock = threading.Lock()  # between that comparison and the caching

    def create_user(
        self, name: str, password: str, *, admin: bool = False, org: str = "default", generated: bool = False
    ) -> Caller:
        """Add a user with a workspace of its own.

        Args:
            org: id of the workspace that is its organisation, made if there is none; empty for none.
            generated: the password is one of :func:`localml.core.people.secrets.new_password`.

        Raises:
            LocalmlError: ``INVALID`` (name, password, or an organisation that is somebody's own workspace),
                ``CONFLICT`` when the name is taken.
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
            if session.exec(select(User).where(User.name == name)).first():
                raise LocalmlError(Code.CONFLICT, f"user '{name}' exists", field="name")
            now, own = self._clock.now(), memberships.new_id()
            user = User(name=name, password_hash=hashed, admin=admin, workspace=own, org=org, created_at=now)
            session.add(user)
            session.flush()
            memberships.settle(session, user, now=now)
            return _caller(session, user)

        return self._store.write(act)

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
        """Remove a user with its keys and tokens. Its workloads go on, and keep its name and its workspace.

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
            session.execute(delete(Membership).where(col(Membership.user_id) == user.id))
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
                caller = _caller(session, user)
            text = hmac.digest(self.signing_key("stamp"), f"{user.workspace}:{user.password_hash}".encode(), "sha256")
            found = self._remember(self._stamps, name, (caller, text.hex()[:32]), changes)
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

    def create_token(
        self,
        caller: Caller,
        *,
        purpose: str = "api",
        lifetime: float | None = None,
        name: str = "",
        scope: Scope = EVERYTHING,
    ) -> str:
        """Give a user a new bearer token, which is shown this once.

        Args:
            lifetime: seconds; None for ever.
            name: what its owner calls it.
            scope: what it is good for.
        """
        token = new_token()
        now = self._clock.now()
        row = Token(
            hash=hash_token(token),
            user_id=caller.id,
            purpose=purpose,
            name=name,
            scope=scope.as_json(),
            created_at=now,
            expires_at=None if lifetime is None else now + lifetime,
        )
        self._store.write(lambda s: s.add(row))
        with self._lock:
            self._changes += 1
        self.nudge()
        return token

    def first_credentials(self) -> Credentials | None:
        """On an empty installation make the administrator with all kinds of credentials; None on any other."""
        with self._store.read() as session:
            if session.exec(select(User.id)).first() is not None:
                return None
        password = new_password()
        caller = self.create_user(ADMIN, password, admin=True, generated=True)
        access, secret = self.create_key(caller)
        return Credentials(caller.name, password, access, secret, caller.workspace, self.create_token(caller))

    def by_key(self, access_key: str) -> tuple[Caller, str]:
        """The user of an access key, and its secret for checking a signature.

        Raises:
            LocalmlError: ``UNAUTHENTICATED`` when there is no such key.
        """
        cached = self._keys.get(access_key)
        if cached is not None:
            return cached
        changes = self._changes
        with self._store.read() as session:
            key = session.get(AccessKey, access_key)
            user = session.get(User, key.user_id) if key is not None and key.disabled_at is None else None
            caller = _caller(session, user) if user is not None else None
        if key is None or caller is None:
            raise LocalmlError(Code.UNAUTHENTICATED, "the access key is not known")
        return self._remember(self._keys, access_key, (caller, self._vault.unseal(key.secret)), changes)

    def by_token(self, token: str) -> Caller:
        """The user of a bearer token, with the token's scope; that of a run (``run_tokens.py``) among them.

        Raises:
            LocalmlError: ``UNAUTHENTICATED`` when it is unknown or has expired.
        """
        if run_tokens.is_run_token(token):
            return self._by_run_token(token)
        hashed, now = hash_token(token), self._clock.now()
        found = self._tokens.get(hashed)
        if found is None:
            found = self._token(hashed)
        if found.expires_at is not None and found.expires_at <= now:
            raise LocalmlError(Code.UNAUTHENTICATED, "the token has expired")
        if found.used_at + _USED_S <= now:
            found.used_at = now
            self._note_use(hashed, now)
        return found.caller

    def _by_run_token(self, token: str) -> Caller:
        """Not cached: a run may end at any time. Never an administrator, whoever started it."""
        with self._store.read() as session:
            owner, scope = run_tokens.judged(session, self.signing_key(run_tokens.PURPOSE), token)
        place = scope.workspace or owner.workspace
        return Caller(owner.id or 0, owner.name, False, place, "", {place: MemberRole.MEMBER}, scope)

    def run_token(self, workload_id: int) -> str:
        """The token of what runs in a workload, always the same (``run_tokens.py``)."""
        return run_tokens.run_token(self.signing_key(run_tokens.PURPOSE), workload_id)

    def _token(self, hashed: str) -> _KnownToken:
        changes = self._changes
        with self._store.read() as session:
            row = session.get(Token, hashed)
            user = session.get(User, row.user_id) if row is not None else None
            caller = _caller(session, user) if user is not None else None
        if row is None or caller is None:
            raise LocalmlError(Code.UNAUTHENTICATED, "the token is not known")
        caller = replace(caller, scope=Scope.stored(row.scope))
        return self._remember(self._tokens, hashed, _KnownToken(caller, row.expires_at, row.used_at or 0.0), changes)

    def _note_use(self, hashed: str, now: float) -> None:
        """Best effort: who may come in does so on a full disk, too."""
        with suppress(LocalmlError):
            self._store.write(
                lambda session: session.execute(update(Token).where(col(Token.hash) == hashed).values(used_at=now))
            )

    def by_password(self, name: str, password: str) -> Caller:
        """The user with this name and password.

        Raises:
            LocalmlError: ``UNAUTHENTICATED``; the message does not tell which of the two is wrong.
        """
        with self._store.read() as session:
            user = session.exec(select(User).where(User.name == name)).first()
            caller = _caller(session, user) if user is not None else None
        stored = user.password_hash if user is not None else _NOBODY
        if not password_matches(stored, password) or caller is None:
            raise LocalmlError(Code.UNAUTHENTICATED, "user name or password is wrong")
        return caller

    def by_basic(self, name: str, secret: str) -> Caller:
        """The user of this name, by one of its tokens (with the token's scope) or by its password: what HTTP Basic
        carries, where clients can only be given ``http://USER:TOKEN@HOST``.

        Raises:
            LocalmlError: ``UNAUTHENTICATED``; the message does not tell which of the two is wrong.
        """
        with suppress(LocalmlError):
            found = self.by_token(secret)
            if found.name == name:
                return found
        return self.by_password(name, secret)

    def user(self, name: str) -> Caller:
        """The user of this name; ``NOT_FOUND`` if there is none."""
        found = self._users.get(name)
        if found is None:
            changes = self._changes
            with self._store.read() as session:
                caller = _caller(session, _user_row(session, name))
            found = self._remember(self._users, name, caller, changes)
        return found

    def owner(self, name: str, workspace: str) -> Caller:
        """The user of this name, or what is left of one that was removed, for what goes on in its name."""
        try:
            found = self.user(name)
        except LocalmlError:
            found = Caller(0, name, False, workspace, "default")
        return replace(found, workspace=workspace)

    def users(self) -> list[Caller]:
        """All users, oldest first."""
        with self._store.read() as session:
            return callers(session, session.exec(select(User).order_by(col(User.id))))

    @property
    def version(self) -> int:
        """A number that is another one after users, tokens or memberships have changed."""
        return self._changes

    def forget(self) -> None:
        """Drop what is cached, after a user, key, token or membership was changed."""
        with self._lock:
            self._changes += 1
            for cache in (self._users, self._keys, self._tokens, self._stamps):
                cache.clear()
        self.nudge()

    def _remember(self, cache: dict[str, T], key: str, value: T, changes: int) -> T:
        """Cache what was read when there had been so many changes, unless there were more since."""
        with self._lock:
            if changes == self._changes:
                cache[key] = value
        return value


def _user_row(session: Session, name: str) -> User:
    user = session.exec(select(User).where(User.name == name)).first()
    if user is None:
        raise LocalmlError(Code.NOT_FOUND, f"user '{name}' does not exist")
    return user


# compared against when there is no such user, so that the answer takes as long
_NOBODY = "scrypt:32768:8:1$localml$" + hashlib.sha512(b"nobody").hexdigest()
