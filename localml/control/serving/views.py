"""An endpoint as plans see it: what is wanted, what is recorded, and what the probes say."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from localml.core.serving.specs import EndpointSpec, EndpointState, ReplicaState, VariantState
from localml.core.work.states import Desired


@dataclass(frozen=True, slots=True)
class ReplicaView:
    """A replica that has not ended, as recorded.

    Attributes:
        live: its workload is not over.
        failed: its workload is over because it failed in a way that another try does not mend.
        ready: its current attempt answers the probe.
        crashes: tries that ended by themselves.
        started_at: when its first attempt started.
        message: why it waits, is not ready, or has ended.
        stopping: its workload was told to stop.
        told: the gateway has known for long enough that it gets no new requests, and has no request there.
    """

    id: int
    state: ReplicaState
    live: bool = True
    failed: bool = False
    ready: bool = False
    crashes: int = 0
    started_at: float | None = None
    message: str = ""
    stopping: bool = False
    told: bool = False


@dataclass(frozen=True, slots=True)
class VariantView:
    """A variant that has not ended, as recorded. ``requests`` and ``errors`` count since it was promoted.

    Attributes:
        recreate: those before it have no replicas until it has proved itself.
        batch: a number that those which came together share.
        leaves: what those before them keep, see :func:`localml.core.serving.shares.taken_over`.
    """

    id: int
    name: str
    state: VariantState
    weight: float = 100.0
    own_replicas: int | None = None
    failures: int = 0
    not_before: float | None = None
    created_at: float = 0.0
    promoted_at: float | None = None
    recreate: bool = False
    batch: int = 0
    leaves: Mapping[int, float] | None = None
    requests: int = 0
    errors: int = 0
    replicas: tuple[ReplicaView, ...] = ()

    @property
    def active(self) -> list[ReplicaView]:
        """Replicas that run, or will, and are meant to go on."""
        return [one for one in self.replicas if one.live and one.state is not ReplicaState.DRAINING]

    @property
    def ready(self) -> int:
        """Replicas that are known as ready and still are."""
        return sum(1 for one in self.active if one.state is ReplicaState.READY and one.ready)


Batch = list[VariantView]
"""Variants that came together, never empty."""


@dataclass(frozen=True, slots=True)
class EndpointView:
    """An endpoint as recorded, with the variants that have not ended.

    Attributes:
        last_failure: why the newest variant was given up.
        published: the gateway uses a route table that has the endpoint as it is now.
        unreachable: why the gateway cannot listen; empty while it can.
    """

    id: int
    desired: Desired
    spec: EndpointSpec
    scale: int
    deleted: bool = False
    state: EndpointState = EndpointState.STARTING
    message: str = ""
    last_failure: str = ""
    published: bool = True
    unreachable: str = ""
    variants: tuple[VariantView, ...] = ()

    @property
    def wanted(self) -> bool:
        """Whether it shall run."""
        return self.desired is Desired.RUN and not self.deleted

    def in_state(self, *states: VariantState) -> list[VariantView]:
        """The variants in one of these states."""
        return [one for one in self.variants if one.state in states]

    def batches(self, state: VariantState) -> list[Batch]:
        """The variants in this state by those that came together, in the order of their arrival."""
        found: dict[int, list[VariantView]] = {}
        for one in self.in_state(state):
            found.setdefault(one.batch or one.id, []).append(one)
        return list(found.values())
