"""Whether who was let in would be let in still: for answers that last, and for requests that wait.

Asked by the server (:mod:`localml.httpd.guard`) for every answer of every dialect, so that no route needs to. What a
route has allowed is not asked for anew: who has lost a role, or is no administrator any more, is cut off from all that
is under way, and may ask for it again.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from localml.core.errors import Code, LocalmlError
from localml.core.events.feed import Feed
from localml.core.people.identity import Caller
from localml.core.subjects import PEOPLE
from localml.httpd.guard import AGAIN_S

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

    def watch(self, wake: Callable[[], None]) -> Callable[[], None]:
        """See :class:`localml.httpd.guard.Guard`."""
        return self._feed.watch(PEOPLE, self._seen, wake)

    def _kept(self) -> bool:
        try:
            return keeps(self.caller, self._again())
        except LocalmlError as error:
            return error.code in _UNDECIDED


def keeps(then: Caller, now: Caller) -> bool:
    """Whether a caller may all that it might."""
    if (now.id, now.scope) != (then.id, then.scope) or (then.admin and not now.admin):
        return False
    return now.admin or all(
        (role := now.roles.get(place)) is not None and role.covers(had) for place, had in then.roles.items()
    )
