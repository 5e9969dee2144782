"""Objects of the bucket tree from Python: listing, putting, fetching."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO
from urllib.parse import quote

from localml.client.transport import Transport
from localml.client.types import ObjectInfo, make

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
        found = self._http.json("GET", "/objects", uri=uri, recursive=recursive)["objects"]
        return [make(ObjectInfo, one) for one in found]

    def object_info(self, uri: str) -> ObjectInfo:
        """One object or folder."""
        return make(ObjectInfo, self._http.json("GET", "/objects/info", uri=uri))

    def put(self, uri: str, source: BinaryIO | bytes) -> int:
        """Store bytes, or all that a file gives; returns their number."""
        headers = {} if isinstance(source, bytes) else _length(source)
        with self._http.stream("PUT", "/objects/content", source, headers=headers, timeout=None, uri=uri) as answer:
            return int(json.loads(answer.read())["size"])

    def fetch(self, uri: str) -> Iterator[bytes]:
        """An object's bytes, block by block."""
        with self._http.stream("GET", "/objects/content", uri=uri) as answer:
            yield from answer.stream(_BLOCK)

    def delete_object(self, uri: str, *, recursive: bool = False) -> None:
        """Remove an object, or a folder with ``recursive``."""
        self._http.json("DELETE", "/objects", uri=uri, recursive=recursive)


def _length(source: BinaryIO) -> dict[str, str]:
    """The length of what is left of a real file, so that the server knows a body that was cut short."""
    try:
        return {"Content-Length": str(os.fstat(source.fileno()).st_size - source.tell())}
    except (OSError, AttributeError):
        return {}
