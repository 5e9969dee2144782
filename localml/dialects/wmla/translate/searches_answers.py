"""Studies and their trials as the document's search tasks and experiments."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from localml.core.studies.specs import StudySpec
from localml.core.studies.tables import Study, StudyState, Trial, TrialState
from localml.dialects.kit.times import iso_time

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
"""One that runs is where its workload is."""
_TYPES: dict[type, str] = {int: "int", float: "double", str: "str"}


class Experiments:
    """The trials of one search as experiments.

    Args:
        app_id: workload's number -> the application's id.
        state: workload's number -> the word for the state of one that is not over.
    """

    def __init__(self, row: Study, spec: StudySpec, app_id: Callable[[int], str], state: Callable[[int], str]) -> None:
        self._first = row.first
        self._objective = spec.objective.metric
        self._metrics = list(dict.fromkeys((spec.objective.metric, *spec.metrics)))
        self._ids = [one["id"] for one in (row.request or {}).get("experiments") or ()]
        self._app_id, self._state = app_id, state

    def answer(self, trial: Trial) -> dict[str, Any]:
        """One experiment. Its ``id`` is the one that the request gave it, else its place among all, from 0."""
        metrics = trial.metrics or {}
        over = trial.state is not TrialState.RUNNING
        found = {
            "id": self._id(trial.number - self._first),
            "state": TRIAL_STATES[trial.state] if over else self._state(trial.workload_id),
            "metricVal": trial.value,
            "metrics": [metric(name, metrics[name]) for name in self._metrics if name in metrics],
            "maxiteration": metrics.get(self._objective, {}).get("steps", 0),
            "hyperParams": [fixed(name, value) for name, value in (trial.params or {}).items()],
            "appId": self._app_id(trial.workload_id),
            "startTime": iso_time(trial.created_at),
            "endTime": iso_time(trial.ended_at) if trial.ended_at else None,
        }
        return {name: value for name, value in found.items() if value is not None}

    def _id(self, place: int) -> int:
        return int(self._ids[place]) if 0 <= place < len(self._ids) else place


def metric(name: str, found: dict[str, Any]) -> dict[str, Any]:
    """What a training reported of one metric."""
    return {"name": name, "min": found["min"], "max": found["max"], "latest": found["latest"]}


def fixed(name: str, value: Any) -> dict[str, Any]:
    """The value that a training has of a hyperparameter; as a text, whatever it is."""
    text = repr(value) if isinstance(value, float) else str(value)
    kind = _TYPES.get(type(value), "str")
    return {"name": name, "type": "fix", "dataType": kind, "fixedVal": text, "userDefined": False}


def task_state(row: Study, spec: StudySpec, experiments: list[dict[str, Any]], now: float) -> dict[str, Any]:
    """A search with its experiments, which are those since it was last started over."""
    best = None if row.best is None else row.best - row.first
    found = {
        "hpoName": row.name,
        "state": STATES[row.state],
        "running": row.running,
        "complete": row.complete,
        "failed": row.failed,
        "progress": progress(row, spec),
        "duration": duration(now if row.ended_at is None else row.ended_at, row.started_at),
        "creator": row.owner,
        "createtime": iso_time(row.created_at),
        "best": None if best is None or not 0 <= best < len(experiments) else experiments[best],
        "experiments": experiments,
    }
    return {name: value for name, value in found.items() if value is not None}


def progress(row: Study, spec: StudySpec) -> str:
    """``3/12``: trainings that are over, and how many there will be, where that is known."""
    over = row.complete + row.failed + row.pruned + row.stopped
    total = spec.max_trials
    if spec.experiments:
        total = min(total or len(spec.experiments), len(spec.experiments))
    return str(over) if total is None else f"{over}/{total}"


def duration(until: float, since: float | None) -> str:
    """``00:02:16``: hours, minutes, seconds; more than 99 hours where it takes longer."""
    seconds = 0 if since is None else max(0, int(until - since))
    return f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}"


def states_of(trials: Iterable[Trial]) -> list[int]:
    """Numbers of the workloads of trials that run, whose states are to be asked for."""
    return [trial.workload_id for trial in trials if trial.state is TrialState.RUNNING]
