"""Pools: who may use them, what can never run in them, and what goes on in them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.rig import ME, Rig, job
from sqlmodel import Session

from localml.core.capacity.pools import Load, Usage, ensure
from localml.core.capacity.tables import Pool
from localml.core.errors import Code, LocalmlError
from localml.core.people.identity import Identity
from localml.core.people.secrets import Vault
from localml.core.studies.tables import Study


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    one = Rig(tmp_path)
    yield one
    one.close()


def test_what_runs_and_what_waits_is_counted_with_everything_below(rig: Rig) -> None:
    rig.pools.set_limits("a/b", gpu=1)
    rig.submit("first", job(None, gpu=1), pool="a/b")
    rig.submit("second", job(None, gpu=1), pool="a/b")
    rig.submit("elsewhere", job(None), pool="ab")
    rig.settle()
    assert rig.pools.load("a") == rig.pools.load("a/b") == Load(Usage(cpu=1, gpu=1, workloads=1), waiting=1)
    assert rig.pools.load("nothing") == Load()


def test_what_can_never_run_is_told_with_the_numbers(rig: Rig) -> None:
    rig.pools.set_limits("a", cpu=4)
    rig.pools.set_limits("a/b", gpu=1)
    rig.pools.check_size("a/b", cpu=4, memory=1 << 40, gpu=1)
    with pytest.raises(LocalmlError, match=r"^cpu: 5 were asked for, pool 'a' has 4 in all$") as caught:
        rig.pools.check_size("a/b", cpu=5, memory=0, gpu=0)
    assert caught.value.code is Code.QUOTA
    with pytest.raises(LocalmlError, match=r"^gpu: 2 "):
        rig.pools.check_size("a/b", cpu=1, memory=0, gpu=2)


def test_grants_are_replaced_below_one_node_and_go_with_their_user(rig: Rig, tmp_path: Path) -> None:
    identity = Identity(rig.db, Vault.open(tmp_path / "key"), rig.clock)
    bob = identity.create_user("bob", "secret")
    for path in ("a/x", "a/y", "b/x"):
        rig.pools.set_limits(path)
    rig.pools.set_grants(bob.id, "b", ["b/x"])
    rig.pools.set_grants(bob.id, "a", ["a/x", "a/x"])
    rig.pools.set_grants(bob.id, "a", ["a/y"])
    assert rig.pools.grants(bob.id) == {"a/y", "b/x"}
    with pytest.raises(LocalmlError) as caught:
        rig.pools.set_grants(bob.id, "a", ["a/x", "a/nothing"])
    assert caught.value.code is Code.NOT_FOUND
    assert rig.pools.grants(bob.id) == {"a/y", "b/x"}
    identity.remove_user("bob")
    assert rig.pools.grants(bob.id) == frozenset()


def test_an_ended_workload_is_replaced_by_a_new_run_of_its_name(rig: Rig) -> None:
    first = rig.submit("again", job(None))
    rig.settle()
    with pytest.raises(LocalmlError, match="is not over yet"):
        rig.submit("again", replaces=first)
    rig.engine.finish(rig.get(first).attempts[0].name)
    rig.settle()
    second = rig.submit("again", replaces=first)
    assert rig.get(first).row.deleted_at is not None
    assert rig.get(second).row.deleted_at is None
    with pytest.raises(LocalmlError, match="replaced already"):
        rig.submit("other", replaces=first)


def test_a_pool_in_use_stays_and_the_numbers_say_why(rig: Rig, tmp_path: Path) -> None:
    identity = Identity(rig.db, Vault.open(tmp_path / "key"), rig.clock)
    bob = identity.create_user("bob", "secret")
    rig.pools.set_limits("a/b/c")
    rig.pools.set_limits("a/b/d")
    rig.submit("job", job(None), pool="a/b")
    rig.submit("another", job(None), pool="a/b")
    rig.pools.set_grants(bob.id, "a", ["a/b"])
    with pytest.raises(LocalmlError, match=r"^pool: 'a/b' is in use: 2 pools, 2 workloads, 1 grant$") as caught:
        rig.pools.delete("a/b")
    assert (caught.value.code, caught.value.details) == (Code.WRONG_STATE, {"pools": 2, "workloads": 2, "grants": 1})

    rig.pools.set_grants(bob.id, "a", [])
    for below in ("a/b/c", "a/b/d"):
        rig.pools.delete(below)
    with pytest.raises(LocalmlError, match="2 workloads"):
        rig.pools.delete("a/b")


def test_a_pool_that_nothing_uses_goes_and_may_come_again(rig: Rig) -> None:
    rig.pools.set_limits("a/b", gpu=1)
    number = rig.submit("job", job(None), pool="a/b")
    rig.workloads.stop(number, ME)
    rig.settle()
    rig.pools.delete("a/b")
    assert [one.name for one in rig.pools.list()] == ["a"]
    with pytest.raises(LocalmlError) as caught:
        rig.pools.delete("a/b")
    assert caught.value.code is Code.NOT_FOUND
    rig.submit("again", job(None), pool="a/b")  # a submission makes its pool, without limits
    assert rig.pools.get("a/b").gpu is None


def test_the_pool_of_those_who_name_none_stays(rig: Rig) -> None:
    with pytest.raises(LocalmlError, match="names no pool"):
        rig.pools.delete("default")


@pytest.mark.parametrize("path", ["", "/", "/a", "a/", "a//b", "a\nb", "\x00"])
def test_what_is_no_path_of_names_makes_no_pool_in_whatever_way_it_is_asked_for(rig: Rig, path: str) -> None:
    before = [pool.name for pool in rig.pools.list()]
    for ask in (lambda: rig.submit("one", job(None), pool=path), lambda: rig.pools.set_limits(path)):
        with pytest.raises(LocalmlError, match="is no path of names parted by '/'") as refused:
            ask()
        assert (refused.value.code, refused.value.field) == (Code.INVALID, "pool")
    assert [pool.name for pool in rig.pools.list()] == before


def test_a_pool_without_a_name_that_an_earlier_version_took_in_stops_nothing(rig: Rig) -> None:
    rig.db.write(lambda session: session.add(Pool(name="")))
    for name in ("one", "two"):
        rig.submit(name, job(None), pool="")
        rig.settle()
    assert rig.pools.load("") == Load(Usage(cpu=2, workloads=2))


def test_a_plan_has_a_name_of_its_own_and_labels(rig: Rig) -> None:
    rig.pools.create("plans/a", (("k", "v"),), below="plans")
    assert rig.pools.get("plans/a").labels == (("k", "v"),)
    assert rig.pools.get("plans").labels is None  # it was only made to hold the other
    rig.pools.create("elsewhere/a", (), below="elsewhere")
    for path in ("plans/a", "plans/b/a"):
        with pytest.raises(LocalmlError, match="name: 'a' is already used by pool 'plans/a'") as refused:
            rig.pools.create(path, (), below="plans")
        assert (refused.value.code, refused.value.field) == (Code.CONFLICT, "name")
    assert [one.name for one in rig.pools.list()] == ["elsewhere", "elsewhere/a", "plans", "plans/a"]


def test_a_pool_moves_with_its_limits_while_nothing_is_in_it(rig: Rig) -> None:
    rig.pools.set_limits("a", gpu=1)
    rig.pools.change("a", (("k", "v"),), to="b/c/a")
    moved = rig.pools.get("b/c/a")
    assert (moved.parent, moved.gpu, moved.labels) == ("b/c", 1, (("k", "v"),))
    assert "a" not in {one.name for one in rig.pools.list()}
    rig.pools.set_limits("d")
    for path, to, code in (
        ("b", "e/b", Code.WRONG_STATE),
        ("d", "b/c", Code.CONFLICT),
        ("nothing", "nothing", Code.NOT_FOUND),
        ("d", "/".join("x" * 20), Code.INVALID),
    ):
        with pytest.raises(LocalmlError) as refused:
            rig.pools.change(path, (), to=to)
        assert refused.value.code is code
    assert [one.name for one in rig.pools.list()] == ["b", "b/c", "b/c/a", "d"]


def test_what_each_pools_own_workloads_hold(rig: Rig) -> None:
    rig.pools.set_limits("a", gpu=1)
    rig.submit("first", job(None, gpu=1), pool="a/b")
    rig.submit("second", job(None, gpu=1), pool="a/b")
    rig.settle()
    assert rig.pools.held() == {"a/b": Usage(cpu=1, gpu=1, workloads=1)}


def test_a_study_that_is_not_over_keeps_its_pool(rig: Rig) -> None:
    def add(session: Session) -> None:
        ensure(session, "a")
        session.add(
            Study(
                **{"dialect": "native", "workspace": "w", "owner": "o", "name": "s", "pool": "a", "spec": "{}"},
                **{"algorithm": "random", "seed": 1, "created_at": 1, "updated_at": 1},
            )
        )

    rig.db.write(add)
    with pytest.raises(LocalmlError, match="in use: 1 study"):
        rig.pools.delete("a")
