"""Operations on model services, in the order of the vendor's document."""

from __future__ import annotations

from typing import Any

from flask import Response, request
from flask_openapi.models.tag import Tag
from flask_openapi.types import ResponseDict

from localml.core.errors import Code
from localml.core.people.allow import Thing, allow
from localml.core.people.rights import Action, ThingKind
from localml.core.serving.records import EndpointFull
from localml.dialects.cloudml.document import SCHEME
from localml.dialects.cloudml.errors import worded
from localml.dialects.cloudml.schemas import services as service_schemas
from localml.dialects.cloudml.schemas import training as schemas
from localml.dialects.cloudml.translate import services as models
from localml.dialects.cloudml.translate.events import endpoint_event_list
from localml.dialects.cloudml.translate.orgs import org_for, org_of
from localml.dialects.kit import Operations, caller, platform
from localml.dialects.kit.errors import renamed
from localml.dialects.kit.logs import json_answer

_TRIED = (Code.STORAGE, Code.UNAVAILABLE)
_MEMBERS = {
    "name": "model_version",
    "route": "model_version",
    "cpu": "cpu_limit",
    "memory": "memory_limit",
    "gpu": "gpu_limit",
    "image": "docker_image",
    "command": "docker_command",
}

api = Operations("cloudml_models", __name__, url_prefix="/cloud_ml/v1/model", abp_security=[{SCHEME: []}])
SIGNED: ResponseDict = {401: schemas.Error, 403: schemas.Error}
FOUND: ResponseDict = {**SIGNED, 404: schemas.Error}
TAGS: list[Tag | dict[str, Any]] = [{"name": "model"}]
ONE = "/<model_name>/<model_version>"


@api.get("", operation_id="listModelServices", tags=TAGS, responses={200: service_schemas.ModelServiceList, **FOUND})
def list_model_services(query: schemas.OrgQuery) -> dict[str, Any]:
    """List model services"""
    org = org_of(platform(), caller(), ThingKind.ENDPOINT, query.org_id)
    return {"data": [models.answer(platform(), one) for one in models.listed(platform(), org)]}


@api.post(
    "",
    operation_id="createModelService",
    tags=TAGS,
    responses={200: service_schemas.ModelService, **SIGNED, 413: schemas.Error, 503: schemas.Error},
)
def create_model_service(body: service_schemas.ModelServiceCreate) -> dict[str, Any]:
    """Create a model service"""
    org, pool = org_for(platform(), caller(), ThingKind.ENDPOINT, "model")
    failed = dict.fromkeys(_TRIED, "Failed to create model or consume quota in localml: {message}")
    with worded(failed), renamed(**_MEMBERS):
        made = models.create(platform(), caller(), org, pool, body, request.get_json())
    return models.answer(platform(), made)


@api.get(ONE, operation_id="getModelService", tags=TAGS, responses={200: service_schemas.ModelService, **FOUND})
def get_model_service(path: schemas.ModelPath, query: schemas.OrgQuery) -> dict[str, Any]:
    """Show one model service"""
    return models.answer(platform(), _service(path, query))


@api.delete(
    ONE, operation_id="deleteModelService", tags=TAGS, responses={200: schemas.Message, **FOUND, 503: schemas.Error}
)
def delete_model_service(path: schemas.ModelPath, query: schemas.OrgQuery) -> dict[str, Any]:
    """Delete a model service"""
    service = _service(path, query, Action.DELETE)
    words = f"Fail to delete model service: {path.model_name}, exception: {{message}}"
    with worded(dict.fromkeys(_TRIED, words)):
        platform().endpoints.delete(service.row.id or 0, caller())
    return {"message": "Successfully request to delete model service."}


@api.get(ONE + "/logs", operation_id="getModelServiceLogs", tags=TAGS, responses={200: schemas.Logs, **FOUND})
def get_model_service_logs(path: schemas.ModelPath, query: schemas.ReplicaQuery) -> Response:
    """Read a model service's log"""
    return json_answer("logs", models.logs(platform(), _service(path, query), query.replica))


@api.get(ONE + "/events", operation_id="listModelServiceEvents", tags=TAGS, responses={200: schemas.EventList, **FOUND})
def list_model_service_events(path: schemas.ModelPath, query: schemas.OrgQuery) -> dict[str, Any]:
    """List a model service's events"""
    return endpoint_event_list(platform(), _service(path, query).row).model_dump()


def _service(path: schemas.ModelPath, query: schemas.OrgQuery, action: Action = Action.READ) -> EndpointFull:
    org = org_of(platform(), caller(), ThingKind.ENDPOINT, query.org_id)
    found = models.find(platform(), org, path.model_name, path.model_version)
    allow(caller(), action, Thing.of(ThingKind.ENDPOINT, found.row))
    return found
