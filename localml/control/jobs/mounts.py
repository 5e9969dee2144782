"""Which folders a workload may see: objects of the bucket tree, the user's workspaces, folders of this machine."""

from __future__ import annotations

from pathlib import Path

from localml.control.jobs.snapshot import WorkloadRow
from localml.core.errors import Code, LocalmlError, invalid
from localml.core.people.allow import MACHINE, may
from localml.core.people.folders import FOLDERS
from localml.core.people.identity import Caller
from localml.core.people.rights import Action
from localml.core.work.specs import Mount, WorkloadSpec
from localml.objects import Buckets

WORKSPACE = "workspace:"
"""Begins the source of a mount that names a folder that localml keeps for a user."""


class Mounts:
    """Says what the source of a mount is on this machine.

    ``/name/...`` is a folder of the machine where the root has a ``name``, else one of the bucket ``name`` if there is
    such a bucket.

    Args:
        data: the data directory; what it keeps for users lies in its :data:`FOLDERS`.
    """

    def __init__(self, data: Path, buckets: Buckets) -> None:
        self._folders = data / FOLDERS
        self._buckets = buckets

    def check(self, spec: WorkloadSpec, caller: Caller) -> None:
        """Refuse mounts that do not exist, or that are not for everybody.

        Raises:
            LocalmlError: ``FORBIDDEN`` for folders of the machine, unless an administrator asks; ``INVALID``.
        """
        for mount in spec.mounts:
            if mount.source.startswith(WORKSPACE):
                self.folder(caller.id, mount.source.removeprefix(WORKSPACE))
            elif not self._is_of_machine(mount.source):
                self._buckets.path(mount.source, field="mounts")
            elif not may(caller, Action.ADMINISTER, MACHINE):
                words = f"mounts: only administrators may mount {mount.source}"
                raise LocalmlError(Code.FORBIDDEN, words, field="mounts")
            elif not Path(mount.source).exists():
                raise invalid("mounts", f"{mount.source} does not exist on this machine")

    def source(self, mount: Mount, row: WorkloadRow) -> Path:
        """The folder of this machine that a workload's mount stands for."""
        if mount.source.startswith(WORKSPACE):
            return self.folder(row.owner_id, mount.source.removeprefix(WORKSPACE))
        if self._is_of_machine(mount.source):
            return Path(mount.source)
        return self._buckets.path(mount.source, field="mounts")

    def folder(self, owner: int, name: str) -> Path:
        """The folder that localml keeps for a user under this name."""
        if not name or "/" in name or name.startswith("."):
            raise invalid("mounts", f"workspace name {name!r} must not be empty, start with '.' or hold '/'")
        return self._folders / str(owner) / name

    def _is_of_machine(self, source: str) -> bool:
        if not source.startswith("/"):
            return False
        first = source.split("/", 2)[1]
        return not (self._buckets.root / first).is_dir() or Path("/" + first).exists()
