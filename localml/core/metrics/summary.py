"""Metrics and parameters of jobs as tables and comparisons show them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from sqlmodel import col, select

from localml.core.metrics.intake import step_of
from localml.core.metrics.lines import STEPS
from localml.core.metrics.parameters import bounded, of_spec
from localml.core.metrics.tables import Parameter
from localml.core.ports import Store
from localml.core.series.thinning import MICRO
from localml.core.sql import IDS, id_list
from localml.core.subjects import Noun
from localml.core.work.specs import WorkloadSpec

_SUMMARIES = f"""
    SELECT s.subject_id, s.replica, s.name, p.at, p.value, p.text, p.note,
        (SELECT count(*) FROM sample WHERE series_id = s.id),
        (SELECT min(value) FROM sample WHERE series_id = s.id),
        (SELECT max(value) FROM sample WHERE series_id = s.id)
    FROM series s JOIN sample p ON p.series_id = s.id AND p.at = (SELECT max(at) FROM sample WHERE series_id = s.id)
    WHERE s.subject_kind = ? AND s.subject_id {IDS} AND NOT s.measured
"""


@dataclass(frozen=True, slots=True)
class Summary:
    """A metric of one replica (empty: of the job as a whole).

    Attributes:
        last: NaN when that is no finite number; ``text`` says what it is then (``nan``, ``inf``).
        step: of the last value, if the job said one.
        at: when that was, in seconds since the epoch.
        least, most: over all finite values; None when there is none.
        count: points that are kept.
    """

    replica: str
    name: str
    last: float
    text: str
    step: int | None
    at: float
    least: float | None
    most: float | None
    count: int


def summaries(store: Store, numbers: Iterable[int]) -> dict[int, list[Summary]]:
    """Workload -> its metrics: what it reports, not what localml measures. What counts steps goes first, then names."""
    found: dict[int, list[Summary]] = {}
    with store.read_raw() as connection:
        for row in connection.execute(_SUMMARIES, (Noun.WORKLOAD.value, id_list(numbers))):
            number, replica, name, at, value, text, note, count, least, most = row
            last = math.nan if value is None else value
            one = Summary(replica, name, last, text or "", step_of(note or ""), at / MICRO, least, most, count)
            found.setdefault(number, []).append(one)
    for several in found.values():
        several.sort(key=lambda one: (one.name.lower() not in STEPS, one.name, _place(one.replica)))
    return found


def _place(replica: str) -> tuple[str, int]:
    """``worker-10`` comes behind ``worker-2``."""
    role, _, index = replica.rpartition("-")
    return role, int(index) if index.isascii() and index.isdigit() else -1


def of_first(several: Iterable[Summary]) -> dict[str, Summary]:
    """Name -> the metric of the job as a whole, or of the first replica that has it."""
    found: dict[str, Summary] = {}
    for one in several:
        found.setdefault(one.name, one)
    return found


def parameters(store: Store, specs: Mapping[int, WorkloadSpec]) -> dict[int, dict[str, str]]:
    """Workload -> its parameters: those that it wrote into a file, and before these what its command and its variables
    say."""
    written: dict[int, dict[str, str]] = {}
    with store.read() as session:
        query = select(Parameter).where(col(Parameter.workload_id).in_(list(specs)))
        for row in session.exec(query.order_by(Parameter.name)):
            written.setdefault(row.workload_id, {})[row.name] = row.value
    return {number: bounded(_together(of_spec(spec), written.get(number, {}))) for number, spec in specs.items()}


def _together(said: dict[str, str], written: Mapping[str, str]) -> dict[str, str]:
    return said | {name: value for name, value in written.items() if name not in said}
