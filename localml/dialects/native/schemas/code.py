"""What goes over the wire about folders of code."""

from __future__ import annotations

from pydantic import BaseModel, Field

from localml.core.work.specs import CODE
from localml.dialects.native.schemas.work import Strict


class CodePath(Strict):
    """The content of an archive: ``sha256:`` and the SHA-256 of its bytes."""

    code: str


class CodeQuery(Strict):
    """The workspace whose members may run it, by id or name; the caller's own by default."""

    workspace: str | None = None


class FolderPath(Strict):
    """A folder that is kept for the caller, by name, as notebooks work in."""

    name: str


class CodeIn(Strict):
    """Code that is to be put into a folder. ``replace``: files that differ go, which are in the way otherwise."""

    code: str = Field(pattern=f"^{CODE.pattern}$")
    workspace: str | None = None
    replace: bool = False


class FolderOut(BaseModel):
    """Where the code is now."""

    folder: str
    code: str


class CodeOut(BaseModel):
    """An archive that is kept; ``size`` in bytes, ``used_at`` when it was last sent or submitted with."""

    code: str
    size: int
    used_at: float
