"""HyperSearch: built-in and installed algorithms."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any
from urllib.parse import quote

from flask import Response, request

from localml.core.errors import Code
from localml.core.people.allow import Thing, allow
from localml.core.people.rights import Action, ThingKind
from localml.dialects.kit import Operations, caller, platform
from localml.dialects.kit.bodies import body_limit
from localml.dialects.kit.seats import slow
from localml.dialects.wmla.document import SCHEME, failures
from localml.dialects.wmla.environment import BASE
from localml.dialects.wmla.errors import answered
from localml.dialects.wmla.routes.searches import BY_UPLOADS, TAGS
from localml.dialects.wmla.schemas import algorithms as schemas
from localml.dialects.wmla.schemas.searches import Creation
from localml.dialects.wmla.translate import algorithms
from localml.dialects.wmla.translate.algorithms_pb import task_attr
from localml.dialects.wmla.translate.searches import study_spec

UNLISTED = {Code.NOT_FOUND: HTTPStatus.BAD_REQUEST}

api = Operations("wmla_algorithms", __name__, final_slash=True, url_prefix=BASE, abp_security=[{SCHEME: []}])


@api.get(
    "/hypersearch/algorithm",
    operation_id="getAllHPOAlgorithm",
    tags=TAGS,
    responses={200: schemas.HpoAlgorithms, **failures(400, 403)},
)
def get_all_algorithms(query: schemas.AlgorithmQuery) -> list[dict[str, Any]]:
    """List search algorithms"""
    _need(Action.READ)
    return algorithms.listed(platform(), query.type)


@api.get(
    "/hypersearch/algorithm/<algoName>",
    operation_id="getOneAlgorithm",
    tags=TAGS,
    responses={200: schemas.HpoAlgorithm, **failures(400, 403)},
)
def get_one_algorithm(path: schemas.AlgoPath) -> dict[str, Any]:
    """Get one search algorithm"""
    _need(Action.READ)
    with answered(UNLISTED):
        return algorithms.shown(platform(), path.algoName)


@api.post(
    "/hypersearch/algorithm/install",
    operation_id="installHPOAlgorithm",
    tags=TAGS,
    responses={200: Creation, **failures(400, 403)},
)
@body_limit(algorithms.MOST_BODY)
@slow
def install_algorithm() -> dict[str, str]:
    """Install a plugin algorithm"""
    _need(Action.CREATE)
    with answered({Code.CONFLICT: HTTPStatus.BAD_REQUEST, **BY_UPLOADS}):
        name = algorithms.install(platform(), caller(), request)
    return {"uid": name, "href": f"{BASE}/hypersearch/algorithm/{quote(name, safe='')}"}


@api.post(
    "/hypersearch/algorithm/debug",
    operation_id="debugAlgorithm",
    tags=TAGS,
    responses={
        200: {"description": "The file task_attr.pb", "content": {"application/octet-stream": {}}},
        **failures(400),
    },
)
def debug_algorithm(body: schemas.DebugRequest) -> Response:
    """Build a task_attr.pb for local debugging"""
    _need(Action.READ)
    study_spec(body, body.algoDef)
    answer = Response(task_attr(body), mimetype="application/octet-stream")
    answer.headers["Content-Disposition"] = "attachment;filename=task_attr.pb"  # clients split at the semicolon
    return answer


@api.delete(
    "/hypersearch/algorithm/<algoName>",
    operation_id="deleteOneHPOALGORITHM",
    tags=TAGS,
    responses={204: None, **failures(400, 403, 404)},
)
def delete_one_algorithm(path: schemas.AlgoPath) -> tuple[str, int]:
    """Delete a plugin algorithm"""
    algorithms.need_installed(path.algoName)
    row = platform().algorithms.get(path.algoName)
    thing = Thing(ThingKind.ALGORITHM, row.name, row.name, row.owner_id, owner_name=row.owner)
    allow(caller(), Action.DELETE, thing)
    with answered({Code.WRONG_STATE: HTTPStatus.BAD_REQUEST}):
        platform().algorithms.delete(row.name)
    return "", 204


def _need(action: Action) -> None:
    with answered({Code.NOT_FOUND: HTTPStatus.FORBIDDEN}):  # a token may leave out algorithms altogether
        allow(caller(), action, Thing(ThingKind.ALGORITHM))
