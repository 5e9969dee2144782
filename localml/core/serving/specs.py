"""What an endpoint is asked to be, as frozen values, and the states that it, its variants and its replicas have."""

from __future__ import annotations

import json
from enum import StrEnum
from functools import reduce
from operator import getitem

from pydantic import Field, ValidationError, model_validator

from localml.core.registry.files import KERNELS
from localml.core.work.specs import Frozen, Resources, Seconds

ENDPOINT_PORT = "http"
"""Label of the port that every replica serves on."""
TOKEN_VARIABLE = "LOCALML_REPLICA_TOKEN"
"""Environment variable of a replica: what requests from the gateway carry as :data:`REPLICA_TOKEN`."""
REPLICA_TOKEN = "X-Localml-Replica-Token"
"""Header by which a replica knows that a request comes from the gateway, or from the control plane."""


class EndpointState(StrEnum):
    """How an endpoint is.

    ``starting`` has served nothing yet; ``ready`` serves with all its replicas, ``degraded`` with fewer;
    ``updating`` serves while another version or more replicas are brought up; ``asleep`` is scaled to zero and woken by
    a request; ``failed`` has no version that serves.
    """

    STARTING = "starting"
    READY = "ready"
    DEGRADED = "degraded"
    UPDATING = "updating"
    ASLEEP = "asleep"
    STOPPING = "stopping"
    STOPPED = "stopped"
    FAILED = "failed"


class VariantState(StrEnum):
    """How a version of an endpoint is.

    ``rolling`` is brought up and gets no requests; ``baking`` has taken its share while those before it wait, in case
    it answers with errors; ``serving`` has its share for good; ``retiring`` finishes what it has; ``gone`` has ended;
    ``failed`` was rolled back.
    """

    ROLLING = "rolling"
    BAKING = "baking"
    SERVING = "serving"
    RETIRING = "retiring"
    GONE = "gone"
    FAILED = "failed"


LIVE_VARIANTS = frozenset({VariantState.ROLLING, VariantState.BAKING, VariantState.SERVING})
"""Variants that should have replicas."""


class ReplicaState(StrEnum):
    """How a replica is: ``draining`` gets no new requests, ``ended`` runs no more."""

    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"
    ENDED = "ended"


DAY = 86_400.0
HEALTH_PATH = r"^/[!-~]*$"


class Scaling(Frozen):
    """How many replicas. ``minimum`` 0 lets the endpoint fall asleep after ``idle`` seconds without a request.

    One replica is wanted for every ``target`` requests that are in flight or held at a time; more are started at
    once, fewer are kept only after ``cooldown`` seconds of less work.
    """

    minimum: int = Field(default=1, ge=0, le=1000)
    maximum: int = Field(default=1, ge=1, le=1000)
    target: float = Field(default=8.0, gt=0)
    cooldown: Seconds = Field(default=60.0, ge=0)
    idle: Seconds = Field(default=300.0, ge=0)

    @model_validator(mode="after")
    def _ordered(self) -> Scaling:
        if self.maximum < self.minimum:
            raise ValueError("maximum must not be less than minimum")
        return self

    def clamp(self, count: int) -> int:
        """A number of replicas within the limits, at least one."""
        return max(1, self.minimum, min(count, self.maximum))


class EndpointSpec(Frozen):
    """An endpoint's settings. Times in seconds.

    Attributes:
        ready_timeout: from a replica's start until it must be ready; a version that takes longer is rolled back.
        queue_timeout: how long a new version may wait for resources while an older one serves.
        bake: how long the versions before wait for errors of a new one that has taken over.
        drain: what a replica gets at least between its last new request and its end.
        request_timeout: of one request at the gateway.
        max_body: bytes of a request's body.
        max_concurrent: requests at a time at the gateway; None has no limit.
        public: whether requests need no token.
        open_here: whether they need none where only this machine reaches the gateway, because clients send none.
        gateway_port: a port of the gateway that leads to this endpoint alone, beside the gateway's own.
    """

    scaling: Scaling = Scaling()
    ready_timeout: float = Field(default=120.0, gt=0)
    queue_timeout: float = Field(default=600.0, gt=0)
    bake: float = Field(default=5.0, ge=0)
    drain: float = Field(default=1.0, ge=0)
    request_timeout: float = Field(default=60.0, gt=0, le=DAY)
    max_body: int = Field(default=1 << 30, gt=0)
    max_concurrent: int | None = Field(default=None, ge=1)
    public: bool = False
    open_here: bool = False
    gateway_port: int | None = Field(default=None, ge=1, le=65535)
    priority: int = Field(default=100, ge=-1000, le=1000)

    @classmethod
    def stored(cls, text: str) -> EndpointSpec:
        """As it was stored as JSON. A member that cannot be read is its default: one endpoint's record, which an
        earlier version may have written, must not stop the others."""
        try:
            return cls.model_validate_json(text)
        except ValidationError as error:
            values = json.loads(text)
            for place in (one["loc"] for one in error.errors()):
                *above, last = place
                reduce(getitem, above, values).pop(last, None)
            return cls.model_validate(values)


class VariantSpec(Frozen):
    """What a replica of a variant runs: a runtime's server with a registered model, or a custom image.

    Attributes:
        image: of one's own. A Python kernel runs in it under the runtime's server, unless there is a ``command``.
            Whatever else it is that runs there serves HTTP on ``$LOCALML_PORT_HTTP`` (in a container ``port``).
        command: in place of the image's own; only with an image.
        replicas: a number of its own, in place of the endpoint's.
        options: settings of the runtime's server, such as ``max_batch``.
    """

    resources: Resources = Resources()
    env: dict[str, str] = Field(default_factory=dict)
    options: dict[str, str | int | float | bool] = Field(default_factory=dict)
    image: str = ""
    command: tuple[str, ...] = ()
    port: int = Field(default=8080, ge=1, le=65535)
    health_path: str = Field(default="/v2/health/ready", pattern=HEALTH_PATH, max_length=1024)
    replicas: int | None = Field(default=None, ge=0, le=1000)

    def has_own_server(self, format: str) -> bool:
        """Whether the image serves by itself, and is no more than what a kernel runs in.

        Args:
            format: of the model; empty without one.
        """
        return bool(self.image) and (bool(self.command) or format not in KERNELS)
