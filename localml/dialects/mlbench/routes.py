"""The operations, in the order of the vendor's document. Every path is served with and without its final slash."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from typing import Any

from flask import Response, request
from flask_openapi.types import ResponseDict

from localml.core.errors import Code, LocalmlError, not_found
from localml.core.numerals import whole
from localml.core.people.allow import Thing, allow
from localml.core.people.rights import Action, ThingKind
from localml.core.subjects import Subject
from localml.core.work.specs import WorkloadSpec
from localml.core.work.states import Kind
from localml.core.work.workloads import Full, Submission
from localml.dialects.kit import Operations, caller, platform
from localml.dialects.kit.errors import renamed
from localml.dialects.kit.seats import slow
from localml.dialects.mlbench import schemas
from localml.dialects.mlbench.document import SECURITY_SCHEMES
from localml.dialects.mlbench.translate.images import program_of
from localml.dialects.mlbench.translate.pods import (
    DIALECT,
    POOL,
    Source,
    all_runs,
    find_pod,
    find_run,
    list_pods,
    may_read,
    runs,
    slug,
)
from localml.dialects.mlbench.translate.readings import all_pods, by_name, lines_of, point_of, safe_name, zipped
from localml.dialects.mlbench.translate.runs import job_metadata, run_answer, run_spec, stored_request
from localml.dialects.mlbench.translate.times import micro_time

RUN_MEMBERS = {
    "cpu": "num_cpus",
    "gpu": "gpu_enabled",
    "count": "num_workers",
    "image": "custom_image_name",
    "command": "custom_image_command",
}
FAILURES: ResponseDict = {401: schemas.Error, 403: schemas.Error, 429: schemas.Error}
_NAME_TRIES = 8
LAX: dict[str, Any] = {"strict_slashes": False}

SECURITY: list[dict[str, list[Any]]] = [{name: []} for name in SECURITY_SCHEMES]

api = Operations("mlbench", __name__, url_prefix="/api", abp_responses=FAILURES, abp_security=SECURITY)


@api.get("/pods/", operation_id="listWorkerPods", tags=[{"name": "pods"}], responses={200: schemas.PodList}, **LAX)
def list_worker_pods() -> list[dict[str, Any]]:
    """List worker pods"""
    return [pod.model_dump() for pod in list_pods(platform(), caller())]


@api.get(
    "/metrics/", operation_id="listAllMetrics", tags=[{"name": "metrics"}], responses={200: schemas.MetricsByPod}, **LAX
)
@slow
def list_all_metrics() -> Response:
    """Read metrics of all worker pods"""
    return Response(all_pods(platform(), runs(platform(), caller())), mimetype="application/json")


@api.post(
    "/metrics/",
    operation_id="recordMetric",
    tags=[{"name": "metrics"}],
    responses={201: schemas.Metric, 400: schemas.Error, 404: schemas.Error, 413: schemas.Error},
    **LAX,
)
def record_metric(body: schemas.MetricCreate) -> tuple[dict[str, Any], int]:
    """Store one metric value"""
    source, told = _source_of(body)
    point = point_of(body)
    about = Subject.workload(source.run.id or 0)
    platform().samples.add_points(about, [(body.name, point)], replica=source.replica, cumulative=body.cumulative)
    platform().feed.changed(about)
    stored = {"name": body.name, "date": micro_time(point.at), "value": body.value}
    return {**told, **stored, "cumulative": body.cumulative, "metadata": body.metadata}, 201


@api.get(
    "/metrics/<pod_name_or_run_id>/",
    operation_id="getMetricsOfSource",
    tags=[{"name": "metrics"}],
    responses={200: schemas.MetricsByName, 400: schemas.Error, 404: schemas.Error},
    **LAX,
)
@slow
def get_metrics(path: schemas.SourcePath, query: schemas.MetricQuery) -> dict[str, Any] | Response:
    """Read metrics of one pod or run"""
    name = path.pod_name_or_run_id
    source = find_pod(platform(), caller(), name) if query.metric_type == "pod" else _run_source(name)
    if query.format != "zip":
        return by_name(lines_of(platform(), source, query))
    answer = Response(zipped(platform(), source, query), mimetype="application/zip")
    answer.headers["Content-Disposition"] = f'attachment; filename="metrics_{safe_name(source.name)}.zip"'
    return answer


@api.get("/runs/", operation_id="listRuns", tags=[{"name": "runs"}], responses={200: schemas.RunList}, **LAX)
@slow
def list_runs() -> list[dict[str, Any]]:
    """List benchmark runs"""
    rows = runs(platform(), caller())
    details: dict[int, tuple[WorkloadSpec, Any]] = {}
    for start in range(0, len(rows), 500):
        details |= platform().workloads.details(row.id or 0 for row in rows[start : start + 500])
    return [run_answer(platform(), row, *details[row.id or 0]).model_dump() for row in rows]


@api.post(
    "/runs/",
    operation_id="startRun",
    tags=[{"name": "runs"}],
    responses={200: schemas.Run, 400: schemas.Error, 409: schemas.Error, 413: schemas.Error},
    **LAX,
)
def start_run(body: schemas.RunCreate) -> dict[str, Any]:
    """Start a benchmark run"""
    program = program_of(body)
    who = caller()
    place = who.scope.workspace or who.workspace
    allow(who, Action.CREATE, Thing(ThingKind.WORKLOAD, workspace=place))
    spec = run_spec(platform(), body, program, request.host, who)
    name = slug(body.name)
    platform().pools.ensure(POOL, max_workloads=1)  # again, if somebody removed it meanwhile
    submission = Submission(
        name=name,
        spec=spec,
        caller=who,
        workspace=place,
        dialect=DIALECT,
        kind=Kind.JOB,
        pool=POOL,
        request=stored_request(body, program),
        refuse_over_quota=True,
    )
    try:
        with renamed(**RUN_MEMBERS):
            full = platform().workloads.queued_as(submission, _names(submission.name))
    except LocalmlError as error:
        if error.code is Code.QUOTA and error.field == "pool":
            raise LocalmlError(Code.CONFLICT, _who_is_active()) from error
        raise
    return _answer(full)


@api.get(
    "/runs/<int:run_id>/",
    operation_id="getRun",
    tags=[{"name": "runs"}],
    responses={200: schemas.Run, 404: schemas.Error},
    **LAX,
)
def get_run(path: schemas.RunPath) -> dict[str, Any]:
    """Show one run"""
    full = find_run(platform(), caller(), path.run_id)
    return {**_answer(full), "job_metadata": job_metadata(platform(), full)}


@api.delete(
    "/runs/<int:run_id>/",
    operation_id="deleteRun",
    tags=[{"name": "runs"}],
    responses={204: None, 404: schemas.Error},
    **LAX,
)
def delete_run(path: schemas.RunPath) -> tuple[str, int]:
    """Delete a run, after stopping it if it is active"""
    find_run(platform(), caller(), path.run_id, Action.DELETE)
    platform().workloads.delete(path.run_id, caller())
    return "", 204


def _names(name: str) -> Iterator[str]:
    """Several runs may have the same name: the workload of a later one has a few letters more."""
    yield name
    for _ in range(_NAME_TRIES):
        yield f"{name}-{secrets.token_hex(2)}"


def _answer(full: Full) -> dict[str, Any]:
    return run_answer(platform(), full.row, full.spec, full.request).model_dump()


def _who_is_active() -> str:
    """Only who may read a run is told which one it is."""
    active = all_runs(platform(), active=True)
    if not active:
        return "a run was active until now; only one may be at a time"
    if not may_read(caller(), active[0]):
        return "a run of another user is active; only one run may be at a time"
    name = platform().workloads.get(active[0].id or 0).request["name"]
    return f"run {active[0].id} ('{name}') is active; only one run may be at a time"


def _source_of(body: schemas.MetricCreate) -> tuple[Source, dict[str, Any]]:
    """What a posted metric is of, and the member that says so."""
    if body.pod_name:
        return find_pod(platform(), caller(), body.pod_name, Action.REPORT), {"pod_name": body.pod_name}
    return _run_source(str(body.run_id), Action.REPORT), {"run_id": body.run_id}


def _run_source(text: str, action: Action = Action.READ) -> Source:
    number = whole(text)
    if number is None:
        raise not_found("run", text[:30])
    full = find_run(platform(), caller(), number, action)
    return Source(full.row, full.request["name"])
