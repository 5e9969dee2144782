"""The routes, one module for each noun."""

from __future__ import annotations

from typing import Any

from localml.dialects.kit import Operations
from localml.dialects.native.routes import (
    admin,
    buckets,
    code,
    endpoints,
    events,
    logs,
    machine,
    metrics,
    models,
    objects,
    people,
    samples,
    ssh,
    studies,
    things,
    tools,
    workloads,
    workspaces,
)
from localml.dialects.native.schemas.work import ErrorAnswer
from localml.platform import Platform

PREFIX = "/localml/v1"
_THINGS = (
    workloads,
    logs,
    events,
    samples,
    metrics,
    ssh,
    tools,
    machine,
    objects,
    buckets,
    code,
    models,
    endpoints,
    studies,
    things,
)
_ERRORS: Any = {str(status): ErrorAnswer for status in (400, 401, 403, 404, 409, 413, 429, 422, 500, 503, 507)}


def blueprints(platform: Platform) -> list[Operations]:
    """All routes."""
    made = []
    for module in (*_THINGS, workspaces, people, admin):
        name = module.__name__.rpartition(".")[2]
        blueprint = Operations(name, __name__, url_prefix=PREFIX, abp_tags=[{"name": name}], abp_responses=_ERRORS)
        module.add(blueprint, platform)
        made.append(blueprint)
    return made
