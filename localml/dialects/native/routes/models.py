"""The registry of models."""

from __future__ import annotations

from functools import partial
from typing import Any

from flask_openapi.blueprint import APIBlueprint

from localml.core.people.allow import may_add_version
from localml.core.people.rights import Action, ThingKind
from localml.core.registry.registry import NewVersion
from localml.dialects.kit import caller
from localml.dialects.kit.seats import slow
from localml.dialects.native.auth import find_model, reached, workspace_for
from localml.dialects.native.schemas import serving as serving_schemas
from localml.dialects.native.schemas import work as schemas
from localml.dialects.native.translate import serving as serving_translate
from localml.platform import Platform


def add(api: APIBlueprint, platform: Platform) -> None:
    """Add the routes of this module."""

    @api.post("/models", responses={"201": serving_schemas.ModelVersionOut})
    @slow
    def register(body: serving_schemas.ModelIn) -> Any:
        """Copy a model's files from the object tree and register them as a new version."""
        new = NewVersion(
            body.name,
            body.source,
            caller(),
            format=body.format,
            description=body.description,
            workspace=workspace_for(platform, caller(), body.workspace, ThingKind.MODEL),
            allowed=partial(may_add_version, caller()),
        )
        made = platform.registry.register(new)
        return serving_translate.model_version(made.model.name, made.version), 201

    @api.get("/models", responses={"200": serving_schemas.ModelsOut})
    def list_models(query: serving_schemas.PlaceQuery) -> Any:
        """All models with their versions, of all workspaces or of one."""
        found = platform.registry.models(reached(platform, caller(), ThingKind.MODEL, query.workspace))
        return {"models": [serving_translate.model(row, versions) for row, versions in found]}

    @api.get("/models/<ref>", responses={"200": serving_schemas.ModelVersionOut})
    def show(path: schemas.Reference) -> Any:
        """One version, by ``name`` (the newest) or ``name:version``."""
        found = find_model(platform, caller(), path.ref)
        return serving_translate.model_version(found.model.name, found.version)

    @api.delete("/models/<ref>", responses={"200": serving_schemas.ModelVersionOut})
    @slow
    def delete(path: schemas.Reference) -> Any:
        """Delete one version with its files; one that an endpoint serves is kept."""
        found = find_model(platform, caller(), path.ref, Action.DELETE)
        platform.registry.delete(found, caller())
        return serving_translate.model_version(found.model.name, found.version)
