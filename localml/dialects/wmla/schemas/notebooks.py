"""Bodies of notebook services and their kernels."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, RootModel


class UserPath(BaseModel):
    """A user in the URL."""

    username: str


class NotebookUpdate(BaseModel):
    """A notebook service as it is to be. Only its resource plan can be changed; other members have no effect."""

    resourcePlan: str | None = None
    userName: Any = None


class NotebookService(BaseModel):
    """A notebook. Times in milliseconds since the epoch, ``memoryUsed`` in MB; what is not known is left out."""

    userName: str
    podName: str
    podStatus: str
    podMessage: str
    podReason: str
    resourcePlan: str
    resourcePlanPath: str
    podCreateTime: int
    podStartTime: int | None = None
    kernels: int
    cpuUsed: int
    gpuUsed: int
    memoryUsed: float


class NotebookKernel(BaseModel):
    """A kernel: cores and MB that it uses itself, the GPUs of its notebook; what is not known is left out."""

    kernelName: str
    userName: str
    jobId: str
    status: str
    cpuUsed: float | None = None
    gpuUsed: float
    memoryUsed: float | None = None
    createTime: int


class Services(RootModel[list[NotebookService]]):
    """Notebook services."""


class Kernels(RootModel[list[NotebookKernel]]):
    """Kernels of a notebook service."""


class NotebookActionResult(BaseModel):
    """What came of a wish: ``ok`` or ``error``, and why."""

    result: str
    message: str
