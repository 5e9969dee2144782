"""Notebooks: a service for each user, and its kernels."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from localml.core.errors import Code
from localml.core.people.allow import Thing, allow
from localml.core.people.rights import Action, ThingKind
from localml.dialects.kit import Operations, caller, platform
from localml.dialects.kit.seats import slow
from localml.dialects.wmla.document import SCHEME, failures
from localml.dialects.wmla.environment import BASE
from localml.dialects.wmla.errors import answered
from localml.dialects.wmla.schemas import notebooks as schemas
from localml.dialects.wmla.translate import notebooks

TAGS: list[Any] = [{"name": "Notebooks"}]
NO_404 = {Code.NOT_FOUND: HTTPStatus.BAD_REQUEST, Code.WRONG_STATE: HTTPStatus.BAD_REQUEST}
"""Changes list no 404 and no 409."""

api = Operations("wmla_notebooks", __name__, url_prefix=BASE, abp_security=[{SCHEME: []}])


@api.get(
    "/notebooks/runningservices",
    operation_id="runningServices",
    tags=TAGS,
    responses={200: schemas.Services, **failures(403)},
)
@slow
def list_services() -> list[dict[str, Any]]:
    """List all notebook services"""
    allow(caller(), Action.ADMINISTER, Thing(ThingKind.USER, called="all"))
    return notebooks.answers(platform(), notebooks.running(platform(), caller()))


@api.put(
    "/notebooks/<username>",
    operation_id="updateService",
    tags=TAGS,
    responses={200: schemas.NotebookService, **failures(400, 403)},
)
@slow
def change_service(path: schemas.UserPath, body: schemas.NotebookUpdate) -> dict[str, Any]:
    """Change a notebook's resource plan"""
    with answered(NO_404):
        found = notebooks.change_plan(platform(), caller(), path.username, body.resourcePlan)
    return notebooks.answers(platform(), [found])[0]


@api.get(
    "/notebooks/<username>/runningkernels",
    operation_id="runningKernels",
    tags=TAGS,
    responses={200: schemas.Kernels, **failures(400, 403, 404)},
)
@slow
def list_kernels(path: schemas.UserPath) -> list[dict[str, Any]]:
    """List a user's running kernels"""
    found = notebooks.service_of(platform(), caller(), path.username)
    with answered({Code.UNAVAILABLE: HTTPStatus.INTERNAL_SERVER_ERROR}):
        return notebooks.kernels(platform(), found)


@api.get(
    "/notebooks/<username>/runningservices",
    operation_id="runningServiceByUserName",
    tags=TAGS,
    responses={200: schemas.NotebookService, **failures(400, 403, 404)},
)
@slow
def show_service(path: schemas.UserPath) -> dict[str, Any]:
    """Get a user's notebook service"""
    return notebooks.answers(platform(), [notebooks.service_of(platform(), caller(), path.username)])[0]


@api.put(
    "/notebooks/<username>/stopservice",
    operation_id="stopService",
    tags=TAGS,
    responses={200: schemas.NotebookActionResult, **failures(400, 403)},
)
def stop_service(path: schemas.UserPath) -> dict[str, str]:
    """Stop a user's notebook service"""
    with answered(NO_404):
        result, message = notebooks.stop(platform(), caller(), path.username)
    return {"result": result, "message": message}
