"""HyperSearch: search tasks."""

from __future__ import annotations

import json
from http import HTTPStatus
from typing import Any
from urllib.parse import quote

from flask import Response

from localml.core.errors import Code, LocalmlError, not_found
from localml.core.people.allow import Thing, allow, may, places, reach
from localml.core.people.rights import Action, ThingKind
from localml.core.studies.studies import StudyQuery
from localml.core.studies.tables import OVER, Study
from localml.dialects.kit import Operations, caller, platform
from localml.dialects.kit.bodies import body_limit
from localml.dialects.kit.multipart import read_form
from localml.dialects.kit.seats import slow
from localml.dialects.wmla.document import SCHEME, failures
from localml.dialects.wmla.environment import BASE
from localml.dialects.wmla.errors import answered
from localml.dialects.wmla.schemas import searches as schemas
from localml.dialects.wmla.translate.ids import DIALECT
from localml.dialects.wmla.translate.model_upload import MOST_BODY, RULES
from localml.dialects.wmla.translate.searches_answers import search_answer
from localml.dialects.wmla.translate.searches_start import start_search

TAGS: list[Any] = [{"name": "HyperSearch"}]
PAGE = 1000

api = Operations("wmla_searches", __name__, final_slash=True, url_prefix=BASE, abp_security=[{SCHEME: []}])
LISTED = failures(400, 403, 404)
BY_UPLOADS = {
    Code.TOO_LARGE: HTTPStatus.BAD_REQUEST,
    **dict.fromkeys((Code.UNAVAILABLE, Code.STORAGE), HTTPStatus.INTERNAL_SERVER_ERROR),
}
"""Failures of an upload, in the statuses that the document lists."""


@api.get(
    "/hypersearch", operation_id="getAllHPO", tags=TAGS, responses={200: schemas.HpoTaskStates, **failures(400, 403)}
)
@slow
def get_all_hpo() -> Response:
    """List search tasks"""
    found = (json.dumps(search_answer(platform(), row)) for row in _visible(reach(caller(), ThingKind.STUDY)))
    return Response(f"[{','.join(found)}]", mimetype="application/json")


@api.post(
    "/hypersearch",
    operation_id="startHPO",
    tags=TAGS,
    responses={200: schemas.Creation, **failures(400, 403, 409)},
)
@body_limit(MOST_BODY)
@slow
def start_hpo() -> dict[str, str]:
    """Start a search task"""
    who = caller()
    workspace = who.scope.workspace or who.workspace
    with answered({Code.NOT_FOUND: HTTPStatus.FORBIDDEN}):
        allow(who, Action.CREATE, Thing(ThingKind.STUDY, workspace=workspace))
    with answered(BY_UPLOADS), read_form(RULES) as form:
        name = start_search(platform(), who, workspace, form)
    return {"uid": name, "href": f"{BASE}/hypersearch/{quote(name, safe='')}"}


@api.delete(
    "/hypersearch",
    operation_id="deleteAllHPO",
    tags=TAGS,
    responses={204: None, **failures(400, 403, 404, 409)},
)
def delete_all_hpo() -> tuple[str, int]:
    """Delete all search tasks"""
    who = caller()
    rows = [row for row in _visible(reach(who, ThingKind.STUDY)) if may(who, Action.DELETE, _thing(row))]
    if running := [row.name for row in rows if row.state not in OVER]:
        raise LocalmlError(Code.WRONG_STATE, f"nothing was deleted: {', '.join(running[:10])} must be stopped first")
    for row in rows:
        platform().studies.delete(row.id or 0, who)
    return "", 204


@api.get(
    "/hypersearch/<hpoName>",
    operation_id="getOneHPO",
    tags=TAGS,
    responses={200: schemas.HpoTaskState, **failures(400, 403)},
)
@slow
def get_one_hpo(path: schemas.HpoPath) -> dict[str, Any]:
    """Get one search task"""
    with answered({Code.NOT_FOUND: HTTPStatus.BAD_REQUEST}):
        row = _find(path, Action.READ)
    return search_answer(platform(), row)


@api.put("/hypersearch/<hpoName>", operation_id="stopOneHPO", tags=TAGS, responses={204: None, **LISTED})
def stop_one_hpo(path: schemas.HpoPath) -> tuple[str, int]:
    """Stop a search task"""
    return _stop(path, force=False)


@api.put("/hypersearch/<hpoName>/force", operation_id="stopOneHPOForce", tags=TAGS, responses={204: None, **LISTED})
def stop_one_hpo_force(path: schemas.HpoPath) -> tuple[str, int]:
    """Force-stop a search task"""
    return _stop(path, force=True)


@api.put("/hypersearch/<hpoName>/restart", operation_id="restartOneHPO", tags=TAGS, responses={204: None, **LISTED})
def restart_one_hpo(path: schemas.HpoPath) -> tuple[str, int]:
    """Restart a search task"""
    with answered({Code.WRONG_STATE: HTTPStatus.BAD_REQUEST}):
        platform().studies.restart(_find(path, Action.STOP).id or 0, caller())
    return "", 204


@api.delete(
    "/hypersearch/<hpoName>",
    operation_id="deleteOneHPO",
    tags=TAGS,
    responses={204: None, **failures(400, 403, 404, 409)},
)
def delete_one_hpo(path: schemas.HpoPath) -> tuple[str, int]:
    """Delete one search task"""
    platform().studies.delete(_find(path, Action.DELETE).id or 0, caller())
    return "", 204


def _stop(path: schemas.HpoPath, *, force: bool) -> tuple[str, int]:
    row = _find(path, Action.STOP)
    if row.state in OVER:
        words, told = f"search '{row.name}' is over already", {"status": int(HTTPStatus.BAD_REQUEST)}
        raise LocalmlError(Code.WRONG_STATE, words, details=told)
    platform().studies.stop(row.id or 0, caller(), force=force)
    return "", 204


def _visible(workspaces: frozenset[str] | None) -> list[Study]:
    """All searches in these workspaces, the oldest first."""
    found: list[Study] = []
    after: str | None = None
    while True:
        page = platform().studies.page(StudyQuery(dialect=DIALECT, workspaces=workspaces, limit=PAGE, after=after))
        found += page.items
        if (after := page.cursor) is None:
            return found[::-1]


def _thing(row: Study) -> Thing:
    return Thing.of(ThingKind.STUDY, row)


def _find(path: schemas.HpoPath, action: Action) -> Study:
    """The search of this name, in the caller's own workspace first."""
    who, name = caller(), path.hpoName
    everywhere = places(who)
    own = frozenset({who.workspace}) if everywhere is None else everywhere & {who.workspace}
    find = platform().studies.find
    row = find(dialect=DIALECT, name=name, workspaces=own) or find(dialect=DIALECT, name=name, workspaces=everywhere)
    if row is None:
        raise not_found("search", name)
    allow(who, action, Thing.of(ThingKind.STUDY, row, name))
    return row
