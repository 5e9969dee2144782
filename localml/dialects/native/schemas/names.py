"""What goes over the wire about names."""

from __future__ import annotations

from pydantic import BaseModel, Field

from localml.dialects.native.schemas.work import Strict


class ResolveQuery(Strict):
    """A name, a workload's id, ``KIND/NAME`` or ``id/NUMBER``; ``kind``: of which kinds it may be, any by default."""

    ref: str = Field(min_length=1, max_length=300)
    kind: list[str] = Field(default_factory=list, max_length=20)


class NamesQuery(Strict):
    """How names begin, perhaps with ``KIND/`` before."""

    prefix: str = Field(default="", max_length=300)
    kind: list[str] = Field(default_factory=list, max_length=20)


class ThingOut(BaseModel):
    """A thing that has a name; ``ref`` is a way to write it that means nothing else. ``kind`` is as people call it: an
    endpoint's workloads are of the kind ``replica``. ``state`` is empty where it has none."""

    kind: str
    id: int
    name: str
    state: str
    owner: str
    workspace: str
    ref: str


class ThingsOut(BaseModel):
    """Several of them."""

    things: list[ThingOut]
