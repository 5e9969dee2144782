"""What goes over the wire about buckets; see ``schemas.work`` for what is in them."""

from __future__ import annotations

from pydantic import BaseModel

from localml.core.people.rights import MemberRole
from localml.dialects.native.schemas.work import Strict


class BucketPath(Strict):
    """A bucket's name."""

    name: str


class BucketIn(Strict):
    """A new bucket, in a workspace (id or name), the caller's own when left out. ``everyone``: what all users are to
    it."""

    name: str
    workspace: str | None = None
    everyone: MemberRole | None = None


class BucketChange(Strict):
    """What to change; what is left out stays. Null for ``everyone`` closes it to all but its workspace."""

    workspace: str | None = None
    everyone: MemberRole | None = None


class BucketOut(BaseModel):
    """A bucket: whose, in which workspace (by id), and what all users are to it."""

    name: str
    workspace: str
    owner: str
    everyone: MemberRole | None
    created_at: float


class BucketFull(BucketOut):
    """A bucket with the bytes of all that is in it."""

    size: int


class BucketsOut(BaseModel):
    """Buckets by name."""

    buckets: list[BucketOut]


class RecursiveQuery(Strict):
    """With all that is in it when ``recursive``."""

    recursive: bool = False
