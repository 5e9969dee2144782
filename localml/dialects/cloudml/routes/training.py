"""Operations on training jobs and quota, in the order of the vendor's document."""

from __future__ import annotations

from typing import Any

from flask import Response, request
from flask_openapi.types import ResponseDict

from localml.core.errors import LocalmlError
from localml.core.people.identity import Caller
from localml.core.people.rights import Action, ThingKind
from localml.core.work.states import Kind
from localml.core.work.workloads import Full, Submission
from localml.dialects.cloudml.document import SCHEME
from localml.dialects.cloudml.errors import missing, need_org
from localml.dialects.cloudml.schemas import training as schemas
from localml.dialects.cloudml.translate.events import event_list
from localml.dialects.cloudml.translate.orgs import ALL, DIALECT, find, known_orgs, listed, org_for, org_of
from localml.dialects.cloudml.translate.quota import quota_records
from localml.dialects.cloudml.translate.training import stored_request, train_answer, train_spec
from localml.dialects.kit import Operations, caller, platform
from localml.dialects.kit.errors import renamed
from localml.dialects.kit.held import Following
from localml.dialects.kit.logs import follow_lines, json_answer, log_blocks
from localml.dialects.kit.seats import many_lines, slow, slow_if

FOLLOW_S = 300.0
"""Seconds after which a followed log ends; clients are told of five minutes and ask again."""

# the vendor's document spells this in two ways, each operation in its own
NO_JOB = "TrainJob doesn't exist"
NO_TRAIN_JOB = "Train job doesn't exist"
TRAIN_MEMBERS = {
    "name": "job_name",
    "cpu": "cpu_limit",
    "memory": "memory_limit",
    "gpu": "gpu_limit",
    "mounts": "volume_path",
    "uri": "volume_path",
    "image": "docker_image",
    "command": "docker_command",
    "env": "job_args",
}

api = Operations(
    "cloudml",
    __name__,
    url_prefix="/cloud_ml/v1",
    abp_security=[{SCHEME: []}],
)
SIGNED: ResponseDict = {401: schemas.Error, 403: schemas.Error}


@api.get(
    "/train",
    operation_id="listTrainJobs",
    tags=[{"name": "train"}],
    responses={200: schemas.TrainJobList, **SIGNED, 404: schemas.Error},
)
@slow
def list_train_jobs(query: schemas.OrgQuery) -> dict[str, Any]:
    """List training jobs"""
    org = org_of(platform(), caller(), ThingKind.WORKLOAD, query.org_id)
    return {"data": [_answer(one) for one in listed(platform(), Kind.JOB, org)]}


@api.post(
    "/train",
    operation_id="submitTrainJob",
    tags=[{"name": "train"}],
    responses={200: schemas.TrainJob, **SIGNED, 413: schemas.Error},
)
def submit_train_job(body: schemas.TrainJobCreate) -> dict[str, Any]:
    """Submit a training job"""
    org, pool = org_for(platform(), caller(), ThingKind.WORKLOAD, "train")
    with renamed(**TRAIN_MEMBERS, count="cluster_spec" if body.cluster_spec else "worker_count"):
        return _answer(platform().workloads.queued(_submission(caller(), org, pool, body)))


@api.get(
    "/train/<job_name>",
    operation_id="getTrainJob",
    tags=[{"name": "train"}],
    responses={200: schemas.TrainJob, **SIGNED, 404: schemas.Error},
)
def get_train_job(path: schemas.JobPath, query: schemas.OrgQuery) -> dict[str, Any]:
    """Show one training job"""
    return _answer(_job(path, query, NO_JOB))


@api.delete(
    "/train/<job_name>",
    operation_id="deleteTrainJob",
    tags=[{"name": "train"}],
    responses={200: schemas.Message, **SIGNED, 404: schemas.Error, 503: schemas.Error},
)
def delete_train_job(path: schemas.JobPath, query: schemas.DeleteQuery) -> dict[str, Any]:
    """Delete a training job"""
    job = _job(path, query, NO_JOB, Action.DELETE, need_org("Need org_id parameter"))
    platform().workloads.delete(_number(job), caller())
    return {"message": "Successfully request to delete train job."}


@api.get(
    "/train/<job_name>/logs",
    operation_id="getTrainJobLogs",
    tags=[{"name": "train"}],
    responses={200: schemas.Logs, **SIGNED, 404: schemas.Error},
)
@slow_if(many_lines)
def get_train_job_logs(path: schemas.JobPath, query: schemas.LogQuery) -> Response:
    """Read a training job's log"""
    job = _job(path, query, NO_TRAIN_JOB)
    if query.follow:
        steps = follow_lines(platform(), _number(job), FOLLOW_S, lines=query.lines)
        return Following(platform().feed, steps, mimetype="text/plain")
    return json_answer("logs", log_blocks(platform().logs, job, lines=query.lines))


@api.get(
    "/train/<job_name>/events",
    operation_id="listTrainJobEvents",
    tags=[{"name": "train"}],
    responses={200: schemas.EventList, **SIGNED, 404: schemas.Error},
)
def list_train_job_events(path: schemas.JobPath, query: schemas.OrgQuery) -> dict[str, Any]:
    """List a training job's events"""
    job = _job(path, query, NO_TRAIN_JOB)
    return event_list(platform(), job.row).model_dump()


@api.get(
    "/quota",
    operation_id="getQuota",
    tags=[{"name": "quota"}],
    responses={200: schemas.QuotaList, **SIGNED, 404: schemas.Error, 405: schemas.Error},
)
def get_quota(query: schemas.OrgQuery) -> list[dict[str, Any]]:
    """Show quota and usage"""
    given = query.org_id
    if given and caller().admin and given != ALL and given not in known_orgs(platform()):
        raise missing(f"Quota of {given} doesn't exist!")
    return _quota(org_of(platform(), caller(), ThingKind.WORKSPACE, given))


@api.post("/quota", doc_ui=False)
def post_quota() -> dict[str, Any]:
    """What the published client sends instead, with the organisation's mail address; it reads ``data``."""
    given = request.get_json() if request.get_data() else {}
    mail = given.get("org_mail") if isinstance(given, dict) else None
    return {
        "data": [{**one, "org_mail": mail} for one in _quota(org_of(platform(), caller(), ThingKind.WORKSPACE, None))]
    }


@api.get(
    "/framework",
    operation_id="listFrameworks",
    tags=[{"name": "framework"}],
    security=[{}],
    responses={200: schemas.Frameworks, 405: schemas.Error},
)
def list_frameworks() -> dict[str, list[str]]:
    """List frameworks and versions"""
    return platform().catalog.frameworks()


@api.post("/framework", doc_ui=False)
def post_frameworks() -> dict[str, list[str]]:
    """The same: the vendor's 405 says that POST is supported here."""
    return platform().catalog.frameworks()


def _submission(who: Caller, org: str, pool: str, body: schemas.TrainJobCreate) -> Submission:
    return Submission(
        name=body.job_name,
        spec=train_spec(platform(), platform().buckets_for(who, org), body),
        caller=who,
        dialect=DIALECT,
        kind=Kind.JOB,
        workspace=org,
        pool=pool,
        request=stored_request(request.get_json(), body),
        refuse_over_quota=True,
    )


def _job(
    path: schemas.JobPath,
    query: schemas.OrgQuery,
    gone: str,
    action: Action = Action.READ,
    lacking: LocalmlError | None = None,
) -> Full:
    return find(platform(), caller(), action, Kind.JOB, path.job_name, query.org_id, gone, lacking)


def _number(job: Full) -> int:
    return job.row.id or 0


def _answer(job: Full) -> dict[str, Any]:
    return train_answer(platform(), job.row, job.spec, job.request or {})


def _quota(org: str) -> list[dict[str, Any]]:
    orgs = known_orgs(platform()) if org == ALL else [org]
    return [record.model_dump() for record in quota_records(platform(), orgs)]
