"""Looking at trials that run, whether they are to be stopped early."""

from __future__ import annotations

from collections.abc import Iterable

from localml.control.studies.early import MOST_CURVES, averages, why_stop
from localml.control.studies.known import Known
from localml.control.studies.results import Results
from localml.core.ports import Store
from localml.core.studies.trials import StudyRow, TrialRow
from localml.core.work.states import State

_COMPLETE = (
    "SELECT number, workload_id FROM trial WHERE study_id = ? AND run = ? AND state = 'complete'"
    " ORDER BY number DESC LIMIT ?"
)
_SLICE_S = 0.05


def look(store: Store, results: Results, known: Known, row: StudyRow, running: Iterable[TrialRow]) -> dict[int, str]:
    """Trials that are to be stopped early: number -> why. Called on a thread, one at a time for each study."""
    rule, objective = known.spec.early_stopping, known.spec.objective
    if rule is None:
        return {}
    _compare_with(store, results, known, row)
    found: dict[int, str] = {}
    for one in running:
        if one.state is State.RUNNING and not one.pruning:
            values = results.curve(one.workload_id, objective.metric, seconds=_SLICE_S)
            if values and (words := why_stop(values, list(known.curves.values()), rule, objective.goal)):
                found[one.number] = words
    return found


def _compare_with(store: Store, results: Results, known: Known, row: StudyRow) -> None:
    with store.read_raw() as connection:
        there = dict(connection.execute(_COMPLETE, (row.id, row.run, MOST_CURVES)).fetchall())
    for number in known.curves.keys() - there.keys():
        del known.curves[number]
    for number in there.keys() - known.curves.keys():
        curve = results.curve(there[number], known.spec.objective.metric, seconds=_SLICE_S)
        known.curves[number] = averages(curve)
