"""Reading a log that the daemon rotates, without losing a line at a rotation, or else knowing that some are lost.

Following such a log loses lines (seen with Docker 20.10), and nothing tells of it. So it is read in rounds: the last
messages, of which those up to the last one known are passed over. Where that one is not found among all that there are,
output was lost. Following only says when to begin the next round.
"""

from __future__ import annotations

import json
import time
from collections.abc import Generator, Iterator, Mapping

from localml.engines.base import STREAMS, LogChunk, Phase, Stream
from localml.engines.docker.daemon import Daemon
from localml.engines.docker.frames import Cursor, Place, first_stamp
from localml.engines.docker.logs import LogStream

_TAILS = ("300", "4000", "60000", "all")
"""How many messages a round reads until the last known one is found, from one step below what it took before."""
_GATHER_S = 0.1
_NOTE_S, _NOTE = 5.0, 4 << 20
"""Seconds and bytes after which the place is given again."""
_LOST = "the log was rotated before all of it was read"


class RotatedStream(LogStream):
    """See :class:`localml.engines.docker.logs.LogStream`. ``place`` is the last one that an earlier reading gave."""

    def __init__(
        self,
        daemon: Daemon,
        name: str,
        since: Mapping[Stream, int],
        place: str,
        *,
        follow: bool,
        ended_at: float | None = None,
    ) -> None:
        self._place = place
        self._noted, self._noted_at, self._step = 0, time.monotonic(), 0
        super().__init__(daemon, name, since, follow=follow, ended_at=ended_at)

    def _follow(self) -> Iterator[LogChunk]:
        return self._rounds(follow=True)

    def _read_once(self) -> Iterator[LogChunk]:
        return self._rounds(follow=False)

    def _rounds(self, *, follow: bool) -> Iterator[LogChunk]:
        cursor = self._cursor()
        cursor.count = True
        yield from self._resume(cursor)
        while not self._closed.is_set():
            phase, ended_at = self._state() if self._ended_at is None else (Phase.EXITED, self._ended_at)
            news = yield from self._round(cursor)
            yield from self._note(cursor, now=phase is not Phase.RUNNING)
            if phase is Phase.GONE or (not follow and phase is not Phase.EXITED):
                return
            if phase is Phase.EXITED and not news:
                yield from cursor.end(ended_at)
                return
            if not news:
                self._await_news(cursor)
            if phase is not Phase.EXITED:
                self._closed.wait(_GATHER_S)

    def _resume(self, cursor: Cursor) -> Iterator[LogChunk]:
        if not self._place:
            return
        noted = json.loads(self._place)
        sizes: dict[Stream, int] = {stream: int(noted[stream]) for stream in STREAMS}
        cursor.at(Place(noted["stamp"].encode("ascii"), int(noted["nth"])), sizes)
        if any(cursor.given[stream] < sizes[stream] for stream in STREAMS):
            yield LogChunk("stdout", b"", time.time(), gap="the file lost what was read before")

    def _round(self, cursor: Cursor) -> Generator[LogChunk, None, bool]:
        """Read what is new; whether there was any."""
        before = cursor.place
        for step in range(max(0, self._step - 1) if before is not None else len(_TAILS) - 1, len(_TAILS)):
            tail, self._step = _TAILS[step], step
            cursor.begin(before, whole=tail == "all")
            for body in self._bodies(follow=False, tail=tail):
                yield from cursor.feed(body)
            if cursor.seeking is None:
                return cursor.place != before
        if self._closed.is_set() or self._state()[0] is Phase.GONE:
            return False
        yield from self._go_on_behind_gap(cursor)
        return True

    def _go_on_behind_gap(self, cursor: Cursor) -> Iterator[LogChunk]:
        """All that there is. Where it begins is noted before anything of it is given, so that it is given once."""
        cursor.broken()
        cursor.begin(None, whole=True)
        told, held = False, b""
        for body in self._bodies(follow=False):
            held += body
            if not told and (stamp := first_stamp(held)):
                told = True
                yield LogChunk("stdout", b"", time.time(), self._noted_as(Place(stamp, 0)), gap=_LOST)
            if told:
                yield from cursor.feed(held)
                held = b""

    def _noted_as(self, place: Place) -> str:
        return json.dumps({"stamp": place.stamp.decode("ascii"), "nth": place.nth, **self._given})

    def _note(self, cursor: Cursor, *, now: bool) -> Iterator[LogChunk]:
        """The place, if it is time to give it."""
        total = sum(self._given.values())
        due = now or total - self._noted >= _NOTE or time.monotonic() - self._noted_at >= _NOTE_S
        if due and total != self._noted and cursor.place is not None and cursor.plain:
            self._noted, self._noted_at = total, time.monotonic()
            yield LogChunk("stdout", b"", time.time(), self._noted_as(cursor.place))

    def _await_news(self, cursor: Cursor) -> None:
        """Wait for another message than the last one, or the end of the container."""
        nothing: dict[Stream, int] = dict.fromkeys(STREAMS, 0)
        seen = Cursor(nothing, lossy=False)
        for body in self._bodies(follow=True, tail="1"):
            for _ in seen.feed(body):
                pass
            if seen.last != cursor.last:
                return
