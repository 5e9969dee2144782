"""Bodies of resource plans."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, Field

from localml.core.limits import MOST_LABELS


class PlanPath(BaseModel):
    """A resource plan in the URL."""

    resplan_name: str = Field(min_length=1)


class Label(BaseModel):
    """A label."""

    key: str = Field(min_length=1, max_length=256)
    value: str = Field(default="", max_length=4096)


class Resplan(BaseModel):
    """A resource plan as it is made or changed. The vendor's model marks all members as optional."""

    name: str | None = None
    parent: str | None = None
    labels: list[Label] | None = Field(default=None, max_length=MOST_LABELS)

    @property
    def pairs(self) -> tuple[tuple[str, str], ...] | None:
        """The labels as they are kept; None when the body has none."""
        return None if self.labels is None else tuple((one.key, one.value) for one in self.labels)


class V1Resplan(BaseModel):
    """What is asked of a plan and in use there, in cores and GPUs; and its path."""

    path: str
    requestcpu: str
    requestgpu: str
    usedcpu: str
    usedgpu: str


class TreeDto(BaseModel):
    """A plan with those below it, of the same form."""

    id: str
    name: str
    pid: str
    path: str
    isParent: str
    V1Resplan: V1Resplan
    childTreeDto: list[dict[str, Any]]
