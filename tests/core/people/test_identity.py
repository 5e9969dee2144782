"""Users, keys and tokens: who gets in, and what is on disk about it."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.fernet import InvalidToken

from localml.core.clock import ManualClock
from localml.core.errors import Code, LocalmlError
from localml.core.people.identity import Identity
from localml.core.people.scopes import Scope
from localml.core.people.secrets import Vault
from localml.store.database import Database
from localml.store.schema import prepare


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def db(tmp_path: Path) -> Iterator[Database]:
    one = Database(prepare(tmp_path))
    yield one
    one.close()


@pytest.fixture
def identity(db: Database, clock: ManualClock, tmp_path: Path) -> Identity:
    return Identity(db, Vault.open(tmp_path / "secret.key"), clock)


def test_the_first_start_makes_one_administrator_with_every_credential(identity: Identity) -> None:
    made = identity.first_credentials()
    assert made is not None
    assert identity.first_credentials() is None
    caller, secret = identity.by_key(made.access_key)
    assert secret == made.secret_key
    assert identity.by_token(made.token) == caller == identity.by_password(made.user, made.password)
    assert caller.admin
    assert caller.workspace == made.project_id


def test_nothing_secret_is_readable_on_disk(identity: Identity, db: Database, tmp_path: Path) -> None:
    made = identity.first_credentials()
    assert made is not None
    db.backup(tmp_path / "copy.db")
    raw = (tmp_path / "copy.db").read_bytes()
    for secret in (made.password, made.secret_key, made.token):
        assert secret.encode() not in raw
    assert stat.S_IMODE((tmp_path / "secret.key").stat().st_mode) == 0o600


def test_another_key_file_opens_nothing(identity: Identity, db: Database, tmp_path: Path, clock: ManualClock) -> None:
    made = identity.first_credentials()
    assert made is not None
    other = Identity(db, Vault.open(tmp_path / "other.key"), clock)
    with pytest.raises(InvalidToken):
        other.by_key(made.access_key)


@pytest.mark.parametrize("token", ["", "x", "x" * 43])
def test_unknown_tokens_and_keys_are_refused(identity: Identity, token: str) -> None:
    for ask in (identity.by_token, identity.by_key):
        with pytest.raises(LocalmlError) as caught:
            ask(token)
        assert caught.value.code is Code.UNAUTHENTICATED


def test_a_token_ends_when_its_time_is_over(identity: Identity, clock: ManualClock) -> None:
    caller = identity.create_user("u", "secret")
    token = identity.create_token(caller, lifetime=60)
    assert identity.by_token(token) == caller
    clock.advance(60)
    with pytest.raises(LocalmlError, match="expired"):
        identity.by_token(token)


def test_wrong_password_and_unknown_user_sound_the_same(identity: Identity) -> None:
    identity.create_user("u", "secret")
    messages = set()
    for name, password in (("u", "wrong"), ("nobody", "secret")):
        with pytest.raises(LocalmlError) as caught:
            identity.by_password(name, password)
        messages.add(caught.value.message)
    assert len(messages) == 1


def test_basic_takes_a_token_of_that_user_with_its_scope_or_the_password(identity: Identity) -> None:
    ada, bob = (identity.create_user(name, f"{name}-password") for name in ("ada", "bob"))
    scope = Scope.of(["workload:read"])
    token = identity.create_token(ada, scope=scope)
    assert identity.by_basic("ada", token).scope == scope
    assert not identity.by_basic("ada", "ada-password").scope.restricts
    for name, secret in (("bob", token), ("ada", "bob-password"), ("nobody", token), ("ada", "")):
        with pytest.raises(LocalmlError) as refusal:
            identity.by_basic(name, secret)
        assert refusal.value.code is Code.UNAUTHENTICATED
    assert identity.by_basic("bob", identity.create_token(bob)).name == "bob"


def test_a_changed_password_replaces_the_old_one(identity: Identity) -> None:
    identity.create_user("u", "old")
    identity.set_password("u", "new")
    assert identity.by_password("u", "new").name == "u"
    with pytest.raises(LocalmlError):
        identity.by_password("u", "old")


@pytest.mark.parametrize(
    ("name", "password", "field"), [("", "x", "name"), ("a b", "x", "name"), ("a", "", "password")]
)
def test_users_that_are_refused(identity: Identity, name: str, password: str, field: str) -> None:
    with pytest.raises(LocalmlError) as caught:
        identity.create_user(name, password)
    assert caught.value.field == field


def test_a_user_name_is_taken_once(identity: Identity) -> None:
    identity.create_user("u", "x")
    with pytest.raises(LocalmlError) as caught:
        identity.create_user("u", "y")
    assert caught.value.code is Code.CONFLICT


def test_a_removed_user_has_no_way_in(identity: Identity) -> None:
    bob = identity.create_user("_bob", "secret")
    key, _ = identity.create_key(bob)
    token = identity.create_token(bob)
    _, stamp = identity.stamp("_bob")
    identity.by_key(key)
    identity.by_token(token)
    identity.remove_user("_bob")
    for way in (lambda: identity.by_key(key), lambda: identity.by_token(token), lambda: identity.stamp("_bob")):
        with pytest.raises(LocalmlError) as caught:
            way()
        assert caught.value.code in (Code.UNAUTHENTICATED, Code.NOT_FOUND)
    identity.create_user("_bob", "secret")
    assert identity.stamp("_bob")[1] != stamp


def test_a_stamp_lasts_until_the_password_changes(identity: Identity) -> None:
    identity.create_user("bob", "secret")
    caller, stamp = identity.stamp("bob")
    assert identity.stamp("bob") == (caller, stamp)
    identity.set_password("bob", "secret", admin=True)
    changed, other = identity.stamp("bob")
    assert (changed.admin, other != stamp) == (True, True)


def test_the_first_administrator_is_never_lost(identity: Identity) -> None:
    identity.first_credentials()
    for act in (lambda: identity.remove_user("admin"), lambda: identity.set_password("admin", "x", admin=False)):
        with pytest.raises(LocalmlError) as caught:
            act()
        assert caught.value.code is Code.WRONG_STATE
    assert identity.user("admin").admin


def test_signing_keys_differ_by_purpose_and_installation(identity: Identity, tmp_path: Path) -> None:
    assert identity.signing_key("a") == identity.signing_key("a") != identity.signing_key("b")
    assert Vault.open(tmp_path / "other.key").derive("a") != identity.signing_key("a")
