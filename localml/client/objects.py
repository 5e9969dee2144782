"""Objects of the bucket tree from Python: listing, putting, fetching."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from typing import BinaryIO

from localml.client.transport import Transport
from localml.client.types import ObjectInfo, make

_BLOCK = 1 << 20


class Objects:
    """Calls about objects."""

    _http: Transport

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
