"""Tokens: what is known of them, how they end, and which of them may do something."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from localml.core.clock import ManualClock
from localml.core.errors import Code, LocalmlError
from localml.core.people.allow import Thing
from localml.core.people.identity import Identity
from localml.core.people.rights import Action, MemberRole, ThingKind
from localml.core.people.scopes import Scope
from localml.core.people.secrets import Vault, hash_token
from localml.core.people.tokens import Tokens
from localml.core.people.workspaces import Workspaces
from localml.store.database import Database
from localml.store.schema import prepare


class Place:
    """An administrator and two users."""

    def __init__(self, data: Path) -> None:
        self.clock = ManualClock()
        self.db = Database(prepare(data))
        self.identity = Identity(self.db, Vault.open(data / "key"), self.clock)
        self.tokens = Tokens(self.db, self.clock, self.identity)
        self.workspaces = Workspaces(self.db, self.clock, changed=self.identity.forget)
        self.admin = self.identity.create_user("admin", "secret", admin=True)
        self.ann = self.identity.create_user("ann", "secret", org="")
        self.bob = self.identity.create_user("bob", "secret", org="")


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    one = Place(tmp_path)
    yield one
    one.db.close()


def test_a_token_is_known_by_name_scope_and_end(place: Place) -> None:
    scope = Scope.of(["read"], workspace=place.ann.workspace)
    token = place.identity.create_token(place.ann, name="ci", lifetime=60, scope=scope)
    [known] = place.tokens.of("ann")
    assert (known.name, known.scope, known.purpose) == ("ci", scope, "api")
    assert known.expires_at == known.created_at + 60
    assert place.identity.by_token(token).scope == scope
    assert place.tokens.of("bob") == []
    for act in (lambda: place.tokens.of("nobody"), lambda: place.tokens.find("nothing")):
        with pytest.raises(LocalmlError) as caught:
            act()
        assert caught.value.code is Code.NOT_FOUND


def test_its_last_use_is_known_to_the_hour(place: Place) -> None:
    token = place.identity.create_token(place.ann)

    def used() -> float | None:
        return place.tokens.find(token).used_at

    assert used() is None
    place.identity.by_token(token)
    first = used()
    assert first == place.clock.now()
    place.clock.advance(3599)
    place.identity.by_token(token)
    assert used() == first
    place.clock.advance(1)
    place.identity.by_token(token)
    assert used() == place.clock.now()
    place.identity.forget()
    place.identity.by_token(token)
    assert used() == place.clock.now()


def test_a_revoked_token_is_worth_nothing(place: Place) -> None:
    first, second = (place.identity.create_token(place.ann, name="ci") for _ in range(2))
    place.identity.by_token(first)
    with pytest.raises(LocalmlError, match="several tokens are named 'ci'") as caught:
        place.tokens.revoke("ann", "ci")
    assert caught.value.code is Code.CONFLICT
    place.tokens.revoke("ann", hash_token(first)[:12])
    with pytest.raises(LocalmlError, match="not known"):
        place.identity.by_token(first)
    with pytest.raises(LocalmlError) as caught:
        place.tokens.revoke("bob", "ci")
    assert caught.value.code is Code.NOT_FOUND
    place.tokens.revoke("ann", "ci")
    with pytest.raises(LocalmlError, match="not known"):
        place.identity.by_token(second)


def test_which_tokens_may_use_an_endpoint_follows_every_change(place: Place) -> None:
    team = place.workspaces.create(place.ann, "team").id
    endpoint = Thing(ThingKind.ENDPOINT, "7", "digits", place.ann.id, team)
    by_all = place.identity.create_token(place.admin)
    anns = place.identity.create_token(place.ann)
    bobs = place.identity.create_token(place.bob)

    def let_in() -> set[str]:
        return set(place.tokens.that_may(Action.USE, endpoint))

    assert let_in() == {hash_token(by_all), hash_token(anns)}
    place.workspaces.set_member(team, "bob", MemberRole.VIEWER)
    assert hash_token(bobs) in let_in()
    for scope, useful in (
        (Scope.of(["endpoint:use"]), True),
        (Scope.of(thing="endpoint:7"), True),
        (Scope.of(workspace=team), True),
        (Scope.of(["read"]), False),
        (Scope.of(thing="endpoint:8"), False),
        (Scope.of(workspace="other"), False),
    ):
        token = place.identity.create_token(place.admin, scope=scope)
        assert (hash_token(token) in let_in()) == useful
    short = place.identity.create_token(place.ann, lifetime=10)
    assert hash_token(short) in let_in()
    place.clock.advance(10)
    assert hash_token(short) not in let_in()
    place.tokens.revoke("ann", hash_token(anns)[:12])
    place.workspaces.remove_member(team, "bob")
    assert let_in().isdisjoint({hash_token(anns), hash_token(bobs)})
    assert hash_token(by_all) in let_in()
    place.identity.set_password("admin", "new", admin=None)
    assert let_in() == set()


def test_whoever_keeps_what_follows_from_rights_is_told_of_changes(place: Place) -> None:
    told: list[int] = []
    place.identity.nudge = lambda: told.append(place.identity.version)
    token = place.identity.create_token(place.ann, name="ci")
    place.tokens.revoke("ann", "ci")
    place.workspaces.create(place.ann, "team")
    place.identity.remove_user("bob")
    assert len(told) == len(set(told)) == 4
    assert token
