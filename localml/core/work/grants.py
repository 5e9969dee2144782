"""What was decided, once, about what a workload may see of this machine: carried beside its spec, never asked again."""

from __future__ import annotations

from enum import StrEnum

from localml.core.work.specs import Frozen


class Source(StrEnum):
    """Of what kind the source of a mount is."""

    BUCKET = "bucket"
    WORKSPACE = "workspace"  # a folder that localml keeps for the user
    MACHINE = "machine"


class GrantedMount(Frozen):
    """A mount of the spec, decided.

    Attributes:
        kind: what ``path`` is: a key in the bucket with the id ``bucket``, a name, or a path without links.
        write: whether its owner may write there; what the spec asks for read-only stays that.
    """

    kind: Source
    path: str
    bucket: int = 0
    write: bool = True


class Grants(Frozen):
    """All that was decided about a workload.

    Attributes:
        workspaces: whose buckets it writes: the one that it is in, and its owner's own.
        mounts: one for each of the spec's, in order.
        buckets: id of a bucket that the spec names otherwise -> whether its owner may write there.
        code: id of the workspace in which the archive of its code is.
        registry_auth: URI of an object with a registry's password -> id of its bucket.
    """

    workspaces: tuple[str, ...] = ()
    mounts: tuple[GrantedMount, ...] = ()
    buckets: dict[int, bool] = {}
    registry_auth: dict[str, int] = {}
    code: str = ""
