"""Models and endpoints as JSON values."""

from __future__ import annotations

from typing import Any

from localml.core.registry.tables import Model, ModelVersion
from localml.core.serving.records import EndpointFull, VariantFull
from localml.core.serving.specs import LIVE_VARIANTS, EndpointState, ReplicaState
from localml.core.serving.tables import VariantSample

UNSETTLED = frozenset({EndpointState.STARTING, EndpointState.UPDATING, EndpointState.STOPPING})
"""States in which something is under way."""


def model_version(name: str, row: ModelVersion) -> dict[str, Any]:
    """A version of a model."""
    names = (
        "source",
        "format",
        "runtime",
        "size",
        "checksum",
        "inputs",
        "outputs",
        "workload_id",
        "owner",
        "created_at",
    )
    return {"model": name, "version": row.number, **{key: getattr(row, key) for key in names}}


def model(row: Model, versions: list[ModelVersion]) -> dict[str, Any]:
    """A model with its versions."""
    names = ("name", "workspace", "owner", "description", "created_at", "updated_at")
    return {
        **{key: getattr(row, key) for key in names},
        "versions": [model_version(row.name, one) for one in versions],
    }


def endpoint(found: EndpointFull, gateway: str | None, *, history: bool = False) -> dict[str, Any]:
    """An endpoint.

    Args:
        gateway: URL of the gateway.
        history: show the variants that have ended, too.
    """
    row = found.row
    names = ("id", "name", "route", "state", "desired", "message", "dialect", "workspace", "owner", "pool", "scale")
    times = ("created_at", "updated_at", "deleted_at")
    url = f"{gateway}/endpoints/{row.route}" if gateway is not None else None
    return {
        **{key: getattr(row, key) for key in (*names, *times)},
        "url": url,
        "infer_url": f"{url}/v2/models/{row.route}/infer" if url is not None else None,
        "settled": row.state not in UNSETTLED,
        "spec": found.spec.model_dump(mode="json"),
        "variants": [_variant(one) for one in found.variants if history or one.row.ended_at is None or one.replicas],
    }


def _variant(one: VariantFull) -> dict[str, Any]:
    row, version = one.row, one.version
    ready = sum(replica.row.state is ReplicaState.READY for replica in one.replicas)
    return {
        "name": row.name,
        "model": one.label,
        "version": version.number if version is not None else None,
        "state": row.state,
        "weight": row.weight if row.state in LIVE_VARIANTS else 0.0,
        "message": row.message,
        "ready": ready,
        "replicas": [
            {
                "workload_id": replica.workload.id,
                "workload": replica.workload.name,
                "workload_state": replica.workload.state,
                "state": replica.row.state,
                "url": replica.row.url,
                "created_at": replica.row.created_at,
                "ready_at": replica.row.ready_at,
            }
            for replica in one.replicas
        ],
        "inputs": version.inputs if version is not None else None,
        "outputs": version.outputs if version is not None else None,
        "spec": one.spec.model_dump(mode="json", exclude_defaults=True),
        "created_at": row.created_at,
        "ended_at": row.ended_at,
    }


def sample(row: VariantSample) -> dict[str, float | None]:
    """One sample of a variant; ``at`` in seconds."""
    names = ("requests", "errors", "latency", "p50", "p99", "in_flight")
    return {"at": row.at / 1000, **{name: getattr(row, name) for name in names}}
