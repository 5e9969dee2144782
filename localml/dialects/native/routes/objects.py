"""Objects in the bucket tree, by URI."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any, BinaryIO

from flask import Response, request
from flask_openapi.blueprint import APIBlueprint

from localml.core.errors import Code, LocalmlError
from localml.dialects.kit import caller
from localml.dialects.kit.bodies import body_limit
from localml.dialects.kit.seats import slow
from localml.dialects.native.schemas import objects as schemas
from localml.objects import BucketsFor
from localml.platform import Platform

_BLOCK = 1 << 20


def add(api: APIBlueprint, platform: Platform) -> None:
    """Add the routes of this module."""

    def buckets() -> BucketsFor:
        return platform.buckets_for(caller())

    @api.get("/objects", responses={"200": schemas.ObjectsOut})
    @slow
    def list_objects(query: schemas.ObjectTreeQuery) -> Any:
        """What a folder holds, and what in it is no object; an object lists itself."""
        objects, left_out = buckets().listing(query.uri, recursive=query.recursive)
        return {"objects": [asdict(one) for one in objects], "left_out": [asdict(one) for one in left_out]}

    @api.get("/objects/info", responses={"200": schemas.ObjectOut})
    def info(query: schemas.ObjectQuery) -> Any:
        """One object or folder."""
        return asdict(buckets().stat(query.uri))

    @api.delete("/objects")
    @slow
    def delete(query: schemas.ObjectTreeQuery) -> Any:
        """Remove an object, or a folder with ``recursive``."""
        buckets().delete(query.uri, recursive=query.recursive)
        return {"deleted": query.uri}

    @api.put("/objects/content")
    @body_limit(None)
    def put(query: schemas.ObjectQuery) -> Any:
        """Store the body under this URI; it appears when it is complete. A URI ending in a slash makes a folder."""
        if query.uri.endswith("/"):
            buckets().make_folder(query.uri)
            return {"uri": query.uri, "size": 0}, 201
        with buckets().open(query.uri, "wb") as file:
            size = _take_in(file)
        return {"uri": query.uri, "size": size}, 201

    @api.get("/objects/content")
    def get(query: schemas.ObjectQuery) -> Any:
        """An object's bytes; ranges are served."""
        found = buckets().stat(query.uri)
        if found.is_folder:
            raise LocalmlError(Code.WRONG_STATE, f"uri: {query.uri} is a folder", field="uri")
        file = buckets().open(query.uri)
        response = Response(_blocks(file), mimetype="application/octet-stream")
        response.content_length = found.size
        response.last_modified = found.modified  # type: ignore[assignment]
        response.call_on_close(file.close)
        return response.make_conditional(request.environ, accept_ranges=True, complete_length=found.size)


def _take_in(file: BinaryIO) -> int:
    """Copy the request's body; one cut short raises here, and leaves nothing behind."""
    size = 0
    while block := request.stream.read(_BLOCK):
        file.write(block)
        size += len(block)
    return size


def _blocks(file: BinaryIO) -> Iterator[bytes]:
    while block := file.read(_BLOCK):
        yield block
