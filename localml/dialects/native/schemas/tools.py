"""What goes over the wire about notebooks and TensorBoards."""

from __future__ import annotations

from pydantic import BaseModel, Field

from localml.core.limits import MOST_MOUNTS
from localml.core.work.specs import Mount, Resources, Seconds
from localml.dialects.native.schemas.work import Strict, WorkloadOut


class _Settings(Strict):
    token: str | None = Field(default=None, min_length=1)
    image: str = ""
    command: list[str] = Field(default_factory=list)
    resources: Resources = Resources()
    idle_limit: Seconds | None = Field(default=None, gt=0)
    time_limit: Seconds | None = Field(default=None, gt=0)
    priority: int = Field(default=0, ge=-1000, le=1000)
    pool: str = "default"


class NotebookChange(_Settings):
    """Settings of a JupyterLab; those that are not given stay as they are, and so do single resources.

    ``folder`` is the name of the folder that it works in, by default its own name; it outlasts the notebook.
    ``idle_limit``: seconds without activity after which it is stopped, ``time_limit``: seconds after which it is in
    any case. An ``image`` of one's own must start a Jupyter server on port 8888, with ``command`` or by itself.
    """

    folder: str | None = None
    env: dict[str, str] = Field(default_factory=dict)
    mounts: list[Mount] = Field(default_factory=list, max_length=MOST_MOUNTS)


class NotebookIn(NotebookChange):
    """A JupyterLab to start. Without a name or token it is given one; a stopped one of this name is started again.

    ``workspace`` is an id or a name, here and below; the caller's own by default.
    """

    name: str | None = None
    workspace: str | None = None


class TensorboardChange(_Settings):
    """Settings of a TensorBoard over ``logdir``, an object URI; those that are not given stay as they are.

    ``idle_limit``: seconds without a request after which it is stopped, not with an ``image`` or ``command`` of one's
    own. An open page counts only while it reloads by itself. ``time_limit``: seconds after which it is in any case.
    """

    logdir: str | None = Field(default=None, min_length=1)


class TensorboardIn(TensorboardChange):
    """A TensorBoard to start; the folder need not exist yet. A stopped one of this name is started again."""

    name: str | None = None
    workspace: str | None = None
    logdir: str = Field(min_length=1)


class ToolOut(WorkloadOut):
    """A notebook or TensorBoard, which keeps its ``id`` and name when it is stopped and started again.

    ``workload_id`` is its newest run (the ``run``-th), whose state and times these are; with ``pending`` another one
    is wanted, which begins when that has ended.

    ``url`` opens it, token included; ``base_url`` is where its own API is. Both are null while it does not run.
    ``token`` is null for callers other than its owner and administrators, and so is the one in ``url`` left out.
    ``source`` is the folder of a notebook, the logdir of a TensorBoard.
    """

    workload_id: int
    run: int
    pending: bool
    source: str
    token: str | None
    url: str | None
    base_url: str | None
    idle_limit: float | None
    time_limit: float | None


class ToolsOut(BaseModel):
    """All that are not deleted, the newest first."""

    tools: list[ToolOut]


class KernelOut(BaseModel):
    """A kernel in Jupyter's words."""

    id: str
    name: str
    state: str
    last_activity: float
    connections: int


class ActivityOut(BaseModel):
    """What a notebook or TensorBoard does: bytes, percent of one core, and seconds for which nothing was done.

    ``idle_for`` is 0 while a kernel computes or a request is answered. Memory and CPU are null where the server cannot
    tell, as TensorBoards cannot.
    """

    kernels: list[KernelOut]
    memory: int | None
    memory_limit: int | None
    cpu_percent: float | None
    idle_for: float


class ToolFull(ToolOut):
    """``ready``: whether it answers requests now. ``activity`` is null while it does not tell."""

    ready: bool
    activity: ActivityOut | None
