"""Recognizing who calls, by what they send. Answers are cached until something changes, because every request asks."""

from __future__ import annotations

import hashlib
import hmac
import os
import threading
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import TypeVar

from sqlalchemy import Update, update
from sqlmodel import Session, col

from localml.core.clock import Clock
from localml.core.errors import Code, LocalmlError, not_found
from localml.core.people import memberships, run_tokens
from localml.core.people.attempts import Attempts
from localml.core.people.rights import MemberRole
from localml.core.people.scopes import EVERYTHING, Scope
from localml.core.people.secrets import Vault, hash_token, password_matches
from localml.core.people.tables import AccessKey, Token, User
from localml.core.ports import Store

K = TypeVar("K")
T = TypeVar("T")

_USED_S = 3600.0
"""Seconds between two notes of a token's or a key's use; a note is a commit."""


_MOST_CACHED = 10_000
"""Users, keys or tokens that are known at a time; beyond it all are read again: they may be gone or expired."""


@dataclass(frozen=True, slots=True)
class Caller:
    """A known user, as handed to the other parts of the core.

    Attributes:
        workspace: id of the user's own workspace.
        org: id of the workspace that is the user's organisation; empty for none.
        roles: workspace's id -> what the user is there.
        scope: what the credentials leave in of all that.
        generation: how often the user's credentials had been ended when this one was let in.
    """

    id: int
    name: str
    admin: bool
    workspace: str
    org: str
    roles: Mapping[str, MemberRole] = field(default_factory=dict, hash=False)
    scope: Scope = EVERYTHING
    generation: int = field(default=0, compare=False)


@dataclass(slots=True)
class _KnownToken:
    caller: Caller
    expires_at: float | None
    used_at: float


@dataclass(slots=True)
class _KnownKey:
    caller: Caller
    secret: str
    used_at: float


def callers(session: Session, users: Iterable[User]) -> list[Caller]:
    """The values that stand for user rows."""
    found = list(users)
    roles = memberships.roles(session, [user.id or 0 for user in found])
    return [
        Caller(
            one.id or 0,
            one.name,
            one.admin,
            one.workspace,
            one.org,
            roles[one.id or 0],
            generation=one.generation,
        )
        for one in found
    ]


def caller_of(session: Session, user: User) -> Caller:
    """The value that stands for a user row."""
    return callers(session, [user])[0]


def user_row(session: Session, name: str) -> User:
    """The row of a user; ``NOT_FOUND`` if there is none of this name."""
    user = session.exec(memberships.living(name)).first()
    if user is None:
        raise not_found("user", name)
    return user


class Recognition:
    """The half of :class:`localml.core.people.identity.Identity` that every request asks.

    Attributes:
        nudge: told after each change; whoever keeps what follows from it (the gateway's table, a stream that somebody
            follows) looks again.
        attempts: who guesses passwords.
    """

    def __init__(self, store: Store, vault: Vault, clock: Clock) -> None:
        self.nudge: Callable[[], None] = lambda: None
        self.attempts = Attempts(clock)
        self._store = store
        self._vault = vault
        self._clock = clock
        self._users: dict[str, Caller] = {}
        self._owners: dict[int, Caller] = {}
        self._keys: dict[str, _KnownKey] = {}
        self._tokens: dict[str, _KnownToken] = {}
        self._stamps: dict[str, tuple[Caller, str]] = {}
        self._passwords: dict[str, tuple[bytes, Caller]] = {}  # the last right one of each name, by its mark
        self._right: dict[str, tuple[bytes, str]] = {}  # its mark, and what was stored of it: no change makes it wrong
        self._marks = os.urandom(32)  # never leaves this process
        self._changes = 0  # so that what was read before a change is not cached after it
        self._lock = threading.Lock()  # between that comparison and the caching

    def by_key(self, access_key: str) -> tuple[Caller, str]:
        """The user of an access key, and its secret for checking a signature.

        Raises:
            LocalmlError: ``UNAUTHENTICATED`` when there is no such key.
        """
        found = self._keys.get(access_key)
        if found is None:
            found = self._key(access_key)
        now = self._clock.now()
        if found.used_at + _USED_S <= now:
            found.used_at = now
            self._note_use(update(AccessKey).where(col(AccessKey.id) == access_key).values(used_at=now))
        return found.caller, found.secret

    def _key(self, access_key: str) -> _KnownKey:
        changes = self._changes
        with self._store.read() as session:
            key = session.get(AccessKey, access_key)
            user = session.get(User, key.user_id) if key is not None and key.disabled_at is None else None
            caller = caller_of(session, user) if user is not None and user.removed_at is None else None
        if key is None or caller is None:
            raise LocalmlError(Code.UNAUTHENTICATED, "the access key is not known")
        known = _KnownKey(caller, self._vault.unseal(key.secret), key.used_at or 0.0)
        return self._remember(self._keys, access_key, known, changes)

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
            self._note_use(update(Token).where(col(Token.hash) == hashed).values(used_at=now))
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
            caller = caller_of(session, user) if user is not None and user.removed_at is None else None
        if row is None or caller is None:
            raise LocalmlError(Code.UNAUTHENTICATED, "the token is not known")
        caller = replace(caller, scope=Scope.stored(row.scope))
        return self._remember(self._tokens, hashed, _KnownToken(caller, row.expires_at, row.used_at or 0.0), changes)

    def _note_use(self, note: Update) -> None:
        """Best effort: who may come in does so on a full disk, too."""
        with suppress(LocalmlError):
            self._store.write(lambda session: session.execute(note))

    def by_password(self, name: str, password: str, address: str = "") -> Caller:
        """The user with this name and password.

        A password that was right is known again without being stretched anew, until there is another one: by a keyed
        hash, whose key is this process's own.

        Args:
            address: where it comes from.

        Raises:
            LocalmlError: ``UNAUTHENTICATED``; the message does not tell which of the two is wrong.
                ``TOO_MANY_REQUESTS`` for who guesses, see :mod:`localml.core.people.attempts`.
        """
        changes = self._changes
        mark = hmac.digest(self._marks, f"{len(name)}:{name}{password}".encode(), "sha256")
        known = self._passwords.get(name)
        if known is not None and hmac.compare_digest(known[0], mark):
            return known[1]
        right = self._right.get(name)
        if right is not None and hmac.compare_digest(right[0], mark) and (found := self._match(name, None, mark)):
            return found
        return self.attempts.judged((mark, changes), name, address, lambda: self._match(name, password, mark))

    def _match(self, name: str, password: str | None, mark: bytes) -> Caller | None:
        """The user whose password it is; without one that whose password of this mark is the same as it was."""
        changes = self._changes
        with self._store.read() as session:
            user = session.exec(memberships.living(name)).first()
            caller = caller_of(session, user) if user is not None else None
        stored = user.password_hash if user is not None else _NOBODY
        matches = self._right.get(name) == (mark, stored) if password is None else password_matches(stored, password)
        if not matches or caller is None:
            return None
        if len(self._right) >= _MOST_CACHED:
            self._right.clear()
        self._right[name] = (mark, stored)
        return self._remember(self._passwords, name, (mark, caller), changes)[1]

    def by_basic(self, name: str, secret: str, address: str = "") -> Caller:
        """The user of this name, by one of its tokens (with the token's scope) or by its password: what HTTP Basic
        carries, where clients can only be given ``http://USER:TOKEN@HOST``. A token is taken whoever guesses.

        Raises:
            LocalmlError: as :meth:`by_password`.
        """
        with suppress(LocalmlError):
            found = self.by_token(secret)
            if found.name == name:
                return found
        return self.by_password(name, secret, address)

    def has_password(self, name: str, password: str) -> bool:
        """Whether this is a user's password; for the server's own use, which no guesser reaches."""
        with self._store.read() as session:
            user = session.exec(memberships.living(name)).first()
        return user is not None and password_matches(user.password_hash, password)

    def holds(self, name: str, access_key: str, token: str) -> tuple[bool, bool]:
        """Whether an access key and a token are a user's; this is no use of them, and nothing is unsealed for it."""
        with self._store.read() as session:
            rows = session.get(AccessKey, access_key), session.get(Token, hash_token(token))
            number = user_row(session, name).id
        return rows[0] is not None and rows[0].user_id == number, rows[1] is not None and rows[1].user_id == number

    def stamp(self, name: str) -> tuple[Caller, str]:
        """A user, and a text that changes when its credentials end and is another one for a later user of the name.

        For tokens that are signed and not stored: such a token holds name and stamp, and is good for as long as the
        stamp is the user's. Raises ``NOT_FOUND`` if there is no such user.
        """
        found = self._stamps.get(name)
        if found is None:
            changes = self._changes
            with self._store.read() as session:
                user = user_row(session, name)
                caller = caller_of(session, user)
            said = f"{user.workspace}:{user.password_hash}" + (f":{user.generation}" if user.generation else "")
            text = hmac.digest(self.signing_key("stamp"), said.encode(), "sha256")
            found = self._remember(self._stamps, name, (caller, text.hex()[:32]), changes)
        return found

    def signing_key(self, purpose: str) -> bytes:
        """A secret key of this installation, another one for each purpose."""
        return self._vault.derive(purpose)

    @property
    def version(self) -> int:
        """A number that is another one after users, tokens or memberships have changed."""
        return self._changes

    def change(self, act: Callable[[Session], T]) -> T:
        """Change users, keys, tokens or memberships: once this returns, or fails, nothing older is cached."""
        try:
            return self._store.write(act)
        finally:
            self.forget()

    def added(self) -> None:
        """Somebody or something was added that nothing cached says anything of."""
        with self._lock:
            self._changes += 1
        self.nudge()

    def forget(self) -> None:
        """Drop what is cached, after a user, key, token or membership was changed."""
        with self._lock:
            self._changes += 1
            for cache in (self._users, self._owners, self._keys, self._tokens, self._stamps, self._passwords):
                cache.clear()
        self.nudge()

    def _remember(self, cache: dict[K, T], key: K, value: T, changes: int) -> T:
        """Cache what was read when there had been so many changes, unless there were more since."""
        with self._lock:
            if len(cache) >= _MOST_CACHED:
                cache.clear()
            if changes == self._changes:
                cache[key] = value
        return value


# compared against when there is no such user, so that the answer takes as long
_NOBODY = "scrypt:32768:8:1$localml$" + hashlib.sha512(b"nobody").hexdigest()
