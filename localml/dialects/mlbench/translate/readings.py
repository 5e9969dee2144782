"""Metrics: series of points as the dashboard gives and takes them."""

from __future__ import annotations

import io
import json
import math
import re
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from localml.core.numerals import whole
from localml.core.series.samples import Line, Point
from localml.core.subjects import Subject
from localml.core.work.tables import Workload
from localml.dialects.mlbench.schemas import MetricCreate, MetricQuery
from localml.dialects.mlbench.translate.pods import WORKER, Source, pod_name
from localml.dialects.mlbench.translate.times import micro_time, parse_time
from localml.platform import Platform

RESULT = "TaskResult @ 0"
"""The metric whose text is a run's official result."""
_WHOLE = 1e15


def number_text(value: float) -> str:
    """A number as text, whole ones without a fraction; reading it gives the number back."""
    return str(int(value)) if value.is_integer() and abs(value) < _WHOLE else repr(value)


def value_text(point: Point) -> str:
    """The value as it was given."""
    return point.text if point.text or math.isnan(point.value) else number_text(point.value)


def point_of(metric: MetricCreate) -> Point:
    """A posted metric as a point. Values that are no numbers are kept as text."""
    try:
        value = float(metric.value)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        value = math.nan
    plain = not math.isnan(value) and number_text(value) == metric.value
    return Point(parse_time(metric.date), value, "" if plain else metric.value, metric.metadata)


def summarized(points: list[Point], most: int) -> list[Point]:
    """Exactly so many points where there are more, each the mean of the numbers in its share of them, at the time of
    the first; the last one of a share that has no numbers."""
    if len(points) <= most:
        return points
    size, rest = divmod(len(points), most)
    larger = rest * (size + 1)  # so many points are in groups of one more than the others
    groups = [points[start : start + size + 1] for start in range(0, larger, size + 1)]
    groups += [points[start : start + size] for start in range(larger, len(points), size)]
    return [_mean(group) for group in groups]


def _mean(group: list[Point]) -> Point:
    numbers = [point.value for point in group if not math.isnan(point.value)]
    return Point(group[0].at, math.fsum(numbers) / len(numbers)) if numbers else group[-1]


def lines_of(platform: Platform, source: Source, query: MetricQuery) -> list[Line]:
    """The metrics of a pod or run that a query asks for; those without points are left out."""
    found = platform.samples.lines(
        Subject.workload(source.run.id or 0),
        replica=source.replica,
        name=query.metric_filter or None,
        after=None if query.since is None else parse_time(query.since),
        last=query.last_n if query.summarize is None else None,
    )
    if query.summarize is not None:
        found = [replace(one, points=_latest(summarized(one.points, query.summarize), query.last_n)) for one in found]
    return [one for one in found if one.points]


def _latest(points: list[Point], count: int | None) -> list[Point]:
    return points if count is None else points[-count:]


def by_name(lines: list[Line]) -> dict[str, list[dict[str, str]]]:
    """Metric name -> points with ``date`` and ``value``."""
    return {
        line.name: [{"date": micro_time(point.at), "value": value_text(point)} for point in line.points]
        for line in lines
    }


def all_pods(platform: Platform, found: list[Workload]) -> Iterator[str]:
    """The JSON text of the metrics of every pod of these runs, one by one: they may be too many for the memory."""
    separator = "{"
    for run in found:
        pods: dict[str, dict[str, Any]] = {}
        for line in platform.samples.lines(Subject.workload(run.id or 0)):
            role, _, text = line.replica.rpartition("-")
            if role == WORKER and (index := whole(text)) is not None and line.points:
                pods.setdefault(pod_name(run, index), {}).update(by_name([line]))
        for name, metrics in pods.items():
            yield f"{separator}{json.dumps(name)}: {json.dumps(metrics)}"
            separator = ", "
    yield "{}" if separator == "{" else "}"


def zipped(platform: Platform, source: Source, query: MetricQuery) -> bytes:
    """A download: one JSON file for each metric; of a run also those of its pods, and its official result."""
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        lines = lines_of(platform, source, query)
        _add(archive, "result", lines)
        if not source.replica:
            result = next((line.points[-1] for line in lines if line.name == RESULT), None)
            if result is not None:
                archive.writestr("official_result.txt", value_text(result))
            for index in range(_workers(platform, source)):
                name = pod_name(source.run, index)
                _add(archive, name, lines_of(platform, Source(source.run, name, f"{WORKER}-{index}"), query))
    return target.getvalue()


def _workers(platform: Platform, source: Source) -> int:
    return platform.workloads.get(source.run.id or 0).spec.role(WORKER).count


def _add(archive: zipfile.ZipFile, prefix: str, lines: list[Line]) -> None:
    for line in lines:
        points = [
            {"date": micro_time(point.at), "value": value_text(point), "cumulative": line.cumulative}
            | ({"metadata": point.note} if point.note else {})
            for point in line.points
        ]
        taken, name = set(archive.namelist()), f"{prefix}_{safe_name(line.name)}"
        number = 2
        while f"{name}.json" in taken:
            name, number = f"{prefix}_{safe_name(line.name)}_{number}", number + 1
        archive.writestr(f"{name}.json", json.dumps(points, indent=4))


def safe_name(text: str) -> str:
    """Text as a file's name: nothing that a path or a header could be made of."""
    return re.sub(r"[^A-Za-z0-9@._ -]", "_", text)[:100].strip(". ") or "metric"
