"""Giving disk space back: output and records of workloads that are over. What is alive is never touched."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sqlalchemy import delete, func, select, update
from sqlmodel import Session, SQLModel, col

from localml.core.capacity.tables import GpuLease
from localml.core.events.tables import Event
from localml.core.instances.tables import Instance
from localml.core.logs.tables import LogFile
from localml.core.ports import Store
from localml.core.registry.tables import ModelVersion
from localml.core.series.tables import Sample, Series
from localml.core.serving.tables import EndpointReplica
from localml.core.subjects import Noun
from localml.core.work.specs import WorkloadSpec
from localml.core.work.tables import Attempt, Workload, WorkloadDetail

DAY = 86400.0
LOGS_DIR = "logs"
_GROUP = 500
"""Workloads whose rows are removed in one transaction, so that nobody else waits long for the writer."""


@dataclass(frozen=True, slots=True)
class PruneRules:
    """What may go.

    Attributes:
        logs_older_than: seconds since a workload ended after which its output goes; None: age does not matter.
        keep_log_bytes: how much output of ended workloads stays, the oldest goes first; None: size does not matter.
        deleted_older_than: seconds since a workload was deleted after which its records go; None: they all stay.
    """

    logs_older_than: float | None = 30 * DAY
    keep_log_bytes: int | None = None
    deleted_older_than: float | None = 30 * DAY


@dataclass(slots=True)
class Pruned:
    """What went, or would go in a dry run. ``log_bytes`` counts files and their side files."""

    dry_run: bool
    log_files: int = 0
    log_bytes: int = 0
    logs_of: list[int] = field(default_factory=list)
    workloads: list[int] = field(default_factory=list)
    folders: int = 0


def prune(store: Store, data: Path, rules: PruneRules, *, now: float, dry_run: bool = False) -> Pruned:
    """Remove what the rules name. Safe to repeat, and to interrupt: files go before the rows that name them.

    A workload counts as over when it has ended and nothing of it is left in the engine; only such ones are looked at.
    """
    result = Pruned(dry_run)
    gone = _deleted(store, rules, now)
    for number in _without_logs(store, data, rules, set(gone), now):
        _drop_logs(store, data, number, result, now)
    for number in gone:
        _drop_logs(store, data, number, result, now)
    result.workloads = gone
    if not dry_run:
        for start in range(0, len(gone), _GROUP):
            part = gone[start : start + _GROUP]
            store.write(lambda session, part=part: _drop_rows(session, part))  # type: ignore[misc]
    result.folders = _drop_empty(store, data / LOGS_DIR, dry_run=dry_run)
    return result


def _over() -> Any:
    return col(Workload.ended_at).is_not(None) & col(Workload.cleaned).is_(True)


def _deleted(store: Store, rules: PruneRules, now: float) -> list[int]:
    """Deleted workloads whose records may go: not those that a waiting one depends on."""
    if rules.deleted_older_than is None:
        return []
    query = select(col(Workload.id)).where(_over(), col(Workload.deleted_at) <= now - rules.deleted_older_than)
    waiting = select(col(WorkloadDetail.spec)).join(Workload).where(col(Workload.ended_at).is_(None))
    with store.read() as session:
        found = [int(number) for number in session.execute(query.order_by(col(Workload.id))).scalars()]
        if not found:
            return []
        wanted = {
            one
            for spec in session.execute(waiting).scalars()
            for one in WorkloadSpec.model_validate_json(spec).depends_on
        }
    return [number for number in found if number not in wanted]


def _without_logs(store: Store, data: Path, rules: PruneRules, gone: set[int], now: float) -> list[int]:
    """Ended workloads that stay, but whose output goes."""
    query = select(col(Workload.id), col(Workload.ended_at)).where(_over()).order_by(col(Workload.ended_at).desc())
    with store.read() as session:
        ended = [(int(number), float(at)) for number, at in session.execute(query) if number not in gone]
    chosen: list[int] = []
    kept = 0
    for number, at in ended:
        folder = data / LOGS_DIR / str(number)
        size = sum(path.stat().st_size for path in _files(folder))
        if not size:
            continue
        old = rules.logs_older_than is not None and at <= now - rules.logs_older_than
        if old or (rules.keep_log_bytes is not None and kept + size > rules.keep_log_bytes):
            chosen.append(number)
        else:
            kept += size
    return chosen


def _drop_logs(store: Store, data: Path, number: int, result: Pruned, now: float) -> None:
    files = _files(data / LOGS_DIR / str(number))
    if not files:
        return
    result.logs_of.append(number)
    for path in files:
        result.log_files += 1
        result.log_bytes += path.stat().st_size
        if not result.dry_run:
            path.unlink(missing_ok=True)
    if not result.dry_run:
        mark = update(LogFile).where(*_about(LogFile, [number]), col(LogFile.pruned_at).is_(None))
        store.write(lambda session: session.execute(mark.values(pruned_at=now)) and None)


def _files(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if path.is_file() and not path.is_symlink())
    except FileNotFoundError:
        return []


def _drop_rows(session: Session, numbers: list[int]) -> None:
    series = select(col(Series.id)).where(*_about(Series, numbers))
    session.execute(delete(Sample).where(col(Sample.series_id).in_(series)))
    made = update(ModelVersion).where(col(ModelVersion.workload_id).in_(numbers))
    session.execute(made.values(workload_id=None))  # a model stays when the job that wrote it is forgotten
    for about in (Series, LogFile, Event):
        session.execute(delete(about).where(*_about(about, numbers)))
    instances = select(col(Instance.id)).where(col(Instance.workload_id).in_(numbers))
    told = col(Event.subject_kind) == Noun.INSTANCE, col(Event.subject_id).in_(instances)
    session.execute(delete(Event).where(*told))
    owned: tuple[type[SQLModel], ...] = (GpuLease, Attempt, EndpointReplica, Instance, WorkloadDetail)
    for table in owned:
        session.execute(delete(table).where(table.workload_id.in_(numbers)))  # type: ignore[attr-defined]
    session.execute(delete(Workload).where(col(Workload.id).in_(numbers)))


def _about(table: type[Event] | type[LogFile] | type[Series], numbers: list[int]) -> tuple[Any, Any]:
    return col(table.subject_kind) == Noun.WORKLOAD, col(table.subject_id).in_(numbers)


def _drop_empty(store: Store, folder: Path, *, dry_run: bool) -> int:
    """Empty folders of workloads that are over or forgotten; a live one's may be about to be written to."""
    empty = [path for path in sorted(folder.glob("[0-9]*")) if path.is_dir() and not any(path.iterdir())]
    if not empty:
        return 0
    with store.read() as session:
        live = set(session.execute(select(col(Workload.id)).where(~_over())).scalars())
        newest = session.execute(select(func.max(col(Workload.id)))).scalar() or 0
    count = 0
    for path in empty:
        if path.name.isdigit() and int(path.name) <= newest and int(path.name) not in live:
            count += 1
            if not dry_run:
                path.rmdir()
    return count
