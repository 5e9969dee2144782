"""How a search begins: a form with a model and a request becomes a study."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from localml.core.errors import Code, LocalmlError, invalid
from localml.core.events.records import record_event
from localml.core.people.identity import Caller
from localml.core.studies.specs import StudySpec
from localml.core.studies.studies import StudySubmission, subject_of
from localml.core.work.specs import WorkloadSpec
from localml.dialects.kit.errors import renamed
from localml.dialects.kit.multipart import FilePart, Form
from localml.dialects.wmla.schemas.searches import HpoTaskRequest
from localml.dialects.wmla.translate.args import TaskArgs, parse_args
from localml.dialects.wmla.translate.forms import need_text
from localml.dialects.wmla.translate.ids import DIALECT, new_exec_id
from localml.dialects.wmla.translate.literals import parse_object
from localml.dialects.wmla.translate.model_upload import FIELD, keep_model
from localml.dialects.wmla.translate.places import need_datastore, places_of
from localml.dialects.wmla.translate.plans import usable_plan
from localml.dialects.wmla.translate.searches import built_in_name, study_spec, with_trial
from localml.dialects.wmla.translate.tasks import Task, check_options, notes, task_spec
from localml.objects import BucketsFor
from localml.platform import Platform

DATA, ARGS = "data", "modelSpec.args"
RESULT = "val_dict_list.json"
"""Where a training leaves its metrics, in its result folder."""
_OF_ARGS = ("args", "consumer", *(f"trial.{one}" for one in ("cpu", "memory", "gpu", "image", "env", "command")))
"""What failures call that which the options say."""
MOST_VALUES = 500_000
"""Of JSON, in one request: a grid lists each of its trainings, with three members for each of its values."""


def start_search(platform: Platform, who: Caller, workspace: str, form: Form) -> str:
    """Begin what a form asks for; the name of the search.

    Raises:
        LocalmlError: ``INVALID`` naming the member that is wrong, ``CONFLICT`` for a name that is taken.
    """
    given = parse_object(need_text(form, DATA), DATA, most_values=MOST_VALUES)
    asked = HpoTaskRequest.model_validate(given)
    spec = study_spec(asked, asked.algoDef)
    _need_possible(platform, workspace, asked, spec)
    args = parse_args(asked.modelSpec.args, ARGS)
    with renamed(**dict.fromkeys(_OF_ARGS, ARGS), name="hpoName"):
        pool = usable_plan(platform, who, args.consumer)
        trial, result = _trial(platform, who, workspace, asked, args, form.file(FIELD))
        new = StudySubmission(
            name=asked.hpoName,
            spec=with_trial(spec, trial, f"{result}/{RESULT}"),
            caller=who,
            dialect=DIALECT,
            workspace=workspace,
            pool=pool,
            request=given,
        )
        with _folder_for(platform.buckets_for(who, workspace), result):
            row = platform.studies.create(new)
    _tell(platform, row.id or 0, notes(args))
    return row.name


def _need_possible(platform: Platform, workspace: str, asked: HpoTaskRequest, spec: StudySpec) -> None:
    """Refuse before anything is kept what would be refused in the end."""
    name, algorithm = asked.hpoName, spec.algorithm.name
    if built_in_name(asked.algoDef.algorithm) is None and platform.algorithms.find(algorithm) is None:
        raise invalid("algoDef.algorithm", f"there is no algorithm '{algorithm}'")
    if name and platform.studies.find(dialect=DIALECT, name=name, workspaces={workspace}) is not None:
        raise LocalmlError(Code.CONFLICT, f"hpoName: '{name}' is already used by a search", field="hpoName")


def _trial(
    platform: Platform, who: Caller, workspace: str, asked: HpoTaskRequest, args: TaskArgs, file: FilePart
) -> tuple[WorkloadSpec, str]:
    """What a training runs, and the object URI of its result folder."""
    check_options(platform, args)
    need_datastore(args.datastore)
    view = platform.buckets_for(who, workspace)
    at = places_of(view, who, f"{new_exec_id()}-{{trial}}", args.datastore, asked.modelSpec.sources)
    return task_spec(platform, Task(args, keep_model(platform, workspace, file, args), at)), at.result_uri


@contextmanager
def _folder_for(view: BucketsFor, result: str) -> Iterator[None]:
    """The folder in which each training makes its own, for what may fail inside."""
    folder = result.rpartition("/")[0]
    new = view.make_folder(folder, shared=True)
    try:
        yield
    except LocalmlError:
        if new:
            view.remove_empty(folder)
        raise


def _tell(platform: Platform, number: int, told: list[tuple[str, str]]) -> None:
    now = platform.clock.now()

    def act(session: Any) -> None:
        for reason, words in told:
            record_event(session, subject_of(number), reason, words, now=now)

    if told:
        platform.db.write(act)
