"""Starting and removing: the acts behind the decisions. What they gave is written down by :mod:`.results`."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from sqlalchemy import update
from sqlmodel import col

from localml.control.jobs.acts import Acts
from localml.control.jobs.crew import Crew
from localml.control.jobs.hostports import taken_port
from localml.control.jobs.plans import Site, build, network_name
from localml.control.jobs.pumps import LogPumps
from localml.control.jobs.snapshot import AttemptRow, WorkloadRow
from localml.core.catalog import HOST, IMAGE_PREFIX
from localml.core.clock import Clock
from localml.core.errors import LocalmlError
from localml.core.events.records import record_event
from localml.core.subjects import Subject
from localml.core.work.grants import Grants
from localml.core.work.specs import Role, WorkloadSpec
from localml.core.work.states import AttemptState, Desired
from localml.core.work.tables import Workload, WorkloadDetail
from localml.engines.base import (
    Engine,
    EngineUnreachable,
    ImageMissing,
    Observed,
    Phase,
    PortTaken,
    Progress,
)
from localml.store.database import Database

log = logging.getLogger("localml.control")
_NUMBER = re.compile(r"\d+(?:\.\d+)? ?[smhd%]")
_NOTE_S = 60.0


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


@dataclass(frozen=True, slots=True)
class Discarded:
    """Whose attempt was planned and is not wanted any more, or cannot be started, for which ``failed`` says why."""

    row: WorkloadRow
    attempt: AttemptRow
    failed: str = ""


class _Unwanted(Exception):
    """The workload was stopped while its images were pulled or built."""


def _mapped(image: str, found: str) -> str:
    """That an environment of another name is an image's, where there are no images; empty where the name is its own."""
    if image.split("@")[0].split(":")[0] == found:
        return ""
    name = "the Python of this machine" if found == HOST else f"the runtime {found.removeprefix(IMAGE_PREFIX)}"
    return f"{image} is {name} here"


def has_begun(seen: Observed) -> bool:
    """Whether a container has been begun, or the engine will begin it: what was only made, or never ran, has not."""
    return seen.phase in (Phase.PENDING, Phase.RUNNING) or (seen.phase is Phase.EXITED and seen.started_at is not None)


def _all_of(steps: Iterable[Callable[[], None]]) -> None:
    """Take every step, also when one of them fails; raises the first failure afterwards."""
    failures: list[Exception] = []
    for step in steps:
        try:
            step()
        except EngineUnreachable:
            raise
        except Exception as error:
            failures.append(error)
    if failures:
        raise failures[0]


class Launcher:
    """Turns planned attempts into containers."""

    def __init__(self, db: Database, engine: Engine, site: Site, clock: Clock, pumps: LogPumps) -> None:
        self._db = db
        self._engine = engine
        self._pumps = pumps
        self._site = site
        self._clock = clock
        self._gang_threads = Crew(16, "localml-gang")
        self._pinned: set[int] = set()
        self._heard: dict[int, float] = {}
        self._told: dict[int, str] = {}
        self._noted: dict[int, tuple[str, float]] = {}

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
        except Exception as error:  # whatever it is, the workload must hear of it
            return Launch([self._looked_up(row, one, error) for one in planned])
        if images is None:
            return Launch([])

        def begin(one: AttemptRow) -> Started:
            try:
                self._check_ports(spec.role(one.role), one)
                image = images[one.role]
                user = self._engine.image_user(image) if self._site.group is not None else ""
                plan = build(self._site, row, spec, one, gang, image, grants, user)
                with self._site.pins(plan) as pinned:
                    return self._came(row, one, self._engine.start(pinned))
            except Exception as error:
                return self._looked_up(row, one, error)

        started = [begin(planned[0])] if len(planned) == 1 else list(self._gang_threads.map(begin, planned))
        return Launch(started, images if self._site.capabilities.images else None)

    def _came(self, row: WorkloadRow, one: AttemptRow, observed: Observed) -> Started:
        if observed.phase is not Phase.PENDING:
            self._pumps.ensure(row.id, one.name)  # at once: its output may be over when the start is recorded
        return Started(one, observed)

    def _looked_up(self, row: WorkloadRow, one: AttemptRow, error: Exception) -> Started:
        """What became of an attempt whose start failed: its container may be there all the same, and then counts.

        A failure that is no answer of the engine says nothing; the start is tried again.
        """
        if isinstance(error, EngineUnreachable):
            return Started(one, error=error)
        try:
            seen = self._sure(one.name)
        except Exception as doubt:
            return Started(one, error=EngineUnreachable(f"{error}; and whether it runs could not be asked: {doubt}"))
        if has_begun(seen):
            log.warning("the start of %s failed, but it is there: %s", one.name, error)
            return self._came(row, one, seen)
        return Started(one, error=error)

    def _sure(self, name: str) -> Observed:
        """What the engine says of a container; what it does not find is asked for twice."""
        seen = self._engine.inspect(name)
        return seen if seen.phase is not Phase.GONE else self._engine.inspect(name)

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
        """role -> image id, as pinned by an earlier try or now; pulls or builds what is missing, telling how far it is.

        None when the workload was stopped meanwhile.
        """
        found = self._pins(row.id)
        try:
            for role in spec.roles:
                if role.name not in found:
                    found[role.name] = self._image(role, grants, partial(self._tell, row.id))
            if not self._site.capabilities.images:
                self._tell_mapped(row.id, spec, found)
            return found if row.id not in self._told or self._is_wanted(row.id) else None
        except _Unwanted:
            return None
        finally:
            self._told.pop(row.id, None)
            self._noted.pop(row.id, None)

    def _pins(self, number: int) -> dict[str, str]:
        """What it runs by an earlier try. Where an image is a choice among what is installed, each try chooses."""
        if not self._site.capabilities.images:
            return {}
        query = "SELECT images FROM workload_detail WHERE workload_id = ?"
        with self._db.read_raw() as connection:
            pinned = connection.execute(query, (number,)).fetchone()
        return dict(json.loads((pinned and pinned[0]) or "null") or {})

    def _tell(self, number: int, words: str) -> None:
        """How far the image of a workload is. What differs in numbers alone is an event once a minute.

        Raises:
            _Unwanted: it is not to run any more; what is built goes on for others.
        """
        now = self._heard[number] = self._clock.now()
        self._told[number] = words
        pulled = self._site.capabilities.images
        reason = "Pulling" if pulled else "Building"
        kind = _NUMBER.sub("", words)
        noted, at = self._noted.get(number, ("", 0.0))
        if kind != noted or now - at >= _NOTE_S:
            self._noted[number] = kind, now
            self._db.write(lambda s: record_event(s, Subject.workload(number), reason, words, now=now))
        if not pulled and not self._is_wanted(number):
            raise _Unwanted

    def _tell_mapped(self, number: int, spec: WorkloadSpec, found: Mapping[str, str]) -> None:
        """Which of the images are environments that another name stands for."""
        images = {(role.image, found[role.name]) for role in spec.roles if role.image}
        told = [words for image, name in sorted(images) if (words := _mapped(image, name))]
        if told:
            subject, words, now = Subject.workload(number), "; ".join(told), self._clock.now()
            self._db.write(lambda s: record_event(s, subject, "ImageMapped", words, now=now))

    def _is_wanted(self, number: int) -> bool:
        with self._db.read() as session:
            current = session.get(Workload, number)
            return current is not None and current.desired is Desired.RUN

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
        self._heard.pop(number, None)

    def heard(self, number: int) -> float | None:
        """When the engine last told how far the images of a workload are; seconds since the epoch."""
        return self._heard.get(number)

    def told(self, number: int) -> str:
        """What was last said of the images of a workload while it waits for them; empty when it does not."""
        return self._told.get(number, "")

    def relieve(self) -> bool:
        """Let no member of a gang wait for a start that hangs. Returns whether somebody waits."""
        return self._gang_threads.relieve()

    def discard(self, acts: Acts, row: WorkloadRow, one: AttemptRow, failed: str = "") -> None:
        """Make sure that nothing exists of a planned attempt. One that is there has begun, and is left for its end.

        Only what the engine has removed holds nothing any more: as long as it does not say so, it may begin.
        """

        def act() -> Observed:
            seen = self._sure(one.name)
            if not has_begun(seen):
                self._remove(one.name)
            return seen

        acts.run("remove", (("attempt", one.id),), Discarded(row, one, failed), act)

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
            steps = [partial(self._remove, one.name) for one in old]
            _all_of([*steps, *(partial(self._engine.remove_network, network) for network in networks)])
            return [one.id for one in old]

        acts.run("remove", (("clean", row.id),), row, act)

    def _remove(self, name: str) -> None:
        """A container, and then what was made for it alone."""
        self._engine.remove(name)
        if self._site.code is not None:
            self._site.code.drop(name)
