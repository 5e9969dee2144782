"""fsspec file systems for the vendors' schemes, so that ``fsspec.open("fds://bucket/key")`` works in a job.

Registered by the package's entry points; imported only by a program that has fsspec.
"""

from __future__ import annotations

from typing import Any

from fsspec.implementations.local import LocalFileSystem

from localml_launcher.objects import resolve


class BucketFileSystem(LocalFileSystem):  # type: ignore[misc]
    """The local file system, whose paths may be object URIs. New objects get the folders they need."""

    protocol: str | tuple[str, ...] = ()

    def __init__(self, auto_mkdir: bool = True, **options: Any) -> None:
        super().__init__(auto_mkdir=auto_mkdir, **options)

    @classmethod
    def _strip_protocol(cls, path: Any) -> Any:
        if isinstance(path, list):
            return [cls._strip_protocol(item) for item in path]
        if isinstance(path, str) and path.startswith(f"{cls.protocol}://"):
            return str(resolve(path))
        return super()._strip_protocol(path)

    @staticmethod
    def _get_kwargs_from_urls(path: str) -> dict[str, Any]:
        return {}


class FdsFileSystem(BucketFileSystem):
    """Xiaomi FDS: ``fds://bucket/key``."""

    protocol = "fds"


class ObsFileSystem(BucketFileSystem):
    """Huawei OBS: ``obs://bucket/key``."""

    protocol = "obs"


class HdfsFileSystem(BucketFileSystem):
    """HDFS: ``hdfs://host:port/path`` is a folder of the bucket tree as well."""

    protocol = "hdfs"
