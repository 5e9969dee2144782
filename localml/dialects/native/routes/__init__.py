"""The routes, one module for each noun."""

from __future__ import annotations

from typing import Any

from flask_openapi.blueprint import APIBlueprint

from localml.dialects.native.routes import (
    admin,
    endpoints,
    events,
    logs,
    machine,
    models,
    objects,
    people,
    samples,
    ssh,
    tools,
    workloads,
    workspaces,
)
from localml.dialects.native.schemas.work import ErrorAnswer
from localml.platform import Platform

PREFIX = "/localml/v1"
_THINGS = (workloads, logs, events, samples, ssh, tools, machine, objects, models, endpoints)
_ERRORS: Any = {str(status): ErrorAnswer for status in (400, 401, 403, 404, 409, 413, 422, 500, 503, 507)}


def blueprints(platform: Platform, *, documented: bool = False) -> list[APIBlueprint]:
    """All routes; ``documented`` ones are for writing the OpenAPI document."""
    made = []
    for module in (*_THINGS, workspaces, people, admin):
        name = module.__name__.rpartition(".")[2]
        blueprint = APIBlueprint(
            name, __name__, url_prefix=PREFIX, abp_tags=[{"name": name}], abp_responses=_ERRORS, doc_ui=documented
        )
        module.add(blueprint, platform)
        made.append(blueprint)
    return made
