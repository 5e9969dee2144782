"""What a name means, and which names there are."""

from __future__ import annotations

from typing import Any

from flask_openapi.blueprint import APIBlueprint

from localml.core.errors import invalid
from localml.dialects.kit import caller
from localml.dialects.native.schemas import names as schemas
from localml.dialects.native.translate import things
from localml.platform import Platform


def add(api: APIBlueprint, platform: Platform) -> None:
    """Add the routes of this module."""

    @api.get("/resolve", responses={"200": schemas.ThingOut})
    def resolve(query: schemas.ResolveQuery) -> Any:
        """The one thing that a name means. Several are a conflict, whose details have the candidates."""
        found, ref = things.resolve(platform, caller(), query.ref, _kinds(query.kind))
        return things.shown(found, ref)

    @api.get("/names", responses={"200": schemas.ThingsOut})
    def names(query: schemas.NamesQuery) -> Any:
        """Things whose names begin so, at most a hundred; ``ref`` is how each is written."""
        found = things.offered(platform, caller(), query.prefix, _kinds(query.kind))
        return {"things": [things.shown(one, ref) for one, ref in found]}


def _kinds(given: list[str]) -> list[str]:
    for kind in given:
        if kind not in things.KINDS:
            raise invalid("kind", f"must be one of {', '.join(things.KINDS)}, not {kind!r}")
    return given
