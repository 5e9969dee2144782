"""The operations, in the order of the vendor's document."""

from __future__ import annotations

from typing import Any

from flask import Response, request
from flask_openapi.types import ResponseDict

from localml.core.errors import Code, LocalmlError
from localml.core.people.allow import Thing, may, reach
from localml.core.people.identity import Caller
from localml.core.people.rights import Action, ThingKind
from localml.core.work.states import TERMINAL, Desired, Kind
from localml.core.work.tables import Workload
from localml.core.work.workloads import Full, Query, Submission
from localml.dialects.kit import Operations, caller, known_caller, platform
from localml.dialects.kit.addresses import called
from localml.dialects.kit.errors import renamed
from localml.dialects.kit.seats import slow
from localml.dialects.openpai import schemas
from localml.dialects.openpai.auth import issue_token as make_token
from localml.dialects.openpai.document import SCHEME
from localml.dialects.openpai.errors import missing_job
from localml.dialects.openpai.translate.answers import status, summary
from localml.dialects.openpai.translate.clusters import DEFAULT, all_clusters, assign, one_cluster, usable_pool
from localml.dialects.openpai.translate.jobs import (
    DIALECT,
    check_cluster,
    folders_of,
    job_spec,
    output_folder,
    workspace,
)
from localml.dialects.openpai.translate.ssh import ssh_answer, ssh_service
from localml.dialects.openpai.translate.users import need, remove, upsert

MEMBERS = {
    "name": "jobName",
    "cpu": "cpuNumber",
    "memory": "memoryMB",
    "gpu": "gpuNumber",
    "pool": "virtualCluster",
    "ports": "portList",
    "count": "taskNumber",
    "roles": "taskRoles",
    "env": "jobEnvs",
    "objects": "dataDir",
}

api = Operations("openpai", __name__, url_prefix="/api/v1", final_slash=True, abp_security=[{SCHEME: []}])
OPEN: list[dict[str, list[Any]]] = [{}]
AUTHORIZED: ResponseDict = {401: schemas.Error}


@api.get("", doc_ui=False)
def get_api() -> dict[str, str]:
    """What portals and health checks ask: that the API is there."""
    return {"message": "OpenPAI REST server API v1"}


@api.post(
    "/token",
    operation_id="issueToken",
    tags=[{"name": "token"}],
    security=OPEN,
    responses={200: schemas.Token, 401: schemas.Error},
)
def issue_token(body: schemas.Credentials) -> dict[str, Any]:
    """Get an access token"""
    token, admin = make_token(platform(), body.username, body.password, body.expiration, request.remote_addr or "")
    return {"token": token, "user": body.username, "admin": admin}


@api.put(
    "/user",
    operation_id="upsertUser",
    tags=[{"name": "user"}],
    responses={201: schemas.Message, **AUTHORIZED, 500: schemas.Error},
)
def upsert_user(body: schemas.UserUpdate) -> tuple[dict[str, str], int]:
    """Add or change a user"""
    upsert(platform(), caller(), body)
    return {"message": "update successfully"}, 201


@api.delete(
    "/user",
    operation_id="removeUser",
    tags=[{"name": "user"}],
    responses={200: schemas.Message, **AUTHORIZED, 500: schemas.Error},
)
def remove_user(body: schemas.UserName) -> dict[str, str]:
    """Remove a user"""
    need(caller(), Action.DELETE, Thing(ThingKind.USER, body.username))
    remove(platform(), caller(), body.username)
    return {"message": "remove successfully"}


@api.put(
    "/user/<username>/virtualClusters",
    operation_id="assignVirtualClusters",
    tags=[{"name": "user"}],
    responses={201: schemas.Message, **AUTHORIZED, 500: schemas.Error},
)
def assign_virtual_clusters(
    path: schemas.UserPath, body: schemas.VirtualClusterAssignment
) -> tuple[dict[str, str], int]:
    """Set a user's virtual clusters"""
    need(caller(), Action.ADMINISTER, Thing(ThingKind.USER, path.username))
    assign(platform(), platform().identity.user(path.username), body.virtualClusters)
    return {"message": "update user virtual clusters successfully"}, 201


@api.get(
    "/jobs",
    operation_id="listJobs",
    tags=[{"name": "jobs"}],
    security=OPEN,
    responses={200: schemas.JobList, 500: schemas.Error},
)
@slow
def list_jobs(query: schemas.ListQuery) -> list[dict[str, Any]]:
    """List jobs"""
    return [summary(row, request.url_root) for row in _all_jobs(query.username)]


@api.post(
    "/jobs",
    operation_id="submitJob",
    tags=[{"name": "jobs"}],
    responses={201: schemas.Message, 400: schemas.Error, **AUTHORIZED, 500: schemas.Error},
)
def submit_job(body: schemas.JobConfig) -> tuple[dict[str, str], int]:
    """Submit a job"""
    need(caller(), Action.CREATE, Thing(ThingKind.WORKLOAD, workspace=workspace(platform())))
    try:
        _submit(body, schemas.as_kept(body, request.get_json()), caller())
    except LocalmlError as error:
        if error.code is Code.CONFLICT and error.field == MEMBERS["name"]:
            raise LocalmlError(Code.CONFLICT, f"job '{body.jobName}' exists") from error
        raise
    return {"message": f"update job {body.jobName} successfully"}, 201


@api.get(
    "/jobs/<jobName>",
    operation_id="getJobStatus",
    tags=[{"name": "jobs"}],
    security=OPEN,
    responses={200: schemas.JobStatus, 404: schemas.Error, 500: schemas.Error},
)
def get_job_status(path: schemas.JobPath) -> dict[str, Any]:
    """Show a job's status"""
    return status(platform(), _job(path), request.url_root, called(platform().config.host))


@api.get(
    "/jobs/<jobName>/config",
    operation_id="getJobConfig",
    tags=[{"name": "jobs"}],
    security=OPEN,
    responses={200: schemas.JobConfig, 404: schemas.Error, 500: schemas.Error},
)
def get_job_config(path: schemas.JobPath) -> dict[str, Any]:
    """Show a job's config"""
    return dict(_job(path).request)


@api.get(
    "/jobs/<jobName>/ssh",
    operation_id="getJobSsh",
    tags=[{"name": "jobs"}],
    security=OPEN,
    responses={200: schemas.JobSsh, 404: schemas.Error, 500: schemas.Error},
)
@slow
def get_job_ssh(path: schemas.JobPath) -> dict[str, Any]:
    """Show how to reach a job by ssh"""
    return ssh_answer(platform(), _job(path), request.url_root)


@api.get("/jobs/<jobName>/ssh/privateKey", doc_ui=False)
def get_private_key(path: schemas.JobPath) -> Response:
    """What the key pair's download link leads to. It opens a shell, so it is for the job's owner only."""
    job = _job(path)
    need(caller(), Action.ENTER, Thing.of(ThingKind.WORKLOAD, job.row))
    key = ssh_service(platform()).private_key(job.row.id or 0, caller())
    headers = {"Content-Disposition": "attachment", "Cache-Control": "no-store"}
    return Response(key, mimetype="application/octet-stream", headers=headers)


@api.put(
    "/jobs/<jobName>/executionType",
    operation_id="setExecutionType",
    tags=[{"name": "jobs"}],
    responses={200: schemas.Message, **AUTHORIZED, 500: schemas.Error},
)
def set_execution_type(path: schemas.JobPath, body: schemas.ExecutionType) -> dict[str, str]:
    """Start or stop a job"""
    job = _find(path.jobName)
    if job is None:
        raise LocalmlError(Code.NOT_FOUND, f"could not find job {path.jobName}")
    need(caller(), Action.STOP, Thing.of(ThingKind.WORKLOAD, job.row))
    if body.value == "STOP":
        platform().workloads.stop(job.row.id or 0, caller())
    else:
        _start(job)
    return {"message": f"execute job {path.jobName} successfully"}


@api.get(
    "/virtual-clusters",
    operation_id="listVirtualClusters",
    tags=[{"name": "virtualClusters"}],
    security=OPEN,
    responses={200: schemas.VirtualClusterMap, 500: schemas.Error},
)
def list_virtual_clusters() -> dict[str, Any]:
    """List virtual clusters"""
    _need_clusters()
    return all_clusters(platform())


@api.get(
    "/virtual-clusters/<vcName>",
    operation_id="getVirtualCluster",
    tags=[{"name": "virtualClusters"}],
    security=OPEN,
    responses={200: schemas.VirtualCluster, 404: schemas.Error, 500: schemas.Error},
)
def get_virtual_cluster(path: schemas.ClusterPath) -> dict[str, Any]:
    """Show one virtual cluster"""
    _need_clusters()
    return one_cluster(platform(), path.vcName)


def _need_clusters() -> None:
    who = known_caller()
    if who is not None:
        need(who, Action.READ, Thing(ThingKind.POOL))


def _find(name: str) -> Full | None:
    """The job of that name, if there is one for who calls; without credentials, where that is allowed, any."""
    who = known_caller()
    found = platform().workloads.find(dialect=DIALECT, kind=Kind.JOB, name=name, workspace=workspace(platform()))
    if found is None or who is None:
        return found
    return found if may(who, Action.READ, Thing.of(ThingKind.WORKLOAD, found.row)) else None


def _job(path: schemas.JobPath) -> Full:
    found = _find(path.jobName)
    if found is None:
        raise missing_job(path.jobName)
    return found


def _submit(job: schemas.KeptConfig, given: Any, who: Caller, replaces: int | None = None) -> None:
    pool = usable_pool(platform(), who, job.virtualCluster or DEFAULT)
    view = platform().buckets_for(who, workspace(platform()))
    with renamed(**MEMBERS):
        folders = folders_of(job, user=who.name)
        spec = job_spec(platform(), view, job, folders, user=who.name)
        submission = Submission(
            name=job.jobName,
            spec=spec,
            caller=who,
            dialect=DIALECT,
            kind=Kind.JOB,
            workspace=workspace(platform()),
            pool=pool,
            request=given,
            replaces=replaces,
        )
        check_cluster(platform(), pool, spec)
        with output_folder(view, folders["outputDir"]):
            platform().workloads.submit(submission)


def _start(job: Full) -> None:
    """Run a job that is over once more, for its owner; one that waits or runs needs nothing."""
    row = job.row
    if row.state not in TERMINAL:
        if row.desired is Desired.STOP:
            raise LocalmlError(Code.WRONG_STATE, f"job {row.name} is still being stopped")
        return
    owner = next((user for user in platform().identity.users() if user.id == row.owner_id), None)
    if owner is None:
        raise LocalmlError(
            Code.WRONG_STATE, f"{row.owner}, in whose name {row.name} ran, was removed; submit another one"
        )
    _submit(schemas.KeptConfig.model_validate(job.request), job.request, owner, replaces=row.id)


def _all_jobs(owner: str | None) -> list[Workload]:
    """Live jobs that who calls may see, the newest first; of the user who has the name now, or else of who had it.
    This API has no pages."""
    number = None if owner is None else platform().identity.number(owner)
    who = known_caller()
    places = None if who is None else reach(who, ThingKind.WORKLOAD)
    found: list[Workload] = []
    cursor: str | None = None
    while True:
        query = Query(
            (Kind.JOB,), dialect=DIALECT, owner=owner, owner_id=number, workspaces=places, limit=1000, after=cursor
        )
        page = platform().workloads.page(query)
        found += page.items
        cursor = page.cursor
        if cursor is None:
            return found
