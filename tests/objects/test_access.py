"""The bucket tree as one user may use it, and whose the buckets become that there were before."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.people import add_workspaces

from localml.core.buckets.records import BucketRecords
from localml.core.clock import ManualClock
from localml.core.errors import Code, LocalmlError
from localml.core.events.records import Events
from localml.core.people.identity import Caller
from localml.core.people.rights import MemberRole
from localml.core.subjects import PLATFORM
from localml.objects import Buckets, BucketsFor
from localml.objects.access import adopt
from localml.store.database import Database
from localml.store.schema import prepare

ADMIN = Caller(1, "admin", True, "admins", "", {"admins": MemberRole.OWNER})
EVA = Caller(2, "eva", False, "evas", "", {"evas": MemberRole.OWNER, "team": MemberRole.MEMBER})
KIM = Caller(3, "kim", False, "kims", "", {"kims": MemberRole.OWNER, "team": MemberRole.VIEWER})


class Place:
    """A tree, and whose its buckets are."""

    def __init__(self, data: Path) -> None:
        self.db = Database(prepare(data))
        add_workspaces(self.db, "admins", "evas", "kims", "team")
        self.tree = Buckets(data / "buckets")
        self.records = BucketRecords(self.db, ManualClock())

    def of(self, caller: Caller, workspace: str | None = None) -> BucketsFor:
        return BucketsFor(self.tree, self.records, caller, workspace)

    def adopt(self, users: int) -> dict[str, MemberRole | None]:
        adopt(self.tree, self.records, self.db, ADMIN, users, 1.0)
        return {row.name: row.everyone for row in self.records.all()}


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    made = Place(tmp_path)
    yield made
    made.db.close()


def write(view: BucketsFor, uri: str) -> None:
    with view.open(uri, "wb") as file:
        file.write(b"data")


def test_what_is_written_first_makes_its_bucket_in_the_workspace_that_is_meant(place: Place) -> None:
    write(place.of(EVA), "fds://mine/x")
    write(place.of(EVA, "team"), "fds://ours/x")
    found = {row.name: (row.workspace, row.owner_id) for row in place.records.all()}
    assert found == {"mine": ("evas", 2), "ours": ("team", 2)}
    assert place.of(KIM).exists("fds://ours/x")
    assert not place.of(KIM).exists("fds://mine/x")
    for act in (lambda: write(place.of(KIM), "fds://ours/x"), lambda: place.of(KIM, "team").create("more")):
        with pytest.raises(LocalmlError) as refused:
            act()
        assert refused.value.code is Code.FORBIDDEN


def test_many_who_write_at_once_make_one_bucket(place: Place) -> None:
    failed: list[Exception] = []

    def one(number: int) -> None:
        try:
            write(place.of(EVA), f"fds://mine/{number}")
        except Exception as error:
            failed.append(error)

    threads = [threading.Thread(target=one, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    assert len(place.tree.list("fds://mine")) == 16


def test_only_whose_it_is_deletes_a_bucket_and_its_name_is_free_then(place: Place) -> None:
    write(place.of(EVA, "team"), "fds://ours/x")
    before = place.records.find("ours")
    with pytest.raises(LocalmlError) as refused:
        place.of(KIM).delete("fds://ours", recursive=True)
    assert refused.value.code is Code.FORBIDDEN
    place.of(EVA).delete("fds://ours", recursive=True)
    write(place.of(KIM), "fds://ours/x")
    after = place.records.find("ours")
    assert before is not None
    assert after is not None
    assert after.id != before.id
    assert not place.of(EVA).exists("fds://ours/x")


@pytest.mark.parametrize(("users", "everyone"), [(1, None), (2, MemberRole.MEMBER)])
def test_buckets_that_there_were_are_the_administrators_and_stay_open_where_others_had_them(
    place: Place, users: int, everyone: MemberRole | None
) -> None:
    for name in ("old", "older"):
        (place.tree.root / name).mkdir()
    assert place.adopt(users) == {"hdfs": MemberRole.MEMBER, "old": everyone, "older": everyone}
    place.records.change("old", everyone=None)
    assert place.adopt(users)["old"] is None  # once, not at every start
    told = [one.message for one in Events(place.db).of(PLATFORM)]
    assert told == ([] if everyone is None else [told[0]])
    assert all("old, older; to close one: localml buckets change NAME --everyone none" in one for one in told)


def test_what_was_put_into_the_tree_by_hand_is_nobodys_until_an_administrator_asks_for_it(place: Place) -> None:
    (place.tree.root / "hand").mkdir()
    (place.tree.root / "hand" / "x").write_bytes(b"1")
    assert not place.of(EVA).exists("fds://hand/x")
    with pytest.raises(LocalmlError, match="a bucket 'hand' exists"):
        write(place.of(EVA), "fds://hand/y")
    assert place.of(ADMIN).exists("fds://hand/x")
    assert [row.name for row in place.records.visible(ADMIN)] == ["hand"]
