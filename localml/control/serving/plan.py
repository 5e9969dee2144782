"""What to do about one endpoint, given what is wanted, what is recorded and what the probes say. Pure.

A new version is brought up beside the ones that serve (``rolling``). Once all its replicas are ready it gets its share
(``baking``) while the others keep their replicas, so that going back is only a matter of the route table. When it has
answered without errors for a while it serves for good, and those that it replaced finish what they have and end. A
version that does not become ready, or answers with errors, ends instead; the others never stopped. Versions that came
together (a batch; most have one member) do all of this together: one that fails takes the others along.

Where there is no room for two versions, one can be brought up in place of the others (``recreate``): they end first,
and come back if it is given up.

The controller carries out one plan, looks again, and plans again until nothing is left to do.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from localml.control.serving.views import Batch, EndpointView, ReplicaView, VariantView
from localml.core.serving.shares import taken_over
from localml.core.serving.specs import LIVE_VARIANTS, EndpointState, ReplicaState, VariantState

MAX_CRASHES = 3
"""So often may the replicas of a version that is brought up end by themselves."""
MIN_REQUESTS = 5
"""A version's share of errors is judged from this many answers on; from two on when all of them are errors."""
ERROR_SHARE = 0.1
_DOUBT = 6
"""So many times longer lasts the trial of a version that has errors among too few answers."""
_BACKOFF_S = 1.0
_MAX_BACKOFF_S = 60.0


@dataclass(frozen=True, slots=True)
class AddReplica:
    """Record and submit one more replica."""

    variant: VariantView


@dataclass(frozen=True, slots=True)
class MarkReplica:
    """Record that a replica became ready, is not ready any more, or drains."""

    replica: ReplicaView
    state: ReplicaState


@dataclass(frozen=True, slots=True)
class StopReplica:
    """Tell its workload to stop; ``keep`` leaves it in lists, so that its output is found."""

    replica: ReplicaView
    keep: bool = False


@dataclass(frozen=True, slots=True)
class EndReplica:
    """Record that its workload is over. ``not_before`` is set when it ended by itself: no replacement earlier."""

    replica: ReplicaView
    variant: VariantView
    not_before: float | None = None


@dataclass(frozen=True, slots=True)
class MoveVariant:
    """Put a variant into another state. ``weight`` is its share from then on; ``end`` when nothing of it is left."""

    variant: VariantView
    to: VariantState
    message: str = ""
    weight: float | None = None
    end: bool = False


@dataclass(frozen=True, slots=True)
class Healed:
    """A variant has all its replicas again: what happened before counts no more."""

    variant: VariantView


@dataclass(frozen=True, slots=True)
class SetState:
    """Record how the endpoint is."""

    state: EndpointState
    message: str = ""


@dataclass(frozen=True, slots=True)
class Close:
    """A deleted endpoint of which nothing is left."""


Step = AddReplica | MarkReplica | StopReplica | EndReplica | MoveVariant | Healed | SetState | Close


def plan_endpoint(view: EndpointView, now: float) -> list[Step]:
    """The next steps for one endpoint; none when it is as it should be (or all that is left is to wait)."""
    steps: list[Step] = []
    for variant in view.variants:
        steps += _variant_steps(view, variant, now)
        steps += _replica_steps(view, variant, now)
    if view.wanted:
        for batch in view.batches(VariantState.ROLLING):
            steps += _rolling(view, batch, now)
        for batch in view.batches(VariantState.BAKING):
            steps += _baking(view, batch, now)
    state, message = endpoint_state(view)
    if (state, message) != (view.state, view.message):
        steps.append(SetState(state, message))
    if view.deleted and not view.variants:
        steps.append(Close())
    return steps


def target(view: EndpointView, variant: VariantView) -> int:
    """How many replicas a variant shall have now."""
    if not view.wanted or variant.state not in LIVE_VARIANTS:
        return 0
    if variant.state is VariantState.SERVING and making_room(view):
        return 0
    if view.scale == 0:  # asleep; but a version can only prove itself by running
        return 1 if variant.state in (VariantState.ROLLING, VariantState.BAKING) else 0
    if variant.own_replicas is not None:
        return variant.own_replicas
    if variant.weight <= 0:
        return 0
    return max(1, math.ceil(view.scale * min(variant.weight, 100.0) / 100.0 - 1e-9))


def making_room(view: EndpointView) -> bool:
    """Whether those that serve make room for a version that is brought up in their place."""
    return any(one.recreate for one in view.in_state(VariantState.ROLLING, VariantState.BAKING))


def weights(view: EndpointView) -> dict[int, float]:
    """Variant -> its share of the requests now. One that bakes takes its share from those before it, for a trial."""
    shares = {one.id: one.weight for one in view.in_state(VariantState.SERVING)}
    for batch in view.batches(VariantState.BAKING):
        shares = _taken_over(shares, batch)
    return shares


def _taken_over(shares: Mapping[int, float], batch: Batch) -> dict[int, float]:
    return taken_over(shares, {one.id: one.weight for one in batch}, batch[0].leaves)


def backoff(failures: int) -> float:
    """Seconds before a replica is replaced that ended by itself, given how many did before."""
    return min(_MAX_BACKOFF_S, _BACKOFF_S * 2.0 ** min(failures, 16))


# -- variants --------------------------------------------------------------------------------------


def _variant_steps(view: EndpointView, variant: VariantView, now: float) -> list[Step]:
    if variant.state not in LIVE_VARIANTS:
        if variant.replicas:
            return []
        done = VariantState.FAILED if variant.state is VariantState.FAILED else VariantState.GONE
        return [MoveVariant(variant, done, end=True)]
    if view.deleted:
        return [MoveVariant(variant, VariantState.RETIRING, "the endpoint was deleted")]
    if not view.wanted or variant.state is not VariantState.SERVING:
        return []
    wanted = target(view, variant)
    return [Healed(variant)] if variant.failures and wanted and _well(variant, wanted, now) else []


def _well(variant: VariantView, wanted: int, now: float) -> bool:
    return variant.ready >= wanted and (variant.not_before is None or now > variant.not_before + _MAX_BACKOFF_S)


def _rolling(view: EndpointView, batch: Batch, now: float) -> list[Step]:
    for one in batch:
        if trouble := _trouble(view, one, now):
            return _given_up(batch, one, trouble)
    short = any(one.ready < max(1, target(view, one)) for one in batch)
    if short or view.in_state(VariantState.BAKING):
        return []
    if _can_go_back(view, batch) and view.spec.bake > 0:
        return [MoveVariant(one, VariantState.BAKING, "all its replicas are ready") for one in batch]
    return _promote(view, batch)


def _given_up(batch: Batch, culprit: VariantView, why: str) -> list[Step]:
    """None of those that came together stays."""
    others = f"it came with {culprit.name}, which was given up: {why}"
    return [MoveVariant(one, VariantState.FAILED, why if one is culprit else others) for one in batch]


def _trouble(view: EndpointView, variant: VariantView, now: float) -> str:
    """Why a version that is brought up shall be given up; empty while there is hope."""
    broken = next((one for one in variant.replicas if one.failed), None)
    if broken is not None:
        return f"a replica cannot run: {broken.message}"
    crashes = sum(one.crashes for one in variant.replicas) + variant.failures
    said = next((one.message for one in variant.replicas if one.message), "")
    if crashes >= MAX_CRASHES:
        return f"its replicas ended {crashes} times before it was ready" + (f": {said}" if said else "")
    started = [one.started_at for one in variant.active if one.started_at is not None and not one.ready]
    if started and now - min(started) > view.spec.ready_timeout:
        return f"not ready within {view.spec.ready_timeout:g} s" + (f": {said}" if said else "")
    others = view.in_state(VariantState.SERVING)
    queued = bool(variant.active) and all(one.started_at is None for one in variant.active)
    if others and queued and now - variant.created_at > view.spec.queue_timeout:
        return f"no room for it within {view.spec.queue_timeout:g} s beside the version that serves" + (
            f": {said}" if said else ""
        )
    return ""


def _baking(view: EndpointView, batch: Batch, now: float) -> list[Step]:
    if not _can_go_back(view, batch):
        return _promote(view, batch)
    for one in batch:
        if _errs(view, one):
            return _given_up(batch, one, f"{one.errors} of its first {one.requests} answers were errors")
        if not one.ready:
            said = next((replica.message for replica in one.replicas if replica.message), "")
            return _given_up(batch, one, "none of its replicas is ready any more" + (f": {said}" if said else ""))
    return _promote(view, batch) if now >= max(bake_end(view, one) for one in batch) else []


def _can_go_back(view: EndpointView, batch: Batch) -> bool:
    """Whether there is a version that serves now, or made room, to fall back to; one that is asleep is none."""
    serving = view.in_state(VariantState.SERVING)
    return bool(serving) if batch[0].recreate else any(one.active for one in serving)


def _errs(view: EndpointView, variant: VariantView) -> bool:
    """Whether a version answers with errors clearly more often than those before it."""
    if variant.requests < (2 if variant.errors == variant.requests else MIN_REQUESTS):
        return False
    others = view.in_state(VariantState.SERVING)
    usual = sum(one.errors for one in others) / max(1, sum(one.requests for one in others))
    return variant.errors > (ERROR_SHARE + usual) * variant.requests


def bake_end(view: EndpointView, variant: VariantView) -> float:
    """When the trial of a version is over; one with errors among its first few answers gets more time for more."""
    doubtful = variant.errors > 0 and variant.requests < MIN_REQUESTS
    return (variant.promoted_at or 0.0) + view.spec.bake * (_DOUBT if doubtful else 1)


def _promote(view: EndpointView, batch: Batch) -> list[Step]:
    """They serve for good; those before them end, or go on with what is left to them."""
    others = view.in_state(VariantState.SERVING)
    shares = _taken_over({one.id: one.weight for one in others}, batch)
    steps: list[Step] = [
        MoveVariant(one, VariantState.SERVING, weight=shares[one.id] if shares[one.id] != one.weight else None)
        for one in batch
    ]
    whole = sum(one.weight for one in batch) >= 100
    for one in others:
        if whole or one.id not in shares:
            steps.append(MoveVariant(one, VariantState.RETIRING, f"{_names(batch)} took over"))
        elif shares[one.id] != one.weight:
            steps.append(MoveVariant(one, VariantState.SERVING, weight=shares[one.id]))
    return steps


def _names(variants: Sequence[VariantView]) -> str:
    return " and ".join(one.name for one in variants)


# -- replicas --------------------------------------------------------------------------------------


def _replica_steps(view: EndpointView, variant: VariantView, now: float) -> list[Step]:
    steps: list[Step] = []
    for one in variant.replicas:
        steps += _one_replica(view, variant, one, now)
    wanted, active = target(view, variant), variant.active
    for one in _surplus(active, len(active) - wanted):
        steps.append(MarkReplica(one, ReplicaState.DRAINING))
    resting = variant.not_before is not None and now < variant.not_before
    crashed = any(not one.live and one.state is not ReplicaState.DRAINING for one in variant.replicas)
    if not resting and not crashed:
        steps += [AddReplica(variant)] * (wanted - len(active))
    return steps


def _one_replica(view: EndpointView, variant: VariantView, one: ReplicaView, now: float) -> list[Step]:
    if not one.live:
        by_itself = one.state is not ReplicaState.DRAINING and not one.stopping
        return [EndReplica(one, variant, now + backoff(variant.failures) if by_itself else None)]
    if one.state is ReplicaState.DRAINING:
        keep = variant.state is VariantState.FAILED
        return [StopReplica(one, keep)] if one.told and not one.stopping else []
    state = ReplicaState.READY if one.ready else ReplicaState.STARTING
    return [MarkReplica(one, state)] if state is not one.state else []


def _surplus(active: Sequence[ReplicaView], count: int) -> list[ReplicaView]:
    """Those that are missed least: not ready before ready, then the newest."""
    ordered = sorted(active, key=lambda one: (one.ready, -one.id))
    return ordered[: max(0, count)]


# -- the endpoint ----------------------------------------------------------------------------------


def endpoint_state(view: EndpointView) -> tuple[EndpointState, str]:
    """How the endpoint is, and one sentence why where that is not plain."""
    live = view.in_state(*LIVE_VARIANTS)
    if not view.wanted:
        left = any(one.replicas for one in view.variants)
        return (EndpointState.STOPPING if left else EndpointState.STOPPED), ""
    if not live:
        return EndpointState.FAILED, view.last_failure
    serving = view.in_state(VariantState.SERVING, VariantState.BAKING)
    if not serving:
        return EndpointState.STARTING, _waits_for(live)
    if len(live) > len(view.in_state(VariantState.SERVING)):
        rolling = view.batches(VariantState.ROLLING)
        return EndpointState.UPDATING, _under_way((view.batches(VariantState.BAKING) + rolling)[-1])
    if view.scale == 0:
        return EndpointState.ASLEEP, "a request wakes it"
    short = [one for one in serving if one.ready < target(view, one)]
    under_way = view.state in (EndpointState.STARTING, EndpointState.UPDATING)
    if not short and under_way and not view.published:
        return view.state, view.unreachable or "the gateway is being told"
    if not short and view.unreachable:
        return EndpointState.DEGRADED, view.unreachable
    if not short:
        return EndpointState.READY, view.last_failure
    if not any(one.ready for one in serving):
        return EndpointState.STARTING, _waits_for(serving)
    ready, wanted = sum(one.ready for one in serving), sum(target(view, one) for one in serving)
    well = not any(one.failures or any(replica.crashes for replica in one.replicas) for one in serving)
    state = EndpointState.UPDATING if well and under_way else EndpointState.DEGRADED
    said = _waits_for(short)
    return state, f"{ready} of {wanted} replicas are ready" + (f": {said}" if said else "")


def _under_way(batch: Batch) -> str:
    """How far a rollout is."""
    verb = "are" if len(batch) > 1 else "is"
    what = "on trial" if batch[0].state is VariantState.BAKING else "brought up"
    said, active = _waits_for(batch), [replica for one in batch for replica in one.active]
    if said and not batch[0].recreate and active and all(one.started_at is None for one in active):
        said += "; a rollout with 'recreate' would end the version before it first"
    return f"{_names(batch)} {verb} {what}" + (f": {said}" if said else "")


def _waits_for(variants: Sequence[VariantView]) -> str:
    return next((one.message for variant in variants for one in variant.active if one.message and not one.ready), "")
