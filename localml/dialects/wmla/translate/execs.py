"""Tasks as they are started, found and answered."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from pydantic import ValidationError
from sqlmodel import Session

from localml.core.errors import Code, LocalmlError, invalid
from localml.core.events.records import record_event
from localml.core.logs.sources import ALL
from localml.core.people.allow import Thing, allow, reach
from localml.core.people.identity import Caller
from localml.core.people.rights import Action, ThingKind
from localml.core.subjects import Subject
from localml.core.work.states import Kind
from localml.core.work.tables import Workload
from localml.core.work.workloads import Full, Query, Submission
from localml.dialects.kit.errors import from_pydantic, renamed
from localml.dialects.kit.logs import log_blocks
from localml.dialects.kit.multipart import Form
from localml.dialects.kit.times import iso_time
from localml.dialects.wmla.environment import BASE
from localml.dialects.wmla.schemas.execs import Batch, LogType, TaskData
from localml.dialects.wmla.translate.args import FIELD, TaskArgs, parse_args, without_secrets
from localml.dialects.wmla.translate.forms import find_text
from localml.dialects.wmla.translate.ids import DIALECT, app_id, new_exec_id, submission_id
from localml.dialects.wmla.translate.literals import parse_object
from localml.dialects.wmla.translate.model_upload import FIELD as FILE
from localml.dialects.wmla.translate.model_upload import Model, keep_model
from localml.dialects.wmla.translate.places import need_datastore, places_of
from localml.dialects.wmla.translate.plans import usable_plan
from localml.dialects.wmla.translate.states import state_word
from localml.dialects.wmla.translate.tasks import Task, check_options, notes, task_spec, with_hardware
from localml.objects import BucketsFor
from localml.objects.zips import zip_blocks
from localml.platform import Platform

SCHEDULER = f"{BASE}/scheduler/applications"
_MOST_EVENTS = 100
_PAGE = 1000
_STREAMS = {LogType.OUT: "stdout", LogType.ERR: "stderr", LogType.BOTH: None}


def href_of(exec_id: str) -> str:
    """Where a task is found."""
    return f"{BASE}/execs/{exec_id}"


def task_data(form: Form) -> TaskData:
    """The field ``data`` of a form.

    Raises:
        LocalmlError: ``INVALID`` naming its member.
    """
    text = find_text(form, "data")
    if text is None or not text.strip():
        return TaskData()
    try:
        return TaskData.model_validate(parse_object(text, "data"))
    except ValidationError as error:
        raise from_pydantic(error) from None


def start(platform: Platform, caller: Caller, args: str, data: TaskData, form: Form) -> Full:
    """Start a task with the model that came.

    Args:
        args: of the query; those of ``data`` count where these are empty.

    Raises:
        LocalmlError: what is wrong with options, data or model; nothing of it is started then.
    """
    text = args if args.strip() else data.args or ""
    options = with_hardware(parse_args(text), data.hardwareSpec or {})
    check_options(platform, options)
    need_datastore(options.datastore)
    workspace = caller.scope.workspace or caller.workspace
    allow(caller, Action.CREATE, Thing(ThingKind.WORKLOAD, workspace=workspace))
    pool = usable_plan(platform, caller, options.consumer, "args: --consumer")
    exec_id, view = new_exec_id(), platform.buckets_for(caller, workspace)
    places = places_of(view, caller, exec_id, options.datastore, data.sources)
    model = keep_model(platform, workspace, form.file(FILE), options)
    new = Submission(
        exec_id,
        task_spec(platform, Task(options, model, places)),
        caller,
        dialect=DIALECT,
        workspace=workspace,
        pool=pool,
        request=_kept(text, options, model, places.result_uri),
        refuse_over_quota=True,
    )
    return _submitted(platform, new, options, view, places.result_uri)


def _submitted(platform: Platform, new: Submission, options: TaskArgs, view: BucketsFor, result: str) -> Full:
    """Make the result folder and the workload, both or neither."""
    view.make_folder(result, shared=True)
    try:
        with renamed(cpu=FIELD, memory=FIELD, gpu=FIELD, image=FIELD, env=FIELD, command=FIELD):
            return platform.workloads.queued(new, also=lambda *at: _note(platform, options, *at))
    except LocalmlError:
        view.remove_empty(result)
        raise


def _note(platform: Platform, options: TaskArgs, session: Session, number: int) -> None:
    for reason, words in notes(options):
        record_event(session, Subject.workload(number), reason, words, now=platform.clock.now())


def _kept(text: str, options: TaskArgs, model: Model, result: str) -> dict[str, Any]:
    """What is to be known of a task beside its spec."""
    return {
        "args": without_secrets(text),
        "framework": options.framework,
        "appName": options.app_name or f"{options.framework}-{model.main or 'command'}",
        "workers": options.workers,
        "image": options.image,
        "folder": model.folder,
        "result": result,
    }


def listed(platform: Platform, caller: Caller) -> list[dict[str, Any]]:
    """The caller's tasks, the newest first; for an administrator all there are."""
    places = reach(caller, ThingKind.WORKLOAD)
    owner = None if caller.admin else caller.id
    query = Query(kinds=(Kind.JOB,), dialect=DIALECT, workspaces=places, owner_id=owner, limit=_PAGE)
    return [batch for rows in _pages(platform, query) for batch in _batches(platform, rows)]


def delete_own(platform: Platform, caller: Caller) -> None:
    """Stop and delete all tasks that the caller started."""
    places = reach(caller, ThingKind.WORKLOAD)
    query = Query(kinds=(Kind.JOB,), dialect=DIALECT, workspaces=places, owner_id=caller.id, limit=_PAGE)
    for rows in list(_pages(platform, query)):
        for row in rows:
            allow(caller, Action.DELETE, Thing.of(ThingKind.WORKLOAD, row))
            platform.workloads.delete(row.id or 0, caller)


def _pages(platform: Platform, query: Query) -> Iterator[list[Workload]]:
    cursor: str | None = None
    while True:
        page = platform.workloads.page(replace(query, after=cursor))
        yield page.items
        cursor = page.cursor
        if cursor is None:
            return


def _batches(platform: Platform, rows: Iterable[Workload]) -> Iterator[dict[str, Any]]:
    found = list(rows)
    details = platform.workloads.details([row.id or 0 for row in found])
    for row in found:
        yield _batch(platform, row, details[row.id or 0][1] or {}, row.message)


def batch(platform: Platform, full: Full) -> dict[str, Any]:
    """A task as it is answered, a :class:`Batch`, with what happened to it as lines."""
    events = platform.workloads.events(full.row.id or 0, limit=_MOST_EVENTS)
    lines = [f"{iso_time(one.at)} {one.reason}: {one.message}" for one in events]
    return _batch(platform, full.row, full.request or {}, "\n".join(lines))


def _batch(platform: Platform, row: Workload, request: Mapping[str, Any], events: str) -> dict[str, Any]:
    number = row.id or 0
    application = app_id(platform, number)
    found = Batch(
        creator=row.owner,
        id=row.name,
        args=request.get("args", ""),
        submissionId=submission_id(platform, number),
        workDir=request.get("result", ""),
        appName=request.get("appName", ""),
        events=events,
        appId=application,
        schedulerUrl=f"{SCHEDULER}?applicationid={application}",
        state=state_word(row),
        framework=request.get("framework", ""),
        numWorker=request.get("workers", 1),
        createTime=iso_time(row.created_at),
    )
    return found.model_dump()


def task_log(platform: Platform, full: Full, kind: LogType) -> Iterator[bytes]:
    """What a task wrote to one of its streams or to both."""
    return log_blocks(platform.logs, full, selection=replace(ALL, stream=_STREAMS[kind]))


def task_result(platform: Platform, caller: Caller, full: Full) -> Iterator[bytes]:
    """What a task left in its result folder, as a zip.

    Raises:
        LocalmlError: ``INVALID`` when there is nothing yet, or nothing at all.
    """
    try:
        return zip_blocks(platform.buckets_for(caller), full.request["result"])
    except LocalmlError as error:
        if error.code is not Code.NOT_FOUND:
            raise
    words = "has no result yet" if full.row.ended_at is None else "left nothing in its result folder"
    raise invalid("execId", f"the task {full.row.name} {words}")
