"""The worker's side of a request: one call of the app, and the pieces of its answer."""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Any

from localml.httpd.guard import GUARD, Guard
from localml.httpd.headers import FRAMING
from localml.httpd.held import SEAT, FileAnswer, Held, Parked

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication, WSGIEnvironment

AHEAD = 256 * 1024
"""Bytes that a worker may be ahead of the loop."""
_ExcInfo = tuple[type[BaseException], BaseException, TracebackType] | tuple[None, None, None]


class Call:
    """One call of a WSGI app. Its steps run on workers, one after the other, all in one context.

    Args:
        post: hands bytes to the loop that are to be sent now, after the head.
        gone: whether the client has gone, so that nothing more is worth doing.
    """

    def __init__(
        self,
        app: WSGIApplication,
        environ: WSGIEnvironment,
        post: Callable[[bytes], None],
        gone: Callable[[], bool],
    ) -> None:
        self._app, self._environ, self._post, self._gone = app, environ, post, gone
        self.status = 0
        self.phrase = b""
        self.lines = b""
        """The headers, without those that frame the body."""
        self.length: int | None = None
        """Of the body, as the app declared it."""
        self.closes = False
        """The app wants the connection to end with this answer."""
        self.result: Iterable[bytes] = ()
        self.first = b""
        """What of the body goes out with the head."""
        self.complete = False
        """That is all of it."""
        self.written = 0  # bytes that the loop has taken
        self._handed = 0  # bytes that were posted
        self._pieces: Iterator[bytes] | None = None
        self._context = contextvars.copy_context()
        self._lock = threading.Lock()
        self._running = False
        self._given_up = False
        self._open = False

    @property
    def guard(self) -> Guard | None:
        """Who was let in, as the app says."""
        found: Guard | None = self._environ.get(GUARD)
        return found

    @property
    def seat(self) -> Any:
        """What the app took for the request; None if it took nothing."""
        return self._environ.get(SEAT)

    def release(self) -> None:
        """The request is at hand no more."""
        if self.seat is not None:
            self.seat.close()

    # -- steps -------------------------------------------------------------------------------------

    def begin(self) -> None:
        """Call the app. Afterwards the head and ``first`` are known, or ``result`` is something held.

        Raises:
            Exception: the app's own.
        """
        self._step(self._begin)

    def more(self) -> bool:
        """Post pieces until there are no more (True) or the loop has enough of them for now (False)."""
        return bool(self._step(self._more))

    def _step(self, act: Callable[[], Any]) -> Any:
        with self._lock:
            if self._given_up:
                return True
            self._running = True
        try:
            return self._context.run(act)
        finally:
            with self._lock:
                self._running = False
                given_up = self._given_up
            if given_up:
                self.close()
                self.release()

    def give_up(self) -> bool:
        """Nobody wants the rest. Returns whether ``close`` is still to be called; else a running step will."""
        with self._lock:
            self._given_up = True
            return self._open and not self._running

    def close(self) -> None:
        """Tell the app that its answer is done with."""
        self._context.run(self._close)

    def _close(self) -> None:
        if self._open:
            self._open = False
            close = getattr(self.result, "close", None)
            if close is not None:
                close()

    def _begin(self) -> None:
        result = self._app(self._environ, self._start_response)
        self.result, self._open = result, True
        if isinstance(result, (Held, Parked, FileAnswer)):
            return
        if isinstance(result, (list, tuple)):
            self.first += b"".join(result)
            self._finish()
            return
        self._pieces = iter(result)
        for piece in self._pieces:
            self.first += piece
            if self.first:
                break
        else:
            self._finish()
        if self.length is not None and len(self.first) >= self.length:
            self._finish()

    def _finish(self) -> None:
        self.complete = True
        self._close()

    def _more(self) -> bool:
        assert self._pieces is not None
        for piece in self._pieces:
            if self._gone():
                return True
            if piece:
                self._handed += len(piece)
                self._post(piece)
                if self._handed - self.written > AHEAD:
                    return False
        return True

    # -- what the app calls ------------------------------------------------------------------------

    def _start_response(
        self, status: str, headers: list[tuple[str, str]], exc_info: _ExcInfo | None = None, /
    ) -> Callable[[bytes], object]:
        if exc_info is None and self.status:
            raise AssertionError("start_response was called twice")
        number, _, phrase = status.partition(" ")
        self.status, self.phrase = int(number), phrase.encode("latin-1")
        self.length, self.closes = None, False
        lines = bytearray()
        for name, value in headers:
            self._add(lines, name.encode("latin-1"), value.encode("latin-1"))
        self.lines = bytes(lines)
        return self._write

    def _add(self, lines: bytearray, name: bytes, value: bytes) -> None:
        if b"\n" in value or b"\r" in value or b"\n" in name or b":" in name:
            raise ValueError(f"the header {name!r} cannot be sent: {value!r}")
        lowered = name.lower()
        if lowered == b"content-length":
            self.length = int(value)
        elif lowered == b"connection":
            self.closes = value.lower() == b"close"
        elif lowered not in FRAMING:
            lines += b"%b: %b\r\n" % (name, value)

    def _write(self, data: bytes) -> None:
        """WSGI's old way of sending: kept until the app returns."""
        self.first += data
