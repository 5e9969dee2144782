"""Objects of the bucket tree from Python: listing, putting, fetching."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO, cast
from urllib.parse import quote

from localml.client.errors import ClientError
from localml.client.transport import Transport
from localml.client.types import LeftOut, ObjectInfo, make

_BLOCK = 1 << 20


@dataclass(frozen=True, slots=True)
class Bucket:
    """A bucket. ``workspace`` is the id of the one that it is in; ``everyone`` what all users are to it, None for
    nothing; ``size`` the bytes in it, None in lists."""

    name: str
    workspace: str
    owner: str
    everyone: str | None
    created_at: float
    size: int | None = None


class Objects:
    """Calls about buckets and objects."""

    _http: Transport

    def buckets(self) -> list[Bucket]:
        """The buckets that the caller may read, by name."""
        return [make(Bucket, one) for one in self._http.json("GET", "/buckets")["buckets"]]

    def bucket(self, name: str) -> Bucket:
        """One bucket, with its size."""
        return make(Bucket, self._http.json("GET", f"/buckets/{quote(name, safe='')}"))

    def create_bucket(self, name: str, *, workspace: str | None = None, everyone: str | None = None) -> Bucket:
        """Make a bucket, in the caller's own workspace or in another one (id or name)."""
        body = {"name": name, "workspace": workspace, "everyone": everyone}
        return make(Bucket, self._http.json("POST", "/buckets", body))

    def change_bucket(self, name: str, **members: str | None) -> Bucket:
        """Change ``workspace`` (id or name) or ``everyone`` (a role, None closes it); what is left out stays."""
        return make(Bucket, self._http.json("PATCH", f"/buckets/{quote(name, safe='')}", members))

    def delete_bucket(self, name: str, *, recursive: bool = False) -> Bucket:
        """Delete a bucket; one that holds something only with ``recursive``."""
        return make(Bucket, self._http.json("DELETE", f"/buckets/{quote(name, safe='')}", recursive=recursive))

    def objects(self, uri: str, *, recursive: bool = False) -> list[ObjectInfo]:
        """What a folder holds; an object lists itself."""
        return self.listing(uri, recursive=recursive)[0]

    def listing(self, uri: str, *, recursive: bool = False) -> tuple[list[ObjectInfo], list[LeftOut]]:
        """The same, and what in the folder is no object (links that lead nowhere or out of the bucket, pipes)."""
        found = self._http.json("GET", "/objects", uri=uri, recursive=recursive)
        objects = [make(ObjectInfo, one) for one in found["objects"]]
        return objects, [LeftOut(one["uri"], one["reason"]) for one in found.get("left_out", ())]

    def object_info(self, uri: str) -> ObjectInfo:
        """One object or folder."""
        return make(ObjectInfo, self._http.json("GET", "/objects/info", uri=uri))

    def put(self, uri: str, source: BinaryIO | bytes) -> int:
        """Store bytes, or all that a file gives; returns their number.

        Of a real file it is what it holds now: not what is added while it is sent.

        Raises:
            ClientError: ``invalid`` also when a file becomes shorter meanwhile.
        """
        headers = {}
        if not isinstance(source, bytes) and (size := _size_left(source)) is not None:
            headers = {"Content-Length": str(size)}  # so that the server knows a body that was cut short
            source = cast(BinaryIO, _Exactly(source, size))
        with self._http.stream("PUT", "/objects/content", source, headers=headers, timeout=None, uri=uri) as answer:
            return int(json.loads(answer.read())["size"])

    def fetch(self, uri: str) -> Iterator[bytes]:
        """An object's bytes, block by block."""
        with self._http.stream("GET", "/objects/content", uri=uri) as answer:
            yield from answer.stream(_BLOCK)

    def delete_object(self, uri: str, *, recursive: bool = False) -> None:
        """Remove an object, or a folder with ``recursive``."""
        self._http.json("DELETE", "/objects", uri=uri, recursive=recursive)


def _size_left(source: BinaryIO) -> int | None:
    """Bytes that are left of a real file; None of anything else, such as a pipe."""
    try:
        info = os.fstat(source.fileno())
        return max(0, info.st_size - source.tell()) if stat.S_ISREG(info.st_mode) else None
    except (OSError, AttributeError):
        return None


class _Exactly:
    """A file of which as many bytes are read as were announced, whatever others do to it meanwhile."""

    def __init__(self, source: BinaryIO, size: int) -> None:
        self._source, self._size, self._left = source, size, size

    def read(self, size: int = -1) -> bytes:
        """The next bytes; none at the end."""
        block = self._source.read(self._left if size < 0 else min(size, self._left)) if self._left else b""
        self._left -= len(block)
        if self._left and not block:
            have = self._size - self._left
            words = f"became shorter while it was read: {self._size} bytes were announced, and it had {have}"
            raise ClientError("invalid", f"source: {words}", field="source")
        return block
