"""Making room on a disk that is nearly full: of code and output the part goes that is missed least.

Code that nothing needs goes first: who has it sends it again. Then goes the oldest output of what has ended, a
workload's as a whole; then the oldest part of what running services wrote, and only then that of what running jobs
wrote, the longest first, each told by an event of its workload.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from sqlalchemy import select
from sqlmodel import col

from localml.core.errors import LocalmlError
from localml.core.events.records import record_event
from localml.core.logs.services import SERVICE
from localml.core.logs.sources import STREAMS
from localml.core.logs.trimming import keep_last
from localml.core.ports import Store
from localml.core.prune import Pruned, drop_logs, files_of, over, taken
from localml.core.quantities import format_memory
from localml.core.subjects import Subject
from localml.core.work.code import drop, unused
from localml.core.work.tables import Workload, WorkloadDetail

LAST = 1 << 20
"""Bytes of each stream of what runs that stay, however full the disk is."""


@dataclass(frozen=True, slots=True)
class Disk:
    """A file system's size and what of it is free for this user, in bytes."""

    total: int
    free: int


def disk_of(path: Path) -> Disk:
    """The file system that a path is on."""
    found = os.statvfs(path)
    return Disk(found.f_blocks * found.f_frsize, found.f_bavail * found.f_frsize)


@dataclass(slots=True)
class Room:
    """What was given back: code that nothing needs, output of what ended, and (workload, bytes) of what runs."""

    code: int = 0
    ended: Pruned = field(default_factory=lambda: Pruned(False))
    trimmed: list[tuple[int, int]] = field(default_factory=list)

    @property
    def bytes(self) -> int:
        """All of it."""
        return self.code + self.ended.log_bytes + sum(size for _, size in self.trimmed)


def make_room(store: Store, data: Path, need: int, *, now: float, stopped: Callable[[], bool] = lambda: False) -> Room:
    """Give at least ``need`` bytes of code that nothing needs and of output back, or what there is.

    Args:
        stopped: asked now and then; True ends the work early.
    """
    room = Room()
    _, room.code = drop(unused(store, data, now), lambda given: given >= need or stopped())
    for number in _ended(store, data):
        if room.bytes >= need or stopped():
            return room
        drop_logs(store, data, number, room.ended, now)
    for service in (True, False):
        for number, files in _running(store, data, service=service):
            if room.bytes >= need or stopped():
                return room
            given = sum(keep_last(path, LAST) for path in files)
            if given:
                room.trimmed.append((number, given))
                _tell(store, number, given, now)
    return room


def _ended(store: Store, data: Path) -> Iterator[int]:
    """Those with output, the one that ended first first."""
    query = select(col(Workload.id)).where(over()).order_by(col(Workload.ended_at))
    with store.read() as session:
        numbers = list(session.execute(query).scalars())
    return (number for number in numbers if files_of(data, number))


def _running(store: Store, data: Path, *, service: bool) -> Iterator[tuple[int, list[Path]]]:
    """(workload, its streams' files), the one with the most output first."""
    kind = SERVICE if service else ~SERVICE
    with store.read() as session:
        numbers = list(session.execute(select(col(Workload.id)).join(WorkloadDetail).where(~over(), kind)).scalars())
    found = [(number, [path for path in files_of(data, number) if path.suffix[1:] in STREAMS]) for number in numbers]
    return iter(sorted(found, key=lambda one: -sum(map(taken, one[1]))))


def _tell(store: Store, number: int, given: int, now: float) -> None:
    words = f"the disk is nearly full: {format_memory(given)} of the oldest output were given back, the last part stays"
    try:
        about = Subject.workload(number)
        store.write(lambda session: record_event(session, about, "OutputTrimmed", words, now=now, warning=True))
    except LocalmlError:  # the disk is too full for that by now, and the readers are told anyway
        return
