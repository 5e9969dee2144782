"""Whether who was let in would be let in still: for answers that last, and for requests that wait.

Asked by the server (:mod:`localml.httpd.guard`) for every answer of every dialect, so that no route needs to. What a
route has allowed is not asked for anew: who has lost a role, or is no administrator any more, is cut off from all that
is under way, and may ask for it again.
"""

from __future__ import annotations

import io
import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, BinaryIO

from localml.core.errors import Code, LocalmlError
from localml.core.events.feed import Feed
from localml.core.people.identity import Caller
from localml.core.subjects import PEOPLE
from localml.httpd.guard import AGAIN_S

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment

log = logging.getLogger("localml.people")

_UNDECIDED = frozenset({Code.UNAVAILABLE, Code.STORAGE, Code.INTERNAL})


class Watchman:
    """The guard of one request; see :class:`localml.httpd.guard.Guard`.

    Args:
        again: who calls, judged anew from what the request brought; raises when it lets nobody in.
    """

    def __init__(self, feed: Feed, again: Callable[[], Caller]) -> None:
        self._feed, self._again = feed, again
        self._seen = feed.version(PEOPLE)
        self._asked_at = time.monotonic()
        self._lost = False
        self.caller = again()

    def holds(self) -> bool:
        """See :class:`localml.httpd.guard.Guard`."""
        now, seen = time.monotonic(), self._feed.version(PEOPLE)
        if not self._lost and (seen != self._seen or now - self._asked_at >= AGAIN_S):
            self._lost = not self._kept()
            self._seen, self._asked_at = seen, now
            if self._lost:
                log.info("%s lost a right while something was under way that it may have been for", self.caller.name)
        return not self._lost

    def need(self) -> None:
        """Ask again, before something is done.

        Raises:
            LocalmlError: ``FORBIDDEN`` when it does not hold any more.
        """
        if not self.holds():
            raise LocalmlError(Code.FORBIDDEN, "what you may was changed while this waited; ask again")

    def watch(self, wake: Callable[[], None]) -> Callable[[], None]:
        """See :class:`localml.httpd.guard.Guard`."""
        return self._feed.watch(PEOPLE, self._seen, wake)

    def _kept(self) -> bool:
        try:
            return keeps(self.caller, self._again())
        except LocalmlError as error:
            return error.code in _UNDECIDED


def watch_body(environ: WSGIEnvironment, guard: Watchman) -> None:
    """Have a body that is still under way end in ``FORBIDDEN`` when its sender has lost a right before all of it is
    here. One that was here before anybody asked who calls needs none of that."""
    body = environ["wsgi.input"]
    if not isinstance(body, io.BytesIO):
        length = environ.get("CONTENT_LENGTH") or None
        environ["wsgi.input"] = WatchedBody(body, guard, None if length is None else int(length))


class WatchedBody(io.RawIOBase):
    """A body whose end is for those alone who may still what they might at its beginning.

    Args:
        length: as it was declared; a reader that knows it need not ask for the end.
    """

    def __init__(self, body: BinaryIO, guard: Watchman, length: int | None) -> None:
        self._body, self._guard, self._left = body, guard, length

    def readable(self) -> bool:
        """Yes."""
        return True

    def read(self, size: int | None = -1, /) -> bytes:
        """See :meth:`io.RawIOBase.read`; fails as :meth:`Watchman.need` does."""
        data = self._body.read(-1 if size is None else size)
        if self._left is not None:
            self._left -= len(data)
        if not data or size is None or size < 0 or self._left == 0:
            self._guard.need()
        return data

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        """See :meth:`io.RawIOBase.readinto`; fails as :meth:`read` does."""
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def readall(self) -> bytes:
        """See :meth:`io.RawIOBase.readall`; fails as :meth:`read` does."""
        return self.read()


def keeps(then: Caller, now: Caller) -> bool:
    """Whether a caller may all that it might."""
    if (now.id, now.scope) != (then.id, then.scope) or (then.admin and not now.admin):
        return False
    return now.admin or all(
        (role := now.roles.get(place)) is not None and role.covers(had) for place, had in then.roles.items()
    )
