"""Giving disk space back: output and records of workloads that are over, and old events. What is alive is not touched,
but for the output of a service's earlier tries and events of long ago.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sqlalchemy import delete, false, func, select, update
from sqlmodel import Session, SQLModel, col

from localml.core.capacity.tables import GpuLease
from localml.core.events.records import forget, record_event
from localml.core.events.tables import Event
from localml.core.instances.tables import Instance
from localml.core.logs.tables import LogFile
from localml.core.metrics.tables import MetricPlace, Parameter
from localml.core.ports import Store
from localml.core.quantities import format_memory
from localml.core.registry.tables import ModelVersion
from localml.core.series.tables import Sample, Series
from localml.core.serving.tables import EndpointReplica
from localml.core.studies.forgetting import forget_studies, outdated, trials_of
from localml.core.subjects import Noun, Subject
from localml.core.work.code import drop, unused
from localml.core.work.specs import WorkloadSpec
from localml.core.work.states import Kind
from localml.core.work.tables import Attempt, Workload, WorkloadDetail

DAY = 86400.0
LOGS_DIR = "logs"
_GROUP = 20
"""Workloads whose rows are removed in one transaction, so that nobody else waits long for the writer."""


@dataclass(frozen=True, slots=True)
class PruneRules:
    """What may go.

    Attributes:
        logs_older_than: seconds since a workload ended after which its output goes; None: age does not matter.
        keep_log_bytes: how much output of ended workloads stays, the oldest goes first; None: size does not matter.
        deleted_older_than: seconds since a workload was deleted after which its records go; None: they all stay.
        jobs_older_than: the same since a job or a study ended, deleted or not. Trials stay as long as their study, and
            other children of something stay.
        events_older_than: the same for events, whatever they are about.
        code_older_than: seconds since code was last submitted with after which it goes; None: it stays. What something
            needs that is not over stays anyway.
        tries_bytes: how much output of earlier tries of one that is not over stays, the oldest goes first.
    """

    logs_older_than: float | None = 30 * DAY
    keep_log_bytes: int | None = None
    deleted_older_than: float | None = 30 * DAY
    jobs_older_than: float | None = None
    events_older_than: float | None = None
    tries_bytes: int | None = None
    code_older_than: float | None = 30 * DAY


@dataclass(slots=True)
class Pruned:
    """What went, or would go in a dry run. ``log_bytes`` counts files and their side files, as they lie on the disk."""

    dry_run: bool
    log_files: int = 0
    log_bytes: int = 0
    logs_of: list[int] = field(default_factory=list)
    workloads: list[int] = field(default_factory=list)
    studies: list[int] = field(default_factory=list)
    folders: int = 0
    events: int = 0
    database_bytes: int = 0
    code_archives: int = 0
    code_bytes: int = 0

    @property
    def some(self) -> bool:
        """Whether anything of a workload went, or code."""
        return bool(self.logs_of or self.workloads or self.studies or self.code_archives)

    def words(self) -> str:
        """What went, for people."""
        code = f"{format_memory(self.code_bytes)} of unused code, " if self.code_archives else ""
        studies = f", of {len(self.studies)} study(ies)" if self.studies else ""
        return (
            f"{code}{format_memory(self.log_bytes)} of output of {len(set(self.logs_of))} workload(s), the records of "
            f"{len(self.workloads)}{studies} and {self.events} event(s)"
        )


def prune(
    store: Store,
    data: Path,
    rules: PruneRules,
    *,
    now: float,
    dry_run: bool = False,
    stopped: Callable[[], bool] = lambda: False,
) -> Pruned:
    """Remove what the rules name. Safe to repeat, and to interrupt: files go before the rows that name them.

    A workload counts as over when it has ended and nothing of it is left in the engine.

    Args:
        stopped: asked now and then; True ends the work early.
    """
    result = Pruned(dry_run)
    gone = _forgotten(store, rules, now)
    for number in [*_without_logs(store, data, rules, set(gone), now), *gone]:
        if stopped():
            return result
        drop_logs(store, data, number, result, now)
    for number, files in _earlier_tries(store, data, rules):
        _drop_files(store, data, number, files, result, now)
    for start in range(0, len(gone), _GROUP):
        if stopped():
            return result
        part = gone[start : start + _GROUP]
        result.workloads += part
        if not dry_run:
            _drop_group(store, part)
    result.studies = forget_studies(store, _outdated(rules, now), dry_run=dry_run, stopped=stopped)
    if rules.events_older_than is not None:
        result.events = forget(store, now - rules.events_older_than, dry_run=dry_run, stopped=stopped)
    result.folders = _drop_empty(store, data / LOGS_DIR, dry_run=dry_run)
    if rules.code_older_than is not None:
        old = unused(store, data, now, older_than=rules.code_older_than)
        result.code_archives, result.code_bytes = drop(old, dry_run=dry_run)
    return result


def _drop_group(store: Store, numbers: list[int]) -> None:
    """Remove rows, and leave the writer to the others for as long as that took."""
    began = time.monotonic()
    store.write(lambda session: _drop_rows(session, numbers))
    time.sleep(time.monotonic() - began)


def over() -> Any:
    """Condition: it has ended, and nothing of it is left in the engine."""
    return col(Workload.ended_at).is_not(None) & col(Workload.cleaned).is_(True)


def _forgotten(store: Store, rules: PruneRules, now: float) -> list[int]:
    """Workloads whose records may go: not those that a waiting one depends on."""
    old: Any = false()
    if rules.deleted_older_than is not None:
        old = old | (col(Workload.deleted_at) <= now - rules.deleted_older_than)
    old = old | trials_of(_outdated(rules, now))
    if rules.jobs_older_than is not None:
        job = (col(Workload.kind) == Kind.JOB) & col(Workload.parent_kind).is_(None)
        old = old | (job & (col(Workload.ended_at) <= now - rules.jobs_older_than))
    query = select(col(Workload.id)).where(over(), old)
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


def _outdated(rules: PruneRules, now: float) -> Any:
    ages = (rules.deleted_older_than, rules.jobs_older_than)
    return outdated(*(None if age is None else now - age for age in ages))


def _without_logs(store: Store, data: Path, rules: PruneRules, gone: set[int], now: float) -> list[int]:
    """Ended workloads that stay, but whose output goes."""
    query = select(col(Workload.id), col(Workload.ended_at)).where(over()).order_by(col(Workload.ended_at).desc())
    there = _with_folder(data) - gone
    with store.read() as session:
        ended = [(int(number), float(at)) for number, at in session.execute(query) if number in there]
    chosen: list[int] = []
    kept = 0
    for number, at in ended:
        size = sum(map(taken, files_of(data, number)))
        if not size:
            continue
        old = rules.logs_older_than is not None and at <= now - rules.logs_older_than
        if old or (rules.keep_log_bytes is not None and kept + size > rules.keep_log_bytes):
            chosen.append(number)
        else:
            kept += size
    return chosen


def _earlier_tries(store: Store, data: Path, rules: PruneRules) -> Iterator[tuple[int, list[Path]]]:
    """(workload, files) of what is not over: output of its earlier tries that goes."""
    if rules.tries_bytes is None:
        return
    ended = select(col(Attempt.workload_id), col(Attempt.name)).join(Workload)
    ended = ended.where(~over(), col(Attempt.removed).is_(True), col(Attempt.number) < col(Workload.attempt))
    names: dict[int, list[str]] = {}
    with store.read() as session:
        for number, name in session.execute(ended.order_by(col(Attempt.id).desc())):
            names.setdefault(number, []).append(name)
    for number, tries in names.items():
        files, kept, gone = files_of(data, number), 0, list[Path]()
        for name in tries:
            own = [path for path in files if path.name.startswith(f"{name}.")]
            kept += sum(map(taken, own))
            gone += own if kept > rules.tries_bytes else ()
        if gone:
            yield number, gone


def drop_logs(store: Store, data: Path, number: int, result: Pruned, now: float) -> None:
    """Remove all output of a workload that is over; nothing if ``result`` is that of a dry run."""
    _drop_files(store, data, number, files_of(data, number), result, now)


def _drop_files(store: Store, data: Path, number: int, files: Sequence[Path], result: Pruned, now: float) -> None:
    if not files:
        return
    result.logs_of.append(number)
    size = 0
    for path in files:
        result.log_files += 1
        size += taken(path)
        if not result.dry_run:
            path.unlink(missing_ok=True)
    result.log_bytes += size
    if not result.dry_run:
        names = [str(path.relative_to(data)) for path in files]
        store.write(lambda session: _mark(session, number, names, size, now))


def _mark(session: Session, number: int, names: list[str], size: int, now: float) -> None:
    """The records of output that went say when, and so does an event, for whoever asks for it."""
    mark = update(LogFile).where(*_about(LogFile, [number]), col(LogFile.pruned_at).is_(None))
    session.execute(mark.where(col(LogFile.path).in_(names)).values(pruned_at=now))
    if size and session.get(Workload, number) is not None:
        words = f"{format_memory(size)} of its output went, and is kept no more"
        record_event(session, Subject.workload(number), "OutputPruned", words, now=now)


def files_of(data: Path, number: int) -> list[Path]:
    """A workload's files of output, side files included."""
    try:
        folder = data / LOGS_DIR / str(number)
        return sorted(path for path in folder.iterdir() if path.is_file() and not path.is_symlink())
    except FileNotFoundError:
        return []


def _with_folder(data: Path) -> set[int]:
    try:
        return {int(name) for name in os.listdir(data / LOGS_DIR) if name.isdigit()}
    except FileNotFoundError:
        return set()


def taken(path: Path) -> int:
    """Bytes that a file takes on the disk, which are less than its size where holes are in it; 0 without a file."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return 0
    return min(found.st_size, found.st_blocks * 512)


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
    owned: tuple[type[SQLModel], ...] = (
        *(GpuLease, Attempt, EndpointReplica, Instance),
        *(MetricPlace, Parameter, WorkloadDetail),
    )
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
        live = set(session.execute(select(col(Workload.id)).where(~over())).scalars())
        newest = session.execute(select(func.max(col(Workload.id)))).scalar() or 0
    count = 0
    for path in empty:
        if path.name.isdigit() and int(path.name) <= newest and int(path.name) not in live:
            count += 1
            if not dry_run:
                path.rmdir()
    return count
