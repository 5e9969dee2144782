"""What ends with what: credentials after a new password, a removal, a revocation; and races of those with requests."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from sqlmodel import Session

from localml.core.clock import ManualClock
from localml.core.errors import Code, LocalmlError
from localml.core.people.allow import Thing
from localml.core.people.identity import Caller, Identity
from localml.core.people.keys import Keys
from localml.core.people.rights import Action, MemberRole, ThingKind
from localml.core.people.secrets import Vault, hash_token
from localml.core.people.tables import AccessKey, Token
from localml.core.people.tokens import Tokens
from localml.core.people.workspaces import Workspaces
from localml.store.database import Database
from localml.store.schema import prepare

GONE = (Code.UNAUTHENTICATED, Code.NOT_FOUND)


class Pausing:
    """The store, whose next reads end only when they are let go: a request that has read and not yet remembered."""

    def __init__(self, db: Database) -> None:
        self.db = db
        self.read_raw, self.write, self.submit = db.read_raw, db.write, db.submit
        self.has_read, self.go_on = threading.Event(), threading.Event()
        self.pausing = False

    @contextmanager
    def read(self) -> Iterator[Session]:
        with self.db.read() as session:
            yield session
        if self.pausing and threading.current_thread() is not threading.main_thread():
            self.has_read.set()
            assert self.go_on.wait(30)


class Place:
    def __init__(self, data: Path) -> None:
        self.clock = ManualClock()
        self.db = Database(prepare(data))
        self.store = Pausing(self.db)
        self.identity = Identity(self.store, Vault.open(data / "secret.key"), self.clock)
        self.tokens = Tokens(self.store, self.clock, self.identity)
        self.keys = Keys(self.store, self.identity)
        self.workspaces = Workspaces(self.store, self.clock, changed=self.identity.forget)
        self.boss = self.identity.create_user("boss", "boss", admin=True, generated=True)

    def ann(self) -> dict[str, Callable[[], Any]]:
        """A user with all kinds of credentials: each as a way in."""
        identity = self.identity
        ann = self.caller = identity.create_user("ann", "right", generated=True)
        key, _ = identity.create_key(ann)
        token = identity.create_token(ann)
        stamp = identity.stamp("ann")[1]

        def by_stamp() -> Caller:
            caller, now = identity.stamp("ann")
            if now != stamp:
                raise LocalmlError(Code.UNAUTHENTICATED, "")
            return caller

        def by_gateway() -> None:
            here = Thing(ThingKind.ENDPOINT, "1", "e", workspace=ann.workspace)
            if hash_token(token) not in self.tokens.that_may(Action.USE, here):
                raise LocalmlError(Code.UNAUTHENTICATED, "")

        return {
            "key": lambda: identity.by_key(key),
            "token": lambda: identity.by_token(token),
            "stamp": by_stamp,
            "gateway": by_gateway,
            "password": lambda: identity.by_password("ann", "right"),
        }


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    one = Place(tmp_path)
    yield one
    one.db.close()


def lets_in(way: Callable[[], Any]) -> bool:
    try:
        way()
    except LocalmlError as error:
        if error.code not in GONE:
            raise
        return False
    return True


CHANGES: dict[str, Callable[[Place], Any]] = {
    "removed": lambda place: place.identity.remove_user("ann"),
    "new password": lambda place: place.identity.set_password("ann", "new", generated=True),
    "demoted": lambda place: place.identity.set_password("ann", "new", admin=True, generated=True),
    "ended": lambda place: place.identity.end_credentials("ann"),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("warm", [False, True])
def test_every_credential_ends_with_a_change(place: Place, change: str, warm: bool) -> None:
    ways = place.ann()
    if warm:
        assert all(map(lets_in, ways.values()))
    CHANGES[change](place)
    kept = {"password"} if change == "ended" else set()
    assert {name for name, way in ways.items() if lets_in(way)} == kept
    assert {name for name, way in ways.items() if lets_in(way)} == kept


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("way", ["key", "token", "stamp", "gateway", "password"])
def test_what_was_read_before_a_change_is_not_remembered_after_it(place: Place, change: str, way: str) -> None:
    ways = place.ann()
    place.identity.forget()
    place.store.pausing = True
    with ThreadPoolExecutor(1) as pool:
        under_way = pool.submit(lets_in, ways[way])
        assert place.store.has_read.wait(30)
        CHANGES[change](place)
        place.store.go_on.set()
        under_way.result(30)
    assert lets_in(ways[way]) == (change == "ended" and way == "password")


@pytest.mark.parametrize("change", CHANGES)
def test_a_request_that_was_overtaken_makes_nothing_that_lets_anybody_in(place: Place, change: str) -> None:
    place.ann()
    overtaken = place.caller  # let in before the change
    CHANGES[change](place)
    acts: list[Callable[[], Any]] = [
        lambda: place.identity.create_token(overtaken),
        lambda: place.identity.create_key(overtaken),
        lambda: place.identity.set_password("boss", "mine", by=overtaken),
        lambda: place.identity.create_user("door", "mine", admin=True, by=overtaken),
        lambda: place.identity.remove_user("boss", by=overtaken),
        lambda: place.identity.end_credentials("boss", by=overtaken),
        lambda: place.identity.create_token(place.boss, by=overtaken),
    ]
    for act in acts:
        with pytest.raises(LocalmlError) as caught:
            act()
        assert caught.value.code is Code.UNAUTHENTICATED
    assert place.identity.by_password("boss", "boss").admin
    assert place.keys.of("boss") == [] == place.tokens.of("boss")


def test_a_thousand_races_of_an_end_with_requests_leave_none_alive(place: Place) -> None:
    """Three clients use twenty credentials as fast as they can, while all of them are ended; fifty times."""
    place.ann()
    identity, alive = place.identity, list[str]()
    secret = Vault.open(place.db.path.with_name("secret.key")).seal("secret")
    for number in range(50):
        keys, tokens = [[f"{number}-{kind}-{n}" for n in range(10)] for kind in ("key", "token")]
        rows = [AccessKey(id=one, user_id=place.caller.id, secret=secret, created_at=1.0) for one in keys]
        more = [Token(hash=hash_token(one), user_id=place.caller.id, created_at=1.0) for one in tokens]
        identity.change(lambda session, rows=rows + more: session.add_all(rows))  # type: ignore[misc]
        ways = {one: partial(identity.by_key, one) for one in keys}
        ways |= {one: partial(identity.by_token, one) for one in tokens}
        begun = threading.Barrier(4)

        def use(ways: dict[str, Callable[[], Any]] = ways, begun: threading.Barrier = begun) -> None:
            begun.wait(30)
            for way in ways.values():
                lets_in(way)

        with ThreadPoolExecutor(3) as pool:
            using = [pool.submit(use) for _ in range(3)]
            begun.wait(30)
            identity.end_credentials("ann")
            alive += [one for one, way in ways.items() if lets_in(way)]
            for one in using:
                one.result(30)
        alive += [one for one, way in ways.items() if lets_in(way)]
    assert alive == []


def test_a_key_and_a_token_are_listed_and_ended_one_by_one(place: Place) -> None:
    ways = place.ann()
    other, _ = place.identity.create_key(place.caller, name="laptop", by=place.boss)
    made = {(one.name, one.made_by, one.used_at) for one in place.keys.of("ann")}
    assert made == {("", "ann", None), ("laptop", "boss", None)}
    place.identity.by_key(other)
    assert place.keys.find(other).used_at == place.clock.now()
    assert place.keys.revoke("ann", "laptop").id == other
    with pytest.raises(LocalmlError):
        place.identity.by_key(other)
    assert lets_in(ways["key"])
    for user, reference in (("boss", place.keys.of("ann")[0].id), ("ann", other), ("ann", "")):
        with pytest.raises(LocalmlError) as caught:
            place.keys.revoke(user, reference)
        assert caught.value.code is Code.NOT_FOUND
    assert place.keys.revoke("ann", place.keys.of("ann")[0].id)
    assert not lets_in(ways["key"])
    assert place.tokens.of("ann")[0].made_by == "ann"


def test_tokens_that_lapsed_long_ago_are_forgotten(place: Place) -> None:
    place.identity.create_token(place.boss, name="short", lifetime=60)
    place.clock.advance(3600)
    place.identity.create_token(place.boss, name="later")
    assert [one.name for one in place.tokens.of("boss")] == ["short", "later"]
    place.clock.advance(8 * 24 * 3600)
    place.identity.create_token(place.boss, name="last")
    assert [one.name for one in place.tokens.of("boss")] == ["later", "last"]


def test_rights_that_were_taken_away_are_gone_from_all_caches(place: Place) -> None:
    ways = place.ann()
    team = place.workspaces.create(place.boss, "team").id
    place.workspaces.set_member(team, "ann", MemberRole.EDITOR)
    callers = (lambda: ways["key"]()[0], ways["token"], ways["stamp"], ways["password"])
    assert [one().roles.get(team) for one in callers] == [MemberRole.EDITOR] * 4
    place.workspaces.set_member(team, "ann", MemberRole.VIEWER)
    assert [one().roles.get(team) for one in callers] == [MemberRole.VIEWER] * 4
    place.workspaces.remove_member(team, "ann")
    assert [one().roles.get(team) for one in callers] == [None] * 4
    place.workspaces.change(team, everyone=MemberRole.VIEWER)
    assert [one().roles.get(team) for one in callers] == [MemberRole.VIEWER] * 4
    place.workspaces.delete(team)
    assert [one().roles.get(team) for one in callers] == [None] * 4


def test_who_is_made_no_administrator_leads_its_organisation_no_more(place: Place) -> None:
    org = place.boss.org
    assert place.identity.user("boss").roles[org] is MemberRole.OWNER
    place.identity.set_password("boss", "new", admin=False, generated=True)
    assert place.identity.user("boss").roles[org] is MemberRole.EDITOR
    place.identity.set_password("boss", "new", admin=True, generated=True)
    assert place.identity.user("boss").roles[org] is MemberRole.OWNER
