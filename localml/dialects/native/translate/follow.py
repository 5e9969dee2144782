"""Following a workload's output until it has ended: as plain bytes, or as server-sent events. Nobody polls."""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterator

from localml.core.logs.follower import Follower
from localml.core.logs.reader import Lines, Piece, marked
from localml.core.work.states import State

HEARTBEAT_S = 10.0


class Plain:
    """The output alone, and a line where some of it is kept no more; see :class:`localml.dialects.kit.logs.Body`.

    Args:
        lines: give whole lines, each marked with its replica, rather than bytes as they come.
    """

    def __init__(self, follower: Follower, *, lines: bool) -> None:
        self._follower = follower
        self._lines = Lines() if lines else None

    def news(self) -> Iterator[bytes]:
        """What came since the last step."""
        for piece in self._follower.news():
            if self._lines is None:
                yield piece.notice() + piece.data
            else:
                yield from (whole.notice() + marked(whole) for whole in self._lines.feed(piece))
        if self._lines is not None and self.over:
            yield from map(marked, self._lines.rest())

    def beat(self) -> bytes:
        """Nothing: there are no bytes that mean nothing."""
        return b""

    @property
    def over(self) -> bool:
        """Whether nothing more will come."""
        return self._follower.over


class Events:
    """Server-sent events; see :class:`localml.dialects.kit.logs.Body`.

    ``log``: JSON with ``text``, ``stream``, ``replica`` and ``attempt``; its id is where to go on (Last-Event-ID).
    ``gone``: JSON with ``bytes``, how many there are no more of before the next ``log``, and the same three.
    ``state``: JSON with ``state``. ``end``: the last one, with the final state. Comments keep the line alive.
    """

    def __init__(self, follower: Follower) -> None:
        self._follower = follower
        self._given = follower.position.copy()
        self._decoders: dict[int, codecs.IncrementalDecoder] = {}
        self._told: State | None = None

    def news(self) -> Iterator[bytes]:
        """What came since the last step."""
        if self._told is None:
            yield b"retry: 1000\n\n"
        found = self._follower.news()
        if not self.over:
            yield from self._state("state")
        for piece in found:
            yield from self._log(piece)
        if self.over:
            yield from self._state("end")

    def beat(self) -> bytes:
        """A comment."""
        return b": still there\n\n"

    @property
    def over(self) -> bool:
        """Whether nothing more will come."""
        return self._follower.over

    def _state(self, name: str) -> Iterator[bytes]:
        if self._follower.state is not self._told:
            self._told = self._follower.state
            yield self._event(name, {"state": self._told})

    def _log(self, piece: Piece) -> Iterator[bytes]:
        source = piece.source
        about = {"stream": source.stream, "replica": source.replica, "attempt": source.attempt}
        if piece.gone:
            self._decoders.pop(piece.number, None)
            yield self._event("gone", {"bytes": piece.gone, **about})
        decoder = self._decoders.setdefault(piece.number, codecs.getincrementaldecoder("utf-8")(errors="replace"))
        text = decoder.decode(piece.data)
        self._given.fit(piece.number + 1)
        # what is half a letter comes again
        self._given.offsets[piece.number] = piece.end - len(decoder.getstate()[0])
        yield self._event("log", {"text": text, **about})

    def _event(self, name: str, body: dict[str, object]) -> bytes:
        return f"event: {name}\nid: {self._given}\ndata: {json.dumps(body)}\n\n".encode()
