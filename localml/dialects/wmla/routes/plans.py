"""Resource plans: pools."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from localml.core.errors import Code
from localml.core.people.allow import Thing, allow
from localml.core.people.rights import Action, ThingKind
from localml.dialects.kit import Operations, caller, platform
from localml.dialects.wmla.document import SCHEME, failures
from localml.dialects.wmla.environment import BASE
from localml.dialects.wmla.errors import answered
from localml.dialects.wmla.schemas import plans as schemas
from localml.dialects.wmla.translate import plans

TAGS: list[Any] = [{"name": "ResourcePlans"}]
ONE = "/resplans/resplan/<path:resplan_name>"

api = Operations("wmla_plans", __name__, url_prefix=BASE, abp_security=[{SCHEME: []}])


def _need(action: Action, called: str = "") -> None:
    with answered({Code.NOT_FOUND: HTTPStatus.FORBIDDEN}):  # a token may leave out pools altogether
        allow(caller(), action, Thing(ThingKind.POOL, called or None, called))


@api.post(
    "/resplans/resplan", operation_id="createResplan", tags=TAGS, responses={201: None, **failures(400, 403, 409)}
)
def create_plan(body: schemas.Resplan) -> tuple[str, int]:
    """Create a resource plan"""
    _need(Action.CREATE)
    plans.create(platform(), caller(), body)
    return "", 201


@api.put(
    "/resplans/resplan", operation_id="updateResplanByName", tags=TAGS, responses={204: None, **failures(400, 403, 404)}
)
def update_plan(body: schemas.Resplan) -> tuple[str, int]:
    """Update a resource plan"""
    _need(Action.CHANGE, body.name or "")
    with answered({Code.WRONG_STATE: HTTPStatus.BAD_REQUEST, Code.CONFLICT: HTTPStatus.BAD_REQUEST}):
        plans.update(platform(), caller(), body)
    return "", 204


@api.get(ONE, operation_id="getResplan", tags=TAGS, responses={200: schemas.V1Resplan, **failures(400, 403, 404)})
def show_plan(path: schemas.PlanPath) -> dict[str, Any]:
    """Get a resource plan"""
    _need(Action.READ, path.resplan_name)
    return plans.answer(platform(), plans.need_plan(platform(), caller(), path.resplan_name))


@api.delete(ONE, operation_id="delResplanByName", tags=TAGS, responses={200: None, **failures(400, 403, 404, 409)})
def delete_plan(path: schemas.PlanPath) -> tuple[str, int]:
    """Delete a resource plan"""
    _need(Action.DELETE, path.resplan_name)
    plans.delete(platform(), caller(), path.resplan_name)
    return "", 200


@api.get(
    "/resplans/resplantree", operation_id="getResplanTree", tags=TAGS, responses={200: schemas.TreeDto, **failures(403)}
)
def show_tree() -> dict[str, Any]:
    """Get the resource plan tree"""
    _need(Action.READ)
    return plans.tree(platform(), caller())
