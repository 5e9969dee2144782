"""Logs of applications: what the driver and the executors wrote, and what their launcher did.

Executors are the replicas, numbered from 1 on; the driver is the first of them. The launcher's log is the record of
what happened to the application, a line for each event.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

from localml.core.errors import not_found
from localml.core.logs.reader import last_bytes, pieces, tail
from localml.core.logs.sources import STREAMS, Position, Selection, Source
from localml.core.numerals import whole
from localml.core.work.workloads import Full
from localml.dialects.kit.logs import MAX_TEXT, joined
from localml.dialects.kit.times import iso_time
from localml.platform import Platform

LAUNCHER = "launcherlog"
TYPES = (*STREAMS, LAUNCHER)
DEFAULT_LINES = 10
_EVENTS = 1000


def lines_asked(text: str) -> int:
    """How many last lines a query asks for; :data:`DEFAULT_LINES` for what is no number from 1 on."""
    return whole(text) or DEFAULT_LINES


def replica(full: Full, executor: str | None) -> tuple[str, int]:
    """Role and index of an executor, by its number or its name (``worker-0``); of the driver for None.

    Raises:
        LocalmlError: ``NOT_FOUND``.
    """
    every = [(role.name, index) for role in full.spec.roles for index in range(role.count)]
    if executor is None:
        return every[0]
    number = whole(executor)
    if number is not None and 1 <= number <= len(every):
        return every[number - 1]
    for role, index in every:
        if executor == f"{role}-{index}":
            return role, index
    raise not_found("executor", executor)


def log(platform: Platform, full: Full, executor: str | None, kind: str, lines: int | None) -> Iterator[bytes]:
    """A log in blocks: its last lines, or (None) all of it. Never more than a block is held.

    Args:
        executor: None for the driver's.
        kind: one of :data:`TYPES`.

    Raises:
        LocalmlError: ``NOT_FOUND`` for a log or an executor that there is not.
    """
    if kind not in TYPES:
        raise not_found("log", kind)
    role, index = replica(full, executor)
    if kind == LAUNCHER:
        return joined(_events(platform, full, None if executor is None else f"{role}-{index}", lines))
    sources = Selection(role=role, index=index, attempt="all", stream=kind).sources(full.attempts)
    return joined(_output(platform, sources, lines))


def _output(platform: Platform, sources: list[Source], lines: int | None) -> Iterator[bytes]:
    start = Position()
    if lines is not None:
        floor = last_bytes(platform.logs, sources, MAX_TEXT)
        start = tail(platform.logs, sources, lines, floor=floor)
    return (piece.data for piece in pieces(platform.logs, sources, start))


def _events(platform: Platform, full: Full, of: str | None, lines: int | None) -> Iterator[bytes]:
    """Of one executor those that are its own, and those of the application as a whole."""
    found = _all_events(platform, full, of)
    if lines is None:
        return found
    count = sum(1 for _ in _all_events(platform, full, of))
    return islice(found, max(0, count - lines), None)


def _all_events(platform: Platform, full: Full, of: str | None) -> Iterator[bytes]:
    names = {one.name: f"{one.role}-{one.index}" for one in full.attempts}
    after = 0
    while events := platform.workloads.events(full.row.id or 0, after=after, limit=_EVENTS):
        after = events[-1].id or 0
        for one in events:
            at = names.get(one.replica, one.replica)
            if of is None or at in ("", of):
                mark = f"[{at}] " if at else ""
                yield f"{iso_time(one.at)} {one.severity.upper()} {one.reason}: {mark}{one.message}\n".encode()
