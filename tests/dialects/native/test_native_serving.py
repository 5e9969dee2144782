"""Models and endpoints over our own API."""

from __future__ import annotations

import json
from collections.abc import Iterator

import httpx
import pytest
from helpers.models import serving_server, times
from helpers.native import Http
from helpers.rig import wait_until

from localml.client import Workload
from localml.control.jobs.hostports import is_free
from localml.core.rows import Meta
from localml.testing import Localml


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Localml]:
    with serving_server(tmp_path_factory.mktemp("serving")) as running:
        yield running


@pytest.fixture
def admin(server: Localml) -> Iterator[Http]:
    caller = Http(server.url, {"Authorization": f"Bearer {server.platform.credentials.token}"})
    yield caller
    caller.close()


@pytest.fixture(scope="module")
def bob(server: Localml) -> Iterator[Http]:
    token = server.client.create_user("bob", "secret")["token"]
    caller = Http(server.url, {"Authorization": f"Bearer {token}"})
    yield caller
    caller.close()


@pytest.fixture(scope="module")
def model(server: Localml) -> str:
    server.client.put("s3://b/net.onnx", times(2.0))
    made = server.client.register("net", "s3://b/net.onnx", description="doubles")
    return f"{made.model}:{made.version}"


def test_a_model_is_listed_with_what_it_takes_and_gives(admin: Http, model: str) -> None:
    shown = admin("GET", f"/models/{model}").json
    assert shown["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [-1, 2]}]
    assert len(shown["checksum"]) == 64
    (listed,) = admin("GET", "/models").json["models"]
    assert (listed["name"], listed["description"], len(listed["versions"])) == ("net", "doubles", 1)


@pytest.mark.parametrize(
    ("body", "status", "field"),
    [
        ({"name": "net", "source": "s3://b/none"}, 404, None),
        ({"name": "a/b", "source": "s3://b/net.onnx"}, 400, "name"),
        ({"name": "net", "source": "s3://b/../../etc"}, 400, "source"),
        ({"name": "net"}, 400, "source"),
    ],
)
def test_bad_registrations_say_what_is_wrong(
    admin: Http, model: str, body: dict[str, str], status: int, field: str | None
) -> None:
    answer = admin("POST", "/models", body)
    assert (answer.status, answer.json["error"]["field"]) == (status, field)


def test_serve_ask_roll_scale_stop_and_delete(admin: Http, server: Localml, model: str) -> None:
    made = admin("POST", "/endpoints", {"model": "net", "name": "life", "resources": {"gpu": 1}, "bake": 0})
    assert (made.status, made.json["state"], made.json["settled"]) == (201, "starting", False)
    served = server.client.wait_endpoint("life", 60)
    assert served.state == "ready", served.message
    body = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1.0, 2.0]}]}
    assert server.client.predict("life", body)["outputs"][0]["data"] == [2.0, 4.0]
    assert server.client.get("life-v1-1").gpu == 1
    server.client.put("s3://b/net.onnx", times(3.0))
    second = server.client.register("net", "s3://b/net.onnx")
    rolled = admin("POST", "/endpoints/life/rollout", {"model": f"net:{second.version}"})
    assert rolled.json["state"] == "updating"
    done = server.client.wait_endpoint("life", 60)
    assert [(one["model"], one["state"]) for one in done.variants][:1] == [("net:2", "serving")]
    assert server.client.predict("life", body)["outputs"][0]["data"] == [3.0, 6.0]
    assert server.client.get("life-v2-1").gpu == 1  # the settings stayed
    stopped = admin("POST", "/endpoints/life/stop")
    assert stopped.json["state"] == "stopping"
    assert server.client.wait_endpoint("life", 60).state == "stopped"
    assert admin("DELETE", "/endpoints/life").status == 200
    assert admin("GET", "/endpoints/life").status == 404
    reasons = [one.reason for one in server.platform.endpoints.events(done.id)]
    assert {"Created", "Ready", "RolloutRequested", "VariantServes", "StopRequested", "Deleted"} <= set(reasons)


def test_all_versions_are_put_at_once(admin: Http, server: Localml, model: str) -> None:
    admin("POST", "/endpoints", {"model": "net:1", "name": "pair", "bake": 0, "env": {"A": "1"}})
    assert server.client.wait_endpoint("pair", 60).state == "ready"
    path = "/endpoints/pair/variants"
    made = admin(
        "PUT", path, {"variants": [{"name": "v1", "weight": 75}, {"model": "net:1", "name": "b", "weight": 25}]}
    )
    assert made.status == 200
    done = server.client.wait_endpoint("pair", 60)  # the second is the first once more: one version, two names
    shares = {one["name"]: (one["weight"], one["spec"]["env"]) for one in done.variants}
    assert shares == {"v1": (75, {"A": "1"}), "b": (25, {"A": "1"})}
    changed = admin(
        "PUT", path, {"variants": [{"name": "v1", "weight": 90}, {"name": "c", "image": "x", "weight": 10}]}
    )
    assert changed.json["state"] == "updating"
    assert admin("GET", f"/endpoints/{'9' * 5000}").status == 404
    refused = admin("PUT", path, {"variants": [{"name": "nobody", "weight": 100}]})
    assert (refused.status, refused.json["error"]["field"]) == (400, "variants.0.model")
    assert admin("PUT", path, {"variants": []}).json["error"]["field"] == "variants"
    admin("DELETE", "/endpoints/pair")


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        ({}, 400, "give a registered model, or an image"),
        ({"model": "nothing"}, 404, "model 'nothing' does not exist"),
        ({"model": "net:9"}, 404, "model 'net' has no version '9'"),
        ({"model": "net", "name": "a~b"}, 400, "must start with a letter or digit"),
        ({"model": "net", "options": {"speed": 1}}, 400, "'speed' is not known"),
        ({"model": "net", "options": {"max_batch": "many"}}, 400, "must be of type int"),
        ({"model": "net", "resources": {"gpu": 64}}, 422, "64 GPUs were asked for"),
        ({"model": "net", "scaling": {"minimum": 3, "maximum": 2}}, 400, "maximum must not be less"),
        ({"model": "net", "colour": "red"}, 400, "colour"),
        ({"model": "net", "request_timeout": 100_000}, 400, "request_timeout"),
        ({"model": "net", "health_path": "health"}, 400, "health_path"),
        ({"model": "net", "scaling": {"target": "inf"}}, 400, "finite number"),
        ({"model": "net", "scaling": {"target": 10**400}}, 400, "number"),
        ({"model": "net", "scaling": {"cooldown": "nan"}}, 400, "cooldown: must be a time"),
        ({"model": "net", "bake": "Infinity"}, 400, "bake: must be a time"),
        ({"model": "net", "resources": {"gpu": 1}, "scaling": {"minimum": 40, "maximum": 40}}, 422, "GPUs"),
    ],
)
def test_bad_endpoints_say_what_is_wrong(
    admin: Http, model: str, body: dict[str, object], status: int, words: str
) -> None:
    answer = admin("POST", "/endpoints", body)
    assert answer.status == status, answer.data
    assert words in answer.json["error"]["message"]
    assert admin("GET", "/endpoints").json["endpoints"] == []


def test_an_endpoint_answers_on_a_port_of_its_own_until_it_is_stopped(admin: Http, server: Localml, model: str) -> None:
    port = server.platform.serving.free_port()
    body = {"model": model, "name": "own", "gateway_port": port, "public": True}
    made = admin("POST", "/endpoints", body)
    assert (made.status, made.json["spec"]["gateway_port"]) == (201, port), made.data
    again = admin("POST", "/endpoints", {**body, "name": "other"})
    assert (again.status, again.json["error"]["field"]) == (409, "gateway_port")
    assert server.client.wait_endpoint("own", 60).state == "ready"
    asked = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1, 2]}]}
    answer = httpx.post(f"http://127.0.0.1:{port}/v2/models/own/infer", json=asked, trust_env=False, timeout=60)
    assert answer.json()["outputs"][0]["data"] == [2.0, 4.0]
    admin("DELETE", "/endpoints/own")
    wait_until(lambda: is_free(port), 60)


def test_a_number_of_replicas_that_cannot_be_is_refused_when_it_is_changed_too(admin: Http, model: str) -> None:
    admin("POST", "/endpoints", {"model": model, "name": "sized", "resources": {"gpu": 1}})
    refused = admin("POST", "/endpoints/sized/scale", {"replicas": 40})
    assert (refused.status, "GPUs were asked for" in refused.json["error"]["message"]) == (422, True), refused.data
    assert admin("GET", "/endpoints/sized").json["spec"]["scaling"]["minimum"] == 1
    admin("DELETE", "/endpoints/sized")


def test_limits_that_contradict_each_other_are_told_in_plain_words(admin: Http, model: str) -> None:
    admin("POST", "/endpoints", {"model": model, "name": "plain"})
    refused = admin("POST", "/endpoints/plain/scale", {"minimum": 2})
    words = "scaling: maximum must not be less than minimum"
    assert (refused.status, refused.json["error"]["message"]) == (400, words)
    admin("DELETE", "/endpoints/plain")


def test_others_see_nothing_of_it(admin: Http, bob: Http, model: str) -> None:
    admin("POST", "/endpoints", {"model": "net", "name": "mine"})
    assert bob("GET", "/models").json["models"] == []
    assert bob("GET", "/endpoints").json["endpoints"] == []
    for method, path in (
        ("GET", "/models/net"),
        ("DELETE", "/models/net:1"),
        ("GET", "/endpoints/mine"),
        ("POST", "/endpoints/mine/stop"),
        ("DELETE", "/endpoints/mine"),
    ):
        assert bob(method, path).status == 404, path
    admin("DELETE", "/endpoints/mine")


def test_a_served_version_is_kept(admin: Http, model: str) -> None:
    admin("POST", "/endpoints", {"model": model, "name": "keeper"})
    answer = admin("DELETE", f"/models/{model}")
    assert (answer.status, "is served by an endpoint" in answer.json["error"]["message"]) == (409, True)
    admin("DELETE", "/endpoints/keeper")


def wait_looked(server: Localml, *jobs: Workload) -> None:
    """Until the server has looked at the output of jobs that have succeeded."""
    last = max((server.platform.workloads.row(one.id).ended_at or 0.0, one.id) for one in jobs)

    def seen() -> bool:
        with server.platform.db.read() as session:
            found = session.get(Meta, "outputs-seen")
        return found is not None and tuple(json.loads(found.value)) >= last

    wait_until(seen)


def test_a_model_that_cannot_be_registered_is_told_and_keeps_no_other_from_it(server: Localml) -> None:
    server.client.put("s3://jobs/bad.onnx", b"no model")
    server.client.put("s3://jobs/good.onnx", times(5.0))
    jobs = []
    for name in ("bad", "good"):
        script = f'cd "$LOCALML_BUCKETS/jobs" && mkdir -p {name} && cp {name}.onnx {name}/model.onnx'
        env = {"LOCALML_OUTPUT_URI": f"s3://jobs/{name}", "LOCALML_MODEL_NAME": f"from-{name}"}
        jobs.append(server.client.run(["sh", "-c", script], env=env, wait=True, timeout=60))
    wait_looked(server, *jobs)
    assert server.client.model("from-good").version == 1
    (told,) = [one for one in server.platform.workloads.events(jobs[0].id) if one.reason == "ModelNotRegistered"]
    assert "the model in s3://jobs/bad/ was not registered: source: " in told.message


def test_a_model_that_a_job_leaves_is_registered_with_the_job(server: Localml) -> None:
    server.client.put("s3://jobs/in.onnx", times(5.0))
    script = 'cd "$LOCALML_BUCKETS/jobs" && mkdir -p out && cp in.onnx out/model.onnx'
    env = {"LOCALML_OUTPUT_URI": "s3://jobs/out", "LOCALML_MODEL_NAME": "trained"}
    job = server.client.run(["sh", "-c", script], env=env, wait=True, timeout=60)
    assert job.state == "succeeded", job.message
    wait_looked(server, job)
    made = server.client.model("trained")
    assert (made.version, made.workload_id, made.source) == (1, job.id, "s3://jobs/out/")
    server.platform.serving.outputs.look()
    assert server.client.model("trained").version == 1


@pytest.mark.parametrize(
    ("script", "source", "format"),
    [
        ("cp ../in.onnx best.onnx", "", "onnx"),
        ("mkdir model; cp ../in.onnx model/any.onnx; cp ../in.onnx 1.onnx; cp ../in.onnx 2.onnx", "model/", "onnx"),
        ("mkdir model; touch kernel.py; echo 'class K: ...' >model/kernel.py", "model/", "python"),
        ("touch kernel.py", None, ""),
    ],
)
def test_models_of_any_kind_are_found_in_a_jobs_output(
    server: Localml, request: pytest.FixtureRequest, script: str, source: str | None, format: str
) -> None:
    name = f"found-{abs(hash(request.node.name))}"
    server.client.put(f"s3://jobs/{name}/in.onnx", times(5.0))
    env = {"LOCALML_OUTPUT_URI": f"s3://jobs/{name}/out", "LOCALML_MODEL_NAME": name}
    words = f'mkdir -p "$LOCALML_BUCKETS/jobs/{name}/out"; cd "$LOCALML_BUCKETS/jobs/{name}/out"; {script}'
    job = server.client.run(["sh", "-c", words], env=env, wait=True, timeout=60)
    assert job.state == "succeeded", job.message
    wait_looked(server, job)
    if source is None:
        assert name not in [one.name for one in server.client.models()]
    else:
        made = server.client.model(name)
        assert (made.source, made.format) == (f"s3://jobs/{name}/out/{source}", format)


def test_an_output_with_several_models_and_none_named_is_told(server: Localml) -> None:
    server.client.put("s3://jobs/several/in.onnx", times(5.0))
    script = 'cd "$LOCALML_BUCKETS/jobs/several"; mkdir out; cp in.onnx out/1.onnx; cp in.onnx out/2.onnx'
    env = {"LOCALML_OUTPUT_URI": "s3://jobs/several/out"}
    job = server.client.run(["sh", "-c", script], env=env, wait=True, timeout=60)
    wait_looked(server, job)
    (told,) = [one for one in server.platform.workloads.events(job.id) if one.reason == "ModelNotRegistered"]
    assert "must hold model.onnx or one other *.onnx file, not 1.onnx, 2.onnx" in told.message
