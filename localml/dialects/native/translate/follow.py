"""Following a workload's output until it has ended: as plain bytes, or as server-sent events. Nobody polls."""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterator
from dataclasses import dataclass

from localml.core.subjects import Subject
from localml.core.work.states import TERMINAL, State
from localml.core.work.workloads import Full
from localml.dialects.kit.held import Pause
from localml.dialects.native.translate.output import Lines, Piece, Position, Selection, pieces
from localml.platform import Platform

HEARTBEAT_S = 10.0
_ROUND = 1 << 20
"""Bytes given before the list of replicas is looked at again."""


@dataclass(frozen=True, slots=True)
class Progress:
    """One step of following: output (``piece``), a ``state`` that is new, or neither: a heartbeat."""

    piece: Piece | None = None
    state: State | None = None


def follow(platform: Platform, found: Full, selection: Selection, position: Position) -> Iterator[Progress | Pause]:
    """What was written behind ``position``, then everything as it is written; ends after the workload has.

    ``position`` moves with what is yielded. Ends early, without a final state, when the server shuts down.
    """
    number = found.row.id or 0
    told: State | None = None
    attempts, moved = found.attempts, found.row.updated_at
    while True:
        seen = platform.feed.version(Subject.workload(number))
        row = platform.workloads.row(number)  # before the output: what is over has all of it on disk
        if row.state is not told and row.state not in TERMINAL:
            yield Progress(state=row.state)
            told = row.state
        if row.updated_at != moved or not attempts:
            attempts, moved = platform.workloads.get(number).attempts, row.updated_at
        more = True
        while more:
            more = False
            for piece in pieces(platform.logs, selection.sources(attempts), position, _ROUND):
                position.offsets[piece.number] = piece.end
                yield Progress(piece=piece)
                more = True
        if row.state in TERMINAL:
            yield Progress(state=row.state)
            return
        pause = Pause(Subject.workload(number), seen, HEARTBEAT_S)
        yield pause
        if platform.feed.closed:
            return
        if not pause.woken:
            yield Progress()


def as_bytes(steps: Iterator[Progress | Pause], lines: Lines | None) -> Iterator[bytes | Pause]:
    """The output alone."""
    for step in steps:
        if isinstance(step, Pause):
            yield step
        elif step.piece is not None:
            data = lines.feed(step.piece) if lines is not None else step.piece.data
            if data:
                yield data
    if lines is not None and (rest := lines.rest()):
        yield rest


def as_events(steps: Iterator[Progress | Pause], position: Position) -> Iterator[bytes | Pause]:
    """Server-sent events.

    ``log``: JSON with ``text``, ``stream``, ``replica`` and ``attempt``; its id is where to go on (Last-Event-ID).
    ``state``: JSON with ``state``. ``end``: the last one, with the final state. Comments keep the line alive.
    """
    decoders: dict[int, codecs.IncrementalDecoder] = {}
    given = Position(list(position.offsets))
    yield b"retry: 1000\n\n"
    for step in steps:
        if isinstance(step, Pause):
            yield step
        elif step.piece is not None:
            yield _log_event(step.piece, decoders, given).encode()
        elif step.state is not None:
            name = "end" if step.state in TERMINAL else "state"
            yield f"event: {name}\nid: {given}\ndata: {json.dumps({'state': step.state})}\n\n".encode()
        else:
            yield b": still there\n\n"


def _log_event(piece: Piece, decoders: dict[int, codecs.IncrementalDecoder], given: Position) -> str:
    decoder = decoders.setdefault(piece.number, codecs.getincrementaldecoder("utf-8")(errors="replace"))
    text = decoder.decode(piece.data)
    given.fit(piece.number + 1)
    given.offsets[piece.number] = piece.end - len(decoder.getstate()[0])  # what is half a letter comes again
    body = {
        "text": text,
        "stream": piece.source.stream,
        "replica": piece.source.replica,
        "attempt": piece.source.attempt,
    }
    return f"event: log\nid: {given}\ndata: {json.dumps(body)}\n\n"
