"""What goes over the wire about objects; see ``schemas.work`` for the rest."""

from __future__ import annotations

from pydantic import BaseModel, Field

from localml.dialects.native.schemas.work import Strict


class ObjectQuery(Strict):
    """An object by URI."""

    uri: str = Field(min_length=1)


class ObjectTreeQuery(ObjectQuery):
    """A folder, with all that is below it when ``recursive``."""

    recursive: bool = False


class ObjectOut(BaseModel):
    """An object or a folder. ``link``: the key of what it leads to in the same bucket, where it is a link."""

    uri: str
    name: str
    size: int
    modified: float
    is_folder: bool
    link: str | None


class LeftOutOut(BaseModel):
    """Something that is no object: a link that leads nowhere or out of the bucket, a pipe."""

    uri: str
    reason: str


class ObjectsOut(BaseModel):
    """What a folder holds. Links to folders are not looked into."""

    objects: list[ObjectOut]
    left_out: list[LeftOutOut]
