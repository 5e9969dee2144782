"""The vendor's contract file, operation by operation: its examples are sent and come back, its statuses provoked."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from helpers.mlbench import Answer, Dashboard, open_dashboard
from jsonschema import Draft202012Validator

CONTRACT: dict[str, Any] = yaml.safe_load((Path(__file__).parents[2] / "contracts" / "mlbench.yaml").read_text())
EXAMPLES: dict[str, Any] = {name: one["value"] for name, one in CONTRACT["components"]["examples"].items()}
OPERATIONS: dict[str, tuple[str, str, dict[str, Any]]] = {
    said["operationId"]: (method.upper(), path, said)
    for path, methods in CONTRACT["paths"].items()
    for method, said in methods.items()
}
READING = [name for name, (method, _, _) in OPERATIONS.items() if method == "GET"]
MEDIA = ["application/json", "text/javascript"]


@pytest.fixture(scope="module", params=["fake", "process", pytest.param("docker", marks=pytest.mark.docker)])
def served(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dashboard]:
    one = open_dashboard(tmp_path_factory.mktemp("data"), request.param)
    yield one
    one.clean()
    one.server.close()


@pytest.fixture(scope="module")
def run(served: Dashboard) -> int:
    """An active run with two workers."""
    number = int(served.start()["id"])
    served.pods()
    return number


def url(name: str, run: int, served: Dashboard, *, slash: bool = True) -> str:
    path = OPERATIONS[name][1].removeprefix("/api/")
    path = path.replace("{run_id}", str(run)).replace("{pod_name_or_run_id}", served.pods()[0])
    return path if slash else path.rstrip("/")


def check(answer: Answer, name: str, media: str = "application/json") -> None:
    """A status that the contract lists, the media type that was asked for, a body of the schema, and ``Vary``."""
    said = OPERATIONS[name][2]["responses"][str(answer.status)]
    assert "Accept" in answer.headers["Vary"]
    content = said.get("content")
    if content is not None:
        assert answer.headers["Content-Type"].partition(";")[0] == media
        schema = {"components": CONTRACT["components"], **content[media]["schema"]}
        Draft202012Validator(schema, format_checker=Draft202012Validator.FORMAT_CHECKER).validate(answer.json)


def test_the_contract_has_the_operations_that_are_meant() -> None:
    assert set(OPERATIONS) == {
        *("listWorkerPods", "listAllMetrics", "recordMetric", "getMetricsOfSource"),
        *("listRuns", "startRun", "getRun"),
    }
    assert set(EXAMPLES) == {"pods", "metricsByPod", "metricsByName", "podMetric", "runMetric", "runs", "run"}


@pytest.mark.parametrize("media", MEDIA)
@pytest.mark.parametrize("slash", [True, False], ids=["slash", "bare"])
@pytest.mark.parametrize("name", READING)
def test_everything_readable_is_answered_as_the_contract_says(
    name: str, slash: bool, media: str, served: Dashboard, run: int
) -> None:
    answer = served.call("GET", url(name, run, served, slash=slash), Accept=media)
    assert answer.status == 200, answer.data
    check(answer, name, media)


def test_pods_are_the_workers_of_the_run_with_labels_phase_and_address(served: Dashboard, run: int) -> None:
    names = served.pods()
    pods = served.get("pods")
    assert [pod["name"] for pod in pods] == names
    assert all(name.startswith("name-of-the-run-mlbench-worker-") for name in names)
    for pod, example in zip(pods, EXAMPLES["pods"], strict=True):
        labels, shown = ast.literal_eval(pod["labels"]), ast.literal_eval(example["labels"])
        assert {name: labels[name] for name in ("app", "component")} == {
            name: shown[name] for name in ("app", "component")
        }
        assert labels["release"]
        assert pod["phase"] == example["phase"] == "Running"
        assert pod["ip"].count(".") == 3


@pytest.mark.parametrize("form", [False, True], ids=["json", "form"])
@pytest.mark.parametrize("slash", [True, False], ids=["slash", "bare"])
@pytest.mark.parametrize("example", ["podMetric", "runMetric"])
def test_the_examples_of_metrics_are_stored_and_answered_member_by_member(
    example: str, slash: bool, form: bool, served: Dashboard, run: int
) -> None:
    sent = dict(EXAMPLES[example])
    source = "pod_name" if "pod_name" in sent else "run_id"
    sent[source] = served.pods()[1] if source == "pod_name" else run
    path = url("recordMetric", run, served, slash=slash)
    answer = served.call("POST", path, form=sent) if form else served.call("POST", path, sent)
    assert answer.status == 201, answer.data
    check(answer, "recordMetric")
    assert answer.json == sent
    kind = "pod" if source == "pod_name" else "run"
    found = served.get(f"metrics/{sent[source]}", metric_type=kind, metric_filter=sent["name"])
    assert found == {sent["name"]: [{"date": sent["date"], "value": sent["value"]}]}


def test_the_form_of_the_published_client_is_stored(served: Dashboard, run: int) -> None:
    media = OPERATIONS["recordMetric"][2]["requestBody"]["content"]["application/x-www-form-urlencoded"]
    answer = served.call("POST", "metrics/", form=media["example"] | {"run_id": run, "name": "from the form"})
    assert answer.status == 201
    check(answer, "recordMetric")
    found = served.get(f"metrics/{run}", metric_type="run")
    assert found["from the form"] == [{"date": "2018-08-03T09:21:44.331823Z", "value": "0.7845"}]


def test_the_examples_of_readings_come_back_for_one_pod_and_for_all(served: Dashboard, run: int) -> None:
    pods = served.pods()
    given = dict(zip(pods, EXAMPLES["metricsByPod"].values(), strict=True))
    given[pods[1]] = {**given[pods[1]], **EXAMPLES["metricsByName"]}
    for pod, metrics in given.items():
        for name, points in metrics.items():
            for point in reversed(points):  # in whatever order they come
                served.call("POST", "metrics/", {"pod_name": pod, "name": name, **point})
    everything = served.get("metrics/")
    for pod, metrics in given.items():
        one = served.get(f"metrics/{pod}")
        for name, points in metrics.items():
            # localml's own readings of a real container follow, which are newer
            assert one[name][: len(points)] == points
            assert everything[pod][name][: len(points)] == points


def test_a_point_at_exactly_the_given_time_is_left_out(served: Dashboard, run: int) -> None:
    for point in EXAMPLES["metricsByName"]["container_cpu_user_seconds_total"]:
        served.call("POST", "metrics/", {"run_id": run, "name": "since", **point})
    first, last = EXAMPLES["metricsByName"]["container_cpu_user_seconds_total"]
    kind = {"metric_type": "run", "metric_filter": "since"}
    assert served.get(f"metrics/{run}/", since=first["date"], **kind) == {"since": [last]}
    assert served.get(f"metrics/{run}/", since=last["date"], **kind) == {}
    assert served.get(f"metrics/{run}/", since="1970-01-01T00:00:00.000000Z", **kind)["since"] == [first, last]


EXAMPLE_OF_A_RUN = OPERATIONS["startRun"][2]["requestBody"]["content"]["application/json"]["example"]


@pytest.mark.parametrize("form", [False, True], ids=["json", "form"])
@pytest.mark.parametrize("slash", [True, False], ids=["slash", "bare"])
def test_a_second_run_is_refused_while_one_is_active(form: bool, slash: bool, served: Dashboard, run: int) -> None:
    before = served.get("runs/")
    path = url("startRun", run, served, slash=slash)
    answer = served.call("POST", path, **{"form" if form else "body": EXAMPLE_OF_A_RUN})
    assert answer.status == 409
    check(answer, "startRun")
    assert f"run {run} " in answer.json["message"]
    assert [one["id"] for one in served.get("runs/")] == [one["id"] for one in before]


BAD_METRICS: dict[str, dict[str, Any]] = {
    "neither source": {},
    "both sources": {"pod_name": "POD", "run_id": "RUN"},
    "no name": {"run_id": "RUN", "name": None},
    "no date": {"run_id": "RUN", "date": None},
    "no value": {"run_id": "RUN", "value": None},
    "a date that is none": {"run_id": "RUN", "date": "yesterday"},
    "a date far off": {"run_id": "RUN", "date": "9999-12-31T23:59:59Z"},
    "a number as value": {"run_id": "RUN", "value": 1},
    "an id that is none": {"run_id": "first"},
    "a flag that is none": {"run_id": "RUN", "cumulative": "perhaps"},
    "metadata that is no text": {"run_id": "RUN", "metadata": {"a": 1}},
    "an empty pod name": {"pod_name": ""},
    "an empty name": {"run_id": "RUN", "name": ""},
}


@pytest.mark.parametrize("case", BAD_METRICS)
def test_a_bad_metric_is_refused(case: str, served: Dashboard, run: int) -> None:
    before = served.get(f"metrics/{run}", metric_type="run")
    values = {"RUN": run, "POD": served.pods()[0]}
    members = {"name": "bad", "date": "2018-08-03T09:21:44Z", "value": "1"} | BAD_METRICS[case]
    sent = {name: values.get(str(value), value) for name, value in members.items() if value is not None}
    answer = served.call("POST", "metrics/", sent)
    assert answer.status == 400
    check(answer, "recordMetric")
    assert answer.json["status"] == "Bad Request"
    assert served.get(f"metrics/{run}", metric_type="run") == before


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"{", b"null", b'"name"', b"{}", b'{"name": ""}', b'{"name": 5}', b'{"name": "x\\u0000"}']
)
def test_a_bad_run_is_refused(body: bytes, served: Dashboard) -> None:
    answer = served.call("POST", "runs/", body)
    assert answer.status == 400
    check(answer, "startRun")


@pytest.mark.parametrize("path", ["runs/999999/", "runs/999999", "runs/9999999999999999999999"])
def test_an_unknown_run_is_not_found(path: str, served: Dashboard) -> None:
    answer = served.call("GET", path)
    assert answer.status == 404
    check(answer, "getRun")


@pytest.mark.parametrize("path", ["runs/first/", "runs/1.5/", "runs/-1/", "podss/", "metrics/a/b/"])
def test_what_does_not_match_a_path_is_not_found(path: str, served: Dashboard) -> None:
    answer = served.call("GET", path)
    assert answer.status == 404
    assert answer.json["message"]


def test_another_run_starts_when_the_first_is_over_and_both_are_listed(served: Dashboard, run: int) -> None:
    """The last test of an engine: it ends the run of the others."""
    (replicas,) = {len(served.pods())}
    served.platform.workloads.stop(run, served.platform.identity.user("admin"))
    ended = served.wait(run)
    assert ended["state"] == "FAILED"
    assert served.get("pods/") == []
    answer = served.call("POST", "runs/", EXAMPLE_OF_A_RUN)
    assert (answer.status, replicas) == (200, 2)
    check(answer, "startRun")
    assert answer.json["name"] == EXAMPLES["run"]["name"]
    assert answer.json["state"] == EXAMPLES["run"]["state"] == "STARTED"
    assert answer.json["job_metadata"] == EXAMPLES["run"]["job_metadata"]
    listed = served.get("runs/")
    assert [(one["id"], one["state"]) for one in listed] == [(run, "FAILED"), (answer.json["id"], "STARTED")]
    assert all(set(example) <= set(one) for one, example in zip(listed, EXAMPLES["runs"], strict=True))
    found = served.get(f"runs/{answer.json['id']}")
    assert {**found, "job_metadata": {}} == answer.json
    assert served.call("DELETE", f"runs/{answer.json['id']}").status == 204
    assert served.call("GET", f"runs/{answer.json['id']}").status == 404


@pytest.mark.parametrize("name", OPERATIONS)
def test_the_served_document_lists_the_operation_with_its_parameters_and_answers(
    name: str, dashboard: Dashboard
) -> None:
    method, path, said = OPERATIONS[name]
    document = dashboard.get("openapi.json")
    ours = document["paths"][path][method.lower()]
    assert (ours["operationId"], ours["tags"]) == (name, said["tags"])
    assert set(said["responses"]) <= set(ours["responses"])
    known = {(one["in"], one["name"]) for one in ours.get("parameters", [])}
    assert {(one["in"], one["name"]) for one in said.get("parameters", [])} <= known
    bodies = said.get("requestBody", {}).get("content", {})
    assert set(bodies) == set(ours.get("requestBody", {}).get("content", {}))
    for status, answer in said["responses"].items():
        assert set(answer.get("content", {})) <= set(ours["responses"][status]["content"])
        assert "Vary" in ours["responses"][status]["headers"]


@pytest.mark.parametrize("name", ["Pod", "MetricPoint", "MetricCreate", "Metric", "RunCreate", "Run"])
def test_the_served_schemas_have_the_contracts_members(name: str, dashboard: Dashboard) -> None:
    ours = dashboard.get("openapi.json")["components"]["schemas"][name]
    theirs = CONTRACT["components"]["schemas"][name]
    assert set(theirs["properties"]) <= set(ours["properties"])
    assert set(theirs["required"]) <= set(ours["required"])
    assert theirs.get("oneOf") == ours.get("oneOf")


def test_beyond_the_contract_there_is_only_the_clients_deletion(dashboard: Dashboard) -> None:
    paths = dashboard.get("openapi.json")["paths"]
    ids = {one["operationId"] for methods in paths.values() for one in methods.values()}
    assert ids == {*OPERATIONS, "deleteRun"}
