"""Training tasks over the API: what is started, shown, stopped and deleted, and whose it is."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any
from urllib.parse import urlencode

import pytest
from helpers.people import tree_of
from helpers.wmla import WmlaClient, packed, part
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from localml.core.work.states import Kind
from localml.core.work.workloads import Query
from localml.dialects.wmla.translate.forms import MOST_TEXT
from localml.platform import Platform

ARGS = "--exec-start PyTorch --model-main main.py"
MODEL = packed({"main.py": "print(1)\n"}, "m")
NewUser = Callable[[str], WmlaClient]
MAGIC = st.sampled_from((b"\x1f\x8b\x08", b"BZh9", b"\xfd7zXZ\x00", b"PK\x03\x04", MODEL[:512], MODEL[:1000]))
"""How files begin that could be archives."""


def started(client: WmlaClient, args: str = ARGS, **more: Any) -> dict[str, Any]:
    answer = client.start(args, MODEL, **more)
    assert answer.status == 200, answer.data
    return dict(answer.json)


def newest(platform: Platform) -> Any:
    row = platform.workloads.page(Query(dialect="wmla", kinds=(Kind.JOB,), limit=1)).items[0]
    return platform.workloads.get(row.id or 0)


def test_a_task_is_started_shown_and_listed(client: WmlaClient) -> None:
    made = started(client, f"{ARGS} --appName mine --epochs 3 --conda-env-name x")
    assert made["uid"] == made["id"]
    assert made["href"] == f"/platform/rest/deeplearning/v1/execs/{made['id']}"
    shown = client.get(f"/execs/{made['id']}").json
    assert {**made, **shown} == made
    assert (shown["creator"], shown["appName"], shown["state"]) == ("admin", "mine", "PENDING_JOB_SCHEDULER")
    assert shown["args"] == f"{ARGS} --appName mine --epochs 3 --conda-env-name x"
    assert (
        "OptionsPassedOn: these options are none of the service's, and go on to the program: --epochs"
        in shown["events"]
    )
    assert "OptionsWithoutEffect" in shown["events"]
    assert shown["workDir"] == f"s3://wmla-admin/admin/batchworkdir/{made['id']}"
    assert shown["appId"].startswith("app-")
    assert made["id"] in {one["id"] for one in client.get("/execs/").json}


def test_tokens_among_the_options_are_not_kept(client: WmlaClient) -> None:
    for token in ("--cs-url-bearer abc.def", "--jwt-token='abc def'", '--jwt-token "abc def"'):
        made = started(client, f"{ARGS} {token} --lr 1")
        assert "abc" not in json.dumps(client.get(f"/execs/{made['id']}").json)
        assert made["args"].endswith("*** --lr 1")


def test_a_task_is_found_by_the_ids_of_its_application_and_submission(client: WmlaClient) -> None:
    made = started(client)
    for other in (made["appId"], made["submissionId"]):
        assert client.get(f"/execs/{other}").json["id"] == made["id"]


def test_stop_keeps_the_task_and_delete_removes_it(client: WmlaClient, platform: Platform) -> None:
    made = started(client)
    assert client.post(f"/execs/{made['id']}/stop").status == 204
    assert client.get(f"/execs/{made['id']}").status == 200
    gone = client.delete(f"/execs/{made['id']}")
    assert (gone.status, gone.data) == (204, b"")
    for call in ("", "/log", "/result"):
        assert client.get(f"/execs/{made['id']}{call}").status == 400


@pytest.mark.parametrize("execId", ["exec-000", "1", "app-0", "x" * 3000])
def test_what_is_not_there_is_answered_400(client: WmlaClient, execId: str) -> None:
    answers = [
        client.get(f"/execs/{execId}"),
        client.delete(f"/execs/{execId}"),
        client.post(f"/execs/{execId}/stop"),
        client.get(f"/execs/{execId}/log"),
        client.get(f"/execs/{execId}/result"),
        client.post(f"/execs/{execId}/deploy", {"name": "x"}),
    ]
    for answer in answers:
        assert answer.status == 400
        assert answer.json["field"] == "execId"


def test_each_user_has_tasks_of_its_own(client: WmlaClient, new_user: NewUser) -> None:
    eve, bob = new_user("eve"), new_user("bob")
    hers, his = started(eve)["id"], started(bob)["id"]
    assert [one["id"] for one in eve.get("/execs").json] == [hers]
    assert {hers, his} <= {one["id"] for one in client.get("/execs").json}
    for call in (bob.get(f"/execs/{hers}"), bob.delete(f"/execs/{hers}"), bob.post(f"/execs/{hers}/stop")):
        assert call.status == 400
    assert bob.delete("/execs").status == 204
    assert bob.get("/execs").json == []
    assert client.get(f"/execs/{his}").status == 400
    assert eve.get(f"/execs/{hers}").status == 200
    assert bob.delete("/execs").status == 204


def test_options_come_in_the_query_or_with_the_data(client: WmlaClient) -> None:
    data = json.dumps({"args": ARGS, "hardwareSpec": {"nodes": {"num_nodes": 2}}})
    made = client.form("/execs", part("data", data.encode()), part("file", MODEL, "x.modelDir.tar"))
    assert made.status == 200, made.data
    assert (made.json["args"], made.json["numWorker"]) == (ARGS, 2)
    assert started(client, f"{ARGS} --lr 1", data=data)["args"] == f"{ARGS} --lr 1"
    assert client.form("/execs?args=%20", part("file", MODEL)).status == 400


def test_data_is_taken_as_a_file_too_and_a_large_one_is_refused(client: WmlaClient) -> None:
    path = f"/execs?{urlencode({'args': ARGS})}"
    sent = client.form(
        path, part("file", MODEL), part("data", b"{'hardwareSpec': {'nodes': {'num_nodes': 3}}}", "d.json")
    )
    assert sent.json["numWorker"] == 3
    for name in (None, "d.json"):
        large = client.form(path, part("file", MODEL), part("data", b" " * (MOST_TEXT + 1), name))
        assert (large.status, large.json["field"]) == (400, "data")
    assert client.form(path, part("file", MODEL), part("data", b"\xff", "d.json")).status == 400


def test_data_is_json_or_what_python_writes_and_its_source_goes_before_the_options(
    client: WmlaClient, platform: Platform
) -> None:
    tree_of(platform).make_folder("s3://mnist/train")
    source = [{"type": "fs", "location": {"paths": "mnist/train"}}]
    for data in (json.dumps({"dataSource": source}), str({"dataSource": source})):
        started(client, f"{ARGS} --cs-datastore-meta type=fs,data_path=nowhere", data=data)
        assert newest(platform).spec.roles[0].command[6] == "mnist/train"


@pytest.mark.parametrize(
    ("args", "data", "field"),
    [
        ("--exec-start 'x", None, "args"),
        ("--model-main main.py", None, "args"),
        ("--exec-start caffe", None, "args"),
        (f"{ARGS} --cs-datastore-meta type=fs,data_path=nowhere", None, "args: --cs-datastore-meta: data_path"),
        (f"{ARGS} --cs-datastore-meta type=cos", None, "args"),
        (f"{ARGS} --consumer nowhere", None, "args: --consumer"),
        (f"{ARGS} --workerMemory 900t", None, "args"),
        (f"{ARGS} --workerDeviceType gpu --workerDeviceNum 100", None, "args"),
        (ARGS, "nonsense", "data"),
        (ARGS, "{'dataSource': 3}", "dataSource"),
        (ARGS, "{'dataSource': [{'type': 'x'}]}", "dataSource.0.type"),
        (ARGS, "{'hardwareSpec': {'nodes': 1}}", "hardwareSpec.nodes"),
    ],
)
def test_what_cannot_be_started_is_refused_and_nothing_is_made(
    client: WmlaClient, platform: Platform, args: str, data: str | None, field: str
) -> None:
    before = len(client.get("/execs").json)
    answer = client.start(args, MODEL, data)
    assert (answer.status, answer.json["field"]) == (400, field), answer.data
    assert len(client.get("/execs").json) == before
    assert list((platform.data / "uploads").iterdir()) == []


def test_a_form_without_a_model_or_that_is_none_is_refused(client: WmlaClient) -> None:
    for answer in (
        client.form(f"/execs?{urlencode({'args': ARGS})}", part("data", b"{}")),
        client.form(f"/execs?{urlencode({'args': ARGS})}", part("file", MODEL), part("file", MODEL)),
        client.post(f"/execs?{urlencode({'args': ARGS})}", {"file": "x"}),
        client.start(ARGS, b"\x1f\x8b not gzip"),
    ):
        assert answer.status == 400, answer.data


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    file=st.binary(max_size=600) | st.builds(lambda head, rest: head + rest, MAGIC, st.binary(max_size=600)),
    args=st.just(ARGS) | st.text(max_size=30).map(lambda text: f"--exec-start Python {text}"),
    data=st.none() | st.text(max_size=60) | st.just("{'dataSource': [{'type': 'fs'}]}"),
)
def test_whatever_is_sent_is_started_or_refused_and_leaves_nothing_behind(
    client: WmlaClient, platform: Platform, file: bytes, args: str, data: str | None
) -> None:
    answer = client.form(
        f"/execs?{urlencode({'args': args})}",
        part("file", file),
        *([] if data is None else [part("data", data.encode("utf-8", "replace"))]),
    )
    assert answer.status in (200, 400), answer.data
    assert list((platform.data / "uploads").iterdir()) == []


def test_the_document_tells_forms_and_files(client: WmlaClient) -> None:
    paths = client.get("/openapi.json").json["paths"]
    base = "/platform/rest/deeplearning/v1"
    form = paths[f"{base}/execs"]["post"]["requestBody"]["content"]["multipart/form-data"]["schema"]
    assert (set(form["properties"]), form["required"]) == ({"file", "data"}, ["file"])
    assert set(paths[f"{base}/execs/{{execId}}/result"]["get"]["responses"]["200"]["content"]) == {"application/zip"}
    assert paths[f"{base}/hypersearch"]["post"]["requestBody"]["required"]


def test_frameworks_are_those_of_the_catalogue(client: WmlaClient) -> None:
    found = {one["name"]: one for one in client.get("/execs/frameworks").json}
    assert {"PyTorch", "distPyTorch", "scikit-learn", "Python"} <= set(found)
    assert found["PyTorch"]["frameworkVersion"] == "2.13.0"
    assert found["PyTorch"]["distributeStrategy"] == "MultiWorkerMirroredStrategy"
    for name in found:
        assert started(client, f"--exec-start {name.upper()} --model-main main.py")["framework"] == name.upper()
