"""The connections that a server has: how many, whose, and which of them make room for others.

A connection that nothing is done for costs its peer nothing, so nobody is turned away for the sake of one: when there
is no more room the ones go that have waited longest, those of the peer with most connections first; who was known by
credentials may have waited longer. What is busy stays:
an answer that is made or followed, however long that takes.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator
from math import inf

from localml.core import descriptors
from localml.core.log_limits import Sparing
from localml.httpd.connection import Client

log = logging.getLogger("localml.httpd")

CROWDED_IDLE = 10.0
"""Seconds that a kept connection may stay without a request while more than half of the room is taken."""
KNOWN_GRACE = 60.0
"""Seconds that a connection may have waited longer than others if the app knows who is at its other end."""
_PART = 16  # one in so many is sent away at a time, so that looking for them is rarely needed


class Room:
    """Holds clients from their arrival until they have left, and sends away those that have waited too long.

    Args:
        most: clients at a time; also bounded by the descriptors that this process may have, less a reserve.
        what: whose room it is, for the words that others are turned away with.
    """

    def __init__(self, most: int, what: str) -> None:
        self._most_files = descriptors.for_clients()
        self.most = max(1, min(most, self._most_files))
        """Clients at a time."""
        self._most_of_peer = max(1, self.most * 3 // 4)  # so that nobody takes all of it
        self._what = what
        self._log = Sparing(log)
        self._clients: dict[Client, None] = {}  # in the order of their arrival
        self._peers: Counter[bytes] = Counter()

    def __len__(self) -> int:
        return len(self._clients)

    def __iter__(self) -> Iterator[Client]:
        return iter(tuple(self._clients))

    def enter(self, client: Client) -> None:
        """A client has connected; it is turned away (503) where there is no room and all others are busy."""
        self._clients[client] = None
        self._peers[client.peer] += 1
        peer = client.peer if self._peers[client.peer] > self._most_of_peer else None
        full = len(self._clients) > self.most or client.descriptor >= self._most_files
        if (full or peer is not None) and not self._make_room(client, peer):
            self._log.warning("full", "%s has no room for more connections; it has %d", self._what, len(self))
            client.turn_away(f"{self._what} has no room for more connections")

    def leave(self, client: Client) -> None:
        """Its connection has ended, or will at once."""
        if client not in self._clients:
            return
        del self._clients[client]
        self._peers[client.peer] -= 1
        if not self._peers[client.peer]:
            del self._peers[client.peer]

    def short(self) -> None:
        """The system has no descriptor left: give some back."""
        self._make_room(None, None)

    def sweep(self, now: float) -> None:
        """End connections whose deadline is over, at loop time ``now``."""
        crowded = len(self._clients) * 2 > self.most
        for client in self:
            if client.deadline < now:
                client.expire()
            elif crowded and client.kept_since < now - CROWDED_IDLE:
                client.close_idle()

    def _make_room(self, newcomer: Client | None, peer: bytes | None) -> bool:
        """Send some away that nothing is done for, only those of a ``peer`` if one is given; whether there were any."""
        crowd = self._peers.most_common(1)[0][0] if self._peers else b""
        waiting = [
            one
            for one in self._clients
            if one is not newcomer and one.waiting_since < inf and (peer is None or one.peer == peer)
        ]
        waiting.sort(key=lambda one: (one.peer != crowd, one.waiting_since + KNOWN_GRACE * one.known))
        for client in waiting[: max(1, len(waiting) // _PART)]:
            self.leave(client)
            client.transport.abort()
        return bool(waiting)
