"""What goes over the wire about the machine: GPUs, pools, images, what is pruned; see ``schemas.work`` for the rest."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, Field

from localml.core.limits import MOST_SECONDS
from localml.dialects.native.schemas.work import LARGEST, Bytes, Strict


class PoolPath(Strict):
    """A pool by its path, such as ``team/train``."""

    path: str


class DrainIn(Strict):
    """One GPU (index or UUID), or the machine when left out."""

    gpu: str | None = None
    reason: str = Field(default="drained by an administrator", max_length=500)


class LimitsIn(Strict):
    """Limits of a pool; one that is left out is lifted."""

    cpu: float | None = Field(default=None, ge=0, le=1e9)
    memory: Bytes | None = Field(default=None, ge=0, le=LARGEST)
    gpu: float | None = Field(default=None, ge=0, le=1e9)
    max_workloads: int | None = Field(default=None, ge=0, le=LARGEST)


class BuildIn(Strict):
    """Runtimes to build; those marked as default when none is named.

    With ``onto``, an image of somebody else's, the server of Python kernels is made ready to run there instead.
    """

    names: list[str] = Field(default_factory=list)
    onto: str = ""


class PruneIn(Strict):
    """What may go; see ``localml.core.prune``. Ages in days, null: age does not matter.

    ``logs_days`` holds for code, too, counted from its last use.
    """

    logs_days: float | None = Field(default=30.0, ge=0, le=MOST_SECONDS / 86_400)
    keep_log_bytes: Bytes | None = Field(default=None, ge=0, le=LARGEST)
    deleted_days: float | None = Field(default=30.0, ge=0, le=MOST_SECONDS / 86_400)
    dry_run: bool = False


class GpuOut(BaseModel):
    """A GPU, who has it, what it does now and what keeps it from new work."""

    uuid: str
    index: str
    name: str
    memory: int
    simulated: bool
    free: float
    drained: bool
    fenced: bool
    reason: str
    leases: list[dict[str, Any]]
    usage: dict[str, Any]


class GpusOut(BaseModel):
    """All GPUs; ``source`` says where they come from, or why there are none."""

    gpus: list[GpuOut]
    source: str


class PoolOut(BaseModel):
    """A pool with its limits and what is asked of it."""

    name: str
    parent: str | None
    cpu: float | None
    memory: int | None
    gpu: float | None
    max_workloads: int | None
    used: dict[str, float]
    labels: list[tuple[str, str]] | None


class PoolsOut(BaseModel):
    """All pools by name."""

    pools: list[PoolOut]
