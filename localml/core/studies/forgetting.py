"""Forgetting studies that were deleted, or ended, long ago: their trials' workloads first, then their own records."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from sqlalchemy import delete, false, select
from sqlmodel import Session, col

from localml.core.events.tables import Event
from localml.core.ports import Store
from localml.core.studies.tables import Study, SuggesterState, Trial
from localml.core.subjects import Noun
from localml.core.work.tables import Workload

_GROUP: Final = 500
"""Trials whose records are removed in one transaction."""


def outdated(deleted_before: float | None, ended_before: float | None) -> Any:
    """The studies that were deleted, or ended, before such times; None: whenever that was, they stay."""
    old: Any = false()
    if deleted_before is not None:
        old = old | (col(Study.deleted_at) <= deleted_before)
    if ended_before is not None:
        old = old | (col(Study.ended_at) <= ended_before)
    return select(col(Study.id)).where(old, col(Study.ended_at).is_not(None))


def trials_of(studies: Any) -> Any:
    """Condition: a workload is a trial of one of these."""
    return (col(Workload.parent_kind) == Noun.STUDY) & col(Workload.parent_id).in_(studies)


def forget_studies(
    store: Store,
    wanted: Any,
    *,
    dry_run: bool = False,
    stopped: Callable[[], bool] = lambda: False,
) -> list[int]:
    """Remove the records of studies of whose trials no workload is left; in a dry run they are still there."""
    if not dry_run:
        left = select(col(Workload.id)).where(
            col(Workload.parent_kind) == Noun.STUDY, col(Workload.parent_id) == col(Study.id)
        )
        wanted = wanted.where(~left.exists())
    with store.read() as session:
        found = [int(one or 0) for one in session.execute(wanted.order_by(col(Study.id))).scalars()]
    gone = []
    for number in found:
        if stopped():
            break
        if not dry_run:
            _forget(store, number)
        gone.append(number)
    return gone


def _forget(store: Store, number: int) -> None:
    of = col(Trial.study_id) == number
    some = delete(Trial).where(of, col(Trial.number).in_(select(col(Trial.number)).where(of).limit(_GROUP)))

    def trials(session: Session) -> int:
        result: Any = session.execute(some)
        return int(result.rowcount)

    while store.write(trials):
        pass

    def rest(session: Session) -> None:
        session.execute(delete(SuggesterState).where(col(SuggesterState.study_id) == number))
        told = col(Event.subject_kind) == Noun.STUDY, col(Event.subject_id) == number
        session.execute(delete(Event).where(*told))
        session.execute(delete(Study).where(col(Study.id) == number))

    store.write(rest)
