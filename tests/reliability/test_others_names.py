"""What runs in somebody's name is that user's to decide, and takes no more than who asks for it may have: others who
may change a thing of a colleague, or of the administrator, run nothing of their own with what that one may see."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from helpers.models import times
from helpers.native import Http
from helpers.rig import wait_until

from localml.control.jobs.site import most_pids
from localml.testing import Localml

KERNEL = b"class Kernel:\n    pass\n"
Users = dict[str, Http]


@pytest.fixture
def users(localml_fresh: Localml) -> Iterator[Users]:
    """The administrator, whose workspace ``team`` is, and two of its editors."""
    admin = Http(localml_fresh.url, {"Authorization": f"Bearer {localml_fresh.platform.credentials.token}"})
    made = {"admin": admin}
    assert admin("POST", "/workspaces", {"name": "team"}).status == 201
    for name in ("eva", "kim"):
        token = localml_fresh.client.create_user(name, "secret")["token"]
        made[name] = Http(localml_fresh.url, {"Authorization": f"Bearer {token}"})
        assert admin("PUT", f"/workspaces/team/members/{name}", {"role": "editor"}).status == 200
    yield made
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
    assert rolled(users[owner], {"image": "another"}) == (200, 200)
    assert rolled(kim, {"model": data}) == (403, 403), "in an image of the owner's it may be a program"


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
