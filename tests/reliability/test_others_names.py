"""What runs in somebody's name is that user's to decide, and takes no more than who asks for it may have: others who
may change a thing of a colleague, or of the administrator, run nothing of their own with what that one may see."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers.models import serving_server, times
from helpers.native import Http, sh
from helpers.rig import wait_until

from localml.control.jobs.site import most_pids
from localml.core.work.grants import Grants
from localml.core.work.tables import WorkloadDetail
from localml.testing import Localml

KERNEL = b"class Kernel:\n    pass\n"
Users = dict[str, Http]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Localml]:
    """One that can serve models."""
    with serving_server(tmp_path) as one:
        yield one


@pytest.fixture
def users(server: Localml) -> Iterator[Users]:
    """The administrator, whose workspace ``team`` is, and two of its editors."""
    admin = Http(server.url, {"Authorization": f"Bearer {server.platform.credentials.token}"})
    made = {"admin": admin}
    assert admin("POST", "/workspaces", {"name": "team"}).status == 201
    for name in ("eva", "kim"):
        token = server.client.create_user(name, "secret")["token"]
        made[name] = Http(server.url, {"Authorization": f"Bearer {token}"})
        assert admin("PUT", f"/workspaces/team/members/{name}", {"role": "editor"}).status == 200
    yield made
    for endpoint in admin("GET", "/endpoints").json["endpoints"]:
        assert admin("DELETE", f"/endpoints/{endpoint['id']}").status == 200
    live = "/workloads?kind=endpoint&state=queued&state=preparing&state=running&state=stopping"
    wait_until(lambda: admin("GET", live).json["workloads"] == [], 60)
    for one in made.values():
        one.close()


def registered(who: Http, name: str, file: str, content: bytes) -> str:
    """A model of somebody's in the team's workspace."""
    assert who("PUT", f"/objects/content?uri=s3://{name}/{file}", content).status == 201
    made = who("POST", "/models", {"name": name, "workspace": "team", "source": f"s3://{name}/"})
    assert made.status == 201, made.data
    return name


def serves(who: Http, model: str) -> None:
    made = who("POST", "/endpoints", {"name": "shared", "workspace": "team", "model": model, "bake": 0})
    assert made.status == 201, made.data


def rolled(who: Http, given: dict[str, Any]) -> tuple[int, int]:
    """How both ways to bring up another version are answered."""
    one = who("POST", "/endpoints/shared/rollout", given)
    several = who("PUT", "/endpoints/shared/variants", {"variants": [{**given, "weight": 100}]})
    return one.status, several.status


@pytest.mark.parametrize("owner", ["admin", "eva"])
def test_an_editor_rolls_out_models_and_no_program_of_its_own(users: Users, owner: str) -> None:
    kim = users["kim"]
    first = registered(users[owner], "first", "m.onnx", times(2.0))
    own = registered(users[owner], "own", "kernel.py", KERNEL)
    data, code = registered(kim, "data", "m.onnx", times(3.0)), registered(kim, "code", "kernel.py", KERNEL)
    serves(users[owner], first)
    for given in (
        {"image": "evil", "command": ["sh", "-c", "id"]},
        {"model": first, "image": "evil"},
        {"model": first, "env": {"LD_PRELOAD": "/buckets/data/evil.so"}},
        {"model": code},
    ):
        assert rolled(kim, given) == (403, 403), given
    for given in ({"model": data}, {"model": first}, {"model": own}):
        assert rolled(kim, given) == (200, 200), given
    assert rolled(users[owner], {"image": "another", "command": ["true"]}) == (200, 200)
    assert rolled(kim, {"model": data}) == (403, 403), "in an image of the owner's it may be a program"


def trained(who: Http, name: str, bucket: str, script: str = "true", **env: str) -> int:
    """A job of somebody's whose output is a bucket."""
    spec = sh(script, env={"LOCALML_OUTPUT_URI": f"s3://{bucket}/", **env})
    made = who("POST", "/workloads", {"name": name, "workspace": "team", "spec": spec})
    assert made.status == 201, made.data
    return int(made.json["id"])


def test_what_is_put_into_a_jobs_output_is_no_program_of_its_owner(users: Users) -> None:
    kim, admin = users["kim"], users["admin"]
    assert admin("POST", "/buckets", {"name": "out", "workspace": "team"}).status == 201
    serves(admin, registered(admin, "first", "m.onnx", times(2.0)))
    trained(admin, "train", "out", "until [ -e $LOCALML_BUCKETS/out/go ]; do sleep 0.1; done")
    assert kim("PUT", "/objects/content?uri=s3://out/model/kernel.py", KERNEL).status == 201
    assert kim("PUT", "/objects/content?uri=s3://out/go", b"").status == 201
    wait_until(lambda: admin("GET", "/models/train").status == 200)
    assert admin("GET", "/models/train").json["owner"] == "admin"
    assert rolled(kim, {"model": "train"}) == (403, 403)
    assert rolled(admin, {"model": "train"}) == (200, 200)


def test_a_job_adds_no_version_to_what_its_owner_may_not_change(users: Users) -> None:
    kim, admin = users["kim"], users["admin"]
    assert admin("PUT", "/workspaces/team/members/kim", {"role": "member"}).status == 200
    registered(admin, "first", "m.onnx", times(2.0))
    assert kim("PUT", "/objects/content?uri=s3://kims/m.onnx", times(3.0)).status == 201

    def said(number: int) -> set[str]:
        return {one["reason"] for one in kim("GET", f"/workloads/{number}/events").json["events"]}

    refused = trained(kim, "first", "kims")
    wait_until(lambda: "ModelNotRegistered" in said(refused) or admin("GET", "/models/first:2").status == 200)
    assert admin("GET", "/models/first:2").status == 404
    trained(kim, "second", "kims", LOCALML_MODEL_NAME="mine")
    wait_until(lambda: kim("GET", "/models/mine").status == 200)


def test_nobody_asks_away_the_limit_of_processes_in_anothers_name_or_by_an_endpoint(users: Users) -> None:
    kim, admin = users["kim"], users["admin"]
    many = {"resources": {"pids": most_pids() + 1}}
    model = registered(admin, "first", "m.onnx", times(2.0))
    mine = {"name": "mine", "workspace": "team", "model": model}
    assert kim("POST", "/endpoints", mine | many).json["error"]["field"] == "pids"
    serves(admin, model)
    assert rolled(kim, {"model": model} | many) == (400, 400)
    lab = {"name": "lab", "workspace": "team", "command": ["sleep", "60"]}
    assert admin("POST", "/notebooks", lab).status == 201
    assert kim("PATCH", "/notebooks/lab", many).json["error"]["field"] == "pids"
    assert admin("PATCH", "/notebooks/lab", many).status == 200
    assert kim("PATCH", "/notebooks/lab", {"time_limit": 60}).status == 200, "what an administrator gave stays"
    assert rolled(admin, {"model": model} | many) == (200, 200)
    assert rolled(kim, {"model": model}) == (200, 200)
    admin("DELETE", "/notebooks/lab")
    wait_until(lambda: admin("GET", "/workloads/lab").status == 404)


def test_an_endpoint_sees_the_buckets_of_its_owner_and_no_others(users: Users, server: Localml) -> None:
    """Whatever its environment or its command names: what mounts the model for it may more than its owner."""
    kim, eva, platform = users["kim"], users["eva"], server.platform
    for who, name in ((eva, "evas"), (kim, "kims")):
        assert who("PUT", f"/objects/content?uri=s3://{name}/x", b"hush").status == 201
    told = {"env": {"A": "s3://evas/x", "B": "s3://kims/x"}, "command": ["sh", "-c", "cat /buckets/evas/x; sleep 60"]}
    assert kim("POST", "/endpoints", {"name": "spy", "image": "x", **told}).status == 201
    wait_until(lambda: kim("GET", "/workloads?kind=endpoint").json["workloads"] != [])
    [replica] = kim("GET", "/workloads?kind=endpoint").json["workloads"]
    with platform.db.read() as session:
        detail = session.get(WorkloadDetail, replica["id"])
    assert detail is not None
    seen = Grants.model_validate_json(detail.grants or "").buckets
    found = {name: platform.bucket_records.find(name) for name in ("evas", "kims")}
    assert seen == {row.id: True for name, row in found.items() if row is not None and name == "kims"}
