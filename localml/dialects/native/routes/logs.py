"""What workloads wrote."""

from __future__ import annotations

from typing import Any

from flask import Response, request
from flask_openapi.blueprint import APIBlueprint

from localml.core.errors import invalid
from localml.core.work.states import TERMINAL
from localml.core.work.workloads import Full
from localml.dialects.kit import caller
from localml.dialects.kit.held import Following
from localml.dialects.native.auth import find
from localml.dialects.native.schemas import work as schemas
from localml.dialects.native.translate.follow import as_bytes, as_events, follow
from localml.dialects.native.translate.output import Lines, Position, Selection, pieces, tail_position
from localml.platform import Platform

OFFSET = "Localml-Offset"
"""Header: where the next request goes on."""
COMPLETE = "Localml-Complete"
"""Header: ``true`` when nothing more will come behind this answer."""


def add(api: APIBlueprint, platform: Platform) -> None:
    """Add the routes of this module."""

    @api.get("/workloads/<ref>/logs")
    def logs(path: schemas.Reference, query: schemas.LogQuery) -> Any:
        """Output as bytes; all replicas' by default, each line then marked with its replica.

        With ``follow`` it goes on until the workload has ended. With ``Accept: text/event-stream`` it comes as
        server-sent events.
        """
        found = find(platform, caller(), path.ref)
        selection = Selection.of(found, query.role, query.index, query.attempt, query.stream)
        position = _position(platform, found, selection, query)
        events = request.accept_mimetypes.best == "text/event-stream"
        if not events and not query.follow:
            return _now(platform, found, selection, position, query)
        steps = follow(platform, found, selection, position)
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        if events:
            body = as_events(steps, position)
            return Following(platform.feed, body, mimetype="text/event-stream", headers=headers)
        body = as_bytes(steps, _lines(found, selection, query, position))
        return Following(platform.feed, body, mimetype="text/plain", headers=headers)


def _position(platform: Platform, found: Full, selection: Selection, query: schemas.LogQuery) -> Position:
    sources = selection.sources(found.attempts)
    resumed = request.headers.get("Last-Event-ID") or query.offset
    if resumed:
        if not schemas.OFFSETS.fullmatch(resumed):
            raise invalid("Last-Event-ID", "is none of this stream's ids")
        position = Position.parse(resumed)
        if len(position.offsets) > max(1, len(sources)):
            raise invalid("offset", f"has {len(position.offsets)} parts for {len(sources)} streams")
    elif query.tail is not None:
        position = tail_position(platform.logs, sources, query.tail)
    else:
        position = Position()
    position.fit(len(sources))
    return position


def _lines(found: Full, selection: Selection, query: schemas.LogQuery, position: Position) -> Lines | None:
    if not query.prefix or not selection.several(found):
        return None
    return Lines(Position(list(position.offsets)))


def _now(
    platform: Platform, found: Full, selection: Selection, position: Position, query: schemas.LogQuery
) -> Response:
    """What there is by now, up to the limit."""
    over = found.row.state in TERMINAL
    sources = selection.sources(found.attempts)
    lines = _lines(found, selection, query, position)
    parts: list[bytes] = []
    for piece in pieces(platform.logs, sources, position, query.limit):
        position.offsets[piece.number] = piece.end
        if lines is not None:
            lines.position.fit(len(position.offsets))
            parts.append(lines.feed(piece))
        else:
            parts.append(piece.data)
    sizes = [platform.logs.size(one.workload_id, one.name, one.stream) for one in sources]
    complete = over and all(have >= size for have, size in zip(position.offsets, sizes, strict=True))
    if lines is not None and (complete or not any(parts)):
        parts.append(lines.rest())
    given = lines.position if lines is not None else position
    headers = {OFFSET: str(given), COMPLETE: "true" if complete else "false", "Cache-Control": "no-store"}
    return Response(b"".join(parts), mimetype="text/plain", headers=headers)
