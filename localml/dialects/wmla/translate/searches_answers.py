"""Studies and their trials as the document's search tasks and experiments."""

from __future__ import annotations

from typing import Any

from localml.core.studies.outlines import Outline, outlines
from localml.core.studies.specs import StudySpec
from localml.core.studies.tables import Study, StudyState, TrialState
from localml.dialects.kit.times import iso_time
from localml.dialects.wmla.translate.ids import app_id
from localml.dialects.wmla.translate.states import FINAL_WORDS, RUNNING, state_word
from localml.platform import Platform

STATES: dict[StudyState, str] = {
    StudyState.WAITING: "SUBMITTED",
    StudyState.RUNNING: "RUNNING",
    StudyState.STOPPING: "RUNNING",
    StudyState.COMPLETE: "FINISHED",
    StudyState.FAILED: "ERROR",
    StudyState.STOPPED: "KILLED",
}
"""Clients wait while a search is SUBMITTED or RUNNING."""
TRIAL_STATES: dict[TrialState, str] = {
    TrialState.COMPLETE: "FINISHED",
    TrialState.PRUNED: "KILLED",
    TrialState.FAILED: "ERROR",
    TrialState.STOPPED: "KILLED",
}
"""Those that are over; see :meth:`_Experiments._state` for the others."""
_TYPES: dict[type, str] = {int: "int", float: "double", str: "str"}


def search_answer(platform: Platform, row: Study) -> dict[str, Any]:
    """A search with its experiments, which are those since it was last started over."""
    spec = platform.studies.spec(row)
    made = _Experiments(platform, row, spec)
    experiments = {one.number: made.answer(one) for one in outlines(platform.db, row.id or 0, row.run)}
    found = {
        "hpoName": row.name,
        "state": STATES[row.state],
        "running": row.running,
        "complete": row.complete,
        "failed": row.failed,
        "progress": progress(row, spec),
        "duration": duration(row, platform.clock.now()),
        "creator": row.owner,
        "createtime": iso_time(row.created_at),
        "message": row.message or None,
        "best": experiments.get(row.best or 0),
        "experiments": list(experiments.values()),
    }
    return {name: value for name, value in found.items() if value is not None}


class _Experiments:
    """The trials of one search as experiments."""

    def __init__(self, platform: Platform, row: Study, spec: StudySpec) -> None:
        self._platform, self._first = platform, row.first
        self._objective = spec.objective.metric
        self._metrics = list(dict.fromkeys((spec.objective.metric, *spec.metrics)))
        self._ids = [one["id"] for one in (row.request or {}).get("experiments") or ()]

    def answer(self, trial: Outline) -> dict[str, Any]:
        """One experiment. Its ``id`` is the one that the request gave it, else its place among all, from 0."""
        metrics = trial.metrics or {}
        found = {
            "id": self._id(trial.number - self._first),
            "state": TRIAL_STATES.get(trial.state) or self._state(trial.workload_id),
            "message": trial.message or None,
            "metricVal": trial.value,
            "metrics": [metric(name, metrics[name]) for name in self._metrics if name in metrics],
            "maxiteration": metrics.get(self._objective, {}).get("steps", 0),
            "hyperParams": [fixed(name, value) for name, value in (trial.params or {}).items()],
            "appId": app_id(self._platform, trial.workload_id),
            "startTime": iso_time(trial.created_at),
            "endTime": None if trial.ended_at is None else iso_time(trial.ended_at),
        }
        return {name: value for name, value in found.items() if value is not None}

    def _id(self, place: int) -> int:
        return int(self._ids[place]) if 0 <= place < len(self._ids) else place

    def _state(self, workload: int) -> str:
        """Where one is that runs, until its result has been read."""
        word = state_word(self._platform.workloads.get(workload).row)
        return RUNNING if word in FINAL_WORDS else word


def metric(name: str, found: dict[str, Any]) -> dict[str, Any]:
    """What a training reported of one metric."""
    return {"name": name, "min": found["min"], "max": found["max"], "latest": found["latest"]}


def fixed(name: str, value: Any) -> dict[str, Any]:
    """The value that a training has of a hyperparameter; as a text, whatever it is."""
    text = repr(value) if isinstance(value, float) else str(value)
    kind = _TYPES.get(type(value), "str")
    return {"name": name, "type": "fix", "dataType": kind, "fixedVal": text, "userDefined": False}


def progress(row: Study, spec: StudySpec) -> str:
    """``3/12``: trainings that are over, and how many there will be, where that is known."""
    over = row.complete + row.failed + row.pruned + row.stopped
    total = spec.max_trials
    if spec.experiments:
        total = min(total or len(spec.experiments), len(spec.experiments))
    return str(over) if total is None else f"{over}/{total}"


def duration(row: Study, now: float) -> str:
    """``00:02:16``: hours, minutes, seconds since its first training; hours are as many as it takes."""
    until = now if row.ended_at is None else row.ended_at
    seconds = 0 if row.started_at is None else max(0, int(until - row.started_at))
    return f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}"
