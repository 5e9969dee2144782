"""Trials as plain values, for answers with thousands of them: read in a fraction of the time that rows take."""

from __future__ import annotations

from typing import NamedTuple

from localml.core.ports import Store
from localml.core.sql import read_rows
from localml.core.studies.space import Values
from localml.core.studies.tables import Trial, TrialState


class Outline(NamedTuple):
    """What :class:`localml.core.studies.tables.Trial` says of itself."""

    number: int
    workload_id: int
    state: TrialState
    params: Values
    value: float | None
    metrics: dict[str, dict[str, float]] | None
    message: str
    created_at: float
    ended_at: float | None


def outlines(store: Store, study: int, run: int) -> list[Outline]:
    """All trials of one run of a study, in the order of their numbers."""
    where = "study_id = ? AND run = ? ORDER BY number"
    with store.read_raw() as connection:
        return [Outline(*one) for one in read_rows(connection, Trial, Outline._fields, where, (study, run))]
