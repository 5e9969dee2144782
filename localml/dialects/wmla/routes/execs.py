"""Execute: training tasks."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from flask import Response, request

from localml.core.errors import Code
from localml.core.people.allow import MACHINE, allow
from localml.core.people.rights import Action
from localml.dialects.kit import Operations, caller, platform
from localml.dialects.kit.bodies import body_limit
from localml.dialects.kit.logs import json_text
from localml.dialects.kit.multipart import read_form
from localml.dialects.kit.seats import slow
from localml.dialects.wmla.document import SCHEME, failures
from localml.dialects.wmla.environment import BASE
from localml.dialects.wmla.errors import answered
from localml.dialects.wmla.schemas import execs as schemas
from localml.dialects.wmla.translate import deploy, execs
from localml.dialects.wmla.translate.frameworks import MULTI_WORKER, frameworks
from localml.dialects.wmla.translate.ids import find_exec
from localml.dialects.wmla.translate.model_upload import MOST_BODY, RULES

TAGS: list[Any] = [{"name": "Execute"}]
TEXT, JSON = "text/plain", "application/json"
LISTED = {
    **dict.fromkeys((Code.CONFLICT, Code.WRONG_STATE, Code.NOT_FOUND, Code.TOO_LARGE), HTTPStatus.BAD_REQUEST),
    **dict.fromkeys((Code.UNAVAILABLE, Code.STORAGE), HTTPStatus.INTERNAL_SERVER_ERROR),
}
"""What the document lists for these operations: 400 and 500 alone."""

api = Operations("wmla_execs", __name__, final_slash=True, url_prefix=BASE, abp_security=[{SCHEME: []}])


@api.get("/execs", operation_id="execsGet", tags=TAGS, responses={200: schemas.Batches, **failures()})
@slow
def list_tasks() -> list[dict[str, Any]]:
    """List training tasks"""
    return execs.listed(platform(), caller())


@api.post("/execs", operation_id="execsPost", tags=TAGS, responses={200: schemas.NewBatch, **failures(400)})
@body_limit(MOST_BODY)
@slow
def start_task(query: schemas.StartQuery) -> dict[str, Any]:
    """Start a training task"""
    with answered(LISTED), read_form(RULES) as form:
        made = execs.start(platform(), caller(), query.args, execs.task_data(form), form)
    exec_id = made.row.name
    return {"uid": exec_id, "href": execs.href_of(exec_id), **execs.batch(platform(), made)}


@api.delete("/execs", operation_id="execsDelete", tags=TAGS, responses={204: None, **failures()})
@slow
def delete_tasks() -> tuple[str, int]:
    """Delete the caller's training tasks"""
    execs.delete_own(platform(), caller())
    return "", 204


@api.get(
    "/execs/frameworks",
    operation_id="execsFrameworksGet",
    tags=TAGS,
    responses={200: schemas.Frameworks, **failures()},
)
def list_frameworks() -> list[dict[str, Any]]:
    """List framework plugins"""
    with answered({Code.NOT_FOUND: HTTPStatus.UNAUTHORIZED}):
        allow(caller(), Action.READ, MACHINE)
    return [
        schemas.Framework(
            name=one.name,
            desc=[one.description],
            frameworkVersion=one.version,
            distributeStrategy=MULTI_WORKER,
            description=one.description,
        ).model_dump()
        for one in frameworks(platform().catalog)
    ]


@api.get("/execs/<execId>", operation_id="execsExecIdGet", tags=TAGS, responses={200: schemas.Batch, **failures(400)})
def show_task(path: schemas.ExecPath) -> dict[str, Any]:
    """Get one training task"""
    return execs.batch(platform(), find_exec(platform(), caller(), path.execId))


@api.delete("/execs/<execId>", operation_id="execsExecIdDelete", tags=TAGS, responses={204: None, **failures(400)})
def delete_task(path: schemas.ExecPath) -> tuple[str, int]:
    """Delete one training task"""
    found = find_exec(platform(), caller(), path.execId, Action.DELETE)
    platform().workloads.delete(found.row.id or 0, caller())
    return "", 204


@api.post("/execs/<execId>/stop", operation_id="execsExecIdStopPost", tags=TAGS, responses={204: None, **failures(400)})
def stop_task(path: schemas.ExecPath) -> tuple[str, int]:
    """Stop a training task"""
    found = find_exec(platform(), caller(), path.execId, Action.STOP)
    platform().workloads.stop(found.row.id or 0, caller())
    return "", 204


@api.get("/execs/<execId>/log", operation_id="execsExecIdLogGet", tags=TAGS, responses={200: None, **failures(400)})
@slow
def show_log(path: schemas.ExecPath, query: schemas.LogQuery) -> Response:
    """Get the training log"""
    found = find_exec(platform(), caller(), path.execId)
    blocks = execs.task_log(platform(), found, query.logType)
    accepted = request.accept_mimetypes
    if accepted and not accepted[TEXT] and accepted[JSON]:
        return Response(json_text(blocks), mimetype=JSON)
    return Response(blocks, mimetype=TEXT)


@api.get(
    "/execs/<execId>/result", operation_id="execsExecIdResultGet", tags=TAGS, responses={200: None, **failures(400)}
)
@slow
def show_result(path: schemas.ExecPath) -> Response:
    """Download the trained model"""
    found = find_exec(platform(), caller(), path.execId)
    with answered(LISTED):
        blocks = execs.task_result(platform(), caller(), found)
    # no blank: clients split there
    named = {"Content-Disposition": f"attachment;filename={found.row.name}.zip"}
    return Response(blocks, mimetype="application/zip", headers=named)


@api.post(
    "/execs/<execId>/deploy",
    operation_id="execsExecIdDeployPost",
    tags=TAGS,
    responses={200: schemas.CreationResponse, **failures(400)},
)
@slow
def deploy_model(path: schemas.ExecPath, body: schemas.EDIModelDescription) -> dict[str, str]:
    """Deploy the trained model"""
    found = find_exec(platform(), caller(), path.execId)
    with answered({**LISTED, Code.UNAVAILABLE: HTTPStatus.BAD_REQUEST}):
        name = deploy.deploy(platform(), caller(), found, body)
    return {"uid": name, "href": deploy.href_of(name)}
