"""What goes over the wire about models and endpoints."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, Field

from localml.core.limits import MOST_SECONDS, MOST_VARIANTS
from localml.core.serving.specs import DAY, HEALTH_PATH, Scaling
from localml.core.work.specs import Resources, Seconds
from localml.dialects.native.schemas.work import Strict


class PlaceQuery(Strict):
    """Of one workspace, by id or name; of all that the caller sees by default."""

    workspace: str | None = None


class ModelIn(Strict):
    """A version to register. ``source`` is the object URI of a file or a folder; ``format`` is found out.

    ``workspace`` is an id or a name, here and below; the caller's own by default.
    """

    name: str
    workspace: str | None = None
    source: str = Field(min_length=1)
    format: str = ""
    description: str = Field(default="", max_length=2000)


class EndpointIn(Strict):
    """An endpoint to serve: a registered ``model`` (``name`` or ``name:version``), or a custom ``image``.

    A Python kernel with an image and no command runs in that image, under our server.
    Times are in seconds, or text such as ``8h``; see ``localml.core.serving.specs`` for the meaning of each setting.
    """

    name: str | None = None
    workspace: str | None = None
    model: str | None = None
    image: str = ""
    command: tuple[str, ...] = ()
    port: int = Field(default=8080, ge=1, le=65535)
    health_path: str = Field(default="/v2/health/ready", pattern=HEALTH_PATH, max_length=1024)
    resources: Resources = Resources()
    env: dict[str, str] = Field(default_factory=dict)
    options: dict[str, str | int | float | bool] = Field(default_factory=dict)
    scaling: Scaling = Scaling()
    pool: str = "default"
    public: bool = False
    ready_timeout: Seconds = Field(default=120.0, gt=0, le=MOST_SECONDS)
    bake: Seconds = Field(default=5.0, ge=0, le=MOST_SECONDS)
    request_timeout: Seconds = Field(default=60.0, gt=0, le=DAY)
    max_concurrent: int | None = Field(default=None, ge=1)
    gateway_port: int | None = Field(default=None, ge=1, le=65535)


class RolloutIn(Strict):
    """Another version, or the same in another image. ``weight`` in percent: 100 replaces all others once it is ready.

    What is not given is that of the newest version that serves. ``recreate``: the versions before it end first, and
    come back if it fails; requests wait meanwhile.
    """

    model: str | None = None
    image: str | None = Field(default=None, min_length=1)
    command: tuple[str, ...] | None = None
    weight: float = Field(default=100.0, gt=0, le=100)
    recreate: bool = False
    resources: Resources | None = None
    env: dict[str, str] | None = None
    options: dict[str, str | int | float | bool] | None = None


class VariantIn(Strict):
    """One of several versions, by its model, its image, or the name of one that serves already.

    What is not given is that of the version of this name, else of one with this model, else of the newest.
    """

    name: str = Field(default="", max_length=128)
    model: str | None = None
    image: str | None = Field(default=None, min_length=1)
    command: tuple[str, ...] | None = None
    weight: float
    resources: Resources | None = None
    env: dict[str, str] | None = None
    options: dict[str, str | int | float | bool] | None = None


class VariantsIn(Strict):
    """All versions that an endpoint shall have, with weights in percent that add up to 100; others end.

    ``recreate``: those before them end first, and come back if one of these fails; then none of them may serve already.
    """

    variants: list[VariantIn] = Field(min_length=1, max_length=MOST_VARIANTS)
    recreate: bool = False


class ScaleIn(Strict):
    """Limits of the number of replicas; ``replicas`` sets both. Those left out stay."""

    replicas: int | None = Field(default=None, ge=1, le=1000)
    minimum: int | None = Field(default=None, ge=0, le=1000)
    maximum: int | None = Field(default=None, ge=1, le=1000)
    target: float | None = Field(default=None, gt=0)
    cooldown: Seconds | None = Field(default=None, ge=0, le=MOST_SECONDS)
    idle: Seconds | None = Field(default=None, ge=0, le=MOST_SECONDS)


class SinceQuery(Strict):
    """Samples since a time."""

    since: float | None = Field(default=None, ge=-1e11, le=1e11)


class TensorOut(BaseModel):
    """An input or an output; an open size is -1."""

    name: str
    datatype: str
    shape: list[int]


class ModelVersionOut(BaseModel):
    """A version. ``inputs`` and ``outputs`` are null while they are not known."""

    model: str
    version: int
    source: str
    format: str
    runtime: str
    size: int
    checksum: str
    inputs: list[TensorOut] | None
    outputs: list[TensorOut] | None
    workload_id: int | None
    owner: str
    created_at: float


class ModelOut(BaseModel):
    """A model with its versions, the newest first."""

    name: str
    workspace: str
    owner: str
    description: str
    created_at: float
    updated_at: float
    versions: list[ModelVersionOut]


class ModelsOut(BaseModel):
    """All models by name."""

    models: list[ModelOut]


class EndpointReplicaOut(BaseModel):
    """A replica; its output is that of the workload of this name."""

    workload_id: int
    workload: str
    workload_state: str
    state: str
    url: str | None
    created_at: float
    ready_at: float | None


class VariantOut(BaseModel):
    """A version of an endpoint."""

    name: str
    model: str
    version: int | None
    state: str
    weight: float
    message: str
    ready: int
    replicas: list[EndpointReplicaOut]
    inputs: list[TensorOut] | None
    outputs: list[TensorOut] | None
    spec: dict[str, Any]
    created_at: float
    ended_at: float | None


class EndpointOut(BaseModel):
    """An endpoint. ``url`` is where requests go; ``settled`` is false while something is under way."""

    id: int
    name: str
    route: str
    url: str | None
    infer_url: str | None
    state: str
    desired: str
    settled: bool
    message: str
    dialect: str
    workspace: str
    owner: str
    pool: str
    scale: int
    spec: dict[str, Any]
    variants: list[VariantOut]
    created_at: float
    updated_at: float
    deleted_at: float | None


class EndpointsOut(BaseModel):
    """All endpoints by name."""

    endpoints: list[EndpointOut]


class VariantSamplesOut(BaseModel):
    """What a variant did between two samples; latencies in seconds."""

    variant: str
    samples: list[dict[str, float | None]]


class EndpointSamplesOut(BaseModel):
    """Samples of all variants."""

    variants: list[VariantSamplesOut]
