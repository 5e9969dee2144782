"""Applications in the words of the scheduler's own engine, which the vendor's command line (``dlicmd.py``) asks.

None of it is in the document. Times are in seconds since the epoch, memory in MB; what a worker asks for is a text of
pairs, ``ngpus=1,mem=512,ncpus=1``.
"""

from __future__ import annotations

from typing import Any

from localml.core.people.allow import Thing, allow
from localml.core.people.identity import Caller
from localml.core.people.rights import Action, ThingKind
from localml.core.series.uses import Use
from localml.core.work.states import HOLDING, Kind
from localml.core.work.survey import Shown
from localml.dialects.wmla.schemas.scheduler import ApplicationQuery, EngineQuery
from localml.dialects.wmla.translate.applications import BATCH, NOTEBOOK, find_application
from localml.dialects.wmla.translate.ids import app_id
from localml.dialects.wmla.translate.plans import path_of
from localml.dialects.wmla.translate.states import state_word
from localml.platform import Platform

_SORTS = {
    **{"id": "applicationid", "name": "applicationname", "submit_user": "username", "submit_time": "submittedtime"},
    **{"end_time": "endtime", "used_cpu": "coresused", "used_mem": "memused"},
}
"""Member of an answer -> that of the document's applications, where it is called otherwise."""
_MEGABYTE = 1 << 20


def in_the_documents_words(query: EngineQuery) -> ApplicationQuery:
    """The same query for the document's list."""
    field = (query.sort or "").removeprefix("-")
    minus = "-" if field != (query.sort or "") else ""
    sort = f"{minus}{_SORTS.get(field, field)}" if field else None
    return ApplicationQuery.model_validate({**query.model_dump(), "sort": sort})


def answer(platform: Platform, one: Shown, use: Use) -> dict[str, Any]:
    """An application as the engine tells of it."""
    row, workers = one.row, max(1, one.replicas)
    holds, consumer = row.state in HOLDING, path_of(row.pool)
    each = {"ngpus": row.gpu / workers, "mem": row.memory / workers / _MEGABYTE, "ncpus": row.cpu / workers}
    return {
        "id": app_id(platform, row.id or 0),
        "name": str(one.name),
        "type": NOTEBOOK if row.kind is Kind.NOTEBOOK else BATCH,
        "state": state_word(row),
        "consumer": consumer,
        "submit_user": row.owner,
        "tag": f"{consumer}/{row.owner}",
        "priority": row.priority,
        "submit_time": row.created_at,
        "start_time": row.started_at,
        "end_time": row.ended_at,
        "used_gpu": row.gpu if holds else 0.0,
        "used_cpu": round(use.cpu, 3),
        "used_mem": round(use.memory / _MEGABYTE, 3),
        "task12n_num": one.replicas,
        "task12n_resreq": ",".join(f"{name}={round(amount, 3):.15g}" for name, amount in each.items()),
        "reason": row.message,
    }


def stop(platform: Platform, caller: Caller, appid: str) -> None:
    """Stop an application, whatever it is.

    Raises:
        LocalmlError: ``NOT_FOUND``, ``FORBIDDEN``.
    """
    found = find_application(platform, caller, appid)
    allow(caller, Action.STOP, Thing.of(ThingKind.WORKLOAD, found.row, appid))
    instance = platform.instances.of_run(found.row)
    if instance is not None:
        platform.instances.stop(instance.row.id or 0, caller)
    else:
        platform.workloads.stop(found.row.id or 0, caller)
