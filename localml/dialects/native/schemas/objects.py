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
    """An object or a folder."""

    uri: str
    name: str
    size: int
    modified: float
    is_folder: bool


class ObjectsOut(BaseModel):
    """What a folder holds."""

    objects: list[ObjectOut]
