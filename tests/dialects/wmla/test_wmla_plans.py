"""Resource plans: pools by name, their tree, what is asked for and in use there."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from helpers.wmla import WmlaClient
from sqlalchemy import text

from localml.core.clock import ManualClock
from localml.core.limits import MOST_LABELS
from localml.core.series.uses import CPU, FRESH_S
from localml.core.subjects import Subject
from localml.core.work.specs import Resources, Role, WorkloadSpec
from localml.core.work.workloads import Query, Submission
from localml.dialects.wmla.translate.plans import usable_plan
from localml.platform import Platform

ONE, TREE = "/resplans/resplan", "/resplans/resplantree"


@pytest.fixture(autouse=True)
def clean(platform: Platform) -> Iterator[None]:
    """Afterwards no plan is left, nor anything in one."""
    yield
    admin = platform.identity.user("admin")
    rows = [row for row in platform.workloads.page(Query(limit=1000)).items if row.pool.startswith("wmla")]
    for row in rows:
        platform.workloads.delete(row.id or 0, admin)
        platform.db.write(lambda s, number=row.id: s.execute(_over(number)))  # type: ignore[misc]
    for pool in sorted(platform.pools.list(), key=lambda one: -len(one.name)):
        if pool.name.startswith("wmla"):
            platform.pools.delete(pool.name)


def _over(number: Any) -> Any:
    return text("UPDATE workload SET state = 'stopped', ended_at = 1, cleaned = 1 WHERE id = :id").bindparams(id=number)


def job(platform: Platform, pool: str, *, cpu: float = 1, gpu: int = 0, name: str = "j", user: str = "admin") -> int:
    role = Role(image="localml/python:latest", command=("true",), resources=Resources(cpu=cpu, gpu=gpu))
    who = platform.identity.user(user)
    return platform.workloads.submit(Submission(name, WorkloadSpec(roles=(role,)), who, "wmla", pool=pool))


def node(tree: dict[str, Any], *names: str) -> dict[str, Any]:
    for name in names:
        (tree,) = [one for one in tree["childTreeDto"] if one["name"] == name]
    return tree


def test_a_plan_is_made_found_changed_and_removed(client: WmlaClient, platform: Platform) -> None:
    made = client.post(ONE, {"name": "vision", "labels": [{"key": "team", "value": "a"}]})
    assert (made.status, made.data) == (201, b"")
    found = client.get(f"{ONE}/vision")
    assert found.status == 200
    nothing = {"requestcpu": "0", "requestgpu": "0", "usedcpu": "0", "usedgpu": "0"}
    assert found.json == {"path": "/wmla/vision", **nothing}
    assert platform.pools.get("wmla/vision").labels == (("team", "a"),)
    changed = client.put(ONE, {"name": "vision", "labels": [{"key": "team", "value": "b"}, {"key": "x", "value": ""}]})
    assert (changed.status, changed.data) == (204, b"")
    assert platform.pools.get("wmla/vision").labels == (("team", "b"), ("x", ""))
    gone = client.delete(f"{ONE}/vision")
    assert (gone.status, gone.data) == (200, b"")
    assert client.get(f"{ONE}/vision").status == 404
    assert client.delete(f"{ONE}/vision").status == 404


def test_what_a_change_leaves_out_stays(client: WmlaClient, platform: Platform) -> None:
    client.post(ONE, {"name": "a"})
    client.post(ONE, {"name": "b", "parent": "a", "labels": [{"key": "k", "value": "v"}]})
    assert client.put(ONE, {"name": "b"}).status == 204
    assert platform.pools.get("wmla/a/b").labels == (("k", "v"),)
    assert client.put(ONE, {"name": "b", "labels": []}).status == 204
    assert platform.pools.get("wmla/a/b").labels == ()


@pytest.mark.parametrize("parent", ["a", "wmla/a", "/wmla/a", "/a"])
def test_a_parent_is_named_or_given_by_its_path(parent: str, client: WmlaClient) -> None:
    client.post(ONE, {"name": "a"})
    assert client.post(ONE, {"name": "b", "parent": parent}).status == 201
    assert client.get(f"{ONE}/b").json["path"] == "/wmla/a/b"
    assert client.get(f"{ONE}/a/b").json["path"] == "/wmla/a/b"


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        ({}, 400, "name: is required"),
        ({"name": ""}, 400, "name: is required"),
        ({"name": None}, 400, "name: is required"),
        ({"name": "a/b"}, 400, "name: 'a/b' must be"),
        ({"name": ".."}, 400, "name"),
        ({"name": "x" * 129}, 400, "name"),
        ({"name": 3}, 400, "name"),
        ({"name": "n", "parent": "nobody"}, 400, "parent: there is no resource plan 'nobody'"),
        ({"name": "n", "labels": {"a": "b"}}, 400, "labels"),
        ({"name": "n", "labels": [{"value": "b"}]}, 400, "labels.0.key: is required"),
        ({"name": "n", "labels": [{"key": "k", "value": "v"}] * (MOST_LABELS + 1)}, 400, "labels"),
        ([], 400, ""),
        ({"name": "there"}, 409, "name: 'there' is already used by pool 'wmla/there'"),
        ({"name": "there", "parent": "other"}, 409, "name: 'there' is already used"),
        ({"name": "default"}, 409, "default"),
        ({"name": "wmla"}, 409, "wmla"),
    ],
)
def test_what_cannot_be_made_is_refused(body: Any, status: int, words: str, client: WmlaClient) -> None:
    client.post(ONE, {"name": "there"})
    client.post(ONE, {"name": "other"})
    answer = client.post(ONE, body)
    assert answer.status == status, answer.data
    assert words in answer.json["error"]
    assert client.get(f"{ONE}/n").status == 404


def test_names_and_labels_just_inside_their_limits(client: WmlaClient, platform: Platform) -> None:
    labels = [{"key": f"k{number}", "value": "v"} for number in range(MOST_LABELS)]
    assert client.post(ONE, {"name": "x" * 128, "labels": labels}).status == 201
    assert len(platform.pools.get("wmla/" + "x" * 128).labels or ()) == MOST_LABELS


def test_a_plan_in_use_stays(client: WmlaClient, platform: Platform) -> None:
    client.post(ONE, {"name": "a"})
    client.post(ONE, {"name": "b", "parent": "a"})
    answer = client.delete(f"{ONE}/a")
    assert (answer.status, answer.json["error"]) == (409, "resplan_name: 'wmla/a' is in use: 1 pool")
    job(platform, "wmla/a/b")
    answer = client.delete(f"{ONE}/b")
    assert (answer.status, answer.json["error"]) == (409, "resplan_name: 'wmla/a/b' is in use: 1 workload")
    for name in ("default", "wmla"):
        assert client.delete(f"{ONE}/{name}").status == 409


def test_a_plan_moves_while_nothing_is_in_it(client: WmlaClient, platform: Platform) -> None:
    for name in ("a", "b"):
        client.post(ONE, {"name": name})
    assert client.put(ONE, {"name": "b", "parent": "a"}).status == 204
    assert client.get(f"{ONE}/b").json["path"] == "/wmla/a/b"
    assert node(client.get(TREE).json, "a", "b")["pid"] == "a"
    assert client.put(ONE, {"name": "b", "parent": "wmla"}).status == 204
    assert client.get(f"{ONE}/b").json["path"] == "/wmla/b"
    job(platform, "wmla/b")
    for body, words in (
        ({"name": "b", "parent": "a"}, "in use: 1 workload"),
        ({"name": "a", "parent": "a"}, "parent: 'a' is the plan itself"),
        ({"name": "a", "parent": "nobody"}, "parent"),
        ({"name": "default", "parent": "a"}, "stays where it is"),
        ({"labels": []}, "name: is required"),
    ):
        answer = client.put(ONE, body)
        assert answer.status == 400, answer.data
        assert words in answer.json["error"]
    assert client.put(ONE, {"name": "nobody"}).status == 404
    platform.pools.set_limits("wmla/c/a")  # made elsewhere, where names need not be one plan's alone
    answer = client.put(ONE, {"name": "a", "parent": "c"})
    assert (answer.status, answer.json["error"]) == (400, "pool: there is 'wmla/c/a' already")


def test_the_tree_has_what_is_asked_for_and_in_use_with_all_that_lies_below(
    client: WmlaClient, platform: Platform, clock: ManualClock
) -> None:
    client.post(ONE, {"name": "a"})
    client.post(ONE, {"name": "b", "parent": "a"})
    waiting = job(platform, "wmla/a", cpu=2, gpu=1)
    running = job(platform, "wmla/a/b", cpu=1.5, gpu=1, name="k")
    runs = text("UPDATE workload SET state = 'running' WHERE id = :id").bindparams(id=running)
    platform.db.write(lambda session: session.execute(runs))
    now = clock.now()
    for at, value in ((now - 5, 10.0), (now, 14.0)):
        platform.samples.add_many(
            Subject.workload(running), [(CPU, value, at)], replica="main-0", cumulative=True, measured=True
        )
    platform.samples.flush()
    tree = client.get(TREE).json
    assert (tree["id"], tree["pid"], tree["path"], tree["isParent"]) == ("wmla", "", "/wmla", "true")
    assert {one["name"] for one in tree["childTreeDto"]} == {"a", "default"}
    above, below = node(tree, "a"), node(tree, "a", "b")
    assert (above["isParent"], below["isParent"], below["childTreeDto"]) == ("true", "false", [])
    assert below["V1Resplan"] == {
        "path": "/wmla/a/b",
        "requestcpu": "1.5",
        "requestgpu": "1",
        "usedcpu": "0.8",
        "usedgpu": "1",
    }
    assert above["V1Resplan"] == {
        "path": "/wmla/a",
        "requestcpu": "3.5",
        "requestgpu": "2",
        "usedcpu": "0.8",
        "usedgpu": "1",
    }
    assert client.get(f"{ONE}/a").json == above["V1Resplan"]
    clock.advance(FRESH_S + 1)
    assert client.get(f"{ONE}/a").json["usedcpu"] == "0"  # an old figure is none
    assert platform.workloads.row(waiting).pool == "wmla/a"


def test_plans_are_for_everybody_and_made_by_administrators(
    client: WmlaClient, platform: Platform, new_user: Callable[[str], WmlaClient]
) -> None:
    client.post(ONE, {"name": "shared"})
    job(platform, "wmla/hidden")  # made by naming it, with nothing of eve's in it
    eve = new_user("eve")
    for answer in (
        eve.post(ONE, {"name": "mine"}),
        eve.put(ONE, {"name": "shared"}),
        eve.put(ONE, {"name": "nobody"}),
        eve.delete(f"{ONE}/shared"),
        eve.delete(f"{ONE}/nobody"),
    ):
        assert answer.status == 403, answer.data
    assert eve.get(f"{ONE}/shared").status == 200
    assert eve.get(f"{ONE}/hidden").status == 404
    assert client.get(f"{ONE}/hidden").status == 200
    assert {one["name"] for one in eve.get(TREE).json["childTreeDto"]} == {"shared", "default"}
    caller = platform.identity.user("eve")
    assert usable_plan(platform, caller, "shared") == "wmla/shared"
    assert usable_plan(platform, caller, "/wmla/shared") == "wmla/shared"
    for named in (None, "", "wmla", "/wmla", "default", "/wmla/default"):
        assert usable_plan(platform, caller, named) == "wmla/default"


def test_nobody_without_credentials_sees_a_plan(nobody: WmlaClient) -> None:
    for answer in (
        nobody.get(TREE),
        nobody.get(f"{ONE}/default"),
        nobody.post(ONE, {"name": "a"}),
        nobody.put(ONE, {"name": "a"}),
        nobody.delete(f"{ONE}/a"),
    ):
        assert answer.status == 401


def test_of_plans_that_were_made_elsewhere_with_one_name_the_highest_is_meant(
    client: WmlaClient, platform: Platform
) -> None:
    platform.pools.set_limits("wmla/one/x", cpu=1)
    platform.pools.set_limits("wmla/x", cpu=1)
    assert client.get(f"{ONE}/x").json["path"] == "/wmla/x"
    assert client.get(f"{ONE}/one/x").json["path"] == "/wmla/one/x"
