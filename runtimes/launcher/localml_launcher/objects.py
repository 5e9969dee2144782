"""Object URIs inside a job: every scheme is a folder below ``$LOCALML_BUCKETS``.

====================== =========================
URI                    folder
====================== =========================
``fds://bucket/key``   ``<buckets>/bucket/key``
``obs://bucket/key``   ``<buckets>/bucket/key``
``s3://bucket/key``    ``<buckets>/bucket/key``
``/bucket/key``        ``<buckets>/bucket/key``
``hdfs://host/path``   ``<buckets>/hdfs/path``
``file:///path``       ``/path``
====================== =========================

A URI is taken as written: ``%2e`` is no dot, ``?`` and ``#`` are part of the key.
"""

from __future__ import annotations

import os
from pathlib import Path

BUCKETS = "LOCALML_BUCKETS"
"""Name of the variable that holds the folder of all buckets."""
HDFS_BUCKET = "hdfs"
BUCKET_SCHEMES = frozenset({"fds", "obs", "s3"})


class UriError(ValueError):
    """The URI has no place below the bucket folder; the message says why."""


def buckets() -> Path:
    """The folder of all buckets.

    Raises:
        UriError: the variable is not set, so this is no localml job.
    """
    folder = os.environ.get(BUCKETS)
    if not folder:
        raise UriError(f"the environment variable {BUCKETS} is not set; object URIs only work inside a localml job")
    return Path(folder)


def resolve(uri: str) -> Path:
    """The path of an object; it need not exist.

    Raises:
        UriError: an unknown scheme, no bucket, a ``..`` or a NUL in it, or a link that leaves the bucket folder.
    """
    if "\0" in uri:
        raise UriError(f"{uri!r}: holds a NUL byte")
    scheme, separator, rest = uri.partition("://")
    if not separator:
        scheme, rest = "", uri
        if not uri.startswith("/"):
            raise UriError(f"'{uri}': neither an object URI (fds://bucket/key) nor /bucket/key")
    segments = [part for part in rest.split("/") if part not in ("", ".")]
    if ".." in segments:
        raise UriError(f"'{uri}': '..' is not allowed")
    scheme = scheme.lower()
    if scheme == "file":
        if not rest.startswith("/"):
            raise UriError(f"'{uri}': a file URI has three slashes (file:///folder/file)")
        return Path(rest)
    return _below(buckets(), _bucket_and_key(uri, scheme, rest, segments), uri)


def _bucket_and_key(uri: str, scheme: str, rest: str, segments: list[str]) -> list[str]:
    if scheme == "hdfs":
        path = rest.partition("/")[2]  # without host and port
        return [HDFS_BUCKET, *(part for part in path.split("/") if part not in ("", "."))]
    if scheme and scheme not in BUCKET_SCHEMES:
        known = ", ".join(f"{name}://" for name in (*sorted(BUCKET_SCHEMES), "hdfs", "file"))
        raise UriError(f"'{uri}': unknown scheme '{scheme}://'; known: {known} and /bucket/key")
    if not segments or (scheme and rest.startswith("/")):
        raise UriError(f"'{uri}': names no bucket")
    return segments


def _below(root: Path, segments: list[str], uri: str) -> Path:
    """Join, and follow links, because a bucket may hold links that somebody else made."""
    path = root.joinpath(*segments)
    if not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(root)):
        raise UriError(f"'{uri}': a link in it leads outside of the bucket folder")
    return path
