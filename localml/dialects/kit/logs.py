"""A workload's output as one text, or as lines while they are written."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field

from localml.core.logs.files import LogStore
from localml.core.subjects import Subject
from localml.core.work.states import TERMINAL
from localml.core.work.tables import Attempt
from localml.core.work.workloads import Full
from localml.dialects.kit.held import Pause
from localml.platform import Platform

MAX_TEXT = 64 << 20
"""Bytes of output that one answer holds at most; of more, the last ones are given."""
STREAMS = ("stdout", "stderr")
_BLOCK = 1 << 20
_NUDGE_S = 15.0  # a follower looks again after so long, should a change ever go unannounced


def log_text(store: LogStore, full: Full, *, lines: int | None = None, limit: int | None = None) -> str:
    """All output of a workload, both streams merged line by line in the order of their writing.

    With several replicas each line starts with its replica (``[worker-0] ``); a retry starts with a line that says so.
    Bytes that are no UTF-8 become U+FFFD. The last line keeps its missing newline.

    Args:
        lines: only so many last lines.
        limit: bytes of output at most, :data:`MAX_TEXT` when None; of more, the last ones are given.
    """
    found: Iterator[bytes] | deque[bytes] = _all_lines(store, full, MAX_TEXT if limit is None else limit)
    if lines is not None:
        found = deque(found, maxlen=lines)
    return b"".join(found).decode("utf-8", "replace")


def follow_lines(platform: Platform, number: int, limit: float, *, lines: int | None = None) -> Iterator[bytes | Pause]:
    """Lines of a workload's output as they come, from the first one on, until it is over or ``limit`` seconds passed.

    The order of lines of different replicas is that of their arrival.

    Args:
        lines: of those that are there already, only so many last ones.
    """
    end = time.monotonic() + limit
    follower = _Follower(platform.logs)
    first = True
    while True:
        seen = platform.feed.version(Subject.workload(number))
        full = platform.workloads.get(number)
        news = follower.news(full)
        yield from deque(news, maxlen=lines) if first and lines is not None else news
        first = False
        if full.row.state in TERMINAL:  # then its output is complete
            yield from follower.rest(full)
            return
        left = end - time.monotonic()
        if left <= 0 or platform.feed.closed:
            return
        yield Pause(Subject.workload(number), seen, min(left, _NUDGE_S))


def _all_lines(store: LogStore, full: Full, most: int) -> Iterator[bytes]:
    """Lines with their newline; only the very last may lack it."""
    number = full.row.id or 0
    size = sum(store.size(number, one.name, stream) for one in full.attempts for stream in STREAMS)
    limit = None if size <= most else most // (len(full.attempts) * len(STREAMS))
    if limit is not None:
        yield f"[localml] {size} bytes of output; only the last ones of each replica are shown\n".encode()
    held: bytes | None = None
    for tries in sorted({one.number for one in full.attempts}):
        for line in _lines_of_try(store, full, tries, limit):
            if held is not None:
                yield held if held.endswith(b"\n") else held + b"\n"
            held = line
    if held is not None:
        yield held


def _lines_of_try(store: LogStore, full: Full, tries: int, limit: int | None) -> Iterator[bytes]:
    if tries > 1:
        yield _retry_line(tries)
    attempts = [one for one in full.attempts if one.number == tries]
    pieces: list[tuple[float, int, str, bytes]] = []
    for index, one in enumerate(attempts):
        for at, stream, data in _pieces(store, full.row.id or 0, one.name, limit):
            pieces.append((at, index, stream, data))
    pieces.sort(key=lambda piece: piece[0])
    parts: dict[tuple[int, str], bytes] = {}
    for _, index, stream, data in pieces:
        lines = (parts.pop((index, stream), b"") + data).split(b"\n")
        if lines[-1]:
            parts[index, stream] = lines[-1]
        for line in lines[:-1]:
            yield _prefix(full, attempts[index]) + line + b"\n"
    for (index, _), line in parts.items():
        yield _prefix(full, attempts[index]) + line


def _pieces(store: LogStore, number: int, name: str, limit: int | None) -> list[tuple[float, str, bytes]]:
    if limit is None:
        return store.merged(number, name)
    return [(0.0, stream, store.tail(number, name, stream, limit)) for stream in STREAMS]


def _prefix(full: Full, one: Attempt) -> bytes:
    return f"[{one.role}-{one.index}] ".encode() if full.spec.replicas > 1 else b""


def _retry_line(tries: int) -> bytes:
    return f"[localml] the job is tried again (try {tries})\n".encode()


@dataclass
class _Follower:
    """Remembers how far each file was read, and the beginnings of lines that are not complete."""

    store: LogStore
    offsets: dict[tuple[str, str], int] = field(default_factory=dict)
    parts: dict[tuple[str, str], bytes] = field(default_factory=dict)
    tries: int = 1

    def news(self, full: Full) -> Iterator[bytes]:
        """Lines that were completed since the last call."""
        number = full.row.id or 0
        for one in full.attempts:
            if one.number > self.tries:
                self.tries = one.number
                yield _retry_line(one.number)
            for stream in STREAMS:
                key = (one.name, stream)
                while data := self.store.read(number, one.name, stream, self.offsets.get(key, 0), _BLOCK):
                    self.offsets[key] = self.offsets.get(key, 0) + len(data)
                    *lines, self.parts[key] = (self.parts.get(key, b"") + data).split(b"\n")
                    for line in lines:
                        yield _prefix(full, one) + line + b"\n"

    def rest(self, full: Full) -> Iterator[bytes]:
        """Last lines that have no newline."""
        for one in full.attempts:
            for stream in STREAMS:
                if part := self.parts.pop((one.name, stream), b""):
                    yield _prefix(full, one) + part + b"\n"
