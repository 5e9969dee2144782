"""Starting and naming runs, what is refused, and who may call."""

from __future__ import annotations

import base64
import threading
from pathlib import Path
from typing import Any

import pytest
from helpers.mlbench import Dashboard, open_dashboard
from hypothesis import given
from hypothesis import strategies as st

from localml.core.errors import Code
from localml.core.work.states import State
from localml.dialects.mlbench.errors import ERRORS
from localml.dialects.mlbench.translate.images import IMAGES
from localml.dialects.mlbench.translate.pods import STATE_WORDS, slug

CUSTOM = {"image_name": "custom_image", "custom_image_name": "mine", "custom_image_command": "true"}


def start(dashboard: Dashboard, **form: Any) -> Any:
    return dashboard.call("POST", "runs/", form={"name": "a"} | form)


def test_every_state_has_a_word_and_the_active_ones_are_started() -> None:
    assert set(STATE_WORDS) == set(State)
    started = {state for state, word in STATE_WORDS.items() if word == "STARTED"}
    assert started == {State.QUEUED, State.PREPARING, State.RUNNING, State.STOPPING}
    assert set(STATE_WORDS.values()) == {"STARTED", "FINISHED", "FAILED"}


def test_every_failure_has_a_status() -> None:
    assert set(ERRORS) == set(Code)


def test_a_run_that_ends_well_is_finished(dashboard: Dashboard) -> None:
    number = dashboard.start()["id"]
    dashboard.pods()
    for one in dashboard.platform.workloads.get(number).attempts:
        dashboard.platform.engine.finish(one.name)  # type: ignore[attr-defined]
    assert dashboard.wait(number)["state"] == "FINISHED"
    assert dashboard.get("runs")[0]["state"] == "FINISHED"


@pytest.mark.parametrize("image", IMAGES)
def test_the_vendors_images_are_started_by_their_command(image: str, dashboard: Dashboard) -> None:
    answer = start(dashboard, image_name=image, num_workers=2, gpu_enabled="true", backend="NCCL", run_all_nodes="true")
    assert answer.status == 200, answer.data
    assert (answer.json["image"], answer.json["backend"]) == (image, "nccl")
    (role,) = dashboard.platform.workloads.get(answer.json["id"]).spec.roles
    assert role.image == image
    assert role.resources.gpu == (1 if IMAGES[image] else 0)
    assert "exec /conda/bin/python /codes/main.py --run_id " in role.command[2]
    assert role.command[2].rstrip().endswith(" --gpu") == IMAGES[image]


def test_amounts_are_those_of_the_request(dashboard: Dashboard) -> None:
    answer = start(dashboard, **CUSTOM, num_workers=3, num_cpus="1.5", max_bandwidth="100", custom_backend="")
    assert answer.json["num_workers"] == 3
    assert answer.json["cpu_limit"] == "1500m"
    (role,) = dashboard.platform.workloads.get(answer.json["id"]).spec.roles
    assert (role.count, role.resources.cpu) == (3, 1.5)


def test_more_cores_than_there_are_is_no_refusal(dashboard: Dashboard) -> None:
    answer = start(dashboard, num_workers=3, num_cpus="4")
    assert (answer.status, answer.json["cpu_limit"]) == (200, "4000m")
    row = dashboard.platform.workloads.get(answer.json["id"]).row
    assert row.cpu == 12 > dashboard.platform.hardware.cores


def test_members_that_are_null_are_as_good_as_left_out(dashboard: Dashboard) -> None:
    nothing = dict.fromkeys(("num_cpus", "max_bandwidth", "image_name", "backend", "gpu_enabled"))
    answer = dashboard.call("POST", "runs/", {"name": "a", **nothing})
    assert (answer.status, answer.json["cpu_limit"]) == (200, "2000m")


def test_a_backend_of_ones_own_is_handed_on(dashboard: Dashboard) -> None:
    answer = start(dashboard, **CUSTOM, backend="custom_backend", custom_backend="ucc")
    assert answer.json["backend"] == "ucc"


REFUSED: dict[str, dict[str, Any]] = {
    "num_workers": {"num_workers": "many"},
    "num_cpus": {"num_cpus": "0"},
    "max_bandwidth": {"max_bandwidth": "-1"},
    "gpu_enabled": {"gpu_enabled": "maybe"},
    "image_name": {"image_name": "unheard/of"},
    "custom_image_name": {"image_name": "custom_image", "custom_image_command": "true"},
    "custom_image_command": {"image_name": "custom_image", "custom_image_name": "a"},
    "backend": {"backend": "smoke"},
    "custom_backend": {"backend": "custom_backend"},
    "name": {"name": ["a", "b"]},
}


@pytest.mark.parametrize("member", REFUSED)
def test_bad_members_are_refused_by_name(member: str, dashboard: Dashboard) -> None:
    answer = start(dashboard, **REFUSED[member])
    assert answer.status == 400
    assert answer.json["message"].startswith(f"{member}: ")
    assert dashboard.get("runs/") == []


@pytest.mark.parametrize(
    ("form", "words"),
    [
        (CUSTOM | {"custom_image_command": "echo 'open"}, "custom_image_command: cannot be parted"),
        (CUSTOM | {"custom_image_command": "  "}, "custom_image_command: must not be blank"),
        (CUSTOM | {"custom_image_name": "a b"}, "custom_image_name: "),
        (CUSTOM | {"gpu_enabled": "true", "num_workers": 3}, "gpu_enabled: 3 GPUs were asked for, this machine has 2"),
        ({"num_workers": 1001}, "num_workers: "),
        ({"backend": "smoke"}, "backend: must be MPI, GLOO, NCCL or custom_backend"),
    ],
)
def test_refusals_say_what_is_wrong(form: dict[str, Any], words: str, dashboard: Dashboard) -> None:
    answer = start(dashboard, **form)
    assert answer.status == 400
    assert answer.json["message"].startswith(words)


def test_of_many_starts_at_once_one_succeeds(dashboard: Dashboard) -> None:
    found: list[int] = []
    threads = [threading.Thread(target=lambda: found.append(start(dashboard).status)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(found) == [200] + [409] * 7
    assert len(dashboard.get("runs/")) == 1


def test_there_is_one_run_at_a_time_though_its_pool_was_removed(dashboard: Dashboard) -> None:
    dashboard.platform.pools.delete("mlbench")
    assert start(dashboard).status == 200
    assert start(dashboard, name="b").status == 409


def test_runs_of_the_same_name_are_apart(dashboard: Dashboard) -> None:
    first = start(dashboard).json
    dashboard.platform.workloads.stop(first["id"], dashboard.platform.identity.user("admin"))
    dashboard.wait(first["id"])
    second = start(dashboard).json
    assert first["id"] < second["id"]
    assert first["job_id"] != second["job_id"]
    assert [one["name"] for one in dashboard.get("runs/")] == ["a", "a"]
    kept = [dashboard.platform.workloads.row(one["id"]) for one in (first, second)]
    assert kept[0].name == "a"
    assert kept[1].name.startswith("a-")
    assert [row.version for row in kept] == ["", ""]


def test_a_deleted_run_is_gone_with_its_pods(dashboard: Dashboard) -> None:
    number = dashboard.start()["id"]
    dashboard.pods()
    for path in (f"runs/{number}", "runs/999999"):
        answer = dashboard.call("DELETE", path)
        assert answer.status == (204 if path == f"runs/{number}" else 404)
    assert dashboard.get("runs/") == []
    dashboard.clean()
    assert dashboard.get("pods/") == []


def test_the_kind_of_answer_follows_accept(dashboard: Dashboard) -> None:
    kinds = {
        accept: dashboard.call("GET", "runs/", Accept=accept).headers["Content-Type"]
        for accept in (
            "*/*",
            "application/json",
            "text/javascript",
            "text/html",
            "application/json;q=0.1, text/javascript",
        )
    }
    assert set(kinds.values()) == {"application/json", "text/javascript"}
    assert [accept for accept, kind in kinds.items() if kind == "text/javascript"] == [
        "text/javascript",
        "application/json;q=0.1, text/javascript",
    ]


@pytest.mark.parametrize(
    "headers",
    [{"Origin": "http://evil.example"}, {"Origin": "null"}, {"Sec_Fetch_Site": "cross-site"}],
    ids=["origin", "no-origin", "site"],
)
def test_pages_of_other_sites_cannot_start_runs(headers: dict[str, str], dashboard: Dashboard) -> None:
    answer = dashboard.call("POST", "runs/", form={"name": "a"}, **headers)
    assert answer.status == 403
    assert dashboard.get("runs/") == []
    assert dashboard.call("GET", "runs/", Origin=dashboard.url).status == 200


def test_the_ways_to_say_who_one_is(dashboard: Dashboard) -> None:
    given = dashboard.platform.credentials

    def status(value: str) -> int:
        return dashboard.of("").call("GET", "runs/", Authorization=value).status

    for secret in (given.password, given.token):
        basic = base64.b64encode(f"{given.user}:{secret}".encode()).decode()
        assert status(f"Basic {basic}") == 200
    assert status(f"Bearer {given.token}") == 200
    other = base64.b64encode(f"somebody:{given.token}".encode()).decode()
    for value in ("Bearer wrong", f"Basic {other}", "Basic !", f"Negotiate {given.token}"):
        assert status(value) == 401


@given(st.text(max_size=300))
def test_any_name_makes_a_name_of_pods(name: str) -> None:
    found = slug(name)
    assert 1 <= len(found) <= 40
    assert found.strip("-") == found
    assert all(char.isascii() and (char.isalnum() or char == "-") for char in found)


def test_runs_survive_the_server(tmp_path: Path) -> None:
    one = open_dashboard(tmp_path / "data", "process")
    number = one.start()["id"]
    pods = one.pods()
    one.server.close()
    again = open_dashboard(tmp_path / "data", "process")
    try:
        assert again.get(f"runs/{number}")["state"] == "STARTED"
        assert again.pods() == pods
        assert start(again).status == 409
    finally:
        again.clean()
        again.server.close()
