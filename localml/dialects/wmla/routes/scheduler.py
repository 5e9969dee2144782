"""Scheduler: applications, their statistics and logs."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from itertools import chain, islice
from typing import Any

from flask import Request, Response, request

from localml.core.errors import invalid
from localml.dialects.kit import Operations, caller, platform
from localml.dialects.kit.logs import joined
from localml.dialects.kit.seats import MANY_LINES, slow, slow_if
from localml.dialects.wmla.document import SCHEME, failures
from localml.dialects.wmla.environment import BASE
from localml.dialects.wmla.schemas import scheduler as schemas
from localml.dialects.wmla.translate import applications
from localml.dialects.wmla.translate.logs import lines_asked, log

TAGS: list[Any] = [{"name": "Scheduler"}]
DRIVER = "/scheduler/applications/<appid>/driver/logs/<type>"
EXECUTOR = "/scheduler/applications/<appid>/executor/<executorid>/logs/<type>"
TEXT: dict[Any, Any] = {"description": "The log", "content": {"text/plain": {"schema": {"type": "string"}}}}

api = Operations("wmla_scheduler", __name__, url_prefix=BASE, abp_security=[{SCHEME: []}])


def _many(asked: Request) -> bool:
    return lines_asked(asked.args.get("lastlines", "")) > MANY_LINES


@api.get(
    "/scheduler/applications",
    operation_id="getApplications",
    tags=TAGS,
    responses={200: schemas.Applications, **failures(400, 403, 416)},
)
@slow
def list_applications(query: schemas.ApplicationQuery) -> Response:
    """List applications"""
    if len(request.args.getlist("sort")) > 1:
        raise invalid("sort", "takes one field")
    wanted = applications.survey_of(platform(), caller(), query)
    found = applications.page(platform(), wanted)
    explained = wanted.numbers is not None  # they are asked for by id
    return array(applications.details(platform(), found, explained=explained))


@api.get(
    "/scheduler/applicationStatistic",
    operation_id="getApplicationStatistic",
    tags=TAGS,
    responses={200: schemas.Statistics, **failures(400, 403, 416)},
)
@slow
def show_statistics(query: schemas.StatisticQuery) -> list[dict[str, Any]]:
    """Per-user application statistics"""
    wanted = applications.statistic_of(platform(), caller(), query)
    found = applications.statistics(platform(), wanted)
    start = query.start or 0
    if start and start >= len(found):
        raise applications.out_of_range(start)
    return found[start:] if query.length is None else found[start : start + query.length]


@api.get(DRIVER, operation_id="getDriverLog", tags=TAGS, responses={200: TEXT, **failures(403, 404)})
@slow_if(_many)
def show_driver_log(path: schemas.DriverPath, query: schemas.LinesQuery) -> Response:
    """Tail a driver log"""
    return _text(_log(path.appid, None, path.type, lines_asked(query.lastlines)))


@api.get(
    f"{DRIVER}/download", operation_id="downloadDriverLogFile", tags=TAGS, responses={200: TEXT, **failures(403, 404)}
)
@slow
def download_driver_log(path: schemas.DriverPath) -> Response:
    """Download a driver log"""
    return _file(_log(path.appid, None, path.type, None), f"driver-{path.type}.log")


@api.get(EXECUTOR, operation_id="getExecutorLog", tags=TAGS, responses={200: TEXT, **failures(403, 404)})
@slow_if(_many)
def show_executor_log(path: schemas.ExecutorPath, query: schemas.LinesQuery) -> Response:
    """Tail an executor log"""
    return _text(_log(path.appid, path.executorid, path.type, lines_asked(query.lastlines)))


@api.get(
    f"{EXECUTOR}/download",
    operation_id="downloadExecutorLogFile",
    tags=TAGS,
    responses={200: TEXT, **failures(403, 404)},
)
@slow
def download_executor_log(path: schemas.ExecutorPath) -> Response:
    """Download an executor log"""
    return _file(_log(path.appid, path.executorid, path.type, None), f"executor-{path.executorid}-{path.type}.log")


def _log(appid: str, executor: str | None, kind: str, lines: int | None) -> Iterator[bytes]:
    found = applications.find_application(platform(), caller(), appid)
    return log(platform(), found, executor, kind, lines)


def _text(blocks: Iterator[bytes]) -> Response:
    return _sent(blocks, "text/plain")


def _file(blocks: Iterator[bytes], name: str) -> Response:
    answer = _sent(blocks, "application/octet-stream")
    answer.headers["Content-Disposition"] = f"attachment;filename={name}"  # clients split at the semicolon
    return answer


def array(items: Iterable[dict[str, Any]]) -> Response:
    """A JSON array, sent as it is made."""
    return _sent(joined(chain((b"[",), _with_commas(items), (b"]\n",))), "application/json")


def _with_commas(items: Iterable[dict[str, Any]]) -> Iterator[bytes]:
    for place, one in enumerate(items):
        yield (b"," if place else b"") + json.dumps(one, separators=(",", ":")).encode()


def _sent(blocks: Iterator[bytes], kind: str) -> Response:
    """What is short has a length; the rest is sent as it is read."""
    first = list(islice(blocks, 2))
    return Response(chain(first, blocks) if len(first) > 1 else b"".join(first), mimetype=kind)
