"""Workloads through our own API."""

from __future__ import annotations

import jsonschema
import pytest
from helpers.native import Http, sh
from helpers.rig import wait_until

from localml.core.subjects import Noun, Parent, Subject
from localml.core.work.specs import WorkloadSpec
from localml.core.work.states import Kind
from localml.core.work.workloads import Submission
from localml.dialects.native.schemas import machine as machine_schemas
from localml.dialects.native.schemas import work as schemas
from localml.testing import Localml


def test_a_job_from_submission_to_its_end(admin: Http) -> None:
    made = admin("POST", "/workloads", {"name": "first", "spec": sh("exit 3", resources={"gpu": 1})})
    assert made.status == 201
    assert made.json["name"] == "first"
    assert made.json["state"] in ("queued", "preparing", "running")  # there is room, so it may have begun by now
    ended = admin("GET", "/workloads/first/wait?timeout=60").json
    assert (ended["state"], ended["exit_code"], ended["cause"]) == ("failed", 3, "exit_code")
    assert ended["help"].startswith("The program ended with an error")
    [replica] = ended["replicas"]
    assert (replica["role"], replica["index"], replica["exit_code"]) == ("main", 0, 3)
    [gpu] = replica["gpus"]
    assert gpu["uuid"].startswith("GPU-SIMULATED-")
    assert gpu["simulated"] is True
    assert [one["reason"] for one in ended["events"]][:2] == ["Submitted", "Scheduled"]


def test_answers_are_as_documented(admin: Http) -> None:
    admin("POST", "/workloads", {"name": "documented", "spec": sh("true")})
    admin("GET", "/workloads/documented/wait?timeout=60")
    for path, model in (
        ("/workloads/documented", schemas.WorkloadFull),
        ("/workloads?limit=3", schemas.WorkloadsOut),
        ("/workloads/documented/events", schemas.EventsOut),
        ("/gpus", machine_schemas.GpusOut),
        ("/pools", machine_schemas.PoolsOut),
    ):
        jsonschema.validate(admin("GET", path).json, {**model.model_json_schema(), "additionalProperties": False})


def test_a_workload_without_a_name_gets_one_that_people_can_say(admin: Http) -> None:
    names = {admin("POST", "/workloads", {"spec": sh("true")}).json["name"] for _ in range(3)}
    assert len(names) == 3
    assert all(name.count("-") == 2 for name in names)


def test_a_name_in_use_is_refused(admin: Http) -> None:
    body = {"name": "taken", "spec": sh("true")}
    assert admin("POST", "/workloads", body).status == 201
    again = admin("POST", "/workloads", body)
    assert (again.status, again.json["error"]["field"]) == (409, "name")


def test_pages_lead_through_all_that_fit(admin: Http) -> None:
    for number in range(5):
        admin("POST", "/workloads", {"name": f"paged-{number}", "spec": sh("true"), "pool": "pages"})
    seen, after = [], ""
    while True:
        page = admin("GET", f"/workloads?pool=pages&limit=2&sort=name&order=asc{after}").json
        seen += [one["name"] for one in page["workloads"]]
        if page["next"] is None:
            break
        after = f"&after={page['next']}"
    assert seen == [f"paged-{number}" for number in range(5)]


def test_stopped_and_deleted(admin: Http) -> None:
    number = admin("POST", "/workloads", {"name": "endless", "spec": sh("sleep 600")}).json["id"]
    assert admin("POST", "/workloads/endless/stop").json["desired"] == "stop"
    ended = admin("GET", "/workloads/endless/wait?timeout=60").json
    assert (ended["state"], ended["cause"]) == ("stopped", "stopped")
    assert admin("DELETE", "/workloads/endless").status == 200
    assert admin("GET", "/workloads/endless").status == 404
    assert admin("GET", f"/workloads/{number}").json["deleted_at"] is not None


def test_why_says_who_holds_what_is_short(admin: Http, localml: Localml) -> None:
    count = len(localml.platform.gpus.devices())
    held = admin("POST", "/workloads", {"spec": sh("sleep 600", resources={"gpu": count})}).json["id"]
    waits = admin("POST", "/workloads", {"spec": sh("true", resources={"gpu": 1})}).json["id"]
    try:
        wait_until(lambda: admin("GET", f"/workloads/{held}").json["state"] == "running")  # since when, is told, too
        answer = admin("GET", f"/workloads/{waits}/why").json
        assert (answer["state"], answer["why"]["short"], answer["why"]["holders"]) == ("queued", ["gpu"], [held])
        assert admin("GET", f"/workloads/{waits}").json["why"] == answer["why"]
    finally:
        for number in (waits, held):
            admin("DELETE", f"/workloads/{number}")
            admin("GET", f"/workloads/{number}/wait?timeout=60")
    assert admin("GET", f"/workloads/{waits}/why").json["why"] is None


def test_a_wait_that_is_too_short_answers_what_is(admin: Http) -> None:
    number = admin("POST", "/workloads", {"spec": sh("sleep 600")}).json["id"]
    assert admin("GET", f"/workloads/{number}/wait?timeout=0").json["state"] in ("queued", "preparing", "running")
    admin("DELETE", f"/workloads/{number}")


def test_events_go_on_after_an_id(admin: Http) -> None:
    admin("POST", "/workloads", {"name": "eventful", "spec": sh("true")})
    admin("GET", "/workloads/eventful/wait?timeout=60")
    first = admin("GET", "/workloads/eventful/events?limit=1").json
    rest = admin("GET", f"/workloads/eventful/events?after={first['after']}").json
    assert [one["reason"] for one in first["events"]] == ["Submitted"]
    assert rest["events"][-1]["reason"] == "Succeeded"


def test_children_are_listed_by_their_parent(admin: Http, localml: Localml) -> None:
    platform, study = localml.platform, Subject(Noun.STUDY, 7)
    me, run = platform.identity.user("admin"), WorkloadSpec.model_validate(sh("true"))
    numbers = [
        platform.workloads.submit(Submission("trial", run, me, kind=Kind.TRIAL, parent=Parent(study, n)))
        for n in (1, 2)
    ]
    found = admin("GET", "/workloads?parent_kind=study&parent_id=7&order=asc").json["workloads"]
    shown = [(one["id"], one["parent_kind"], one["parent_id"], one["parent_index"]) for one in found]
    assert shown == [(numbers[0], "study", 7, 1), (numbers[1], "study", 7, 2)]
    assert [one.parent_index for one in localml.client.all(parent_kind="study", parent_id=7)] == [2, 1]
    for query, field in (("parent_kind=study", "parent_id"), ("parent_id=7", "parent_kind")):
        answer = admin("GET", f"/workloads?{query}")
        assert (answer.status, answer.json["error"]["field"]) == (400, field)


def test_events_are_asked_for_by_what_they_are_about(admin: Http) -> None:
    number = admin("POST", "/workloads", {"name": "about", "spec": sh("true")}).json["id"]
    assert admin("GET", f"/workloads/{number}/wait?timeout=60").json["state"] == "succeeded"
    own = admin("GET", f"/workloads/{number}/events").json
    assert admin("GET", f"/events?subject_kind=workload&subject_id={number}").json == own
    assert {(one["subject_kind"], one["subject_id"], one["workload_id"]) for one in own["events"]} == {
        ("workload", number, number)
    }
    assert admin("GET", f"/events?subject_kind=study&subject_id={number}").json["events"] == []
    drained = {"gpu": admin("GET", "/gpus").json["gpus"][0]["uuid"]}
    admin("POST", "/drain", drained)
    admin("POST", "/undrain", drained)
    for query in ("", "?subject_kind=platform"):
        found = admin("GET", f"/events{query}").json["events"]
        assert {"GpuDrained", "GpuUndrained"} <= {one["reason"] for one in found}
        assert not any(one["workload_id"] for one in found)
    for query, field in (
        ("subject_id=1", "subject_kind"),
        ("subject_kind=model", "subject_id"),
        ("subject_kind=x", "subject_kind"),
    ):
        answer = admin("GET", f"/events?{query}")
        assert (answer.status, answer.json["error"]["field"]) == (400, field)


def test_points_come_back_as_series(admin: Http) -> None:
    number = admin("POST", "/workloads", {"spec": sh("true")}).json["id"]
    points = [{"name": "loss", "value": value, "at": at} for at, value in ((10.0, 0.5), (11.5, 0.25))]
    assert admin("POST", f"/workloads/{number}/samples", {"replica": "main-0", "points": points}).status == 202
    found = admin("GET", f"/workloads/{number}/samples").json["series"]
    [series] = [one for one in found if one["name"] == "loss"]  # a job that runs for long enough is measured too
    assert series == {"replica": "main-0", "name": "loss", "points": [[10.0, 0.5], [11.5, 0.25]]}
    [late] = admin("GET", f"/workloads/{number}/samples?since=11&name=loss").json["series"]
    assert late["points"] == [[11.5, 0.25]]
    assert admin("GET", f"/workloads/{number}/samples?name=accuracy").json["series"] == []


class TestOthers:
    """Users who are no administrators."""

    @pytest.fixture
    def foreign(self, admin: Http) -> int:
        return int(admin("POST", "/workloads", {"spec": sh("true")}).json["id"])

    def test_see_and_touch_only_their_own(self, bob: Http, foreign: int) -> None:
        mine = bob("POST", "/workloads", {"name": "bobs", "spec": sh("true")}).json
        listed = bob("GET", "/workloads?limit=1000").json["workloads"]
        assert {one["owner"] for one in listed} == {"bob"}
        assert mine["id"] in {one["id"] for one in listed}
        for method, path in (("GET", ""), ("DELETE", ""), ("POST", "/stop"), ("GET", "/logs"), ("GET", "/samples")):
            assert bob(method, f"/workloads/{foreign}{path}").status == 404

    def test_cannot_look_at_other_workspaces_by_asking(self, bob: Http, admin: Http, foreign: int) -> None:
        workspace = admin("GET", f"/workloads/{foreign}").json["workspace"]
        for reference in (workspace, "admin", "nothing"):
            answer = bob("GET", f"/workloads?workspace={reference}")
            assert (answer.status, answer.json["error"]["code"]) == (404, "not_found")
            assert answer.json["error"]["message"] == f"workspace '{reference}' does not exist"

    def test_may_have_a_name_that_others_have(self, bob: Http, admin: Http) -> None:
        theirs = admin("POST", "/workloads", {"name": "shared-name", "spec": sh("true")}).json["id"]
        mine = bob("POST", "/workloads", {"name": "shared-name", "spec": sh("true")}).json["id"]
        assert bob("GET", "/workloads/shared-name").json["id"] == mine
        both = admin("GET", "/workloads/shared-name")
        assert (both.status, both.json["error"]["code"]) == (409, "conflict")
        assert admin("GET", f"/workloads/{theirs}").json["owner"] == "admin"

    @pytest.mark.parametrize(
        ("method", "path", "body"),
        [
            ("POST", "/drain", {}),
            ("POST", "/undrain", {}),
            ("PUT", "/pools/x", {}),
            ("POST", "/images/build", {}),
            ("POST", "/prune", {}),
            ("POST", "/backup", None),
            ("GET", "/env/native", None),
            ("GET", "/users", None),
            ("POST", "/users", {"name": "eve", "password": "x"}),
            ("PUT", "/users/admin/password", {"password": "x"}),
            ("POST", "/users/admin/tokens", {}),
            ("GET", "/events", None),
        ],
    )
    def test_may_not_do_what_administrators_do(self, bob: Http, method: str, path: str, body: object) -> None:
        answer = bob(method, path, body)
        assert (answer.status, answer.json["error"]["code"]) == (403, "forbidden")

    def test_is_told_how_to_get_credentials_where_the_administrators_are_not_given_away(self, bob: Http) -> None:
        assert "localml keys create" in bob("GET", "/env/cloudml").json["error"]["message"]

    def test_may_change_their_own_password_and_make_tokens(self, localml: Localml) -> None:
        http = Http(localml.url, {"Authorization": f"Bearer {localml.client.create_user('pat', 'secret')['token']}"})
        changed = http("PUT", "/users/pat/password", {"password": "better"})
        assert (changed.status, changed.json["ended"]) == (200, {"tokens": 1, "keys": 1})
        assert http("GET", "/status").status == 401
        http.headers = {"Authorization": f"Bearer {changed.json['token']}"}
        token = http("POST", "/users/pat/tokens", {"lifetime": 60}).json["token"]
        http.headers = {"Authorization": f"Bearer {token}"}
        assert http("GET", "/status").json["user"] == "pat"
        http.close()
