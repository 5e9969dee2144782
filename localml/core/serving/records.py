"""Endpoints as they are recorded: with their variants, the models behind those, and the replicas that live."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from sqlmodel import Session, col, select

from localml.core.registry.tables import Model, ModelVersion
from localml.core.serving.specs import LIVE_VARIANTS, EndpointSpec, VariantSpec
from localml.core.serving.tables import Endpoint, EndpointReplica, Variant
from localml.core.work.tables import Workload

Only = Callable[[Endpoint], bool]
"""Whether an endpoint is there for whoever asks."""


@dataclass(frozen=True, slots=True)
class ReplicaFull:
    """A replica with its workload."""

    row: EndpointReplica
    workload: Workload


@dataclass(frozen=True, slots=True)
class VariantFull:
    """A variant with what it serves; ``label`` is the model's ``name:number``, or the custom image."""

    row: Variant
    spec: VariantSpec
    label: str
    version: ModelVersion | None
    replicas: list[ReplicaFull] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class EndpointFull:
    """An endpoint with all that is kept about it; ``variants`` the newest first, those that ended included."""

    row: Endpoint
    spec: EndpointSpec
    variants: list[VariantFull]

    def live(self) -> list[VariantFull]:
        """The variants that serve, or are brought up."""
        return [one for one in self.variants if one.row.state in LIVE_VARIANTS]


def full(session: Session, rows: Iterable[Endpoint]) -> list[EndpointFull]:
    """Endpoints with all that is kept about them, in the order of the rows."""
    endpoints = list(rows)
    ids = [row.id for row in endpoints]
    replicas: dict[int, list[ReplicaFull]] = {}
    live = select(EndpointReplica, Workload).where(
        EndpointReplica.workload_id == Workload.id,
        col(EndpointReplica.endpoint_id).in_(ids),
        col(EndpointReplica.ended_at).is_(None),
    )
    for replica, workload in session.exec(live.order_by(col(EndpointReplica.id))):
        replicas.setdefault(replica.variant_id, []).append(ReplicaFull(replica, workload))
    variants: dict[int, list[VariantFull]] = {}
    query = (
        select(Variant, ModelVersion, Model)
        .select_from(Variant)
        .join(ModelVersion, col(Variant.model_version_id) == col(ModelVersion.id), isouter=True)
        .join(Model, col(ModelVersion.model_id) == col(Model.id), isouter=True)
        .where(col(Variant.endpoint_id).in_(ids))
        .order_by(col(Variant.id).desc())
    )
    for variant, version, model in session.exec(query):
        spec = VariantSpec.model_validate_json(variant.spec)
        label = f"{model.name}:{version.number}" if model is not None and version is not None else spec.image
        one = VariantFull(variant, spec, label, version, replicas.get(variant.id or 0, []))
        variants.setdefault(variant.endpoint_id, []).append(one)
    specs = [EndpointSpec.stored(row.spec) for row in endpoints]
    return [EndpointFull(row, spec, variants.get(row.id or 0, [])) for row, spec in zip(endpoints, specs, strict=True)]


def gateway_ports(session: Session) -> set[int]:
    """The ports that endpoints which are not deleted have at the gateway."""
    specs = session.exec(select(Endpoint.spec).where(col(Endpoint.deleted_at).is_(None)))
    found = (EndpointSpec.stored(spec).gateway_port for spec in specs)
    return {port for port in found if port is not None}
