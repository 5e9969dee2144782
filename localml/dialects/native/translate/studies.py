"""Studies, trials and algorithms as JSON values, whose members are those of the answers in ``schemas.studies``."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterator, Sequence
from typing import Any

from sqlmodel import col, select

from localml.core.errors import LocalmlError
from localml.core.events.tables import Event
from localml.core.metrics.summary import Summary, of_first, summaries
from localml.core.studies.algorithms import BUILT_IN, GRID, checked, trial_space
from localml.core.studies.algorithms import built_in as built_in_algorithm
from localml.core.studies.space import grid_points
from localml.core.studies.specs import StudySpec
from localml.core.studies.tables import PREPARING, Algorithm, Study, StudyState, Trial, TrialState
from localml.core.work.causes import shortened
from localml.core.work.tables import Workload
from localml.dialects.native.translate import work
from localml.platform import Platform

PAGE = 1000
"""Trials that are read at a time."""
_PLAIN = (
    "id",
    "name",
    "dialect",
    "workspace",
    "owner",
    "pool",
    "algorithm",
    "seed",
    "state",
    "desired",
    "run",
    "first",
    "asked",
    "running",
    "complete",
    "pruned",
    "failed",
    "stopped",
    "best",
    "best_value",
    "created_at",
    "updated_at",
    "started_at",
    "ended_at",
    "deleted_at",
)
_OF_TRIAL = ("number", "run", "state", "workload_id", "params", "value", "message", "created_at", "ended_at")
_SHOWN_BY = {"minimize": "min", "maximize": "max", "latest": "latest"}
_OfWorkload = tuple[int | None, str, str, float | None]
_CURVE = "SELECT number, value FROM trial WHERE study_id = ? AND number >= ? AND improves ORDER BY told"
_EXPORTED = ("number", "run", "state", "value")
_EXPORTED_LAST = ("workload", "created_at", "started_at", "ended_at", "message")


_PREPARES = "SELECT reason, message FROM event WHERE subject_kind = 'study' AND subject_id = ? ORDER BY id DESC LIMIT 1"
_LONGEST_STEP = 150


def study(platform: Platform, row: Study) -> dict[str, Any]:
    """A study as lists show it."""
    spec = platform.studies.spec(row)
    return {
        **{name: getattr(row, name) for name in _PLAIN},
        "message": row.message or _prepares(platform, row),
        "metric": spec.objective.metric,
        "goal": spec.objective.goal,
        "planned": _planned(row, spec),
        "parallel": spec.parallel,
    }


def _prepares(platform: Platform, row: Study) -> str:
    """What its algorithm is about before it proposes anything: packages are installed for minutes."""
    if row.state is not StudyState.WAITING:
        return ""
    with platform.db.read_raw() as connection:
        found = connection.execute(_PREPARES, (row.id,)).fetchone()
    return shortened(found[1], _LONGEST_STEP) if found is not None and found[0] == PREPARING else ""


def _planned(row: Study, spec: StudySpec) -> int | None:
    """How many trials its run will have, as far as that is known."""
    counts = [spec.max_trials] if spec.max_trials is not None else []
    if spec.experiments:
        counts.append(len(spec.experiments))
    elif row.algorithm.lower() == GRID:
        try:
            counts.append(grid_points(spec.space))
        except LocalmlError:  # of an API whose grids are others
            return min(counts, default=None)
    return min(counts, default=None)


def full(platform: Platform, row: Study, events: Sequence[Event]) -> dict[str, Any]:
    """Everything about a study but its trials."""
    best = platform.studies.best(row.id or 0)
    spec = platform.studies.spec(row)
    return {
        **study(platform, row),
        "spec": spec.model_dump(mode="json", exclude_defaults=True),
        "request": row.request,
        "best_trial": trials(platform, [best])[0] if best is not None else None,
        "curve": _curve(platform, row),
        "events": [work.event(one) for one in events],
    }


def _curve(platform: Platform, row: Study) -> list[tuple[int, float]]:
    """(number, value) of each trial of this run that was better than all that ended before it."""
    with platform.db.read_raw() as connection:
        return list(connection.execute(_CURVE, (row.id, row.first)))


def trials(platform: Platform, rows: Sequence[Trial]) -> list[dict[str, Any]]:
    """Trials, with what their workloads are now; those that run with what they have reported so far."""
    numbers = [row.workload_id for row in rows]
    query = select(Workload.id, Workload.name, Workload.state, Workload.started_at)
    with platform.db.read() as session:
        there = {one[0]: one for one in session.exec(query.where(col(Workload.id).in_(numbers)))}
    live = [row.workload_id for row in rows if row.state is TrialState.RUNNING]
    reported = summaries(platform.db, live) if live else {}
    return [_trial(row, there.get(row.workload_id), reported.get(row.workload_id, ())) for row in rows]


def _trial(row: Trial, workload: _OfWorkload | None, reported: Sequence[Summary]) -> dict[str, Any]:
    """A workload that was pruned is not there any more."""
    _, name, state, started_at = workload or (0, "", "", None)
    return {
        **{member: getattr(row, member) for member in _OF_TRIAL},
        "workload": name,
        "workload_state": state,
        "started_at": started_at,
        "metrics": row.metrics or {name: _so_far(one) for name, one in of_first(reported).items()},
    }


def _so_far(one: Summary) -> dict[str, Any]:
    latest = one.last if math.isfinite(one.last) else None
    return {"min": one.least, "max": one.most, "latest": latest, "steps": one.count}


# -- all of them ---------------------------------------------------------------------------------------


def exported(platform: Platform, row: Study, run: int | None, kind: str) -> Iterator[bytes]:
    """A study with its trials as CSV, a line each, or as JSON; block by block."""
    pages = (trials(platform, page) for page in _pages(platform, row, run))
    return _as_csv(platform, row, pages) if kind == "csv" else _as_json(platform, row, pages)


def _pages(platform: Platform, row: Study, run: int | None) -> Iterator[list[Trial]]:
    after = 0
    while page := platform.studies.trials(row.id or 0, run=run, after=after, limit=PAGE):
        yield page
        after = page[-1].number


def _as_json(platform: Platform, row: Study, pages: Iterator[list[dict[str, Any]]]) -> Iterator[bytes]:
    head = {**study(platform, row), "spec": platform.studies.spec(row).model_dump(mode="json", exclude_defaults=True)}
    yield b'{"study": ' + json.dumps(head).encode() + b', "trials": ['
    first = True
    for page in pages:
        yield (b"" if first else b",\n") + ",\n".join(map(json.dumps, page)).encode()
        first = False
    yield b"]}\n"


def _as_csv(platform: Platform, row: Study, pages: Iterator[list[dict[str, Any]]]) -> Iterator[bytes]:
    """Columns: the trial's own, ``params_NAME`` and ``metrics_NAME``, as data frames of Optuna call them."""
    spec = platform.studies.spec(row)
    params = _names(spec)
    metrics = {name: _SHOWN_BY[strategy] for name, strategy in spec.metrics.items()}
    titles = [*(f"params_{name}" for name in params), *(f"metrics_{name}" for name in metrics)]
    yield _lines([[*_EXPORTED, *titles, *_EXPORTED_LAST]])
    for page in pages:
        yield _lines([_line(one, params, metrics) for one in page])


def _names(spec: StudySpec) -> list[str]:
    """The parameters that trials have values of, an algorithm's own among them."""
    space = spec.space
    if (algorithm := built_in_algorithm(spec.algorithm.name)) is not None:
        space = trial_space(algorithm.name, checked(spec.algorithm, spec), space)
    named = [*(one.name for one in space), *(name for one in spec.experiments for name in one)]
    return list(dict.fromkeys(named))


def _line(one: dict[str, Any], params: Sequence[str], metrics: dict[str, str]) -> list[Any]:
    given, reported = one["params"] or {}, one["metrics"]
    return [
        *(one[name] for name in _EXPORTED),
        *(given.get(name) for name in params),
        *(reported.get(name, {}).get(which) for name, which in metrics.items()),
        *(one[name] for name in _EXPORTED_LAST),
    ]


def _lines(rows: Sequence[Sequence[Any]]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue().encode()


# -- algorithms ----------------------------------------------------------------------------------------


def built_in() -> list[dict[str, Any]]:
    """The algorithms that are always there."""
    return [
        {
            "name": one.name,
            "builtin": True,
            "owner": "",
            "description": one.what,
            "params": [
                {"name": option.name, "type": option.kind, "default": option.default, "description": option.what}
                for option in one.options
            ],
        }
        for one in BUILT_IN.values()
    ]


def installed(row: Algorithm) -> dict[str, Any]:
    """One that somebody installed; nothing is known of its parameters."""
    return {"name": row.name, "builtin": False, "owner": row.owner, "description": "", "params": []}
