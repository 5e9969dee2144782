"""Studies: create, list, show, stop, start over, resume, delete, follow; their trials; who can propose these."""

from __future__ import annotations

from typing import Any

from flask import Response, request
from flask_openapi.blueprint import APIBlueprint

from localml.core.errors import invalid
from localml.core.numerals import whole
from localml.core.people.allow import Thing, allow, may, reach
from localml.core.people.identity import Caller
from localml.core.people.rights import Action, ThingKind
from localml.core.studies.studies import StudyQuery, StudySubmission, subject_of
from localml.core.studies.tables import OVER, Algorithm, Study
from localml.dialects.kit import caller
from localml.dialects.kit.held import Following, hold_until, waited_for
from localml.dialects.kit.logs import followed
from localml.dialects.kit.pools import use_pool
from localml.dialects.kit.seats import slow
from localml.dialects.native.auth import find_study, reached, workspace_for
from localml.dialects.native.schemas import studies as study_schemas
from localml.dialects.native.schemas import work as schemas
from localml.dialects.native.translate import studies as translate
from localml.dialects.native.translate import work
from localml.dialects.native.translate.follow import HEARTBEAT_S
from localml.dialects.native.translate.names import friendly
from localml.dialects.native.translate.study_news import StudyNews
from localml.platform import Platform

_TAIL = 20
_ENDS_S = 60.0
"""So long a study that is deleted is waited for to end."""
_Out = study_schemas.StudyOut


def add(api: APIBlueprint, platform: Platform) -> None:
    """Add the routes of this module."""
    _add_wishes(api, platform)
    _add_questions(api, platform)
    _add_trials(api, platform)
    _add_algorithms(api, platform)


def _add_wishes(api: APIBlueprint, platform: Platform) -> None:
    @api.post("/studies", responses={"201": _Out})
    def create_study(body: study_schemas.StudyIn) -> Any:
        """Begin a search. It is on disk when this answers; its trials follow."""
        return translate.study(platform, platform.studies.create(_new(platform, caller(), body))), 201

    @api.delete("/studies/<ref>", responses={"200": _Out})
    def delete_study(path: schemas.Reference) -> Any:
        """Stop a study and hide it, with its trials; it answers once that is done."""
        number = waited_for() or find_study(platform, caller(), path.ref, Action.DELETE).id or 0
        if waited_for() is None and platform.studies.get(number).state not in OVER:
            platform.studies.stop(number, caller())
        held = hold_until(platform.feed, subject_of(number), lambda: _over(platform, number), _ENDS_S)
        return held or translate.study(platform, platform.studies.delete(number, caller()))

    @api.post("/studies/<ref>/stop", responses={"200": _Out})
    def stop_study(path: schemas.Reference, query: study_schemas.StopQuery) -> Any:
        """End a search: nothing more is proposed, and its trials are stopped. One that is over stays as it is."""
        row = find_study(platform, caller(), path.ref, Action.STOP)
        return translate.study(platform, platform.studies.stop(row.id or 0, caller(), force=query.force))

    @api.post("/studies/<ref>/restart", responses={"200": _Out})
    def restart_study(path: schemas.Reference) -> Any:
        """Search once more from the beginning, when it is over; its trials so far stay listed."""
        row = find_study(platform, caller(), path.ref, Action.STOP)
        return translate.study(platform, platform.studies.restart(row.id or 0, caller()))

    @api.post("/studies/<ref>/resume", responses={"200": _Out})
    def resume_study(path: schemas.Reference, body: study_schemas.ResumeIn) -> Any:
        """Go on with a search that is over, where it was."""
        row = find_study(platform, caller(), path.ref, Action.STOP)
        return translate.study(platform, platform.studies.resume(row.id or 0, caller(), max_trials=body.max_trials))


def _add_questions(api: APIBlueprint, platform: Platform) -> None:
    @api.get("/studies", responses={"200": study_schemas.StudiesOut})
    def list_studies(query: study_schemas.StudiesQuery) -> Any:
        """One page of studies, the newest first."""
        page = platform.studies.page(_query(platform, caller(), query))
        return {"studies": [translate.study(platform, row) for row in page.items], "next": page.cursor}

    @api.get("/studies/<ref>", responses={"200": study_schemas.StudyFull})
    def show_study(path: schemas.Reference) -> Any:
        """Everything about a study but its trials, by name or id."""
        return _full(platform, find_study(platform, caller(), path.ref))

    @api.get("/studies/<ref>/wait", responses={"200": study_schemas.StudyFull})
    def wait_for_study(path: schemas.Reference, query: schemas.WaitQuery) -> Any:
        """Answer when the study has ended, or at the time-out with what it is then."""
        number = waited_for() or find_study(platform, caller(), path.ref).id or 0
        held = hold_until(platform.feed, subject_of(number), lambda: _over(platform, number), query.timeout)
        return held or _full(platform, platform.studies.get(number))

    @api.get("/studies/<ref>/events", responses={"200": schemas.EventsOut})
    def events_of_study(path: schemas.Reference, query: schemas.EventQuery) -> Any:
        """What happened to a study, oldest first; what its trials did is told by their own events."""
        subject = subject_of(find_study(platform, caller(), path.ref).id or 0)
        found = platform.events.of(subject, after=query.after, limit=query.limit)
        after = found[-1].id if found else query.after
        return {"events": [work.event(one) for one in found], "after": after}

    @api.get("/studies/<ref>/follow")
    def follow_study(path: schemas.Reference) -> Any:
        """Server-sent events as its trials come and end, until it is over: ``trial``, ``study`` and ``end``."""
        number = find_study(platform, caller(), path.ref).id or 0
        body = StudyNews(platform, number, _resumed())
        steps = followed(platform.feed, subject_of(number), body, beat_s=HEARTBEAT_S)
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        return Following(platform.feed, steps, mimetype="text/event-stream", headers=headers)


def _add_trials(api: APIBlueprint, platform: Platform) -> None:
    @api.get("/studies/<ref>/trials", responses={"200": study_schemas.TrialsOut})
    def list_trials(path: schemas.Reference, query: study_schemas.TrialsQuery) -> Any:
        """One page of trials, by number."""
        row = find_study(platform, caller(), path.ref)
        found = platform.studies.trials(
            row.id or 0,
            run=_run(row, query.run),
            states=tuple(query.state),
            after=query.after,
            limit=query.limit + 1,
        )
        page = found[: query.limit]
        return {
            "trials": translate.trials(platform, page),
            "next": page[-1].number if len(found) > query.limit else None,
        }

    @api.get("/studies/<ref>/trials/<int:number>", responses={"200": study_schemas.TrialOut})
    def show_trial(path: study_schemas.TrialPath) -> Any:
        """One trial."""
        row = find_study(platform, caller(), path.ref)
        return translate.trials(platform, [platform.studies.trial(row.id or 0, path.number)])[0]

    @api.get("/studies/<ref>/export")
    @slow
    def export_study(path: schemas.Reference, query: study_schemas.ExportQuery) -> Any:
        """All trials as CSV, a line each, or as JSON."""
        row = find_study(platform, caller(), path.ref)
        blocks = translate.exported(platform, row, _run(row, query.run), query.format)
        kind = "text/csv" if query.format == "csv" else "application/json"
        return Response(blocks, mimetype=kind, headers={"Cache-Control": "no-store"})


def _add_algorithms(api: APIBlueprint, platform: Platform) -> None:
    @api.get("/algorithms", responses={"200": study_schemas.AlgorithmsOut})
    def list_algorithms() -> Any:
        """Who can propose trials: the built-in algorithms, with their parameters, and installed ones."""
        who = caller()
        reach(who, ThingKind.ALGORITHM)
        installed = [translate.installed(one) for one in platform.algorithms.page() if _usable(who, one)]
        return {"algorithms": translate.built_in() + installed}


def _new(platform: Platform, who: Caller, body: study_schemas.StudyIn) -> StudySubmission:
    place = workspace_for(platform, who, body.workspace, ThingKind.STUDY)
    allow(who, Action.CREATE, Thing(ThingKind.WORKLOAD, owner=who.id, workspace=place))  # its trials
    use_pool(platform, who, body.pool)
    work.need_seen(platform, who, body.spec.trial)
    return StudySubmission(body.name or friendly(), body.spec, who, workspace=place, pool=body.pool)


def _query(platform: Platform, who: Caller, query: study_schemas.StudiesQuery) -> StudyQuery:
    return StudyQuery(
        dialect=query.dialect,
        workspaces=reached(platform, who, ThingKind.STUDY, query.workspace),
        owner=query.owner,
        owner_id=None if who.admin or query.owner is None else platform.identity.number(query.owner),
        states=tuple(query.state),
        contains=query.contains,
        limit=query.limit,
        after=query.after,
    )


def _usable(who: Caller, one: Algorithm) -> bool:
    return may(who, Action.USE, Thing(ThingKind.ALGORITHM, str(one.id), one.name, one.owner_id, owner_name=one.owner))


def _run(row: Study, asked: int | None) -> int | None:
    """Which run's trials are meant; None: those of all."""
    return row.run if asked is None else asked or None


def _over(platform: Platform, number: int) -> bool:
    return platform.studies.get(number).state in OVER


def _resumed() -> int:
    """What the client knows of the study's sequence."""
    given = request.headers.get("Last-Event-ID")
    number = whole(given) if given else 0
    if number is None:
        raise invalid("Last-Event-ID", "is none of this stream's ids")
    return number


def _full(platform: Platform, row: Study) -> dict[str, Any]:
    events = platform.events.of(subject_of(row.id or 0), limit=10_000)[-_TAIL:]
    return translate.full(platform, row, events)
