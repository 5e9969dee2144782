"""The bucket tree as one user may use it. Everything that a request names in the tree goes through here.

Rights are those of a bucket, the same for all that is in it. A bucket that the caller may not read is answered like one
that does not exist; only who would make one of its name learns that it is taken, as with the vendors' stores.
"""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO, Literal

from localml.core.buckets.records import BucketRecords, object_of, taken, thing_of
from localml.core.buckets.tables import Bucket
from localml.core.errors import invalid, not_found
from localml.core.events.records import record_event
from localml.core.people.allow import Thing, allow, may
from localml.core.people.identity import Caller
from localml.core.people.rights import Action, MemberRole, ThingKind
from localml.core.ports import Store
from localml.core.subjects import PLATFORM
from localml.objects.buckets import Buckets, LeftOut, ObjectInfo, Progress, need_key
from localml.objects.uris import HDFS_BUCKET, ObjectUri, parse


class BucketsFor:
    """Objects by URI, for one caller. The methods are those of :class:`localml.objects.buckets.Buckets`, and fail
    likewise; also with ``FORBIDDEN`` where the caller reads and may not do more.

    Args:
        workspace: id of the one that a bucket is made in which does not exist yet; None for the caller's own.
    """

    def __init__(self, tree: Buckets, records: BucketRecords, caller: Caller, workspace: str | None = None) -> None:
        self._tree = tree
        self._records = records
        self._caller = caller
        self._found: dict[str, Bucket] = {}  # a submission names a bucket several times
        self._workspace = workspace or caller.scope.workspace or caller.workspace

    def parse(self, uri: str, *, field: str = "uri") -> ObjectUri:
        """The URI taken apart; see :func:`localml.objects.uris.parse`. Nothing is asked."""
        return parse(uri, field=field)

    def find(self, uri: str, action: Action = Action.READ, *, field: str = "uri") -> Bucket | None:
        """The bucket of a URI, if the caller may do this to what is in it; None as long as it cannot be seen.

        Raises:
            LocalmlError: ``INVALID`` for a URI that is refused, ``FORBIDDEN`` for one that is seen.
        """
        name = _in_tree(uri, field).bucket
        row = self._found.get(name) or self._records.find(name) or self._adopted(name)
        if row is not None:
            self._found[name] = row
        if row is None or not may(self._caller, Action.READ, object_of(row, uri)):
            return None
        allow(self._caller, action, object_of(row, uri))
        return row

    def need(self, uri: str, action: Action = Action.READ, *, field: str = "uri") -> Bucket:
        """The same; ``NOT_FOUND`` where there is none to be seen."""
        row = self.find(uri, action, field=field)
        if row is None:
            raise not_found("object", uri)
        return row

    def ensure(self, uri: str, *, field: str = "uri") -> Bucket:
        """The bucket of a URI, for writing to it; made if there is none of its name.

        Raises:
            LocalmlError: ``FORBIDDEN``, ``CONFLICT`` when somebody else's has the name.
        """
        row = self.find(uri, Action.CREATE, field=field)
        return row or self._made(_in_tree(uri, field).bucket, field)

    def is_open(self, name: str) -> bool:
        """Whether the caller may write to the bucket of this name, or nobody has one of it yet."""
        row = self._records.find(name)
        return row is None or may(self._caller, Action.CREATE, object_of(row, f"s3://{name}"))

    def create(self, name: str, *, everyone: MemberRole | None = None, field: str = "name") -> Bucket:
        """Make a bucket, with its folder.

        Raises:
            LocalmlError: ``INVALID`` (name), ``CONFLICT``, or what :func:`localml.core.people.allow.allow` says.
        """
        self._need_free(name, field)
        row = self._records.create(name, self._caller, self._workspace, everyone=everyone, field=field)
        self._tree.make_folder(f"s3://{name}", field=field)
        return row

    def _made(self, name: str, field: str) -> Bucket:
        self._need_free(name, field)
        row = self._records.ensure(name, self._caller, self._workspace)  # another request may have made it just now
        if not may(self._caller, Action.READ, object_of(row, name)):
            raise taken(name, field, "; it is not open to you: choose another name, or ask for a role in its workspace")
        allow(self._caller, Action.CREATE, object_of(row, name))
        self._tree.make_folder(f"s3://{name}", field=field)
        return row

    def _need_free(self, name: str, field: str) -> None:
        allow(self._caller, Action.CREATE, Thing(ThingKind.BUCKET, workspace=self._workspace))
        if parse(f"s3://{name}", field=field).bucket != name:
            raise invalid(field, f"{name!r} is no name of a bucket")
        there = self._tree.exists(f"s3://{name}")  # first: a bucket is somebody's before it has a folder
        if there and self._records.find(name) is None:
            raise taken(name, field)

    def exists(self, uri: str, *, field: str = "uri") -> bool:
        """Whether there is an object or a folder of this name that the caller may read."""
        return self.find(uri, field=field) is not None and self._tree.exists(uri, field=field)

    def stat(self, uri: str, *, field: str = "uri") -> ObjectInfo:
        """What there is under this name."""
        self.need(uri, field=field)
        return self._tree.stat(uri, field=field)

    def size(self, uri: str, *, field: str = "uri") -> int:
        """Bytes of the object, or of all objects below the folder."""
        self.need(uri, field=field)
        return self._tree.size(uri, field=field)

    def listing(
        self, uri: str, *, recursive: bool = False, field: str = "uri"
    ) -> tuple[list[ObjectInfo], list[LeftOut]]:
        """The objects of a folder, and what in it is none."""
        self.need(uri, field=field)
        return self._tree.listing(uri, recursive=recursive, field=field)

    def list(self, uri: str, *, recursive: bool = False, field: str = "uri") -> list[ObjectInfo]:
        """What a folder holds, sorted by name; an object lists itself."""
        self.need(uri, field=field)
        return self._tree.list(uri, recursive=recursive, field=field)

    def open(self, uri: str, mode: Literal["rb", "wb"] = "rb", *, field: str = "uri") -> BinaryIO:
        """Open an object; writing makes its bucket, too."""
        if mode == "wb":
            need_key(uri, field)
        self._use(uri, write=mode == "wb", field=field)
        return self._tree.open(uri, mode, field=field)

    def make_folder(self, uri: str, *, field: str = "uri", shared: bool = False) -> bool:
        """Make a folder, and its bucket; True if it is new."""
        self._use(uri, write=True, field=field)
        return self._tree.make_folder(uri, field=field, shared=shared)

    def remove_empty(self, uri: str) -> None:
        """Remove a folder that nobody has put anything into."""
        self.need(uri, Action.DELETE)
        self._tree.remove_empty(uri)

    def get(self, uri: str, target: Path, *, progress: Progress | None = None, field: str = "uri") -> int:
        """Copy an object or a folder's content to this machine and return the bytes copied."""
        self.need(uri, field=field)
        return self._tree.get(uri, target, progress=progress, field=field)

    def place(self, uri: str, *, field: str = "uri") -> str:
        """Where an object is or will be below the tree's root, for a program that may write it: ``bucket/key``, links
        resolved. Its bucket is made if there is none."""
        self._use(uri, write=self.find(uri, field=field) is None, field=field)
        return self._tree.path(uri, field=field).relative_to(self._tree.root).as_posix()

    def delete(self, uri: str, *, recursive: bool = False, field: str = "uri") -> None:
        """Remove an object, a folder, or a whole bucket, which takes its own right."""
        row = self.need(uri, field=field)
        if _in_tree(uri, field).key:
            allow(self._caller, Action.DELETE, object_of(row, uri))
            self._tree.delete(uri, recursive=recursive, field=field)
            return
        allow(self._caller, Action.DELETE, thing_of(row, uri))
        if self._tree.exists(uri, field=field):
            self._tree.delete(uri, recursive=recursive, field=field)
        self._records.delete(row.name)
        del self._found[row.name]

    def _adopted(self, name: str) -> Bucket | None:
        """What somebody put into the tree by hand is an administrator's who asks for it."""
        caller = self._caller
        if not caller.admin or caller.scope.restricts or not self._tree.exists(f"s3://{name}"):
            return None
        return self._records.ensure(name, caller, caller.workspace)

    def _use(self, uri: str, *, write: bool, field: str) -> Bucket:
        return self.ensure(uri, field=field) if write else self.need(uri, field=field)


def _in_tree(uri: str, field: str) -> ObjectUri:
    found = parse(uri, field=field)
    if found.scheme == "file":
        raise invalid(field, "file:// URIs are for administrators only")
    return found


def adopt(tree: Buckets, records: BucketRecords, store: Store, admin: Caller, users: int, now: float) -> None:
    """Give the folders of the tree that are nobody's to the administrator's own workspace.

    Where there are several users they stay open to all of them, as they were before buckets belonged to somebody, and
    an event says how to close them. What ``hdfs://`` names is one file system for all users, as OpenPAI's is.
    """
    tree.make_folder(f"s3://{HDFS_BUCKET}")
    known = {row.name for row in records.all()}
    if HDFS_BUCKET not in known:
        records.adopt([HDFS_BUCKET], admin, everyone=MemberRole.MEMBER)
    new = [name for name in tree.names() if name not in known | {HDFS_BUCKET}]
    everyone = MemberRole.MEMBER if users > 1 else None
    if new:
        records.adopt(new, admin, everyone=everyone)
    if new and everyone is not None:
        how = "to close one: localml buckets change NAME --everyone none (and -w WORKSPACE to give it to one)"
        words = f"buckets are open to every user, as before: {', '.join(new)}; {how}"
        store.write(lambda session: record_event(session, PLATFORM, "BucketsAdopted", words, now=now))
