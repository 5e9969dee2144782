"""Operations on development environments and tensorboards, in the order of the vendor's document."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from flask import request
from flask_openapi.types import ResponseDict

from localml.core.errors import Code, LocalmlError
from localml.core.people.rights import Action, ThingKind
from localml.core.work.states import Kind
from localml.core.work.workloads import Full, Submission
from localml.dialects.cloudml.document import SCHEME
from localml.dialects.cloudml.errors import missing, worded
from localml.dialects.cloudml.schemas import tools as tool_schemas
from localml.dialects.cloudml.schemas import training as schemas
from localml.dialects.cloudml.translate.events import event_list
from localml.dialects.cloudml.translate.orgs import DIALECT, find, listed, org_for, org_of
from localml.dialects.cloudml.translate.tools import board_answer, board_spec, dev_answer, dev_spec, stored_dev
from localml.dialects.kit import Operations, caller, platform
from localml.dialects.kit.errors import renamed

NO_DEV = "DevEnv doesn't exist"
NO_BOARD = "TensorboardService doesn't exist"
SHORT = "Quota not enough"
_SHORTAGE = {Code.QUOTA: SHORT, Code.CAPACITY: SHORT}
_TRIED = (Code.STORAGE, Code.UNAVAILABLE)
_DEV_MEMBERS = {
    "name": "dev_name",
    "token": "password",
    "cpu": "cpu_limit",
    "memory": "memory_limit",
    "gpu": "gpu_limit",
    "mounts": "volume_path",
    "image": "docker_image",
    "command": "docker_command",
}

api = Operations("cloudml_tools", __name__, url_prefix="/cloud_ml/v1", abp_security=[{SCHEME: []}])
UNSIGNED: ResponseDict = {401: schemas.Error}
SIGNED: ResponseDict = {**UNSIGNED, 403: schemas.Error, 404: schemas.Error}
CREATED: ResponseDict = {**SIGNED, 413: schemas.Error, 503: schemas.Error}


@api.get("/dev", operation_id="listDevEnvs", tags=[{"name": "dev"}], responses={200: tool_schemas.DevEnvList, **SIGNED})
def list_dev_envs(query: schemas.OrgQuery) -> dict[str, Any]:
    """List development environments"""
    org = org_of(platform(), caller(), ThingKind.WORKLOAD, query.org_id)
    return {"data": [dev_answer(platform(), caller(), one) for one in listed(platform(), Kind.NOTEBOOK, org)]}


@api.post("/dev", operation_id="createDevEnv", tags=[{"name": "dev"}], responses={200: tool_schemas.DevEnv, **CREATED})
def create_dev_env(body: tool_schemas.DevEnvCreate) -> dict[str, Any]:
    """Create a development environment"""
    who = caller()
    org, pool = org_for(platform(), who, ThingKind.WORKLOAD, "dev")
    failed = dict.fromkeys(_TRIED, "Failed to create dev or consume quota in localml, Except: {message}")
    with worded(_SHORTAGE | failed), renamed(**_DEV_MEMBERS):
        submission = Submission(
            name=body.dev_name,
            spec=dev_spec(platform(), platform().buckets_for(who, org), who.id, body),
            caller=who,
            dialect=DIALECT,
            kind=Kind.NOTEBOOK,
            workspace=org,
            pool=pool,
            request=stored_dev(request.get_json(), body),
            refuse_over_quota=True,
        )
        return dev_answer(platform(), who, platform().instances.create(submission).run)


@api.get(
    "/dev/<dev_name>", operation_id="getDevEnv", tags=[{"name": "dev"}], responses={200: tool_schemas.DevEnv, **SIGNED}
)
def get_dev_env(path: schemas.DevPath, query: schemas.OrgQuery) -> dict[str, Any]:
    """Show one development environment"""
    return dev_answer(platform(), caller(), _dev(path, query))


@api.delete(
    "/dev/<dev_name>",
    operation_id="deleteDevEnv",
    tags=[{"name": "dev"}],
    responses={200: schemas.Message, **SIGNED, 503: schemas.Error},
)
def delete_dev_env(path: schemas.DevPath, query: schemas.OrgQuery) -> dict[str, Any]:
    """Delete a development environment"""
    dev = _dev(path, query, Action.DELETE)
    words = f"Fail to delete dev env: {path.dev_name}, exception: {{message}}"
    with worded(dict.fromkeys(_TRIED, words)):
        platform().workloads.delete(dev.row.id or 0, caller())
    return {"message": "Successfully request to delete dev env."}


@api.get(
    "/dev/<dev_name>/events",
    operation_id="listDevEnvEvents",
    tags=[{"name": "dev"}],
    responses={200: schemas.EventList, **SIGNED},
)
def list_dev_env_events(path: schemas.DevPath, query: schemas.OrgQuery) -> dict[str, Any]:
    """List a development environment's events"""
    return event_list(platform(), _dev(path, query).row).model_dump()


@api.get(
    "/tensorboard",
    operation_id="listTensorboards",
    tags=[{"name": "tensorboard"}],
    responses={200: tool_schemas.TensorboardList, **UNSIGNED, 404: schemas.Error},
)
def list_tensorboards(query: schemas.OrgQuery) -> dict[str, Any]:
    """List tensorboards"""
    with _no_403():
        org = org_of(platform(), caller(), ThingKind.WORKLOAD, query.org_id)
    return {"data": [board_answer(platform(), caller(), one) for one in listed(platform(), Kind.TENSORBOARD, org)]}


@api.post(
    "/tensorboard",
    operation_id="createTensorboard",
    tags=[{"name": "tensorboard"}],
    responses={200: tool_schemas.Tensorboard, **CREATED},
)
def create_tensorboard(body: tool_schemas.TensorboardCreate) -> dict[str, Any]:
    """Start a tensorboard"""
    who = caller()
    org, pool = org_for(platform(), who, ThingKind.WORKLOAD, "tensorboard")
    failed = dict.fromkeys(_TRIED, "Failed to create tensorboard or consume quota in localml: {message}")
    with worded(_SHORTAGE | failed), renamed(name="tensorboard_name"):
        submission = Submission(
            name=body.tensorboard_name,
            spec=board_spec(platform(), platform().buckets_for(who, org), who.id, body),
            caller=who,
            dialect=DIALECT,
            kind=Kind.TENSORBOARD,
            workspace=org,
            pool=pool,
            request=request.get_json(),
            refuse_over_quota=True,
        )
        return board_answer(platform(), who, platform().instances.create(submission).run)


@api.get(
    "/tensorboard/<tensorboard_name>",
    operation_id="getTensorboard",
    tags=[{"name": "tensorboard"}],
    responses={200: tool_schemas.Tensorboard, **SIGNED},
)
def get_tensorboard(path: schemas.BoardPath, query: schemas.OrgQuery) -> dict[str, Any]:
    """Show one tensorboard"""
    return board_answer(platform(), caller(), _board(path, query))


@api.delete(
    "/tensorboard/<tensorboard_name>",
    operation_id="deleteTensorboard",
    tags=[{"name": "tensorboard"}],
    responses={200: schemas.Message, **UNSIGNED, 404: schemas.Error, 503: schemas.Error},
)
def delete_tensorboard(path: schemas.BoardPath, query: schemas.OrgQuery) -> dict[str, Any]:
    """Delete a tensorboard"""
    with _no_403():
        board = _board(path, query, Action.DELETE)
    words = f"Fail to delete tensorboard service: {path.tensorboard_name}, exception: {{message}}"
    with worded(dict.fromkeys(_TRIED, words)):
        platform().workloads.delete(board.row.id or 0, caller())
    return {"message": "Successfully request to delete tensorboard service."}


@api.get(
    "/tensorboard/<tensorboard_name>/events",
    operation_id="listTensorboardEvents",
    tags=[{"name": "tensorboard"}],
    responses={200: schemas.EventList, **SIGNED},
)
def list_tensorboard_events(path: schemas.BoardPath, query: schemas.OrgQuery) -> dict[str, Any]:
    """List a tensorboard's events"""
    return event_list(platform(), _board(path, query).row).model_dump()


@contextmanager
def _no_403() -> Iterator[None]:
    """For operations of which the document lists no 403: what is somebody else's is not there."""
    try:
        yield
    except LocalmlError as error:
        if error.field != "org_id" and error.code is not Code.FORBIDDEN:
            raise
        raise missing(NO_BOARD) from error


def _dev(path: schemas.DevPath, query: schemas.OrgQuery, action: Action = Action.READ) -> Full:
    return find(platform(), caller(), action, Kind.NOTEBOOK, path.dev_name, query.org_id, NO_DEV)


def _board(path: schemas.BoardPath, query: schemas.OrgQuery, action: Action = Action.READ) -> Full:
    return find(platform(), caller(), action, Kind.TENSORBOARD, path.tensorboard_name, query.org_id, NO_BOARD)
