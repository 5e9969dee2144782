"""The bucket tree as fsspec file systems, so that pandas, pyarrow and others read ``fds://bucket/key`` directly."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import fsspec
from fsspec.implementations.dirfs import DirFileSystem
from fsspec.implementations.local import LocalFileSystem

from localml.objects.buckets import Buckets
from localml.objects.uris import BUCKET_SCHEMES, parse

SCHEMES = (*BUCKET_SCHEMES, "hdfs")


class BucketFileSystem(DirFileSystem):  # type: ignore[misc]
    """A local folder whose paths start with a bucket; made for one scheme by :func:`register_fsspec`."""

    buckets: ClassVar[Buckets]

    def __init__(self, **options: Any) -> None:
        super().__init__(path=str(self.buckets.root), fs=LocalFileSystem(auto_mkdir=True), **options)

    @classmethod
    def _strip_protocol(cls, path: Any) -> Any:
        if isinstance(path, list):
            return [cls._strip_protocol(one) for one in path]
        text = str(path)
        if "://" not in text:
            return text.strip("/")
        uri = parse(text)
        return f"{uri.bucket}/{uri.key}".rstrip("/")

    def _join(self, path: Any) -> Any:
        if not isinstance(path, str):
            return super()._join(path)
        inner = self._strip_protocol(path)
        return str(self.buckets.path(f"/{inner}")) if inner else self.path


def register_fsspec(root: Path) -> None:
    """Let fsspec open ``fds://``, ``obs://``, ``s3://`` and ``hdfs://`` from the bucket tree at ``root``.

    Replaces what this process had registered for those schemes, s3fs included. A refused path raises
    :class:`~localml.core.errors.LocalmlError`, a missing one ``FileNotFoundError`` as in fsspec's own file systems.
    """
    buckets = Buckets(root)
    for scheme in SCHEMES:
        kind = type(f"{scheme.title()}FileSystem", (BucketFileSystem,), {"protocol": scheme, "buckets": buckets})
        fsspec.register_implementation(scheme, kind, clobber=True)
