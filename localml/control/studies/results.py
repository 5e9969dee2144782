"""What a trial reported: the metrics that were found in its output, or what is in the file that it left."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from localml.control.studies.plan import Report
from localml.core.errors import Code, LocalmlError
from localml.core.logs.files import LogStore
from localml.core.metrics.folders import Objects
from localml.core.metrics.reading import Metrics
from localml.core.metrics.summary import of_first, summaries
from localml.core.ports import Store
from localml.core.quantities import format_memory
from localml.core.series.samples import Samples
from localml.core.studies.specs import Goal, Objective, StudySpec, Take
from localml.core.studies.template import result_uri
from localml.core.studies.trials import StudyRow, TrialRow
from localml.core.subjects import Subject
from localml.core.work.causes import Cause, shortened

MOST_FILE = 8 << 20
"""Bytes of a file of results."""
MOST_ITEMS = 100_000
"""Steps that are looked at in one."""
MOST_NAMES = 100
"""Metrics of a trial that are kept, beside those that the study asks for."""
_SLICE_S = 0.25
_TAIL, _LONGEST_LINE = 4096, 400
_FAILED = "SELECT name FROM attempt WHERE workload_id = ? AND cause = 'exit_code' ORDER BY id DESC LIMIT 1"


class Results:
    """Reads what trials reported. Called from threads, as output may be long and files lie anywhere.

    Args:
        objects: objects as the owner of a study may read them.
    """

    def __init__(self, store: Store, logs: LogStore, metrics: Metrics, samples: Samples, objects: Objects) -> None:
        self._store = store
        self._logs = logs
        self._metrics = metrics
        self._samples = samples
        self._objects = objects
        self.closing = False

    def read(self, row: StudyRow, spec: StudySpec, trial: TrialRow) -> Report:
        """All that a trial whose workload is over reported.

        Raises:
            LocalmlError: ``STORAGE``, ``UNAVAILABLE``: it is to be read again.
        """
        if spec.result is not None:
            found = self._file(row.owner_id, result_uri(spec.result, trial.number, row.run), spec)
        else:
            found = self._output(trial.workload_id, spec)
        return replace(found, said=self._said(trial.workload_id)) if trial.cause is Cause.EXIT_CODE else found

    def _said(self, number: int) -> str:
        """The last line of what failed."""
        with self._store.read_raw() as connection:
            failed = connection.execute(_FAILED, (number,)).fetchone()
        tail = self._logs.tail(number, failed[0], "stderr", _TAIL) if failed is not None else b""
        lines = tail.decode(errors="replace").strip().splitlines()
        return shortened(lines[-1].strip(), _LONGEST_LINE) if lines else ""

    def _output(self, workload: int, spec: StudySpec) -> Report:
        self._catch_up(workload)
        found = of_first(summaries(self._store, [workload]).get(workload, []))
        metrics = {
            name: {
                "min": one.least,
                "max": one.most,
                "latest": None if math.isnan(one.last) else one.last,
                "steps": one.count,
            }
            for name, one in found.items()
        }
        where = "its output has no metric"
        return _report(metrics, spec, where, found[name].text if (name := spec.objective.metric) in found else "")

    def _catch_up(self, number: int) -> None:
        while not self._metrics.catch_up(number, seconds=_SLICE_S):
            if self.closing:
                raise LocalmlError(Code.UNAVAILABLE, "the server is shutting down")
        self._samples.flush()

    def curve(self, workload_id: int, metric: str, *, seconds: float) -> list[float]:
        """The points of a metric so far, of the first replica that has some."""
        self._metrics.catch_up(workload_id, seconds=seconds)
        lines = self._samples.lines(Subject.workload(workload_id), name=metric)
        found = next((line.points for line in lines if line.points), [])
        return [point.value for point in found if math.isfinite(point.value)]

    def _file(self, owner: int, uri: str, spec: StudySpec) -> Report:
        try:
            body = self._objects.read(owner, uri, 0, MOST_FILE + 1)
        except LocalmlError as error:
            if error.code in (Code.STORAGE, Code.UNAVAILABLE):
                raise
            return Report(trouble=f"it left no result: {error.message}")
        except OSError as error:
            return Report(trouble=f"its result {uri} cannot be read: {error.strerror or error}")
        if len(body) > MOST_FILE:
            return Report(trouble=f"its result {uri} has more than {format_memory(MOST_FILE)}")
        try:
            columns = columns_of(body)
        except ValueError as error:
            return Report(trouble=f"its result {uri} {error}")
        metrics = {name: _summary(values) for name, values in columns.items()}
        return _report(metrics, spec, f"its result {uri} has no metric")


def columns_of(body: bytes) -> dict[str, list[float]]:
    """Metric -> its values in order, of a JSON list of objects or of one object. What is neither a number nor the text
    of one is left out.

    Raises:
        ValueError: it is something else, worded to follow its name.
    """
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        raise ValueError("is no JSON") from None
    items = [found] if isinstance(found, dict) else found
    if not isinstance(items, list) or not all(isinstance(one, dict) for one in items):
        raise ValueError("is neither a list of objects nor an object")
    if len(items) > MOST_ITEMS:
        raise ValueError(f"has {len(items)} steps, and may have {MOST_ITEMS}")
    columns: dict[str, list[float]] = {}
    for one in items:
        for name, value in one.items():
            if (number := _number(value)) is not None:
                columns.setdefault(name, []).append(number)
    return columns


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        return float(value)
    except (ValueError, OverflowError):
        return None


def _summary(values: Sequence[float]) -> dict[str, Any]:
    finite = [one for one in values if math.isfinite(one)]
    return {
        "min": min(finite, default=None),
        "max": max(finite, default=None),
        "latest": values[-1] if math.isfinite(values[-1]) else None,
        "steps": len(values),
    }


def _report(metrics: Mapping[str, Mapping[str, Any]], spec: StudySpec, missing: str, text: str = "") -> Report:
    objective = spec.objective
    kept = {name: dict(metrics[name]) for name in _kept(metrics, [objective.metric, *spec.metrics])}
    found = metrics.get(objective.metric)
    if found is None:
        others = f", but {', '.join(list(metrics)[:5])}" if metrics else ""
        return Report(metrics=kept or None, trouble=f"{missing} '{objective.metric}'{others}")
    value = value_of(found, objective)
    if value is None:
        return Report(metrics=kept, trouble=f"its '{objective.metric}' is {text or 'no finite number'}")
    return Report(value, kept)


def value_of(summary: Mapping[str, Any], objective: Objective) -> float | None:
    """A trial's value of the objective; None where that is no finite number."""
    if objective.take is Take.LAST:
        found = summary["latest"]
    else:
        found = summary["min" if objective.goal is Goal.MINIMIZE else "max"]
    return None if found is None else float(found)


def _kept(metrics: Iterable[str], asked: Sequence[str]) -> list[str]:
    there = list(metrics)
    first = [name for name in dict.fromkeys(asked) if name in there]
    return [*first, *[name for name in there if name not in first][:MOST_NAMES]]
