"""Buckets: whose they are, and who may at what is in them."""

from __future__ import annotations

from typing import Any

from flask_openapi.blueprint import APIBlueprint

from localml.core.buckets.records import thing_of
from localml.core.buckets.tables import Bucket
from localml.core.errors import not_found
from localml.core.people.allow import allow
from localml.core.people.rights import Action, ThingKind
from localml.dialects.kit import caller
from localml.dialects.kit.seats import slow
from localml.dialects.native.auth import workspace_for
from localml.dialects.native.schemas import buckets as schemas
from localml.platform import Platform

_MEMBERS = ("name", "workspace", "owner", "everyone", "created_at")


def add(api: APIBlueprint, platform: Platform) -> None:
    """Add the routes of this module."""
    records = platform.bucket_records

    @api.get("/buckets", responses={"200": schemas.BucketsOut})
    def list_buckets() -> Any:
        """The buckets that the caller may read."""
        return {"buckets": [_shown(row) for row in records.visible(caller())]}

    @api.post("/buckets", responses={"201": schemas.BucketOut})
    def create(body: schemas.BucketIn) -> Any:
        """Make a bucket in a workspace."""
        place = workspace_for(platform, caller(), body.workspace, ThingKind.BUCKET)
        return _shown(platform.buckets_for(caller(), place).create(body.name, everyone=body.everyone)), 201

    @api.get("/buckets/<name>", responses={"200": schemas.BucketFull})
    @slow
    def show(path: schemas.BucketPath) -> Any:
        """One bucket, and how much is in it."""
        row, uri = _find(platform, path.name, Action.READ), f"s3://{path.name}"
        view = platform.buckets_for(caller())
        return {**_shown(row), "size": view.size(uri) if view.exists(uri) else 0}

    @api.patch("/buckets/<name>", responses={"200": schemas.BucketOut})
    def change(path: schemas.BucketPath, body: schemas.BucketChange) -> Any:
        """Move a bucket to another workspace, or say what all users are to it."""
        row, given = _find(platform, path.name, Action.READ), body.model_dump(exclude_unset=True)
        if given.get("workspace") is not None:
            allow(caller(), Action.CHANGE, thing_of(row))
            given["workspace"] = workspace_for(platform, caller(), body.workspace, ThingKind.BUCKET)
        if "everyone" in given:
            allow(caller(), Action.SHARE, thing_of(row))
        return _shown(records.change(row.name, **given))

    @api.delete("/buckets/<name>", responses={"200": schemas.BucketOut})
    @slow
    def delete(path: schemas.BucketPath, query: schemas.RecursiveQuery) -> Any:
        """Delete a bucket; one that holds something only with ``recursive``."""
        row = _find(platform, path.name, Action.DELETE)
        platform.buckets_for(caller()).delete(f"s3://{row.name}", recursive=query.recursive)
        return _shown(row)


def _find(platform: Platform, name: str, action: Action) -> Bucket:
    """A bucket that the caller may do this to."""
    row = platform.buckets_for(caller()).find(f"s3://{name}", field="name")
    if row is None or row.name != name:
        raise not_found("bucket", name)
    allow(caller(), action, thing_of(row, name))
    return row


def _shown(row: Bucket) -> dict[str, Any]:
    return {name: getattr(row, name) for name in _MEMBERS}
