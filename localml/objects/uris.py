"""Object URIs: what they name, and which of them are refused.

URIs are read literally, as object stores do: nothing is percent-decoded, so ``%2e%2e`` is a name of six letters, and
``?`` and ``#`` are letters of a key. What was given is kept as :attr:`ObjectUri.text` and answered unchanged.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from localml.core.errors import LocalmlError, invalid

BUCKET_SCHEMES = ("fds", "obs", "s3")
HDFS_BUCKET = "hdfs"
"""All ``hdfs://`` URIs share this bucket; the host and port say nothing about where data is kept here."""

PART_PREFIX = ".localml-part-"
"""Files being written carry this prefix until they are complete; no key may."""

MAX_NAME = 255
MAX_KEY = 3072

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://(.*)", re.DOTALL)
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_AUTHORITY = re.compile(r"([A-Za-z0-9._-]+(:[0-9]{1,5})?)?")


@dataclass(frozen=True, slots=True)
class ObjectUri:
    """A URI taken apart.

    ``scheme`` is empty for ModelArts' ``/bucket/key``. ``key`` has neither leading nor trailing slash and is empty
    for the bucket itself; for ``file`` it is the absolute path without its first slash and ``bucket`` is empty.
    ``folder`` tells whether the URI ended in a slash.
    """

    text: str
    scheme: str
    bucket: str
    key: str
    folder: bool = False

    def __str__(self) -> str:
        return self.text

    @property
    def name(self) -> str:
        """The last part of the key, or the bucket."""
        return self.key.rpartition("/")[2] or self.bucket


def parse(uri: str, *, field: str = "uri") -> ObjectUri:
    """Take a URI apart: ``fds://bucket/key``, ``obs://``, ``s3://``, ``hdfs://host:port/path``, ``/bucket/key`` or
    ``file:///path``.

    Empty segments and ``.`` are dropped from the key. Whether the object exists is not asked.

    Args:
        uri: the text as the caller gave it.
        field: the request member that an error names.

    Raises:
        LocalmlError: ``INVALID`` for another scheme, a bucket that is missing or misnamed, ``..``, NUL, and names
            that no file can have.
    """
    if "\0" in uri:
        raise invalid(field, "holds a NUL byte")
    found = _SCHEME.fullmatch(uri)
    if found:
        scheme, rest = found[1].lower(), found[2]
    elif uri.startswith("/"):
        scheme, rest = "", uri[1:]
    else:
        raise _unknown(field, uri)
    head, _, tail = rest.partition("/")
    if scheme == "hdfs":
        if not _AUTHORITY.fullmatch(head):
            raise invalid(field, f"{head!r} is no host and port")
        bucket = HDFS_BUCKET
    elif scheme == "file":
        if head not in ("", "localhost"):
            raise invalid(field, "a file URI names a file of this machine: file:///path")
        bucket = ""
    elif scheme in (*BUCKET_SCHEMES, ""):
        bucket = _checked_bucket(head, field)
    else:
        raise _unknown(field, uri)
    return ObjectUri(uri, scheme, bucket, _checked_key(tail, field), rest.endswith("/"))


def _unknown(field: str, uri: str) -> LocalmlError:
    forms = "fds://bucket/key, obs://bucket/key, s3://bucket/key, hdfs://host:port/path or /bucket/key"
    return invalid(field, f"must be {forms}, not {uri[:200]!r}")


def _checked_bucket(bucket: str, field: str) -> str:
    if not bucket:
        raise invalid(field, "names no bucket")
    if not _BUCKET.fullmatch(bucket):
        raise invalid(
            field,
            f"{bucket[:200]!r} is no bucket: 1 to 128 letters, digits, '.', '_' or '-', the first a letter or digit",
        )
    return bucket


def _checked_key(key: str, field: str) -> str:
    parts = [part for part in key.split("/") if part not in ("", ".")]
    if ".." in parts:
        raise invalid(field, "must not hold '..'")
    try:
        sizes = [len(part.encode()) for part in parts]
    except UnicodeEncodeError:
        raise invalid(field, "holds text that is not Unicode") from None
    if max(sizes, default=0) > MAX_NAME:
        raise invalid(field, f"a name between slashes is longer than {MAX_NAME} bytes")
    if sum(sizes) + len(sizes) > MAX_KEY:
        raise invalid(field, f"is longer than {MAX_KEY} bytes")
    if any(part.startswith(PART_PREFIX) for part in parts):
        raise invalid(field, f"names that start with {PART_PREFIX!r} are kept for files being written")
    return "/".join(parts)
