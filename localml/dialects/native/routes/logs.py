"""What workloads wrote."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from flask import Response, request
from flask_openapi.blueprint import APIBlueprint

from localml.core.errors import invalid
from localml.core.logs.files import LogStore
from localml.core.logs.follower import Follower
from localml.core.logs.reader import Lines, last_bytes, marked, pieces, tail
from localml.core.logs.sources import Position, Selection, Source
from localml.core.subjects import Subject
from localml.core.work.states import TERMINAL
from localml.core.work.workloads import Full
from localml.dialects.kit import caller
from localml.dialects.kit.held import Following
from localml.dialects.kit.logs import followed
from localml.dialects.kit.seats import many_lines, slow_if
from localml.dialects.native.auth import find
from localml.dialects.native.schemas import work as schemas
from localml.dialects.native.translate import follow
from localml.platform import Platform

OFFSET = "Localml-Offset"
"""Header: where the next request goes on."""
START = "Localml-Start"
"""Header: the offset of the first bytes that are still there; what a service wrote before is kept no more."""
END = "Localml-End"
"""Header: the offset behind all that there was."""
TAIL = "Localml-Tail"
"""Header: the offset where the wanted last lines begin, when only the newest of them fit into the answer."""
COMPLETE = "Localml-Complete"
"""Header: ``true`` when nothing more will come behind this answer."""


def add(api: APIBlueprint, platform: Platform) -> None:
    """Add the routes of this module."""

    @api.get("/workloads/<ref>/logs")
    @slow_if(many_lines)
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
        number = found.row.id or 0
        follower = Follower(platform.logs, platform.workloads, number, selection, position)
        body = follow.Events(follower) if events else follow.Plain(follower, lines=_by_line(found, selection, query))
        steps = followed(platform.feed, Subject.workload(number), body, beat_s=follow.HEARTBEAT_S)
        kind = "text/event-stream" if events else "text/plain"
        start = Position.start(platform.logs, selection.sources(found.attempts))
        headers = {START: str(start), "Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        return Following(platform.feed, steps, mimetype=kind, headers=headers)


def _position(platform: Platform, found: Full, selection: Selection, query: schemas.LogQuery) -> Position:
    sources = selection.sources(found.attempts)
    resumed = request.headers.get("Last-Event-ID") or query.offset
    if resumed:
        if not schemas.OFFSETS.fullmatch(resumed):
            raise invalid("Last-Event-ID", "is none of this stream's ids")
        position = Position.parse(resumed)
        if len(position.offsets) > max(1, len(sources)):
            raise invalid("offset", f"has {len(position.offsets)} parts for {len(sources)} streams")
        del position.offsets[len(sources) :]  # of nothing the beginning is all there is, and its text is a 0
    elif query.tail is not None:
        position = tail(platform.logs, sources, query.tail)
    else:
        position = Position()
    position.fit(len(sources))
    return position


def _by_line(found: Full, selection: Selection, query: schemas.LogQuery) -> bool:
    """Whether lines are to be marked with their replicas."""
    return query.prefix and selection.several(found)


def _now(
    platform: Platform, found: Full, selection: Selection, position: Position, query: schemas.LogQuery
) -> Response:
    """What there is by now, up to the limit."""
    over = found.row.state in TERMINAL
    sources = selection.sources(found.attempts)
    lines = Lines() if _by_line(found, selection, query) else None
    begin = str(position)
    if query.offset is None and query.tail is not None:
        _newest(platform.logs, sources, position, query.limit)
    skipped = {TAIL: begin} if str(position) != begin else {}
    given, parts = position.copy(), list[bytes]()
    for piece in pieces(platform.logs, sources, position, query.limit):
        position.offsets[piece.number] = piece.end
        for whole in lines.feed(piece) if lines is not None else (piece,):
            given.offsets[whole.number] = whole.end
            parts.append(marked(whole) if lines is not None else whole.data)
    end = Position.end(platform.logs, sources)
    complete = over and all(have >= size for have, size in zip(position.offsets, end.offsets, strict=True))
    if lines is not None and (complete or not parts):
        for whole in lines.rest():
            given.offsets[whole.number] = whole.end
            parts.append(marked(whole))
    start = Position.start(platform.logs, sources)
    told = {OFFSET: str(given), START: str(start), END: str(end), COMPLETE: "true" if complete else "false"}
    headers = {**told, **skipped, "Cache-Control": "no-store"}
    return Response(b"".join(parts), mimetype="text/plain", headers=headers)


def _newest(store: LogStore, sources: Sequence[Source], position: Position, limit: int) -> None:
    """Move on to the last ``limit`` bytes, if there are more behind a position: the newest are what is asked for."""
    ends = Position.end(store, sources).offsets
    if sum(end - at for at, end in zip(position.offsets, ends, strict=True)) > limit:
        position.offsets[:] = map(max, position.offsets, last_bytes(store, sources, limit).offsets)
