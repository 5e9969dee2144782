"""A user goes, and another one gets the name: nothing of the old one's is the new one's, whatever API is asked."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from helpers.cloudml import SignedClient, over, put_trainer
from helpers.mlbench import Dashboard
from helpers.models import serving_server, times
from helpers.native import Http, sh
from helpers.openpai import PaiClient, role
from helpers.people import common_bucket
from helpers.rig import wait_until

from localml.client import Client, ClientError
from localml.core.people.secrets import Vault
from localml.testing import Localml, start

SLEEP = {"image": "own", "command": ["sleep", "600"]}
LISTS = """
import json, os
folder = json.loads(os.environ["LOCALML_MOUNTS"])["/work"]
print(sorted(os.listdir(folder)))
open(os.path.join(folder, os.environ["MARK"]), "w").close()
"""
TRAINER = "fds://alices/trainer.tar.gz"


class Person:
    """A new user, with clients of all APIs."""

    def __init__(self, server: Localml, name: str, org: str) -> None:
        admin = Http(server.url, {"Authorization": f"Bearer {server.platform.credentials.token}"})
        made = admin("POST", "/users", {"name": name, "password": "secret", "org": org}).json
        self.id = int(made["id"])
        self.name = name
        self.client = Client(server.url, made["token"])
        self.native = Http(server.url, {"Authorization": f"Bearer {made['token']}"})
        self.cloudml = SignedClient(made["access_key"], made["secret_key"], over(server.url))
        self.openpai = PaiClient(over(server.url), made["token"])
        self.mlbench = Dashboard(server._server, made["token"])

    def folder(self, name: str) -> str:
        """What lies in the user's folder before a job of the user's leaves a file there."""
        mounts = [{"source": "workspace:lab", "target": "/work"}]
        job = self.client.run(["python3", "-c", LISTS], name=name, mounts=mounts, env={"MARK": name}, wait=True)
        assert job.state == "succeeded", self.client.text(job.id)
        return self.client.text(job.id).strip()


class Left:
    """What a user made, and what is known of it."""

    def __init__(self, server: Localml, who: Person) -> None:
        client = who.client
        self.job = client.run(["echo", "private"], name="job", wait=True).id
        assert who.folder("visit") == "[]"
        client.put("s3://alices/net.onnx", times(2.0))
        client.register("net", "s3://alices/net.onnx")
        self.endpoint = client.serve("net", name="life").id
        client.stop_endpoint("life")
        self.notebook = client.tools.start_notebook(name="own-lab", **SLEEP).id
        self.shared = client.tools.start_notebook(name="lab", workspace="team", **SLEEP)
        self.in_team = client.run(["sleep", "600"], name="shared", workspace="team").id
        spec: Any = client.get(self.shared.workload_id).spec
        self.sealed = spec["roles"][0]["sealed_env"]["JUPYTER_TOKEN"]
        common_bucket(server.platform, "code")
        put_trainer(server.platform.buckets, TRAINER)
        train = {"module_name": "trainer.task", "trainer_uri": TRAINER, "framework": "python", "job_name": "linear"}
        assert who.cloudml.post("/train", train).status == 200
        who.openpai.submit("pai", role(command="sleep 600"))
        self.run = who.mlbench.start(workers=1)["id"]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Localml]:
    with serving_server(tmp_path_factory.mktemp("names")) as running:
        running.client.people.create_workspace("team", everyone="member")
        yield running


@pytest.fixture(scope="module")
def people(server: Localml) -> tuple[Person, Person, Left]:
    """One who was removed, the next of its name, and what the first one left."""
    old = Person(server, "alice", "lab")
    left = Left(server, old)
    server.client.people.remove_user("alice")
    return old, Person(server, "alice", ""), left


def test_numbers_are_never_used_again(server: Localml, people: tuple[Person, Person, Left]) -> None:
    old, new, _ = people
    assert new.id > old.id
    with pytest.raises(ClientError, match="not known"):
        old.client.people.me()
    removed = Person(server, "short", "")
    server.client.people.remove_user("short")
    assert Person(server, "shorter", "").id > removed.id


def test_the_own_api_shows_nothing_of_the_old_ones_workspace(people: tuple[Person, Person, Left]) -> None:
    _, new, left = people
    assert [one.workspace for one in new.client.all(deleted=True) if one.name == "job"] == []
    for known in (left.job, left.run):
        for path in ("", "/logs", "/events", "/samples", "/why"):
            assert new.native("GET", f"/workloads/{known}{path}").status == 404, path
        assert new.native("POST", f"/workloads/{known}/stop").status == 404
        assert new.native("DELETE", f"/workloads/{known}").status == 404
    assert [one.name for one in new.client.tools.notebooks()] == ["lab"]  # the shared one, which everybody sees
    for path in (f"notebooks/{left.notebook}", "notebooks/own-lab", f"endpoints/{left.endpoint}", "endpoints/life"):
        assert new.native("GET", f"/{path}").status == 404, path
        assert new.native("DELETE", f"/{path}").status == 404, path
    assert new.native("GET", "/models/net").status == 404
    for uri in ("s3://alices/net.onnx", TRAINER, "/alices/net.onnx"):
        for path in ("objects/content", "objects/info"):
            assert new.native("GET", f"/{path}?uri={uri}").status in (400, 404), (path, uri)
    assert new.native("GET", "/objects?uri=s3://alices/net.onnx").json.get("objects", []) == []
    assert (new.client.endpoints(), new.client.models()) == ([], [])


def test_in_a_shared_workspace_the_name_makes_no_owner(people: tuple[Person, Person, Left]) -> None:
    _, new, left = people
    seen = new.native("GET", f"/notebooks/{left.shared.id}").json
    assert (seen["owner"], seen["token"]) == ("alice", None)
    for method, path in (
        ("POST", f"/workloads/{left.in_team}/stop"),
        ("DELETE", f"/workloads/{left.in_team}"),
        ("POST", f"/workloads/{left.in_team}/ssh"),
        ("POST", f"/notebooks/{left.shared.id}/stop"),
        ("DELETE", f"/notebooks/{left.shared.id}"),
    ):
        assert new.native(method, path).status == 403, path
    refused = new.native("PATCH", f"/notebooks/{left.shared.id}", {"token": "mine"})
    assert refused.status == 403
    listed = [one.id for one in new.client.all(owner="alice")]
    assert not {left.in_team, left.shared.workload_id} & set(listed)


def test_sealed_variables_stay_closed(people: tuple[Person, Person, Left]) -> None:
    _, new, left = people
    stolen = sh("echo $STOLEN") | {}
    stolen["roles"][0]["sealed_env"] = {"STOLEN": left.sealed}
    answer = new.native("POST", "/workloads", {"name": "thief", "spec": stolen})
    assert (answer.status, "not sealed by this installation for this user" in answer.json["error"]["message"]) == (
        400, True
    )  # fmt: skip


def test_folders_are_another_users(people: tuple[Person, Person, Left]) -> None:
    _, new, _ = people
    assert new.folder("first") == "[]"
    assert new.folder("second") == "['first']"


def test_cloudml_shows_nothing_of_an_organisation_that_the_new_one_is_not_in(
    people: tuple[Person, Person, Left],
) -> None:
    _, new, _ = people
    for path in ("/train/linear", "/train/linear/logs", "/train/linear/events", "/train", "/train?org_id=lab"):
        answer = new.cloudml.get(path)
        assert answer.status in (403, 404) or answer.json in ([], {}), (path, answer.data)
    assert new.cloudml.delete("/train/linear?org_id=lab").status == 403


def test_openpai_lets_the_next_of_a_name_change_nothing(people: tuple[Person, Person, Left]) -> None:
    _, new, _ = people
    assert new.openpai.get("/jobs?username=alice").json == []
    assert new.openpai.put("/jobs/pai/executionType", {"value": "STOP"}).status in (401, 403)
    assert new.openpai.get("/jobs/pai/ssh/privateKey").status in (401, 403)
    assert new.openpai.status("pai")["state"] in ("WAITING", "RUNNING")
    assert new.openpai.submit("pais", role(command="true"))["username"] == "alice"
    assert [one["name"] for one in new.openpai.get("/jobs?username=alice").json] == ["pais"]


def test_mlbench_knows_no_run_of_the_old_one(people: tuple[Person, Person, Left]) -> None:
    _, new, left = people
    assert new.mlbench.get("runs/") == []
    for method, path in (
        ("GET", f"runs/{left.run}/"),
        ("DELETE", f"runs/{left.run}/"),
        ("GET", f"metrics/{left.run}/"),
    ):
        assert new.mlbench.call(method, path).status == 404, path


def test_administrators_have_it_all(server: Localml, people: tuple[Person, Person, Left]) -> None:
    _, _, left = people
    client = server.client
    assert client.text(left.job) == "private\n"
    assert client.endpoint(left.endpoint).owner == "alice"
    assert {left.job, left.in_team, left.run} <= {one.id for one in client.all(owner="alice", deleted=True)}
    assert client.tools.notebook(left.shared.id).token
    client.stop(left.in_team)
    assert client.wait(left.in_team, 60).state == "stopped"


def test_nothing_of_the_old_one_begins_again_in_the_new_ones_name(
    server: Localml, people: tuple[Person, Person, Left]
) -> None:
    """What a removed user could open is stopped, and stays so though there is a user of the name again."""
    old, _, left = people
    tools, platform = server.client.tools, server.platform
    wait_until(lambda: tools.notebook(left.notebook).state == "stopped", 60)
    with pytest.raises(ClientError, match="alice, in whose name own-lab ran, may not be inside any more"):
        tools.start(tools.notebook(left.notebook))
    assert platform.workloads.row(left.job).owner_id == old.id
    assert (platform.data / "folders" / str(old.id) / "own-lab").is_dir()


def test_a_text_that_an_earlier_version_sealed_for_a_name_is_of_whoever_had_it_then(
    server: Localml, people: tuple[Person, Person, Left]
) -> None:
    _, new, _ = people
    vault = Vault.open(server.platform.data / "secret.key")
    made = server.platform.clock.now()
    for at, status in ((int(made) - 3600, 400), (int(time.time()), 201)):
        sealed = vault._fernet.encrypt_at_time(json.dumps(["alice", "text"]).encode(), at).decode()
        spec = sh("echo $OLD")
        spec["roles"][0]["sealed_env"] = {"OLD": sealed}
        assert new.native("POST", "/workloads", {"name": f"sealed-{status}", "spec": spec}).status == status


def test_folders_that_an_earlier_version_kept_by_name_are_moved_once(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with closing(start(data)) as first:
        number = Person(first, "ann", "").id
    for name in ("ann", "gone", "7"):  # a name may look like a number
        (data / "workspaces" / name / "lab").mkdir(parents=True)
        (data / "workspaces" / name / "lab" / "mine").write_text(name)
    start(data).close()
    with closing(start(data)) as again:
        assert again.platform.mounts.folder(number, "lab").joinpath("mine").read_text() == "ann"
        assert Person(again, "gone", "").folder("visit") == "[]"
    start(data).close()
    for place, name in ((str(number), "ann"), ("of-gone", "gone"), ("of-7", "7")):
        assert (data / "folders" / place / "lab" / "mine").read_text() == name
        assert (data / "workspaces" / name / "lab" / "mine").read_text() == name  # for whoever knew the place
