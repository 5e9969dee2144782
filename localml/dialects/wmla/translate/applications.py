"""The scheduler's applications: tasks, trials of searches, and notebooks, whatever API these were started through."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from typing import Any

from localml.core.errors import Code, LocalmlError, invalid, not_found
from localml.core.people.allow import Thing, may, reach
from localml.core.people.identity import Caller
from localml.core.people.rights import Action, ThingKind
from localml.core.series.uses import Use
from localml.core.work.placeholders import expand
from localml.core.work.states import HOLDING, TERMINAL, Kind, State
from localml.core.work.survey import Search, Shown, Source, Stages, Survey
from localml.core.work.workloads import Full
from localml.dialects.wmla.environment import BASE
from localml.dialects.wmla.schemas.scheduler import ApplicationQuery, StatisticQuery
from localml.dialects.wmla.translate.ids import APP, DIALECT, SUBMISSION, app_id, number_of, submission_id
from localml.dialects.wmla.translate.plans import find_plan, name_of
from localml.dialects.wmla.translate.states import RECOVERING, STATE_WORDS, stages_called, state_word
from localml.platform import Platform

SOURCES = (Source((Kind.JOB, Kind.TRIAL), DIALECT), Source((Kind.NOTEBOOK,)))
NAME = "$.appName"
"""Where a request has the name that its task was given."""
SCHEDULER = f"{BASE}/scheduler/applications"
BATCH, NOTEBOOK = "BATCH", "NOTEBOOK"
_ENV = "$.roles[0].env."
PATHS = {"dltype": f"{_ENV}DLI_FRAMEWORK", "model": f"{_ENV}DLI_MODEL_MAIN", "dataset": f"{_ENV}DLI_DATASET"}
"""Member of an application -> where its spec has that."""
SORTS = {
    "applicationid": "id",
    "applicationname": "name",
    "type": "kind",
    "state": "state",
    "slots": "held_replicas",
    "demandslots": "replicas",
    "hosts": "held",
    "coresused": "cpu",
    "memused": "figure",
    "username": "owner",
    "timestamp": "updated_at",
    "submittedtime": "created_at",
    "schedulerUrl": "id",
    "endtime": "ended_at",
    "apprunduration": "ran",
    "tunningname": "study",
    "appReason": "message",
    "appFailureDetail": "failure",
}
"""Member of an application -> what the core sorts by; :data:`PATHS` besides."""
_WORDS = sorted({*STATE_WORDS.values(), RECOVERING})
_RANKS = {state: _WORDS.index(word) for state, word in STATE_WORDS.items()}
_KINDS = {Kind.JOB: 0, Kind.TRIAL: 0, Kind.NOTEBOOK: 1}
_PART_OF_ID = re.compile(r"(app-|driver-)[0-9a-f-]*|[0-9a-f-]{8,36}")
_AT_A_TIME = 500
_MEGABYTE = 1 << 20


def survey_of(platform: Platform, caller: Caller, query: ApplicationQuery) -> Survey:
    """What a query asks for.

    Raises:
        LocalmlError: ``INVALID`` naming ``sort``; ``FORBIDDEN`` for a token that leaves lists out.
    """
    found = Survey(
        SOURCES,
        workspaces=reach(caller, ThingKind.WORKLOAD),
        numbers=_numbers(platform, {APP: query.applicationid, SUBMISSION: query.driverid}),
        alias=NAME,
        name=query.applicationname,
        stages=_stages(query.state),
        start=query.start or 0,
        length=query.length,
    )
    found = _sorted(platform, found, query)
    return found if query.search is None else replace(found, search=_search(platform, found, query.search))


def statistic_of(platform: Platform, caller: Caller, query: StatisticQuery) -> Survey:
    """Which applications a statistic is of; a consumer is a resource plan, by name or path."""
    plan = find_plan(platform, caller, query.consumer) if query.consumer else None
    nothing = bool(query.consumer) and plan is None
    return Survey(
        SOURCES,
        workspaces=reach(caller, ThingKind.WORKLOAD),
        numbers=() if nothing else _numbers(platform, {APP: query.applicationid}),
        alias=NAME,
        name=query.applicationname,
        pool=None if plan is None else plan.name,
        stages=_stages(query.state),
    )


def page(platform: Platform, wanted: Survey) -> list[int]:
    """The numbers of the applications.

    Raises:
        LocalmlError: ``INVALID`` with the status 416 for a start behind the last one.
    """
    found = platform.surveys.numbers(wanted)
    if not found and wanted.start > 0 and not (wanted.length == 0 and _has(platform, wanted)):
        raise out_of_range(wanted.start)
    return found


def out_of_range(start: int) -> LocalmlError:
    """The failure for an index outside a list."""
    words = f"start: there are not more than {start}"
    return LocalmlError(Code.INVALID, words, field="start", details={"status": 416})


def details(platform: Platform, numbers: Sequence[int], *, explained: bool) -> Iterator[dict[str, Any]]:
    """Applications as they are answered; however many there are, only some are held at a time.

    Args:
        explained: with the reasons why they wait; to find out takes the control loop's time.
    """
    return (_detail(platform, one, use, explained=explained) for one, use in seen(platform, numbers))


def seen(platform: Platform, numbers: Sequence[int]) -> Iterator[tuple[Shown, Use]]:
    """Applications with what they use now, some at a time."""
    for first in range(0, len(numbers), _AT_A_TIME):
        some = platform.surveys.shown(numbers[first : first + _AT_A_TIME], NAME, tuple(PATHS.values()))
        uses = platform.uses.of([one.row.id or 0 for one in some if one.row.state in HOLDING])
        yield from ((one, uses.get(one.row.id or 0, Use())) for one in some)


def statistics(platform: Platform, wanted: Survey) -> list[dict[str, Any]]:
    """What each user's applications ask for and use, by the users' names."""
    running = platform.surveys.numbers(replace(wanted, stages=_only_holding(wanted.stages)))
    cores: dict[int, float] = {}
    uses = platform.uses.of(running)
    for one in platform.surveys.shown([number for number in running if number in uses], NAME):
        cores[one.row.owner_id] = cores.get(one.row.owner_id, 0.0) + uses[one.row.id or 0].cpu
    return [
        {
            "username": one.owner,
            "cpuReq": round(one.cpu, 3),
            "cpuUsed": round(cores.get(one.owner_id, 0.0), 3),
            "gpuReq": float(one.gpu),
            "gpuUsed": float(one.held_gpu),
            "jobPending": one.waiting,
            "jobRunning": one.running,
        }
        for one in platform.surveys.sums(wanted)
    ]


def find_application(platform: Platform, caller: Caller, appid: str) -> Full:
    """The application of this id, or of this submission's id.

    Raises:
        LocalmlError: ``NOT_FOUND``.
    """
    number = number_of(platform, appid)
    found = None if number is None else _live(platform, number)
    if found is None or not may(caller, Action.READ, Thing.of(ThingKind.WORKLOAD, found.row)):
        raise not_found("application", appid)
    return found


def _live(platform: Platform, number: int) -> Full | None:
    try:
        found = platform.workloads.get(number)
    except LocalmlError:  # pruned
        return None
    row = found.row
    known = any(row.kind in one.kinds and one.dialect in (None, row.dialect) for one in SOURCES)
    return found if known and row.deleted_at is None else None


def _numbers(platform: Platform, given: dict[str, str | None]) -> Collection[int] | None:
    """The workloads that have all of these ids; None where no id is given."""
    found = None
    for prefix, text in given.items():
        if text is not None:
            number = number_of(platform, text) if text.startswith(prefix) else None
            this = set() if number is None else {number}
            found = this if found is None else found & this
    return found


def _stages(state: str | None) -> Stages | None:
    """What is meant by states in the vendor's words, with commas between them; None where none is given."""
    words = {one.strip() for one in (state or "").split(",") if one.strip()}
    return stages_called(words) if words else None


def _only_holding(stages: Stages | None) -> Stages:
    if stages is None:
        return Stages(HOLDING, again=True)
    return replace(stages, states=stages.states & HOLDING)


def _sorted(platform: Platform, found: Survey, query: ApplicationQuery) -> Survey:
    """With the order that a query asks for: the newest first where it does not, by a field upwards where it does not
    say which way."""
    field = (query.sort or "").removeprefix("-")
    if field and field not in SORTS and field not in PATHS:
        known = ", ".join(sorted({*SORTS, *PATHS}))
        raise invalid("sort", f"must be one of {known}, perhaps with a minus before it, not {field!r}")
    down = {"asc": False, "desc": True}.get((query.order or "").lower(), query.sort is None)
    by = replace(found, sort=SORTS.get(field or "applicationid", "id"), path=PATHS.get(field))
    by = replace(by, descending=down or (query.sort or "").startswith("-"))
    by = replace(by, ranks=_RANKS, again=_WORDS.index(RECOVERING), kinds=_KINDS)
    if by.sort != "figure":
        return by
    held = replace(found, stages=_only_holding(found.stages), start=0, length=None)
    figures = platform.uses.of(platform.surveys.numbers(held))
    return replace(by, figures={number: float(use.memory) for number, use in figures.items()})


def _search(platform: Platform, found: Survey, text: str) -> Search:
    low = text.lower()
    kinds = {BATCH: (Kind.JOB, Kind.TRIAL), NOTEBOOK: (Kind.NOTEBOOK,)}
    return Search(
        text,
        kinds=tuple(kind for word, some in kinds.items() if low in word.lower() for kind in some),
        stages=stages_called([word for word in _WORDS if low in word.lower()]),
        numbers=_with_part(platform, found, low) if _PART_OF_ID.fullmatch(low) else (),
        paths=tuple(PATHS.values()),
    )


def _with_part(platform: Platform, found: Survey, text: str) -> list[int]:
    """The applications with this part in their id or their submission's. Nothing but working them out finds it."""
    whole = number_of(platform, text)
    if whole is not None:
        return [whole]
    every = platform.surveys.numbers(replace(found, start=0, length=None, sort="id", path=None))
    named = submission_id if text.startswith(SUBMISSION) else app_id
    return [number for number in every if text in named(platform, number)]


def _has(platform: Platform, wanted: Survey) -> bool:
    return bool(platform.surveys.numbers(replace(wanted, length=1)))


def _detail(platform: Platform, one: Shown, use: Use, *, explained: bool) -> dict[str, Any]:
    row = one.row
    number, holds = row.id or 0, row.state in HOLDING
    until = platform.clock.now() if row.ended_at is None else row.ended_at
    reason = _reason(platform, one, explained=explained)
    found = {
        "applicationid": app_id(platform, number),
        "applicationname": str(one.name),
        "type": NOTEBOOK if row.kind is Kind.NOTEBOOK else BATCH,
        "state": state_word(row),
        "slots": one.replicas if holds else 0,
        "demandslots": one.replicas,
        "hosts": 1 if holds else 0,
        "coresused": float(row.cpu) if holds else 0.0,
        "memused": round(use.memory / _MEGABYTE, 3),
        "username": row.owner,
        "timestamp": _milliseconds(row.updated_at),
        "submittedtime": _milliseconds(row.created_at),
        "schedulerUrl": f"{SCHEDULER}?applicationid={app_id(platform, number)}",
        "endtime": None if row.ended_at is None else _milliseconds(row.ended_at),
        "apprunduration": 0.0 if row.started_at is None else round(max(0.0, until - row.started_at), 3),
        "tunningname": one.study,
        "appReason": reason,
        "appFailureDetail": _failure(one),
        **{name: _shown(value) for name, value in zip(PATHS, one.members, strict=True)},
        "driverid": submission_id(platform, number),
        "consumer": f"/{row.pool}",
        "resourcePlan": name_of(row.pool),
        "task12n": [{"id": str(place)} for place in range(1, one.replicas + 1)] if row.started_at else [],
    }
    return {name: value for name, value in found.items() if value is not None}


def _reason(platform: Platform, one: Shown, *, explained: bool) -> str | None:
    if explained and one.row.state not in TERMINAL and (why := platform.why(one.row.id or 0)) is not None:
        return why.discreet
    return one.row.message or None


def _failure(one: Shown) -> str | None:
    row = one.row
    if row.state is not State.FAILED:
        return None
    cause = "" if row.cause is None else f"{row.cause}: "
    code = "" if row.exit_code is None else f" (exit code {row.exit_code})"
    return f"{cause}{row.message}{code}"


def _shown(value: Any) -> str | None:
    return expand(str(value), lambda _: "") if value else None


def _milliseconds(seconds: float) -> int:
    return int(seconds * 1000)
