"""Following a study: what its trials become, as server-sent events. Nobody polls."""

from __future__ import annotations

import json
from collections.abc import Iterator

from sqlmodel import col, or_, select

from localml.core.studies.tables import OVER, Study, Trial
from localml.dialects.native.translate import studies
from localml.platform import Platform

_AT_A_TIME = 500
"""Trials that are read in one go."""


class StudyNews:
    """Server-sent events; see :class:`localml.dialects.kit.logs.Body`.

    ``trial``: a trial, when it is proposed and when its result is known. ``study``: the study as lists show it, after
    these; its id is where to go on (Last-Event-ID). ``end``: the last one, with the study. Comments keep the line
    alive.

    Args:
        seen: what stands up to here in the study's sequence is known. A trial that runs is told again.
    """

    def __init__(self, platform: Platform, number: int, seen: int = 0) -> None:
        self._platform = platform
        self._number = number
        self._seen = seen
        self._last = 0  # the newest trial that was told
        self._running: set[int] = set()
        self._told: dict[str, object] | None = None
        self._over = False

    def news(self) -> Iterator[bytes]:
        """What came since the last step."""
        if self._told is None:
            yield b"retry: 1000\n\n"
        row = self._platform.studies.get(self._number)
        self._last = max(self._last, row.first - 1)
        for found in self._changed():
            for shown in studies.trials(self._platform, found):
                yield _event("trial", shown)
        self._over = row.state in OVER or row.deleted_at is not None
        yield from self._study(row)

    def beat(self) -> bytes:
        """A comment."""
        return b": still there\n\n"

    @property
    def over(self) -> bool:
        """Whether nothing more will come."""
        return self._over

    def _study(self, row: Study) -> Iterator[bytes]:
        shown = studies.study(self._platform, row)
        if self._over or shown != self._told:
            self._told = shown
            yield _event("end" if self._over else "study", shown, row.sequence)

    def _changed(self) -> Iterator[list[Trial]]:
        """Trials whose result came, and new ones."""
        waited = sorted(self._running)
        for start in range(0, len(waited), _AT_A_TIME):
            some = waited[start : start + _AT_A_TIME]
            found = self._read(col(Trial.number).in_(some), col(Trial.told).is_not(None))
            self._running.difference_update(one.number for one in found)
            yield found
        unknown = or_(col(Trial.asked) > self._seen, col(Trial.told) > self._seen, col(Trial.told).is_(None))
        while found := self._read(col(Trial.number) > self._last, unknown):
            self._last = found[-1].number
            self._running.update(one.number for one in found if one.told is None)
            yield found

    def _read(self, *conditions: object) -> list[Trial]:
        query = select(Trial).where(col(Trial.study_id) == self._number, *conditions)  # type: ignore[arg-type]
        with self._platform.db.read() as session:
            return list(session.exec(query.order_by(col(Trial.number)).limit(_AT_A_TIME)))


def _event(name: str, body: dict[str, object], number: int | None = None) -> bytes:
    mark = "" if number is None else f"id: {number}\n"
    return f"event: {name}\n{mark}data: {json.dumps(body)}\n\n".encode()
