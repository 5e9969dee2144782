"""Starting and removing: the acts behind the decisions, and what their results mean for the records."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from sqlalchemy import update
from sqlmodel import Session, col

from localml.control.jobs import records
from localml.control.jobs.acts import Acts, Done
from localml.control.jobs.decide import AttemptView
from localml.control.jobs.hostports import other_host_ports, taken_port
from localml.control.jobs.observe import Observations
from localml.control.jobs.plans import Site, build, network_name
from localml.control.jobs.pumps import LogPumps
from localml.control.jobs.snapshot import AttemptRow, WorkloadRow
from localml.core.clock import Clock
from localml.core.errors import LocalmlError
from localml.core.events.records import record_event
from localml.core.subjects import Subject
from localml.core.work.causes import Cause
from localml.core.work.grants import Grants
from localml.core.work.specs import Role, WorkloadSpec
from localml.core.work.states import AttemptState, Desired
from localml.core.work.tables import Workload, WorkloadDetail
from localml.engines.base import (
    Engine,
    EngineError,
    EngineUnreachable,
    ImageMissing,
    Observed,
    Phase,
    PortTaken,
    Progress,
)
from localml.store.database import Database

log = logging.getLogger("localml.control")

_DISK_FULL = "no space left on device"


@dataclass(frozen=True, slots=True)
class Started:
    """What starting one attempt gave."""

    attempt: AttemptRow
    observed: Observed | None = None
    error: Exception | None = None


@dataclass(frozen=True, slots=True)
class Launch:
    """What starting a workload gave; ``images`` are what its roles run, to be pinned."""

    started: list[Started]
    images: dict[str, str] | None = None


class Launcher:
    """Turns planned attempts into containers."""

    def __init__(self, db: Database, engine: Engine, site: Site, clock: Clock, pumps: LogPumps) -> None:
        self._db = db
        self._engine = engine
        self._pumps = pumps
        self._site = site
        self._clock = clock
        self._gang_threads = ThreadPoolExecutor(16, "localml-gang")
        self._pinned: set[int] = set()

    def start(self, acts: Acts, row: WorkloadRow, spec: WorkloadSpec, gang: Sequence[AttemptRow]) -> None:
        """Start all planned attempts of a workload in one act."""
        planned = [one for one in gang if one.state is AttemptState.PLANNED]
        keys = tuple(("attempt", one.id) for one in planned)
        if planned:
            acts.run("start", keys, row, lambda: self._start(row, spec, planned, gang))

    def _start(
        self, row: WorkloadRow, spec: WorkloadSpec, planned: Sequence[AttemptRow], gang: Sequence[AttemptRow]
    ) -> Launch:
        try:
            grants = self._grants(row, spec)
            images = self._images(row, spec, grants)
        except (EngineError, EngineUnreachable) as error:
            return Launch([Started(one, error=error) for one in planned])
        if images is None:
            return Launch([])

        def begin(one: AttemptRow) -> Started:
            try:
                self._check_ports(spec.role(one.role), one)
                plan = build(self._site, row, spec, one, gang, images[one.role], grants)
                with self._site.pins(plan) as pinned:
                    observed = self._engine.start(pinned)
                if observed.phase is not Phase.PENDING:
                    self._pumps.ensure(row.id, one.name)  # at once: its output may be over when the start is recorded
                return Started(one, observed)
            except Exception as error:  # whatever it is, the workload must hear of it
                return Started(one, error=error)

        started = [begin(planned[0])] if len(planned) == 1 else list(self._gang_threads.map(begin, planned))
        return Launch(started, images)

    def _grants(self, row: WorkloadRow, spec: WorkloadSpec) -> Grants:
        """What was decided when it was submitted; now, and once, for one that an earlier version took in."""
        query = "SELECT grants FROM workload_detail WHERE workload_id = ?"
        with self._db.read_raw() as connection:
            found = connection.execute(query, (row.id,)).fetchone()
        if found and found[0]:
            return Grants.model_validate_json(found[0])
        grants = self._site.mounts.decide_late(row, spec)
        text = grants.model_dump_json(exclude_defaults=True)
        detail = update(WorkloadDetail).where(col(WorkloadDetail.workload_id) == row.id)
        self._db.write(lambda session: session.execute(detail.values(grants=text)))
        return grants

    def _images(self, row: WorkloadRow, spec: WorkloadSpec, grants: Grants) -> dict[str, str] | None:
        """role -> image id, as pinned by an earlier try or now; pulls what is missing, telling how far it is.

        None when the workload was stopped while its images were pulled.
        """
        with self._db.read_raw() as connection:
            pinned = connection.execute(
                "SELECT images FROM workload_detail WHERE workload_id = ?", (row.id,)
            ).fetchone()
        found: dict[str, str] = json.loads((pinned and pinned[0]) or "null") or {}
        pulled = False

        def tell(words: str) -> None:
            nonlocal pulled
            pulled = True
            now = self._clock.now()
            self._db.write(lambda s: record_event(s, Subject.workload(row.id), "Pulling", words, now=now))

        for role in spec.roles:
            if role.name not in found:
                found[role.name] = self._image(role, grants, tell)
        if not pulled:
            return found
        with self._db.read() as session:
            current = session.get(Workload, row.id)
            return found if current is not None and current.desired is Desired.RUN else None

    def _image(self, role: Role, grants: Grants, tell: Progress) -> str:
        image = role.image or self._site.default_image
        if role.registry_auth is None:
            return self._engine.resolve_image(image, tell)
        try:
            auth = self._site.registry_auth(role.registry_auth, grants.registry_auth.get(role.registry_auth))
        except LocalmlError as error:
            raise ImageMissing(f"image {image}: its credentials cannot be read: {error}") from error
        return self._engine.resolve_image(image, tell, auth=auth)

    def _check_ports(self, role: Role, one: AttemptRow) -> None:
        """An engine that maps no ports binds none itself, so that nobody else would notice one that is taken."""
        if self._site.capabilities.ports_mapped or not any(port.host for port in role.ports):
            return
        if self._engine.inspect(one.name).phase is Phase.GONE and (port := taken_port(role)) is not None:
            raise PortTaken(f"port {port.label}: {port.host} is in use on this machine")

    def pin(self, acts: Acts, row: WorkloadRow, spec: WorkloadSpec) -> None:
        """Remember the digests of a waiting workload's images, so that it runs what its image was when submitted."""
        if not self._site.capabilities.images or row.id in self._pinned:
            return
        self._pinned.add(row.id)

        def act() -> dict[str, str]:
            found: dict[str, str] = {}
            for role in spec.roles:
                try:
                    found[role.name] = self._engine.resolve_image(role.image or self._site.default_image, pull=False)
                except ImageMissing:
                    continue  # pulled when its turn comes
            return found

        acts.run("pin", (("pin", row.id),), row.id, act)

    def forget(self, number: int) -> None:
        """A workload that is over."""
        self._pinned.discard(number)

    def discard(self, acts: Acts, one: AttemptView) -> None:
        """Make sure that nothing exists of a planned attempt."""
        acts.run("remove", (("attempt", one.id),), one.name, lambda: self._engine.remove(one.name))

    def remove(
        self,
        acts: Acts,
        row: WorkloadRow,
        old: Sequence[AttemptRow],
        attempts: Sequence[AttemptRow],
    ) -> None:
        """Remove ended attempts' containers, and the network of each try that is over with all its attempts."""
        networks = [
            network_name(self._site.install, row.id, number)
            for number in {one.number for one in old}
            if sum(1 for one in attempts if one.number == number) > 1
            and all(one in old for one in attempts if one.number == number)
        ]

        def act() -> list[int]:
            for one in old:
                self._engine.remove(one.name)
            for network in networks:
                self._engine.remove_network(network)
            return [one.id for one in old]

        acts.run("remove", (("clean", row.id),), row, act)

    def record(self, results: Iterable[Done], seen: Observations, now: float) -> None:
        """Write what the acts gave, in one transaction."""
        writes: list[Any] = []
        for result in results:
            writes.extend(self._meaning(result, seen, now))
        if not writes:
            return

        def apply(session: Session) -> None:
            for write in writes:
                write(session)

        self._db.write(apply)

    def _meaning(self, result: Done, seen: Observations, now: float) -> list[Any]:
        if result.kind == "start" and result.error is None:
            return self._launched(result.subject, result.value, seen, now)
        if result.kind == "pin" and result.error is None and result.value:
            return [lambda s: records.pin_images(s, result.subject, result.value)]
        if result.kind == "remove" and result.error is None:
            key: Any = result.keys[0]
            kind, number = key[0], key[1]
            if kind == "clean":
                return [lambda s: records.removed(s, number, result.value)]
            if kind == "attempt":
                return [lambda s: self._discarded(s, number, now)]
        if result.error is not None and not isinstance(result.error, EngineUnreachable):
            what = getattr(result.subject, "name", result.subject)
            log.warning("%s of %s failed: %s", result.kind, what, result.error)
        return []

    def _launched(self, row: WorkloadRow, launch: Launch, seen: Observations, now: float) -> list[Any]:
        writes = [self._started(row, one, seen, now) for one in launch.started]
        writes.append(lambda s: records.all_begun(s, row.id, now=now))
        if launch.images:
            writes.append(lambda s: records.pin_images(s, row.id, launch.images or {}))
        return writes

    @staticmethod
    def _discarded(session: Session, attempt_id: int, now: float) -> None:
        records.end_attempt(
            session,
            attempt_id,
            AttemptState.PLANNED,
            exit_code=None,
            signal=None,
            cause=Cause.SUPERSEDED,
            message="never started",
            at=now,
            now=now,
        )

    def _started(self, row: WorkloadRow, one: Started, seen: Observations, now: float) -> Any:
        if one.observed is not None:
            observed = one.observed
            seen.learn(observed)
            if observed.phase is Phase.PENDING:
                return lambda s: records.attempt_pending(s, one.attempt, observed, now=now)
            return lambda s: records.attempt_running(
                s,
                one.attempt,
                handle=observed.handle,
                address=observed.address,
                started_at=observed.started_at or now,
            )
        error = one.error
        if isinstance(error, EngineUnreachable):
            return lambda s: None  # nothing is known; the attempt stays planned and is tried again
        if isinstance(error, PortTaken):
            role_ports = self._other_ports(row, one.attempt)
            if role_ports is not None:
                return lambda s: records.set_ports(s, one.attempt.id, role_ports)
        return lambda s: self._failed_start(s, row, one.attempt, error, now)

    def _other_ports(self, row: WorkloadRow, one: AttemptRow) -> dict[str, tuple[int, int]] | None:
        """Other ports to try; None when the user insists on one of those that were tried."""
        with self._db.read() as session:
            detail = session.get(WorkloadDetail, row.id)
        if detail is None:
            return {}
        role = WorkloadSpec.model_validate_json(detail.spec).role(one.role)
        if any(port.host for port in role.ports):
            return None
        return other_host_ports(role, one.ports or {}, mapped=self._site.capabilities.ports_mapped)

    @staticmethod
    def _failed_start(session: Session, row: WorkloadRow, one: AttemptRow, error: Exception | None, now: float) -> None:
        words = str(error)
        cause = Cause.IMAGE_MISSING if isinstance(error, ImageMissing) else Cause.START_FAILED
        if _DISK_FULL in words.lower():
            cause = Cause.DISK_FULL
        records.end_attempt(
            session,
            one.id,
            AttemptState.PLANNED,
            exit_code=None,
            signal=None,
            cause=cause,
            message=words,
            at=now,
            now=now,
        )
        record_event(
            session,
            Subject.workload(row.id),
            "FailedToStart",
            words,
            now=now,
            warning=True,
            replica=f"{one.role}-{one.index}",
        )
