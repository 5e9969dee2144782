"""How much one user may have at hand at a time, so that others are answered too; and what takes long.

All users of a machine may come from one address, so the server's own limits by address do not part them.
"""

from __future__ import annotations

import io
import threading
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from flask import Flask, Request, Response

from localml.core.errors import Code, LocalmlError
from localml.dialects.kit.held import Waiting
from localml.httpd.held import HOLDS, PARKED, SEAT, Parked, Run
from localml.httpd.server import MOST_CLIENTS, ROOM

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment

UPLOADS = 32
"""Large bodies that one user may be sending at a time: a third of the threads that there are for them."""
MANY_LINES, MANY_BYTES = 20_000, 16 << 20
"""Of a log; what is read in a tenth of a second."""
_SLOW = "localml_slow"

View = TypeVar("View", bound=Callable[..., Any])
_lock = threading.RLock()  # whatever is collected meanwhile may be a seat
_taken: Counter[tuple[str, int]] = Counter()  # of (what, user)


def slow(view: View) -> View:
    """Decorates an operation, below ``@api.get(...)``, that may take more than a second: it copies, reads a lot or asks
    others. It gets one of the few threads for such, where nobody else waits but for the like."""
    return slow_if(lambda _: True)(view)


def slow_if(asked: Callable[[Request], bool]) -> Callable[[View], View]:
    """As :func:`slow`, for those requests alone for which ``asked`` says so."""

    def mark(view: View) -> View:
        setattr(view, _SLOW, asked)
        return view

    return mark


def many_lines(request: Request) -> bool:
    """Whether much of a log is asked for: each of its lines is looked at."""
    number = request.args.get
    lines = number("tail", 0, type=int), number("lines", 0, type=int)
    return max(lines) > MANY_LINES or number("limit", 0, type=int) > MANY_BYTES


class _Seat:
    """One of what a user may have some of, until it is closed."""

    def __init__(self, owner: int, *kinds: str) -> None:
        self.owner = owner
        self._keys = tuple((what, owner) for what in kinds)

    def close(self) -> None:
        """Others may have it; doing so again does nothing."""
        with _lock:
            for key in self._keys:
                _taken[key] -= 1
                if _taken[key] <= 0:
                    del _taken[key]
            self._keys = ()

    __del__ = close


def take_seat(environ: WSGIEnvironment, user: int) -> None:
    """Count a request that its user is known of, until the server is done with it.

    Raises:
        LocalmlError: ``TOO_MANY_REQUESTS`` when the user has as many at hand as one may have.
    """
    if environ.get(SEAT) is not None or not environ.get(HOLDS):
        return
    wanted = {"requests": _share(environ)} | ({} if _is_here(environ) else {"uploads": UPLOADS})
    with _lock:
        for what, most in wanted.items():
            if _taken[what, user] >= most:
                raise _too_many(what, most)
        for what in wanted:
            _taken[what, user] += 1
    environ[SEAT] = _Seat(user, *wanted)


def taken(what: str) -> int:
    """How many ``requests`` or ``uploads`` are under way, of all users."""
    with _lock:
        return sum(number for (kind, _), number in _taken.items() if kind == what)


def slow_turn(app: Flask, request: Request, user: int) -> Response | None:
    """What to answer in place of a slow operation for now: it is asked for again in its user's turn."""
    environ = request.environ
    asked = getattr(app.view_functions.get(request.endpoint or ""), _SLOW, None)
    if asked is None or PARKED in environ or not environ.get(HOLDS) or not _is_here(environ) or not asked(request):
        return None
    return Waiting(_Slowly(user))


class _Slowly(Parked):
    def __init__(self, user: int) -> None:
        self.slow_for = user

    async def wait(self, run: Run) -> None:
        """There is nothing to wait for but the turn."""


def _share(environ: WSGIEnvironment) -> int:
    """Of the connections that the server has, one user may have half."""
    return max(8, int(environ.get(ROOM, MOST_CLIENTS)) // 2)


def _is_here(environ: WSGIEnvironment) -> bool:
    """The body has come as a whole; one that is still to come has a thread of its own."""
    return isinstance(environ["wsgi.input"], io.BytesIO)


def _too_many(what: str, most: int) -> LocalmlError:
    words = f"you have {most} {what} under way, which is as many as one user may have at a time; try again"
    return LocalmlError(Code.TOO_MANY_REQUESTS, words, details={"limit": most, "retry_after": 1})
