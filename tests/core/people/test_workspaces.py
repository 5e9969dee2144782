"""Workspaces: made, found, shared and deleted, and what users may see of them afterwards."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.rig import job

from localml.core.clock import ManualClock
from localml.core.errors import Code, LocalmlError
from localml.core.people.allow import may
from localml.core.people.identity import Caller, Identity
from localml.core.people.rights import Action, MemberRole
from localml.core.people.secrets import Vault
from localml.core.people.workspaces import Workspaces, thing_of
from localml.core.work.workloads import Submission, Workloads
from localml.store.database import Database
from localml.store.schema import prepare


class Place:
    """Two users, an administrator, and their workspaces."""

    def __init__(self, data: Path) -> None:
        self.clock = ManualClock()
        self.db = Database(prepare(data))
        self.identity = Identity(self.db, Vault.open(data / "key"), self.clock)
        self.workspaces = Workspaces(self.db, self.clock, changed=self.identity.forget)
        self.identity.create_user("admin", "secret", admin=True)
        for name in ("ann", "bob"):
            self.identity.create_user(name, "secret", org="")

    def __getattr__(self, name: str) -> Caller:
        return self.identity.user(name)

    ann: Caller
    bob: Caller
    admin: Caller

    def names(self, caller: Caller) -> list[str]:
        return [row.name for row in self.workspaces.visible(caller)]


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    one = Place(tmp_path)
    yield one
    one.db.close()


def refused(act: object, code: Code, match: str = ".") -> None:
    with pytest.raises(LocalmlError, match=match) as caught:
        act()  # type: ignore[operator]
    assert caught.value.code is code


def test_every_user_has_a_workspace_of_its_own(place: Place) -> None:
    assert place.names(place.ann) == ["ann"]
    assert place.names(place.admin) == ["admin", "ann", "bob", "default"]
    assert place.ann.roles == {place.ann.workspace: MemberRole.OWNER}


def test_members_see_a_workspace_and_others_do_not(place: Place) -> None:
    made = place.workspaces.create(place.ann, "team", description="ours")
    assert place.ann.roles[made.id] is MemberRole.OWNER
    refused(lambda: place.workspaces.find(place.bob, "team"), Code.NOT_FOUND)
    place.workspaces.set_member(made.id, "bob", MemberRole.VIEWER)
    assert place.workspaces.find(place.bob, "team").id == made.id
    assert place.bob.roles[made.id] is MemberRole.VIEWER
    place.workspaces.set_member(made.id, "bob", MemberRole.EDITOR)
    assert [(one.user, one.role) for one in place.workspaces.members(made.id)] == [
        ("ann", MemberRole.OWNER),
        ("bob", MemberRole.EDITOR),
    ]
    place.workspaces.remove_member(made.id, "bob")
    assert made.id not in place.bob.roles


def test_a_change_of_members_reaches_every_kind_of_credentials(place: Place) -> None:
    key, _ = place.identity.create_key(place.bob)
    token = place.identity.create_token(place.bob)
    ways = (lambda: place.identity.by_key(key)[0], lambda: place.identity.by_token(token), lambda: place.bob)
    assert [set(way().roles) for way in ways] == [{place.bob.workspace}] * 3
    made = place.workspaces.create(place.ann, "team")
    place.workspaces.set_member(made.id, "bob", MemberRole.MEMBER)
    assert [way().roles.get(made.id) for way in ways] == [MemberRole.MEMBER] * 3
    place.workspaces.remove_member(made.id, "bob")
    assert [way().roles.get(made.id) for way in ways] == [None] * 3


def test_a_workspace_for_everyone_needs_no_members(place: Place) -> None:
    made = place.workspaces.create(place.ann, "open", everyone=MemberRole.MEMBER)
    assert place.bob.roles[made.id] is MemberRole.MEMBER
    place.workspaces.set_member(made.id, "bob", MemberRole.VIEWER)  # less than everyone is
    assert place.bob.roles[made.id] is MemberRole.MEMBER
    place.workspaces.change(made.id, everyone=None)
    assert place.bob.roles[made.id] is MemberRole.VIEWER


def test_a_dialects_own_workspace_is_made_once_whatever_is_named_so(place: Place) -> None:
    place.workspaces.create(place.ann, "openpai")
    for _ in range(2):
        assert place.workspaces.ensure("openpai", owner=place.admin, everyone=MemberRole.MEMBER) == "openpai"
        assert place.workspaces.of_dialect("openpai") == "openpai"
    assert place.workspaces.find(place.bob, "openpai").id == "openpai"
    assert place.names(place.ann) == ["ann", "openpai", "openpai (openpai)"]


def test_an_organisation_of_the_same_name_is_not_opened_for_a_dialect(place: Place) -> None:
    place.identity.create_user("cloud", "secret", org="openpai")
    own = place.workspaces.ensure("openpai", owner=place.admin, everyone=MemberRole.MEMBER)
    assert own != "openpai"
    assert place.workspaces.ensure("openpai", owner=place.admin, everyone=MemberRole.MEMBER) == own
    assert place.workspaces.get("openpai").everyone is None
    assert place.names(place.bob) == ["bob", "openpai (openpai)"]
    assert place.names(place.cloud) == ["cloud", "openpai", "openpai (openpai)"]


def test_nobody_is_given_a_dialects_own_workspace_as_an_organisation(place: Place) -> None:
    place.workspaces.ensure("openpai", owner=place.admin, everyone=MemberRole.MEMBER)
    with pytest.raises(LocalmlError, match="'openpai' is the workspace of the openpai API") as caught:
        place.identity.create_user("cloud", "secret", org="openpai")
    assert (caught.value.code, caught.value.field) == (Code.INVALID, "org")


def test_what_a_removed_user_made_is_not_that_of_the_next_of_its_name(place: Place) -> None:
    team = place.workspaces.create(place.ann, "team").id
    before = place.ann
    place.identity.remove_user("ann")
    after = place.identity.create_user("ann", "secret", org="")
    assert (after.id, after.workspace) != (before.id, before.workspace)
    assert place.names(after) == ["ann"]
    assert place.workspaces.members(team) == []
    assert [user.name for user in place.identity.users()] == ["admin", "bob", "ann"]
    left = place.identity.owner(before.id)
    assert (left.name, left.workspace, left.admin, dict(left.roles)) == ("ann", before.workspace, False, {})
    assert not may(left, Action.READ, thing_of(place.workspaces.get(team)))


def test_names_are_taken_once_and_are_free_again(place: Place) -> None:
    made = place.workspaces.create(place.ann, "team")
    refused(lambda: place.workspaces.create(place.bob, "team"), Code.CONFLICT, "team")
    other = place.workspaces.create(place.bob, "others")
    refused(lambda: place.workspaces.change(other.id, name="team"), Code.CONFLICT)
    place.workspaces.change(made.id, name="gang", description="x")
    assert place.workspaces.change(other.id, name="team").name == "team"
    place.workspaces.delete(other.id)
    assert place.workspaces.create(place.ann, "team").id != other.id


@pytest.mark.parametrize("name", ["", " x", "-x", "a/b", "a\n", "x" * 65])
def test_names_that_are_refused(place: Place, name: str) -> None:
    with pytest.raises(LocalmlError) as caught:
        place.workspaces.create(place.ann, name)
    assert caught.value.field == "name"


def test_no_name_that_somebody_gives_takes_in_what_a_user_means_for_the_own_workspace(place: Place) -> None:
    made = place.workspaces.create(place.ann, "bob", everyone=MemberRole.MEMBER)
    assert place.workspaces.find(place.bob, "bob").id == place.bob.workspace
    assert place.workspaces.find(place.bob, made.id).id == made.id
    assert place.workspaces.find(place.admin, "bob").id == made.id


def test_two_users_of_one_name_are_told_apart_by_id(place: Place) -> None:
    first = place.bob.workspace
    place.identity.remove_user("bob")
    place.identity.create_user("bob", "secret", org="")
    assert place.names(place.bob) == ["bob"]
    assert place.bob.workspace != first
    refused(lambda: place.workspaces.find(place.admin, "bob"), Code.CONFLICT, first)


def test_somebody_stays_owner(place: Place) -> None:
    made = place.workspaces.create(place.ann, "team")
    for act in (
        lambda: place.workspaces.remove_member(made.id, "ann"),
        lambda: place.workspaces.set_member(made.id, "ann", MemberRole.EDITOR),
        lambda: place.workspaces.set_member(place.ann.workspace, "ann", MemberRole.EDITOR),
    ):
        refused(act, Code.WRONG_STATE, "owner")
    place.workspaces.set_member(made.id, "bob", MemberRole.OWNER)
    place.workspaces.remove_member(made.id, "ann")
    assert place.names(place.ann) == ["ann"]


def test_one_whose_owners_are_gone_still_has_members_that_come_and_go(place: Place) -> None:
    made = place.workspaces.create(place.ann, "team")
    place.identity.create_user("eve", "secret", org="research")  # no administrator, so no owner there either
    place.identity.remove_user("ann")
    for workspace in (made.id, "research"):
        place.workspaces.set_member(workspace, "bob", MemberRole.VIEWER)
        place.workspaces.remove_member(workspace, "bob")
        place.workspaces.set_member(workspace, "bob", MemberRole.OWNER)
        refused(lambda: place.workspaces.remove_member(workspace, "bob"), Code.WRONG_STATE, "owner")  # noqa: B023


def test_what_is_in_use_is_not_deleted(place: Place) -> None:
    made = place.workspaces.create(place.ann, "team")
    workloads = Workloads(place.db, place.clock)
    number = workloads.submit(Submission("j", job(), place.ann, workspace=made.id))
    refused(lambda: place.workspaces.delete(made.id), Code.WRONG_STATE, "holds 1 workload$")
    refused(lambda: place.workspaces.delete(place.ann.workspace), Code.WRONG_STATE, "own")
    refused(lambda: place.workspaces.delete("default"), Code.WRONG_STATE, "organisation")
    place.db.write(lambda s: s.connection().exec_driver_sql("UPDATE workload SET state = 'succeeded', ended_at = 1"))
    place.workspaces.delete(made.id)
    assert made.id not in place.ann.roles
    assert workloads.row(number).workspace == made.id
    refused(lambda: workloads.submit(Submission("k", job(), place.ann, workspace=made.id)), Code.NOT_FOUND, made.id)
    for gone in (made.id, "nothing"):
        refused(lambda gone=gone: place.workspaces.delete(gone), Code.NOT_FOUND)
        refused(lambda gone=gone: place.workspaces.set_member(gone, "bob", MemberRole.VIEWER), Code.NOT_FOUND)


def test_an_organisation_is_shared_by_its_users(place: Place) -> None:
    for name in ("eve", "tom"):
        place.identity.create_user(name, "secret", org="research")
    eve = place.identity.user("eve")
    assert (eve.org, eve.roles["research"]) == ("research", MemberRole.EDITOR)
    refused(lambda: place.workspaces.remove_member("research", "eve"), Code.WRONG_STATE, "organisation")
    team = place.workspaces.create(place.ann, "team")
    place.identity.create_user("kim", "secret", org="team")
    assert place.identity.user("kim").org == team.id


def test_nobodys_own_workspace_is_an_organisation(place: Place) -> None:
    with pytest.raises(LocalmlError) as caught:
        place.identity.create_user("kim", "secret", org=place.ann.workspace)
    assert caught.value.field == "org"
    refused(lambda: place.identity.user("kim"), Code.NOT_FOUND)


def test_a_removed_user_is_no_member_any_more(place: Place) -> None:
    made = place.workspaces.create(place.ann, "team")
    place.workspaces.set_member(made.id, "bob", MemberRole.OWNER)
    place.identity.remove_user("bob")
    assert [one.user for one in place.workspaces.members(made.id)] == ["ann"]
