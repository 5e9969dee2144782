"""A workload's output as one text, or as lines while they are written; and bodies of answers that grow."""

from __future__ import annotations

import codecs
import json
import time
from collections.abc import Iterable, Iterator
from itertools import chain, islice
from typing import Protocol

from flask import Response

from localml.core.events.feed import Feed
from localml.core.logs.files import LogStore
from localml.core.logs.follower import Follower
from localml.core.logs.reader import BLOCK, Lines, Piece, last_bytes, marked, pieces, tail
from localml.core.logs.sources import ALL, Position, Selection
from localml.core.subjects import Subject
from localml.core.work.workloads import Full
from localml.dialects.kit.held import Pause
from localml.platform import Platform

MAX_TEXT = 64 << 20
"""Bytes of output that one answer holds at most; of more, the last ones are given."""
_NUDGE_S = 15.0  # a follower looks again after so long, should a change ever go unannounced


class Body(Protocol):
    """An answer that grows. A step never waits; :func:`followed` says when there may be something new."""

    def news(self) -> Iterator[bytes]:
        """What came since the last step, at the end with all that was held back."""
        ...

    def beat(self) -> bytes:
        """What tells the client that the answer goes on although nothing came; may be empty."""
        ...

    @property
    def over(self) -> bool:
        """Whether the last step was the last."""
        ...


def followed(
    feed: Feed, subject: Subject, body: Body, *, beat_s: float = _NUDGE_S, limit_s: float = float("inf")
) -> Iterator[bytes | Pause]:
    """A body until it is over, ``limit_s`` seconds passed or the server shuts down.

    Args:
        subject: whose changes may be news.
        beat_s: seconds after which, when nothing came, a beat is sent.
    """
    end = time.monotonic() + limit_s
    while True:
        seen = feed.version(subject)
        yield from body.news()
        left = end - time.monotonic()
        if body.over or left <= 0:
            return
        pause = Pause(subject, seen, min(left, beat_s))
        yield pause
        if feed.closed:
            return
        if not pause.woken and (beat := body.beat()):
            yield beat


def log_blocks(
    store: LogStore, full: Full, *, lines: int | None = None, limit: int | None = None, selection: Selection = ALL
) -> Iterator[bytes]:
    """All output of a workload, both streams merged line by line in the order of their writing.

    With several replicas each line starts with its replica (``[worker-0] ``); a retry starts with a line that says so.
    The last line keeps its missing newline.

    Args:
        lines: only so many last lines.
        limit: bytes of output at most, :data:`MAX_TEXT` when None; of more, the last ones are given.
        selection: of this output alone, of all tries.
    """
    found = _blocks(store, full, lines, limit, selection)
    return joined(found if lines is None else _last(found, lines))


def log_text(store: LogStore, full: Full, *, lines: int | None = None, limit: int | None = None) -> str:
    """What :func:`log_blocks` gives as text. Bytes that are no UTF-8 become U+FFFD."""
    return b"".join(log_blocks(store, full, lines=lines, limit=limit)).decode("utf-8", "replace")


def follow_lines(platform: Platform, number: int, limit: float, *, lines: int | None = None) -> Iterator[bytes | Pause]:
    """Lines of a workload's output as they come, from the first one on, until it is over or ``limit`` seconds passed.

    The order of lines of different replicas is that of their arrival.

    Args:
        lines: of those that are there already, only so many last ones.
    """
    body = LineBody(platform, platform.workloads.get(number), lines)
    return followed(platform.feed, Subject.workload(number), body, limit_s=limit)


def joined(blocks: Iterable[bytes]) -> Iterator[bytes]:
    """The same bytes in blocks of a size that is worth a write each."""
    parts, size = list[bytes](), 0
    for block in blocks:
        parts.append(block)
        size += len(block)
        if size >= BLOCK:
            yield b"".join(parts)
            parts, size = [], 0
    if size:
        yield b"".join(parts)


class LineBody:
    """Lines as :func:`log_blocks` shows them, as they come; every one ends with a newline."""

    def __init__(self, platform: Platform, full: Full, lines: int | None = None) -> None:
        sources = ALL.sources(full.attempts)
        start = Position()
        if lines is not None:
            start = tail(platform.logs, sources, lines, floor=last_bytes(platform.logs, sources, MAX_TEXT), over=False)
        self._follower = Follower(platform.logs, platform.workloads, full.row.id or 0, ALL, start)
        self._lines, self._shown, self._first = Lines(), _Shown(full), lines

    def news(self) -> Iterator[bytes]:
        """See :meth:`Body.news`."""
        first, self._first = self._first, None
        yield from self._whole() if first is None else _last(self._whole(), first)
        if self.over:
            yield from map(self._shown.lines, self._lines.rest())

    def beat(self) -> bytes:
        """Nothing: lines are all that may stand here."""
        return b""

    @property
    def over(self) -> bool:
        """See :meth:`Body.over`."""
        return self._follower.over

    def _whole(self) -> Iterator[bytes]:
        for piece in self._follower.news():
            yield from map(self._shown.lines, self._lines.feed(piece))
        newest = self._follower.newest
        yield from map(self._shown.lines, self._lines.turn(newest))
        yield self._shown.turn(newest)


class _Shown:
    """How lines look: marked with their replica where there are several, tries parted by lines that say so."""

    def __init__(self, full: Full, selection: Selection = ALL) -> None:
        self._several = selection.several(full)
        self.tries = 1

    def lines(self, piece: Piece) -> bytes:
        shown = marked(piece) if self._several else piece.data
        return self.turn(piece.source.attempt) + piece.notice() + shown

    def turn(self, tries: int) -> bytes:
        """What stands between the tries up to this one that were not announced yet."""
        new = range(self.tries + 1, tries + 1)
        self.tries = max(self.tries, tries)
        return b"".join(b"[localml] the job is tried again (try %d)\n" % one for one in new)


def _blocks(store: LogStore, full: Full, lines: int | None, limit: int | None, selection: Selection) -> Iterator[bytes]:
    sources, shown = selection.sources(full.attempts), _Shown(full, selection)
    end = Position.end(store, sources)
    size, most = sum(end.offsets), MAX_TEXT if limit is None else limit
    kept = size - sum(Position.start(store, sources).offsets)
    start = Position() if kept <= most else last_bytes(store, sources, most)
    if start.offsets:
        yield b"[localml] %d bytes of output; only the last ones of each replica are shown\n" % size
    if lines is not None:
        start.fit(len(sources))
        start = tail(store, sources, lines, end=end, floor=start)
    keeper = Lines()
    for piece in pieces(store, sources, start, until=end):
        yield from map(shown.lines, keeper.feed(piece))
    rest = b"".join(map(shown.lines, keeper.rest()))
    announced = shown.turn(max((source.attempt for source in sources), default=1))
    yield rest + announced if announced else rest[:-1]


def _last(blocks: Iterable[bytes], lines: int) -> Iterator[bytes]:
    """The last lines of a short text."""
    data = b"".join(blocks)
    at = len(data.removesuffix(b"\n")) if lines else len(data) - 1
    for _ in range(lines):
        at = data.rfind(b"\n", 0, at)
        if at < 0:
            break
    yield data[at + 1 :]


def json_answer(member: str, blocks: Iterator[bytes]) -> Response:
    """An object with one text, as JSON. What is short has a length; the rest is sent as it is read."""
    first = list(islice(blocks, 2))
    found = json_blocks(member, chain(first, blocks))
    return Response(found if len(first) > 1 else b"".join(found), mimetype="application/json")


def json_blocks(member: str, blocks: Iterable[bytes]) -> Iterator[bytes]:
    """An object with one text as JSON, block by block, so that no answer is ever held as a whole."""
    yield f"{{{json.dumps(member)}: ".encode()
    yield from json_text(blocks)
    yield b"}\n"


def json_text(blocks: Iterable[bytes]) -> Iterator[bytes]:
    """A text as JSON, block by block. Bytes that are no UTF-8 become U+FFFD."""
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    yield b'"'
    for block in blocks:
        yield json.dumps(decoder.decode(block))[1:-1].encode()
    yield json.dumps(decoder.decode(b"", final=True))[1:-1].encode() + b'"'
