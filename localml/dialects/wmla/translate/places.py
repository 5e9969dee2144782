"""Where a task's data and results are: folders of the bucket tree, as URIs and as places below the tree.

The tree is the vendor's data file system: ``data_path=mnist/train`` is the folder ``train`` of the bucket ``mnist``,
and so are a volume or a connection (the bucket) with their paths. Results lie in a bucket of each user's,
``wmla-USER``, which is the vendor's result file system: ``USER/batchworkdir/EXEC ID`` in it.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from localml.core.errors import invalid
from localml.core.people.identity import Caller
from localml.dialects.wmla.schemas.sources import TaskDataSource, TaskDataSourceAsset, TaskDataSourceLocation
from localml.objects import BucketsFor, parse

SCHEME = "s3://"
WORK = "batchworkdir"
RESULTS_BUCKET = "wmla-"
"""Begins the name of a user's bucket of results."""
_NOT_IN_BUCKETS = re.compile(r"[^A-Za-z0-9._-]")


@dataclass(frozen=True, slots=True)
class Places:
    """Places below the bucket tree (``bucket/key``), without slashes at their ends.

    Attributes:
        data: the task's data; empty for the whole tree.
        files: further paths of the same data source, where it names several.
        results: the user's bucket of results.
        result: the task's result folder.
    """

    results: str
    result: str
    user: str
    exec_id: str
    data: str = ""
    files: tuple[str, ...] = ()

    @property
    def result_uri(self) -> str:
        """The result folder as an object URI."""
        return SCHEME + self.result

    @property
    def uris(self) -> tuple[str, ...]:
        """What the task uses of the tree."""
        return tuple(SCHEME + place for place in dict.fromkeys((self.result, self.data, *self.files)) if place)


def places_of(
    view: BucketsFor, caller: Caller, exec_id: str, datastore: Mapping[str, str], sources: Sequence[TaskDataSource]
) -> Places:
    """The places of a task. Nothing is made: who makes the result folder makes the user's bucket, too.

    Args:
        view: the objects that its owner may use.
        exec_id: also of a trial: with ``{trial}`` for its number.
        datastore: of ``--cs-datastore-meta``; counts where there are no ``sources``.
        sources: ``dataSource`` of the request.

    Raises:
        LocalmlError: ``INVALID`` naming the data that is not there.
    """
    bucket = _results(view, caller)
    data, files = _data(view, datastore, sources)
    result = f"{bucket}/{caller.name}/{WORK}/{exec_id}"
    return Places(bucket, result, caller.name, exec_id, data, files)


def _results(view: BucketsFor, caller: Caller) -> str:
    """The user's bucket of results. Who left may have had the name before, and somebody nearly the same one."""
    name = RESULTS_BUCKET + _NOT_IN_BUCKETS.sub("_", caller.name)
    return name if view.is_open(name) else f"{name}-{caller.id}"


def _data(
    view: BucketsFor, datastore: Mapping[str, str], sources: Sequence[TaskDataSource]
) -> tuple[str, tuple[str, ...]]:
    if not sources:
        path = datastore.get("data_path", "").strip("/")
        return _found(view, [path], "args: --cs-datastore-meta: data_path") if path else ("", ())
    kept = [place for number, one in enumerate(sources) for place in _places(one, f"dataSource.{number}")]
    return _found(view, kept, "dataSource") if kept else ("", ())


def _places(source: TaskDataSource, field: str) -> list[str]:
    """The places that one data source names."""
    location, asset = source.location or TaskDataSourceLocation(), source.asset or TaskDataSourceAsset()
    paths = [part for one in (location.paths or "").split(",") if (part := one.strip().strip("/"))]
    if source.type in (None, "fs"):
        if len(paths) > 1:
            raise invalid(f"{field}.location.paths", f"is one folder for fs, not {len(paths)}")
        return _below(location.volume, paths)
    if source.type == "connection":
        bucket = location.bucket or asset.asset_id
        if not bucket:
            raise invalid(f"{field}.location.bucket", "or asset.asset_id is required for a connection: the bucket")
        if not paths:
            raise invalid(f"{field}.location.paths", "is required for a connection")
        return _below(bucket, paths)
    if not asset.asset_id:
        raise invalid(f"{field}.asset.asset_id", "is required for a data asset")
    return _below(asset.project_id or asset.catalog_id, [asset.asset_id.strip("/")])


def _below(bucket: str | None, paths: list[str]) -> list[str]:
    top = (bucket or "").strip("/")
    if not paths:
        return [top] if top else []
    return [f"{top}/{path}" if top else path for path in paths]


def _found(view: BucketsFor, places: list[str], field: str) -> tuple[str, tuple[str, ...]]:
    """The folder that these places lie in, each of which must be there; and all of them where there are several."""
    found, folders = [], []
    for place in places:
        uri = parse(SCHEME + place, field=field)
        if not view.exists(uri.text, field=field):
            raise invalid(field, f"{place!r} does not exist in the buckets that you may read")
        found.append("/".join(part for part in (uri.bucket, uri.key) if part))
        is_folder = view.stat(uri.text, field=field).is_folder
        folders.append(found[-1] if is_folder else posixpath.dirname(found[-1]))
    return posixpath.commonpath(folders), tuple(found) if len(found) > 1 else ()


def need_datastore(datastore: Mapping[str, str]) -> None:
    """Refuse kinds of data stores that are none.

    Raises:
        LocalmlError: ``INVALID``.
    """
    kind = datastore.get("type", "fs")
    if kind != "fs":
        raise invalid("args", f"--cs-datastore-meta: type must be fs, not {kind[:40]!r}; others are a dataSource")
