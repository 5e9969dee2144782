"""Names of tasks, as the vendor's APIs hand them out.

A task is found by its exec id, which is its workload's name: its program is told it (``DLI_EXECID``), so it is made
before the workload. By its application's and its submission's id it is found as well; those are worked out from the
workload's number (:mod:`localml.core.public_ids`), and any workload has them.
"""

from __future__ import annotations

import secrets

from localml.core.errors import Code, LocalmlError
from localml.core.people.allow import Thing, allow
from localml.core.people.identity import Caller
from localml.core.people.rights import Action, ThingKind
from localml.core.work.states import Kind
from localml.core.work.workloads import Full
from localml.platform import Platform

DIALECT = "wmla"
KIND = "wmla-application"
APP, SUBMISSION, EXEC = "app-", "driver-", "exec-"
_MOST_TEXT = 200


def new_exec_id() -> str:
    """An id for a task that is to be made."""
    return f"{EXEC}{secrets.token_hex(6)}"


def app_id(platform: Platform, number: int) -> str:
    """The id of a workload's application, ``app-UUID``."""
    return APP + platform.public_ids.of(KIND, number)


def submission_id(platform: Platform, number: int) -> str:
    """The id of its submission, ``driver-UUID``."""
    return SUBMISSION + platform.public_ids.of(KIND, number)


def number_of(platform: Platform, text: str) -> int | None:
    """The number of the workload that has this application's or submission's id; None where it is neither."""
    for prefix in (APP, SUBMISSION):
        if text.startswith(prefix):
            return platform.public_ids.number(KIND, text.removeprefix(prefix))
    return None


def find_exec(platform: Platform, caller: Caller, exec_id: str, action: Action = Action.READ) -> Full:
    """The live task with this exec id, or with this application's or submission's id, as clients pass them, too.

    Raises:
        LocalmlError: ``NOT_FOUND`` with the status 400, which the document has for it; ``FORBIDDEN`` for a task that
            the caller sees and may not do this to.
    """
    found = _live_exec(platform, exec_id)
    if found is None:
        raise _missing(exec_id)
    try:
        allow(caller, action, Thing.of(ThingKind.WORKLOAD, found.row, exec_id))
    except LocalmlError as error:
        if error.code is not Code.NOT_FOUND:
            raise
        raise _missing(exec_id) from None
    return found


def _live_exec(platform: Platform, exec_id: str) -> Full | None:
    number = number_of(platform, exec_id)
    if number is None:
        return platform.workloads.find(dialect=DIALECT, kind=Kind.JOB, name=exec_id)
    try:
        found = platform.workloads.get(number)
    except LocalmlError:  # pruned
        return None
    row = found.row
    is_exec = row.dialect == DIALECT and row.kind is Kind.JOB and row.parent is None and row.deleted_at is None
    return found if is_exec else None


def _missing(exec_id: str) -> LocalmlError:
    words = f"execId: the task {exec_id[:_MOST_TEXT]!r} does not exist"
    return LocalmlError(Code.NOT_FOUND, words, field="execId", details={"status": 400})
