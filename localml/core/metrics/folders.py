"""What jobs leave in their output folders: TensorBoard's event files, and a file of parameters.

Folders are objects, and are read as their job's owner may read them; how, the platform says (:class:`Objects`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Protocol

from sqlmodel import Session, select

from localml.core.errors import LocalmlError
from localml.core.limits import MOST_PARAMETERS
from localml.core.metrics.intake import Intake
from localml.core.metrics.lines import MOST_NAME, Reading
from localml.core.metrics.parameters import FILES, MOST_FILE, of_file
from localml.core.metrics.tables import Parameter
from localml.core.metrics.tfevents import Scalar, records, scalars
from localml.core.ports import Store
from localml.core.work.outputs import output_uris
from localml.core.work.specs import WorkloadSpec
from localml.core.work.tables import Workload

EVENTS = "tfevents"
PIECE = 4 << 20
AGAIN_S = 5.0
"""A folder of what runs is not looked at sooner again."""
_PART = 20
"""Of the time, at most one of so many parts goes into looking at folders."""
MOST_FOLDERS, MOST_DEPTH, MOST_FILES = 200, 5, 200


@dataclass(frozen=True, slots=True)
class Entry:
    """An object or a folder: its name in its folder, bytes, and when it was changed."""

    name: str
    size: int
    modified: float
    is_folder: bool


class Objects(Protocol):
    """Objects as the owner of a job may read them; both raise ``LocalmlError`` or ``OSError``."""

    def list(self, owner: int, uri: str) -> list[Entry]: ...

    def read(self, owner: int, uri: str, offset: int, size: int) -> bytes: ...


class Spot(Protocol):
    """Where reading goes on in a file."""

    offset: int


@dataclass(frozen=True, slots=True)
class Job:
    """Whose folders are read.

    Attributes:
        begun: what was not changed since then (seconds since the epoch) is another job's.
        over: nothing more comes, so that its folders are looked at without waiting.
    """

    number: int
    owner: int
    spec: WorkloadSpec
    begun: float
    over: bool


class Folders:
    """Reads output folders.

    Args:
        clock: monotonic seconds.
    """

    def __init__(self, store: Store, objects: Objects, clock: Callable[[], float] = time.monotonic) -> None:
        self._store, self._objects, self._clock = store, objects, clock
        self._due: dict[int, float] = {}
        self._seen: dict[int, set[tuple[str, int, float]]] = {}

    def uris(self, spec: WorkloadSpec) -> list[str]:
        """The folders that a job was told to write to."""
        return list(dict.fromkeys(uri.rstrip("/") for role in spec.roles for uri in output_uris(role.env)))

    def read(self, job: Job, intake: Intake, place: Callable[[str], Spot]) -> bool:
        """Take in what is new in a job's folders. Whether anything was.

        Args:
            place: where reading goes on of the source with that name.
        """
        uris, began = self.uris(job.spec), self._clock()
        if not uris or (began < self._due.get(job.number, 0.0) and not job.over):
            return False
        moved = False
        for uri in uris:
            moved |= self._folder(job, uri, intake, place)
        took = self._clock() - began
        self._due[job.number] = began + took + max(AGAIN_S, _PART * took)
        if job.over:
            self._due.pop(job.number, None)
            self._seen.pop(job.number, None)
        return moved

    def _folder(self, job: Job, uri: str, intake: Intake, place: Callable[[str], Spot]) -> bool:
        moved = False
        for prefix, one in islice(self._files(job.owner, uri), MOST_FILES):
            if one.modified < job.begun - 1:
                continue
            path = f"{uri}/{prefix}{one.name}"
            if EVENTS in one.name:
                moved |= self._events(job.owner, path, prefix, one.size, intake, place(path))
            else:
                moved |= self._parameters(job, path, one)
        return moved

    def _files(self, owner: int, uri: str) -> Iterator[tuple[str, Entry]]:
        """(path of its folder with a slash, file), as far as they are looked for."""
        waiting, seen = [("", 0)], 0
        while waiting and seen < MOST_FOLDERS:
            prefix, depth = waiting.pop(0)
            seen += 1
            try:
                entries = self._objects.list(owner, f"{uri}/{prefix}")
            except (LocalmlError, OSError):
                continue
            for one in entries:
                if one.is_folder and depth < MOST_DEPTH:
                    waiting.append((f"{prefix}{one.name}/", depth + 1))
                elif not one.is_folder and (EVENTS in one.name or one.name in FILES):
                    yield prefix, one

    def _events(self, owner: int, uri: str, prefix: str, size: int, intake: Intake, place: Spot) -> bool:
        moved = False
        while place.offset < size:
            try:
                data = self._objects.read(owner, uri, place.offset, PIECE)
                found, whole = records(data)
            except ValueError:
                place.offset = size  # it is none of TensorBoard's
                return True
            except (LocalmlError, OSError):
                return moved
            if not whole:
                return moved
            for record in found:
                for one in scalars(record):
                    intake.take("", [_reading(prefix, one)], one.at)
            place.offset += whole
            moved = True
        return moved

    def _parameters(self, job: Job, uri: str, one: Entry) -> bool:
        mark, seen = (uri, one.size, one.modified), self._seen.setdefault(job.number, set())
        if mark in seen or one.size > MOST_FILE:
            return False
        try:
            found = of_file(one.name, self._objects.read(job.owner, uri, 0, MOST_FILE))
        except (LocalmlError, OSError):
            return False
        self._store.write(lambda session: keep(session, job.number, found))
        seen.add(mark)
        return True


def _reading(prefix: str, one: Scalar) -> Reading:
    name = f"{prefix}{one.tag}"
    return Reading(name[-MOST_NAME:], one.value, one.step)


def keep(session: Session, number: int, found: Mapping[str, str]) -> None:
    """Put the parameters of a job's files among those that there are."""
    if session.get(Workload, number) is None:  # it was pruned meanwhile
        return
    known = {one.name: one for one in session.exec(select(Parameter).where(Parameter.workload_id == number))}
    for name, value in found.items():
        if name in known:
            known[name].value = value
        elif len(known) < MOST_PARAMETERS:
            known[name] = Parameter(workload_id=number, name=name, value=value)
    session.add_all(known.values())
