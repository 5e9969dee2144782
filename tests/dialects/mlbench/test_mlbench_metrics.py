"""Metrics: values and times come back as they were given, and queries choose among them."""

from __future__ import annotations

import io
import json
import math
import zipfile
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from helpers.mlbench import Dashboard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from localml.core.series.samples import Point
from localml.dialects.mlbench.translate.readings import number_text, safe_name, summarized
from localml.dialects.mlbench.translate.times import micro_time, parse_time

BASE = datetime(2018, 8, 3, 9, 21, 44, 331823, tzinfo=UTC)


def when(seconds: float) -> str:
    return (BASE + timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


@pytest.fixture
def run(dashboard: Dashboard) -> int:
    number = int(dashboard.start()["id"])
    dashboard.pods()
    return number


def post(dashboard: Dashboard, run: int, name: str, values: list[Any], **members: Any) -> None:
    for second, value in enumerate(values):
        form = {"run_id": run, "name": name, "date": when(second), "value": value} | members
        assert dashboard.call("POST", "metrics/", form=form).status == 201


def read(dashboard: Dashboard, run: int, **query: Any) -> dict[str, list[str]]:
    found = dashboard.get(f"metrics/{run}", metric_type="run", **query)
    return {name: [point["value"] for point in points] for name, points in found.items()}


@pytest.mark.parametrize("value", ["0.7845", "0.10", "5", "5.0", "1e3", "-0", "nan", "Infinity", "1_000", "", "goal ✓"])
def test_a_value_comes_back_exactly_as_it_was_given(value: str, dashboard: Dashboard, run: int) -> None:
    post(dashboard, run, "accuracy", [value])
    assert read(dashboard, run) == {"accuracy": [value]}


@pytest.mark.parametrize("form", ["2018-08-03 09:21:44.331823", "2018-08-03T11:21:44.331823+02:00", when(0)])
def test_all_forms_of_a_time_mean_the_same(form: str, dashboard: Dashboard, run: int) -> None:
    post(dashboard, run, "a", ["1", "2"])
    post(dashboard, run, "b", ["3"], date=form)
    assert dashboard.get(f"metrics/{run}", metric_type="run")["b"] == [{"date": when(0), "value": "3"}]
    assert read(dashboard, run, since=form) == {"a": ["2"]}


def test_queries_choose_metrics_and_points(dashboard: Dashboard, run: int) -> None:
    post(dashboard, run, "loss @ 0", [8, 6, 4, 2, 1])
    post(dashboard, run, "loss @ 1", [9])
    assert read(dashboard, run, metric_filter="loss @ 1") == {"loss @ 1": ["9"]}
    assert read(dashboard, run, metric_filter="loss") == {}
    assert read(dashboard, run, last_n=2) == {"loss @ 0": ["2", "1"], "loss @ 1": ["9"]}
    assert read(dashboard, run, summarize=2)["loss @ 0"] == ["6", "1.5"]
    assert read(dashboard, run, summarize=5)["loss @ 0"] == ["8", "6", "4", "2", "1"]
    assert read(dashboard, run, summarize=2, last_n=1)["loss @ 0"] == ["1.5"]
    assert read(dashboard, run, since=when(2), last_n=1) == {"loss @ 0": ["1"]}


def test_twelve_points_are_summed_up_in_ten_when_ten_are_asked_for(dashboard: Dashboard, run: int) -> None:
    post(dashboard, run, "acc", list(range(12)))
    assert read(dashboard, run, summarize=10)["acc"] == ["0.5", "2.5", *map(str, range(4, 12))]
    assert len(read(dashboard, run, summarize=12)["acc"]) == 12
    assert len(read(dashboard, run, summarize=11)["acc"]) == 11


@pytest.mark.parametrize(
    "query",
    ["since=yesterday", "since=", "metric_type=node", "metric_type=", "summarize=0", "summarize=few", "last_n=-1"],
)
def test_bad_queries_are_refused(query: str, dashboard: Dashboard, run: int) -> None:
    answer = dashboard.call("GET", f"metrics/{run}?{query}&metric_type=run")
    assert answer.status == 400
    assert answer.json["message"].startswith(query.partition("=")[0])


@pytest.mark.parametrize(
    ("source", "kind"),
    [
        ("999999", "run"),
        ("first", "run"),
        ("-1", "run"),
        ("9" * 40, "run"),
        ("²", "run"),
        ("nobody", "pod"),
        ("1", "pod"),
    ],
)
def test_unknown_sources_are_not_found(source: str, kind: str, dashboard: Dashboard, run: int) -> None:
    from urllib.parse import quote

    answer = dashboard.call("GET", f"metrics/{quote(source)}?metric_type={kind}")
    assert (answer.status, answer.json["status"]) == (404, "Not Found")


def test_a_pod_that_never_was_is_not_found_and_gets_no_metric(dashboard: Dashboard, run: int) -> None:
    first = dashboard.pods()[0]
    for name in (first[:-1] + "7", "other" + first, first + "0", first.replace(f"-{run}-", "-999999-")):
        form = {"pod_name": name, "name": "a", "date": when(0), "value": "1"}
        assert dashboard.call("POST", "metrics/", form=form).status == 404, name


def test_metrics_of_a_run_and_of_its_pods_are_apart(dashboard: Dashboard, run: int) -> None:
    first, second = dashboard.pods()
    post(dashboard, run, "a", ["1"])
    for pod, value in ((first, "2"), (second, "3")):
        form = {"pod_name": pod, "name": "a", "date": when(0), "value": value, "cumulative": "True"}
        assert dashboard.call("POST", "metrics/", form=form).json["cumulative"] is True
    assert read(dashboard, run) == {"a": ["1"]}
    everything = dashboard.get("metrics/")
    assert [everything[pod]["a"][0]["value"] for pod in (first, second)] == ["2", "3"]


def test_metrics_stay_when_the_run_is_over_and_its_pods_are_gone(dashboard: Dashboard, run: int) -> None:
    pod = dashboard.pods()[0]
    assert (
        dashboard.call("POST", "metrics/", {"pod_name": pod, "name": "a", "date": when(0), "value": "1"}).status == 201
    )
    dashboard.platform.workloads.stop(run, dashboard.platform.identity.user("admin"))
    dashboard.wait(run)
    post(dashboard, run, "late", ["2"])
    assert dashboard.get("pods/") == []
    assert dashboard.get(f"metrics/{pod}")["a"] == dashboard.get("metrics/")[pod]["a"]
    assert read(dashboard, run) == {"late": ["2"]}


def test_the_download_of_a_run_holds_its_metrics_those_of_its_pods_and_its_result(
    dashboard: Dashboard, run: int
) -> None:
    pod = dashboard.pods()[1]
    post(dashboard, run, "TaskResult @ 0", ["1234 seconds, Compute: 5"])
    post(dashboard, run, "../loss", ["1", "0.50"], metadata="{rank: 0}", cumulative="True")
    dashboard.call("POST", "metrics/", {"pod_name": pod, "name": "cpu", "date": when(0), "value": "1"})
    answer = dashboard.call("GET", f"metrics/{run}?metric_type=run&format=zip")
    assert answer.headers["Content-Type"] == "application/zip"
    assert answer.headers["Content-Disposition"] == 'attachment; filename="metrics_Name of the run.zip"'
    with zipfile.ZipFile(io.BytesIO(answer.data)) as archive:
        held = {name: archive.read(name).decode() for name in archive.namelist()}
    assert set(held) >= {"official_result.txt", "result__loss.json", f"{pod}_cpu.json"}
    assert held["official_result.txt"] == "1234 seconds, Compute: 5"
    assert json.loads(held["result__loss.json"]) == [
        {"date": when(0), "value": "1", "cumulative": True, "metadata": "{rank: 0}"},
        {"date": when(1), "value": "0.50", "cumulative": True, "metadata": "{rank: 0}"},
    ]
    answer = dashboard.call("GET", f"metrics/{pod}/?format=zip&metric_filter=cpu")
    with zipfile.ZipFile(io.BytesIO(answer.data)) as archive:
        assert archive.namelist() == ["result_cpu.json"]


def test_names_that_look_alike_as_files_do_not_hide_each_other(dashboard: Dashboard, run: int) -> None:
    for name in ("a/b", "a:b", "a_b"):
        post(dashboard, run, name, ["1"])
    answer = dashboard.call("GET", f"metrics/{run}?metric_type=run&format=zip")
    with zipfile.ZipFile(io.BytesIO(answer.data)) as archive:
        names = archive.namelist()
    assert sorted(names) == ["result_a_b.json", "result_a_b_2.json", "result_a_b_3.json"]


def test_a_mapping_as_metadata_is_taken_as_the_published_client_sends_it(dashboard: Dashboard, run: int) -> None:
    form = {"run_id": run, "name": "a", "date": when(0), "value": "1", "metadata": ["rank", "epoch"]}
    answer = dashboard.call("POST", "metrics/", form=form)
    assert (answer.status, answer.json["metadata"]) == (201, "rank, epoch")


@given(st.datetimes(datetime(1970, 1, 1), datetime(2099, 12, 31)))
def test_times_are_exact_to_the_microsecond(moment: datetime) -> None:
    assert micro_time(parse_time(str(moment))) == moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_numbers_survive_as_text(value: float) -> None:
    assert float(number_text(value)) == value


@given(st.lists(st.floats(-1e6, 1e6), max_size=60), st.integers(1, 20))
@settings(suppress_health_check=list(HealthCheck))
def test_a_summary_has_at_most_so_many_points_and_the_same_mean(values: list[float], most: int) -> None:
    points = [Point(float(second), value) for second, value in enumerate(values)]
    found = summarized(points, most)
    assert len(found) <= max(most, 0) or not points
    assert [point.at for point in found] == sorted(point.at for point in found)
    if len(points) > most:
        starts = [int(point.at) for point in found]
        sizes = [end - start for start, end in zip(starts, [*starts[1:], len(points)], strict=True)]
        total = math.fsum(point.value * count for point, count in zip(found, sizes, strict=True))
        assert math.isclose(total, math.fsum(values), abs_tol=1e-3)
        assert max(sizes) - min(sizes) <= 1


@given(st.integers(1, 200), st.integers(1, 50))
def test_a_summary_has_as_many_points_as_were_asked_for_where_there_are_more(count: int, most: int) -> None:
    points = [Point(float(second), float(second)) for second in range(count)]
    assert len(summarized(points, most)) == min(count, most)


@given(st.text(max_size=200))
def test_a_name_of_a_file_has_nothing_of_a_path_or_header(text: str) -> None:
    found = safe_name(text)
    assert found
    assert not set(found) & set('/\\"\r\n\0')
    assert found.strip(".") == found


def test_a_summary_has_as_many_points_also_where_some_are_no_numbers() -> None:
    words = [Point(float(second), math.nan, f"word {second}") for second in range(5)]
    assert summarized(words, 2) == [words[2], words[4]], "of its share the last one"
    mixed = [*words, *(Point(float(second), float(second)) for second in range(5, 12))]
    found = summarized(mixed, 10)
    assert [point.text or point.value for point in found] == ["word 1", "word 3", "word 4", *range(5, 12)]
