"""What the results of slow acts mean for the records."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from sqlmodel import Session

from localml.control.jobs import records
from localml.control.jobs.acts import Done
from localml.control.jobs.apart import Blame, Write, each, write_apart
from localml.control.jobs.hostports import other_host_ports
from localml.control.jobs.launcher import Discarded, Launch, Started, has_begun
from localml.control.jobs.observe import Observations
from localml.control.jobs.snapshot import AttemptRow, WorkloadRow
from localml.core.events.records import record_event
from localml.core.subjects import Subject
from localml.core.work.causes import Cause
from localml.core.work.specs import WorkloadSpec
from localml.core.work.states import AttemptState
from localml.core.work.tables import WorkloadDetail
from localml.engines.base import EngineError, EngineUnreachable, ImageMissing, Observed, Phase, PortTaken
from localml.store.database import Database

log = logging.getLogger("localml.control")

_DISK_FULL = "no space left on device"


def workload_of(result: Done) -> int:
    """The workload that an act was for; 0 for what belongs to none."""
    subject = result.subject
    if isinstance(subject, WorkloadRow):
        return subject.id
    if isinstance(subject, Discarded):
        return subject.row.id
    return subject if isinstance(subject, int) else 0


class Results:
    """Writes them down.

    Args:
        seen: learns what the engine answered.
        mapped: whether the engine maps ports.
    """

    def __init__(self, db: Database, seen: Observations, *, mapped: bool) -> None:
        self._db = db
        self._seen = seen
        self._mapped = mapped

    def record(self, results: Iterable[Done], now: float, blame: Blame) -> None:
        """Write what the acts gave, in one transaction; ``blame`` hears of workloads with which that cannot be done.

        Raises:
            LocalmlError: the database takes nothing now.
        """
        parts: list[tuple[int, Write]] = []

        def mean(result: Done) -> None:
            parts.extend((workload_of(result), write) for write in self._meaning(result, now))

        each([(workload_of(one), lambda one=one: mean(one)) for one in results], blame)  # type: ignore[misc]
        write_apart(self._db, parts, blame)

    def _meaning(self, result: Done, now: float) -> list[Write]:
        subject, value = result.subject, result.value
        if result.error is not None:
            if not isinstance(result.error, EngineUnreachable):
                log.warning("%s of %s failed: %s", result.kind, _name(subject), result.error)
            return []
        if result.kind == "start":
            return self._launched(subject, value, now)
        if result.kind == "pin" and value:
            return [lambda s: records.pin_images(s, subject, value)]
        if result.kind == "remove" and isinstance(subject, Discarded):
            return [self._discarded(subject, value, now)]
        if result.kind == "remove" and isinstance(subject, WorkloadRow):
            return [lambda s: records.removed(s, subject.id, value)]
        return []

    def _launched(self, row: WorkloadRow, launch: Launch, now: float) -> list[Write]:
        writes = [self._started(row, one, now) for one in launch.started]
        writes.append(lambda s: records.all_begun(s, row.id, now=now))
        if launch.images:
            writes.append(lambda s: records.pin_images(s, row.id, launch.images or {}))
        return writes

    def _discarded(self, subject: Discarded, seen: Observed, now: float) -> Write:
        if has_begun(seen):
            return self._came(subject.attempt, seen, now)
        if subject.failed:
            return lambda s: _failed_start(s, subject.row, subject.attempt, EngineError(subject.failed), now)
        return lambda s: records.end_attempt(
            s,
            subject.attempt.id,
            AttemptState.PLANNED,
            exit_code=None,
            signal=None,
            cause=Cause.SUPERSEDED,
            message="never started",
            at=now,
            now=now,
        )

    def _came(self, one: AttemptRow, observed: Observed, now: float) -> Write:
        """A planned attempt's container is there."""
        self._seen.learn(observed)
        if observed.phase is Phase.PENDING:
            return lambda s: records.attempt_pending(s, one, observed, now=now)
        return lambda s: records.attempt_running(
            s,
            one,
            handle=observed.handle,
            address=observed.address,
            started_at=observed.started_at or now,
        )

    def _started(self, row: WorkloadRow, one: Started, now: float) -> Write:
        if one.observed is not None:
            return self._came(one.attempt, one.observed, now)
        error = one.error
        if isinstance(error, EngineUnreachable):
            return lambda s: None  # nothing is known; the attempt stays planned and is tried again
        if isinstance(error, PortTaken):
            role_ports = self._other_ports(row, one.attempt)
            if role_ports is not None:
                return lambda s: records.set_ports(s, one.attempt.id, role_ports)
        return lambda s: _failed_start(s, row, one.attempt, error, now)

    def _other_ports(self, row: WorkloadRow, one: AttemptRow) -> dict[str, tuple[int, int]] | None:
        """Other ports to try; None when the user insists on one of those that were tried."""
        with self._db.read() as session:
            detail = session.get(WorkloadDetail, row.id)
        if detail is None:
            return {}
        role = WorkloadSpec.model_validate_json(detail.spec).role(one.role)
        if any(port.host for port in role.ports):
            return None
        return other_host_ports(role, one.ports or {}, mapped=self._mapped)


def _name(subject: object) -> object:
    """What a warning calls it."""
    if isinstance(subject, Discarded):
        return subject.attempt.name
    return subject.name if isinstance(subject, WorkloadRow) else subject


def _failed_start(session: Session, row: WorkloadRow, one: AttemptRow, error: Exception | None, now: float) -> None:
    words = str(error)
    cause = Cause.IMAGE_MISSING if isinstance(error, ImageMissing) else Cause.START_FAILED
    if _DISK_FULL in words.lower():
        cause = Cause.DISK_FULL
    replica = f"{one.role}-{one.index}"
    if records.end_attempt(
        session,
        one.id,
        AttemptState.PLANNED,
        exit_code=None,
        signal=None,
        cause=cause,
        message=words,
        at=now,
        now=now,
    ):
        about = Subject.workload(row.id)
        record_event(session, about, "FailedToStart", words, now=now, warning=True, replica=replica)
