"""What a workload may see of this machine: decided at submission, with its owner's rights, and made to folders when it
starts.

What is decided is carried beside the spec (:class:`localml.core.work.grants.Grants`) and never decided again: neither
a bucket that is deleted meanwhile, nor a member that leaves, nor a link that is put in a folder's place turns a mount
into another one. A mount whose bucket is gone fails the start, also if there is one of the same name by then.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from localml.control.jobs.snapshot import WorkloadRow
from localml.core.buckets.records import BucketRecords, object_of
from localml.core.buckets.tables import Bucket
from localml.core.errors import Code, LocalmlError, invalid
from localml.core.people.allow import MACHINE, may
from localml.core.people.folders import FOLDERS
from localml.core.people.identity import Caller
from localml.core.people.rights import Action, MemberRole
from localml.core.work.grants import GrantedMount, Grants, Source
from localml.core.work.outputs import told_uris
from localml.core.work.specs import Mount, WorkloadSpec
from localml.core.work.states import Kind
from localml.engines.base import Bind, EngineError
from localml.objects import Buckets
from localml.objects.access import BucketsFor
from localml.objects.files import folder_handle

WORKSPACE = "workspace:"
"""Begins the source of a mount that names a folder that localml keeps for a user."""
FILE = "file://"
"""Begins the source of a mount that is a path of the machine, whatever buckets there are."""
BUCKETS_IN_CONTAINER = "/buckets"


class Mounts:
    """Decides what a submission's workload may see, and finds it when it starts.

    ``file:///path`` is a path of the machine; ``/name/...`` is one where the root has a ``name``, else one of the
    bucket ``name`` if there is one that the caller sees.

    Args:
        data: the data directory; what it keeps for users lies in its :data:`FOLDERS`.
        owner: a user by number, for workloads of earlier versions, of which nothing was decided yet.
    """

    def __init__(
        self, data: Path, tree: Buckets, records: BucketRecords, owner: Callable[[int], Caller] | None = None
    ) -> None:
        self._folders = (data / FOLDERS).resolve()  # paths that a box sees have no links
        self._tree = tree
        self._records = records
        self._owner = owner

    @property
    def root(self) -> Path:
        """Where the buckets are on this machine."""
        return self._tree.root

    # -- at submission ---------------------------------------------------------------------------

    def decide(self, spec: WorkloadSpec, caller: Caller, workspace: str, sees: Caller | None = None) -> Grants:
        """What the workload may see.

        Args:
            sees: whose buckets it sees beside its mounts, where that is not the caller.

        Raises:
            LocalmlError: ``FORBIDDEN`` for folders of the machine, unless an administrator asks; ``CONFLICT`` for a
                bucket that is to be made and has the name of somebody else's; ``INVALID``.
        """
        view = BucketsFor(self._tree, self._records, caller, workspace)
        user = sees or caller
        eyes = view if user is caller else BucketsFor(self._tree, self._records, user, workspace)
        uris = dict.fromkeys((*spec.objects, *(uri for role in spec.roles for uri in told_uris(role))))
        named = [row for uri in uris if (row := _seen(eyes, uri)) is not None]
        secrets = {role.registry_auth for role in spec.roles if role.registry_auth is not None}
        own = user.scope.workspace or user.workspace  # a token that is good for one workspace gives no other
        return Grants(
            workspaces=tuple(dict.fromkeys((workspace, own))),
            mounts=tuple(self._mount(mount, view, caller) for mount in spec.mounts),
            buckets={row.id or 0: _may_write(user, row) for row in named},
            registry_auth={uri: self._secret(eyes, uri) for uri in secrets},
        )

    def decide_late(self, row: WorkloadRow, spec: WorkloadSpec) -> Grants:
        """The same for a workload that an earlier version took in, with what its owner may now.

        Raises:
            EngineError: its owner may not have what the spec mounts.
        """
        if self._owner is None:
            return Grants(workspaces=(row.workspace,))
        sees = owner = self._owner(row.owner_id)
        if row.kind == Kind.ENDPOINT:  # replicas mount the registry's folders, which the controller wrote there
            owner = replace(owner, admin=True)
        try:
            return self.decide(spec, owner, row.workspace, sees)
        except LocalmlError as error:
            raise EngineError(error.message) from error

    def _mount(self, mount: Mount, view: BucketsFor, caller: Caller) -> GrantedMount:
        source = mount.source
        if source.startswith(WORKSPACE):
            name = source.removeprefix(WORKSPACE)
            self.folder(caller.id, name)
            return GrantedMount(kind=Source.WORKSPACE, path=name)
        if source.startswith(FILE) or self._is_of_machine(source, view):
            return self._of_machine(source.removeprefix(FILE), caller)
        row = view.find(source, Action.USE, field="mounts") or view.ensure(source, field="mounts")
        self._tree.path(source, field="mounts")
        key = self._tree.parse(source, field="mounts").key
        return GrantedMount(kind=Source.BUCKET, path=key, bucket=row.id or 0, write=_may_write(caller, row))

    @staticmethod
    def _of_machine(source: str, caller: Caller) -> GrantedMount:
        if not may(caller, Action.ADMINISTER, MACHINE):
            words = f"mounts: only administrators may mount {source}"
            raise LocalmlError(Code.FORBIDDEN, words, field="mounts")
        if not Path(source).exists():
            raise invalid("mounts", f"{source} does not exist on this machine")
        return GrantedMount(kind=Source.MACHINE, path=os.path.realpath(source))

    @staticmethod
    def _is_of_machine(source: str, view: BucketsFor) -> bool:
        if not source.startswith("/"):
            return False
        first = source.split("/", 2)[1]
        return Path("/" + first).exists() or view.find(source, field="mounts") is None

    @staticmethod
    def _secret(view: BucketsFor, uri: str) -> int:
        row = view.find(uri, field="registry_auth")
        if row is None:
            raise invalid("registry_auth", f"{uri} does not exist")
        return row.id or 0

    # -- at the start ----------------------------------------------------------------------------

    def binds(self, spec: WorkloadSpec, grants: Grants, row: WorkloadRow, user: str | None) -> tuple[Bind, ...]:
        """The mounts of a spec. Folders that do not exist yet are made, for a user (``uid:gid``) if one is given.

        Raises:
            EngineError: a bucket is gone, or there is a link in a folder's place.
        """
        pairs = zip(spec.mounts, grants.mounts, strict=True)
        try:
            return tuple(self._bind(mount, granted, row, user) for mount, granted in pairs)
        except (LocalmlError, OSError) as error:
            raise EngineError(f"mounts: {error}") from error

    def buckets(self, grants: Grants) -> tuple[Bind, ...]:
        """The buckets that a workload sees, below :data:`BUCKETS_IN_CONTAINER`; those that were made since, too."""
        found: dict[str, bool] = {}
        for row in self._records.of(grants.workspaces):
            everyone = row.everyone is not None and row.everyone.covers(MemberRole.MEMBER)
            found[row.name] = row.workspace in grants.workspaces or everyone
        for number, write in grants.buckets.items():
            if (one := self._records.get(number)) is not None:
                found[one.name] = found.get(one.name, False) or write
        return tuple(self._shown(name, write=write) for name, write in sorted(found.items()))

    def need_same(self, uri: str, bucket: int | None) -> None:
        """Make sure that a URI still leads into the bucket that was decided about.

        Raises:
            LocalmlError: ``NOT_FOUND`` when that one is gone.
        """
        row = self._records.find(self._tree.parse(uri).bucket)
        if row is None or row.id != bucket:
            raise LocalmlError(Code.NOT_FOUND, f"the bucket of {uri} was deleted after the submission")

    def _shown(self, name: str, *, write: bool) -> Bind:
        with folder_handle(self._tree.root, (name,), create=True):
            return Bind(str(self._tree.root / name), f"{BUCKETS_IN_CONTAINER}/{name}", not write)

    def _bind(self, mount: Mount, granted: GrantedMount, row: WorkloadRow, user: str | None) -> Bind:
        read_only = mount.read_only or not granted.write
        if granted.kind is Source.MACHINE:
            return Bind(granted.path, mount.target, read_only, base="/")
        if granted.kind is Source.WORKSPACE:
            place = self.folder(row.owner_id, granted.path)
            _make(place, self._folders.parent, user)
            return Bind(str(place), mount.target, read_only)
        bucket = self._records.get(granted.bucket)
        if bucket is None:
            raise LocalmlError(Code.NOT_FOUND, f"the bucket of {mount.source} was deleted after the submission")
        place = self._tree.path(f"s3://{bucket.name}/{granted.path}")
        root = self._tree.root / bucket.name
        _make(place, self._tree.root, user)
        return Bind(str(place), mount.target, read_only, base="" if place == root else str(root))

    def made_folder(self, owner: int, name: str, user: str | None) -> tuple[Path, Path]:
        """The same, made if there is none yet, for a user (``uid:gid``) if one is given; and one above it that is only
        the server's."""
        place = self.folder(owner, name)
        _make(place, self._folders.parent, user)
        return place, self._folders.parent

    def folder(self, owner: int, name: str) -> Path:
        """The folder that localml keeps for a user under this name."""
        if not name or "/" in name or name.startswith("."):
            raise invalid("mounts", f"workspace name {name!r} must not be empty, start with '.' or hold '/'")
        return self._folders / str(owner) / name


def _seen(view: BucketsFor, uri: str) -> Bucket | None:
    """The bucket of a URI that a program is told, made if there is none; what is not for its owner is not there."""
    try:
        return view.find(uri) or view.ensure(uri)
    except LocalmlError as error:
        if error.code is Code.STORAGE:
            raise
        return None


def _may_write(caller: Caller, row: Bucket) -> bool:
    return may(caller, Action.CHANGE, object_of(row, row.name))


def _make(place: Path, root: Path, user: str | None) -> None:
    """Make a folder below another one, following no links; a new one is for a user, if one is given."""
    if os.path.lexists(place):
        return
    with folder_handle(root, place.relative_to(root).parts, create=True) as handle:
        if user is not None and os.geteuid() == 0:
            uid, _, gid = user.partition(":")
            os.fchown(handle, int(uid), int(gid or uid))
