"""The endpoints' controller: makes what serves into what is wanted. It alone moves endpoints, variants and replicas.

A tick reads all endpoints, asks :func:`localml.control.serving.plan.plan_endpoint` for each what to do, writes that,
and looks again until nothing is left to do; then it writes the gateway's route table. A replica is recorded in the
transaction that submits its workload; from there on the control loop owns the workload, and this only reads how it is.
After a crash the first tick finds everything in the records, and the gateway has served on meanwhile.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from sqlmodel import Session, func, select

from localml.control.serving import records as serving_records
from localml.control.serving.load import EndpointRecord, Known, ReplicaRecord, VariantRecord, load, view_of
from localml.control.serving.plan import AddReplica, Step, StopReplica, bake_end, plan_endpoint
from localml.control.serving.probes import Answer, Page, Prober
from localml.control.serving.published import Published
from localml.control.serving.replicas import ServingSite, replica_spec, served_model
from localml.control.serving.routes import Keys
from localml.control.serving.scaling import scaled
from localml.control.serving.stats import Statistics
from localml.control.serving.views import EndpointView
from localml.control.worker import Worker
from localml.core.clock import Clock
from localml.core.errors import LocalmlError
from localml.core.failpoints import FAILPOINTS
from localml.core.logs.files import LogStore
from localml.core.people.identity import Caller
from localml.core.ports import Store
from localml.core.serving.specs import LIVE_VARIANTS, EndpointState, ReplicaState, VariantState
from localml.core.serving.tables import Endpoint, EndpointReplica, Variant, VariantSample
from localml.core.subjects import Noun, Parent, Subject
from localml.core.work.causes import shortened
from localml.core.work.states import Kind, State
from localml.core.work.tables import Attempt, Workload
from localml.core.work.workloads import Submission, Workloads

if TYPE_CHECKING:
    from localml.control.serving.gateway_process import GatewaySupervisor

log = logging.getLogger("localml.control")
T = TypeVar("T")

DIALECT = "serving"
"""The dialect of the replicas' workloads."""
SLOW_TICK_S = 5.0
POLL_S = 1.0
_DRAIN_POLL_S = 0.2
_PASSES = 12
_MAX_DRAIN_S = 30.0
_TAIL = 8192


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What the controller works with.

    Attributes:
        keys: who gets in where.
        why: why a workload waits, for room or for its runtime; empty when it does not.
        owner: the caller in whose name an endpoint's replicas are submitted.
        changed: told the ids of endpoints that changed.
        learn: called with where a ready replica serves and its variant when the model's inputs are not known yet.
    """

    data: Path
    site: ServingSite
    keys: Keys
    why: Callable[[int], str]
    owner: Callable[[Endpoint], Caller]
    changed: Callable[[int], None] = lambda _: None
    learn: Callable[[Page, EndpointRecord, VariantRecord], None] = lambda *_: None


class ServingController:
    """Runs the endpoints of one installation.

    Args:
        prober: asks replicas whether they are ready.
        gateway: the gateway's process; None where something else runs it.
    """

    def __init__(
        self,
        db: Store,
        workloads: Workloads,
        logs: LogStore,
        clock: Clock,
        around: Surroundings,
        *,
        gateway: GatewaySupervisor | None = None,
        prober: Prober | None = None,
    ) -> None:
        self._db = db
        self._workloads = workloads
        self._logs = logs
        self._clock = clock
        self._around = around
        self._gateway = gateway
        self._prober = prober or Prober(self.nudge)
        self._stats = Statistics(around.data, self._recorded)
        self._worker = Worker("serving", self.tick, what="serving", news=self._news, every=POLL_S)
        self._published = Published(around.data, around.keys)
        self._enough: dict[int, float] = {}  # endpoint -> since when fewer replicas would do
        self._reasons: dict[tuple[int, State], tuple[float, str]] = {}
        self._watched: frozenset[int] = frozenset()

    # -- life ------------------------------------------------------------------------------------

    def start(self) -> None:
        """Run on a thread of its own."""
        self._worker.start()

    def close(self) -> None:
        """Stop looking. Replicas and gateway go on; the next start takes them up."""
        self._worker.close()
        self._prober.close()
        if self._gateway is not None:
            self._gateway.close()

    def nudge(self) -> None:
        """Something changed: look soon."""
        self._worker.nudge()

    def workload_changed(self, workload_id: int) -> None:
        """A workload changed; looks soon if it is a replica."""
        if workload_id in self._watched:
            self._worker.nudge()

    def _news(self) -> bool:
        """Whether the gateway has counted something new, or a sleeping endpoint is asked for."""
        return bool(self._stats.refresh() or self._stats.waking())

    # -- one tick --------------------------------------------------------------------------------

    def tick(self) -> float | None:
        """One look. Returns the seconds until the next one is due, None when only a nudge can bring work."""
        self._stats.refresh()
        now = self._clock.now()
        records = self._load()
        if not records and self._published.empty:
            return None
        if records and self._gateway is not None:
            self._gateway.ensure()
        self._scale(records, now)
        pairs = self._converge(now)
        self._published.write(pairs)
        self._sample(pairs, now)
        return self._next(pairs, now)

    def _load(self) -> list[EndpointRecord]:
        with self._db.read() as session:
            records = load(session)
        self._watched = frozenset(one.workload.id or 0 for record in records for _, one in record.replicas())
        self._watch(records)
        return records

    def _watch(self, records: Iterable[EndpointRecord]) -> None:
        pages: dict[Hashable, Page] = {}
        for record in records:
            for variant, one in record.replicas():
                page = self._page(one, variant.spec.health_path)
                if page is not None and one.row.state is not ReplicaState.DRAINING:
                    pages[one.key] = page
        self._prober.watch(pages)

    def _page(self, one: ReplicaRecord, path: str = "") -> Page | None:
        """A page of a replica, as its server lets us in; None while it does not run."""
        url = one.url(self._around.site.host)
        if url is None or one.attempt is None:
            return None
        shared = 0 if self._around.site.capabilities.ports_mapped else one.workload.id or 0
        return Page(url + path, self._around.keys.replica(one.attempt.id or 0), shared)

    def _converge(self, now: float) -> list[tuple[EndpointRecord, EndpointView]]:
        """Carry out plans until all endpoints are as they should be, as far as that can be now."""
        known = self._known()
        for _ in range(_PASSES):
            pairs = self._pairs(known)
            done = [self._guarded(record, partial(self._advance, record, view, now)) for record, view in pairs]
            if not any(done):
                return pairs
        return self._pairs(known)

    def _pairs(self, known: Known) -> list[tuple[EndpointRecord, EndpointView]]:
        found = [(record, self._guarded(record, partial(self._view, record, known))) for record in self._load()]
        return [(record, view) for record, view in found if view is not None]

    def _advance(self, record: EndpointRecord, view: EndpointView, now: float) -> bool:
        return self._carry_out(record, plan_endpoint(view, now), now)

    @staticmethod
    def _guarded(record: EndpointRecord, act: Callable[[], T]) -> T | None:
        """None where this endpoint fails: the others go on."""
        try:
            return act()
        except LocalmlError:
            raise  # a full disk, say, which concerns all of them
        except Exception:
            log.exception("the endpoint '%s' cannot be looked after", record.row.route)
            return None

    def _view(self, record: EndpointRecord, known: Known) -> EndpointView:
        view = view_of(record, known)
        trouble = self._gateway.trouble if self._gateway is not None else ""
        return replace(view, published=not self._is_news(record, view), unreachable=trouble)

    def _known(self) -> Known:
        return Known(self._answer, self._told, self._why, self._tail, self._counts)

    def _carry_out(self, record: EndpointRecord, steps: list[Step], now: float) -> bool:
        """Write and do; whether anything was done."""
        if not steps:
            return False
        rows = [step for step in steps if not isinstance(step, AddReplica | StopReplica)]
        host = self._around.site.host
        if rows:
            self._db.write(lambda session: serving_records.apply(session, record, rows, host, now))
        for step in steps:
            if isinstance(step, AddReplica):
                self._add(record, step, now)
            elif isinstance(step, StopReplica):
                self._end(record, step)
        self._after(record, steps)
        return True

    def _after(self, record: EndpointRecord, steps: list[Step]) -> None:
        for variant, one in record.replicas():
            page = self._page(one)
            unknown = (
                variant.version is not None
                and variant.version.inputs is None
                and not variant.spec.has_own_server(variant.version.format)
            )
            if page is not None and unknown and any(serving_records.is_ready(step, one) for step in steps):
                self._around.learn(page, record, variant)
        self._around.changed(record.id)

    # -- replicas --------------------------------------------------------------------------------

    def _add(self, record: EndpointRecord, step: AddReplica, now: float) -> None:
        """Submit a replica's workload and record the replica, both or neither."""
        row = next(one for one in record.variants if one.row.id == step.variant.id)
        spec = replica_spec(self._around.site, record.spec, row.spec, record.row.route, served_model(row.version))
        variant = Subject(Noun.VARIANT, row.row.id or 0)
        number = self._workloads.next_index(variant)
        owner = self._around.owner(record.row)
        submission = Submission(
            name=_replica_name(record, row, number),
            spec=spec,
            # mounts folders below the data directory, which are for administrators only otherwise
            caller=replace(owner, admin=True),
            sees=owner,
            dialect=DIALECT,
            kind=Kind.ENDPOINT,
            parent=Parent(variant, number),
            workspace=record.row.workspace,
            pool=record.row.pool,
        )

        def also(session: Session, number: int) -> None:
            session.add(
                EndpointReplica(endpoint_id=record.id, variant_id=variant.id, workload_id=number, created_at=now)
            )

        try:
            self._workloads.submit(submission, also=also)
        except LocalmlError as error:
            words = str(error)
            self._db.write(lambda session: serving_records.not_added(session, record, variant.id, words, now))
        FAILPOINTS.hit("after-replica")

    def _end(self, record: EndpointRecord, step: StopReplica) -> None:
        one = next(one for _, one in record.replicas() if one.row.id == step.replica.id)
        number, owner = one.workload.id or 0, self._around.owner(record.row)
        if step.keep:
            self._workloads.stop(number, owner)
        else:
            self._workloads.delete(number, owner)

    # -- what is known ---------------------------------------------------------------------------

    def _answer(self, one: ReplicaRecord) -> Answer | None:
        return self._prober.answer(one.key)

    def _told(self, record: EndpointRecord, one: ReplicaRecord) -> bool:
        """The gateway uses a table in which it drains, and has no request there; or there is no gateway to wait for."""
        written = self._published.drain_of(one)
        if written is None:
            return False
        generation, at = written
        waited = time.monotonic() - at
        if waited < record.spec.drain:
            return False
        seen = self._stats.generation >= generation
        busy = self._stats.inflight(record.row.route, one.row.id or 0, one.row.attempt_id)
        longest = max(_MAX_DRAIN_S, record.spec.request_timeout)
        return (seen and not busy) or waited > longest or not self._gateway_lives()

    def _is_news(self, record: EndpointRecord, view: EndpointView) -> bool:
        """Whether the gateway does not know of an endpoint as it is now; asked while something is under way."""
        if self._gateway is None or record.row.state not in (EndpointState.STARTING, EndpointState.UPDATING):
            return False
        if not self._published.has(record, view) or not self._gateway.listening:
            return True
        return self._stats.generation < self._published.generation_of(record.row.route)

    def _gateway_lives(self) -> bool:
        return self._gateway is not None and self._gateway.running

    def _why(self, workload: Workload) -> str:
        """Asked at most every few seconds: the answer takes a pass of the scheduler."""
        about = workload.id or 0, workload.state
        found = self._reasons.get(about)
        if found is None or time.monotonic() - found[0] > SLOW_TICK_S:
            if len(self._reasons) > 1000:
                self._reasons.clear()
            found = self._reasons[about] = (time.monotonic(), self._around.why(about[0]))
        return found[1]

    def _tail(self, attempt: Attempt) -> str:
        for stream in ("stderr", "stdout"):
            text = self._logs.tail(attempt.workload_id, attempt.name, stream, _TAIL).decode(errors="replace")
            lines = [line.strip() for line in text.splitlines() if line.strip()]
            if lines:
                return shortened(lines[-1])
        return ""

    def _counts(self, record: EndpointRecord, variant: Variant) -> tuple[int, int]:
        found = self._stats.counted(record.row.route, variant.name)
        return (found.requests, found.errors) if found is not None else (0, 0)

    # -- scale, samples -------------------------------------------------------------------

    def _scale(self, records: list[EndpointRecord], now: float) -> None:
        waking = self._stats.waking()
        there = {one.id for one in records if one.row.deleted_at is None}
        self._enough = {number: since for number, since in self._enough.items() if number in there}
        for record in records:
            row, limits = record.row, record.spec.scaling
            if row.deleted_at is not None:
                if row.route in waking and not any(one.row.route == row.route for one in records if one is not record):
                    self._stats.woken(row.route)
                continue
            found = self._stats.load(row.route, row.route in waking)
            found = serving_records.with_memory(found, row)
            wanted = scaled(record.spec, row.scale, found, self._enough.get(record.id), now)
            if found.busy <= limits.target * (row.scale - 1):
                self._enough.setdefault(record.id, now)
            else:
                self._enough.pop(record.id, None)
            if wanted != row.scale:
                self._enough.pop(record.id, None)
                serving_records.rescale(self._db, record, wanted, found, now)
            if row.route in waking and wanted > 0:
                self._stats.woken(row.route)

    def _sample(self, pairs: list[tuple[EndpointRecord, EndpointView]], now: float) -> None:
        found = [
            self._stats.sample(
                record.row.route, one.row.name, one.row.id or 0, now, last=one.row.state not in LIVE_VARIANTS
            )
            for record, _ in pairs
            for one in record.variants
        ]
        rows = [one for one in found if one is not None]
        if rows:
            self._db.write(lambda session: session.add_all(rows))

    def _recorded(self, variant_id: int, since: float) -> tuple[int, int, float]:
        sums = select(
            func.sum(VariantSample.requests),
            func.sum(VariantSample.errors),
            func.sum(VariantSample.requests * VariantSample.latency),
        ).where(VariantSample.variant_id == variant_id, VariantSample.at >= int(since * 1000))
        with self._db.read() as session:
            requests, errors, seconds = session.exec(sums).one()
        return int(requests or 0), int(errors or 0), float(seconds or 0.0)

    def _next(self, pairs: list[tuple[EndpointRecord, EndpointView]], now: float) -> float | None:
        """Seconds until time alone can bring work."""
        if not pairs:
            return None
        moments = [SLOW_TICK_S]
        if self._published.draining or not all(view.published for _, view in pairs):
            moments.append(_DRAIN_POLL_S)
        for record, view in pairs:
            for one in view.variants:
                if one.state is VariantState.BAKING and (end := bake_end(view, one)) > now:
                    moments.append(end - now)
                if one.not_before is not None and one.not_before > now:
                    moments.append(one.not_before - now)
            if record.spec.scaling.minimum == 0 and record.row.scale > 0:
                moments.append(min(SLOW_TICK_S, max(record.spec.scaling.idle / 2, 0.05)))
        return max(0.02, min(moments))


def _replica_name(record: EndpointRecord, variant: VariantRecord, number: int) -> str:
    """``digits-v1-3``, short enough for a name."""
    end = f"-{variant.row.name}-{number}"
    own = f"{record.id}" if record.row.deleted_at is not None else ""
    return f"{record.row.route}{own}"[: 128 - len(end)] + end
