"""The route table as it is used: which endpoint a path is for, and which replica gets the next request.

These objects outlive the tables: a new table changes them, so that requests in flight, counts, kept connections and
what is known of a replica's health go on.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Set
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from typing import Protocol

from localml.core.serving.routes_table import (
    EndpointRoute,
    HealthCheck,
    ReplicaRoute,
    ReplicaState,
    RouteTable,
    VariantRoute,
)
from localml.gateway.admission import Gate
from localml.gateway.counts import VariantCounts
from localml.gateway.headers import REPLICA
from localml.gateway.upstream import Pool

EJECT_FIRST = 0.5
"""Seconds that a replica is left out after its first failure; doubled by each further one."""
EJECT_MOST = 30.0
TIMEOUTS_TOLERATED = 3
"""A replica that lets so many requests in a row time out is left out; a single one may be the request's fault."""


class Replica:
    """One HTTP server, its kept connections, and what is known of its health."""

    def __init__(self, route: ReplicaRoute, variant: str) -> None:
        self.id, self.url, self.variant = route.id, route.url, variant
        self.pool = Pool(route.url)
        self.update(route)
        self.inflight = 0
        self.retired = False
        self.failures = 0
        self._timeouts = 0
        self.left_out_until = 0.0

    def update(self, route: ReplicaRoute) -> None:
        """Take over the table's entry."""
        self.state = route.state
        self.greeting = b"%b: %b\r\n" % (REPLICA, route.token.encode()) if route.token else b""
        """The line by which it knows that a request is from here."""

    def usable(self, now: float) -> bool:
        """It gets new requests. After its time of being left out, one more request is the test."""
        return self.state is ReplicaState.READY and now >= self.left_out_until

    def succeeded(self) -> None:
        """It answered."""
        if self.failures or self._timeouts:
            self.failures = self._timeouts = 0
            self.left_out_until = 0.0

    def failed(self, now: float) -> None:
        """It took no connection, broke one off or failed a check: left out, each time for longer."""
        if now < self.left_out_until:
            return  # requests that were under way together failed together: that is one failure
        self.left_out_until = now + min(EJECT_MOST, EJECT_FIRST * 2**self.failures)
        self.failures = min(self.failures + 1, 16)

    def keep_out(self, until: float) -> None:
        """Leave it out at least until then."""
        self.left_out_until = max(self.left_out_until, until)

    def timed_out(self, now: float) -> None:
        """It did not answer in time."""
        self._timeouts += 1
        if self._timeouts >= TIMEOUTS_TOLERATED:
            self._timeouts = 0
            self.failed(now)


class Variant:
    """One version of a model: its replicas and its counts."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.version = ""
        self.weight = 0
        self.health: HealthCheck | None = None
        self.replicas: list[Replica] = []
        self.counts = VariantCounts()
        self.current = 0
        """What smooth weighted round robin owes it."""
        self._turn = 0

    def update(self, route: VariantRoute) -> list[Replica]:
        """Take over the table's entry; returns the replicas that are not in it any more."""
        self.version, self.weight, self.health = route.version, route.weight, route.health
        known = {(replica.id, replica.url): replica for replica in self.replicas}
        self.replicas = []
        for entry in route.replicas:
            replica = known.pop((entry.id, entry.url), None) or Replica(entry, self.name)
            replica.update(entry)
            self.replicas.append(replica)
        return list(known.values())

    @property
    def ready(self) -> bool:
        """Some replica takes requests, though it may be left out just now."""
        return any(replica.state is ReplicaState.READY for replica in self.replicas)

    def least_busy(self, now: float, tried: Set[Replica]) -> Replica | None:
        """The usable replica with the fewest requests in flight; among equals they take turns."""
        best: Replica | None = None
        self._turn += 1
        count = len(self.replicas)
        for offset in range(count):
            replica = self.replicas[(self._turn + offset) % count]
            fewer = best is None or replica.inflight < best.inflight
            if fewer and replica.usable(now) and replica not in tried:
                best = replica
        return best

    def last_resort(self, tried: Set[Replica]) -> Replica | None:
        """Of the ready replicas that are all left out, the one that comes back first."""
        left = [one for one in self.replicas if one.state is ReplicaState.READY and one not in tried]
        return min(left, key=lambda one: one.left_out_until, default=None)


def _is_among(token: bytes | None, hashes: frozenset[str] | None) -> bool:
    """A look into a set is safe, because it is for a hash: the time that it takes says nothing that helps to guess the
    token. None are everybody's."""
    if hashes is None:
        return True
    return token is not None and hashlib.sha256(token).hexdigest() in hashes


class Guest(Protocol):
    """A client whose request is being answered."""

    def cut(self) -> None:
        """End its connection at once."""


_VERSION = re.compile(rb"/v2/models/[^/]+/versions/([^/?]+)")
Choice = tuple[Variant, Replica]


class Endpoint:
    """One endpoint: its variants, its entrance, its limits."""

    def __init__(self, route: EndpointRoute, wake: Callable[[str, str], None]) -> None:
        self.name = route.name
        self.route = route
        self._hashes: frozenset[str] | None = frozenset()  # nobody's, until the table's entry is taken over
        self.variants: dict[str, Variant] = {}
        self.gate = Gate(lambda: wake(self.name, self.route.wake_hint))
        self.leaving: list[Replica] = []
        self._inside: dict[Guest, bytes | None] = {}  # with their tokens
        self.refused: dict[str, int] = {}
        self.last_request_at: float | None = None

    def update(self, route: EndpointRoute) -> None:
        """Take over the table's entry."""
        self.route = route
        self._hashes = None if route.token_hashes is None else frozenset(route.token_hashes)
        self._put_out()
        old, self.variants = self.variants, {}
        for entry in route.variants:
            variant = old.pop(entry.name) if entry.name in old else Variant(entry.name)
            self.variants[entry.name] = variant
            self._retire(variant.update(entry))
        for variant in old.values():
            self._retire(variant.replicas)
        self.gate.configure(route.limits, routable=self.routable, holds=route.scale_to_zero)

    def close(self) -> None:
        """The endpoint left the table. Requests in flight go on."""
        for variant in self.variants.values():
            self._retire(variant.replicas)
        self.gate.close()

    def _retire(self, replicas: list[Replica]) -> None:
        for replica in replicas:
            replica.retired = True
            replica.state = ReplicaState.DRAINING
            replica.pool.retire()
        self.leaving = [one for one in [*self.leaving, *replicas] if one.inflight]

    @property
    def routable(self) -> bool:
        """Some variant that gets a share of the requests has a ready replica."""
        return any(variant.weight and variant.ready for variant in self.variants.values())

    def replicas(self) -> Iterator[Replica]:
        """Those of the table, then those that finish their last requests."""
        for variant in self.variants.values():
            yield from variant.replicas
        self.leaving = [one for one in self.leaving if one.inflight]
        yield from self.leaving

    @contextmanager
    def inside(self, guest: Guest, token: bytes | None) -> Iterator[None]:
        """While a request of a client that was let in lasts; it is cut off when its token is taken away."""
        self._inside[guest] = token
        try:
            yield
        finally:
            self._inside.pop(guest, None)

    def _put_out(self) -> None:
        for guest, token in list(self._inside.items()):
            if not self.admits(token):
                self.refused["revoked"] = self.refused.get("revoked", 0) + 1
                guest.cut()

    def admits(self, token: bytes | None) -> bool:
        """Whether a caller with this token may come in."""
        return _is_among(token, self._hashes)

    @property
    def closed(self) -> bool:
        """Whether it wants a token."""
        return self._hashes is not None

    def of_version(self, path: bytes) -> str | None:
        """The variant that a path asks for by its version, where several serve and this one can; None for any."""
        if len(self.variants) < 2 or (found := _VERSION.match(path)) is None:
            return None
        wanted = found[1].decode("latin-1")
        return next((one.name for one in self.variants.values() if one.version == wanted and one.ready), None)

    def choose(self, now: float, forced: str | None, tried: Set[Replica] = frozenset()) -> Choice | None:
        """The variant and the replica for a request; None if there is none that was not ``tried``.

        Variants take turns by weight (smooth weighted round robin); one without a usable replica is passed over, so
        that a broken new version costs its share nothing. When all ready replicas are left out, the one that comes
        back first gets the request: trying is better than refusing.
        """
        if forced is not None:
            variants = [self.variants[forced]] if forced in self.variants else []
        else:
            variants = [variant for variant in self.variants.values() if variant.weight]
        found = [(one, replica) for one in variants if (replica := one.least_busy(now, tried)) is not None]
        if not found:
            found = [(one, replica) for one in variants if (replica := one.last_resort(tried)) is not None]
            return min(found, key=lambda pair: pair[1].left_out_until, default=None)
        if len(found) == 1:
            return found[0]
        total = 0
        for variant, _ in found:
            variant.current += variant.weight
            total += variant.weight
        best = max(found, key=lambda pair: pair[0].current)
        best[0].current -= total
        return best


@dataclass(frozen=True, slots=True)
class Place:
    """Where a path prefix leads. The rest of the path goes behind ``target``."""

    endpoint: Endpoint
    prefix: str
    target: str


class Router:
    """All endpoints, and the way from a path to one of them."""

    def __init__(self, wake: Callable[[str, str], None]) -> None:
        self.endpoints: dict[str, Endpoint] = {}
        self.generation = 0
        self._readers: frozenset[str] | None = frozenset()
        self._known: frozenset[str] = frozenset()
        self._free = False  # nobody needs a token for anything
        self._wake = wake
        self._places: dict[str, Place] = {}
        self._depth = 0

    def apply(self, table: RouteTable) -> None:
        """Take over a table. Nothing in flight is disturbed."""
        old, self.endpoints = self.endpoints, {}
        places: dict[str, Place] = {}
        for route in table.endpoints:
            endpoint = old.pop(route.name) if route.name in old else Endpoint(route, self._wake)
            endpoint.update(route)
            self.endpoints[route.name] = endpoint
            for prefix, target in route.prefixes().items():
                places[prefix] = Place(endpoint, prefix, target)
        for gone in old.values():
            gone.close()
        self._places = places
        self._depth = max((prefix.count("/") for prefix in places), default=0)
        self.generation = table.generation
        self._readers = None if table.reader_hashes is None else frozenset(table.reader_hashes)
        closed = [one.token_hashes for one in table.endpoints if one.token_hashes is not None]
        self._known = frozenset(chain(table.known_hashes, table.reader_hashes or (), *closed))
        self._free = table.reader_hashes is None and not closed

    def may_read(self, token: bytes | None) -> bool:
        """Whether a caller with this token may read what is counted here."""
        return _is_among(token, self._readers)

    def knows(self, token: bytes | None) -> bool:
        """Whether this is somebody's token. Replicas get to see none, because they are the programs of others."""
        return token is not None and _is_among(token, self._known)

    def tells(self, token: bytes | None) -> bool:
        """Whether a caller with this token is told what is not here: users are, and everybody where all is open."""
        return self._free or self.knows(token)

    def match(self, path: str, only: str = "") -> Place | None:
        """The place of the longest prefix that ``path`` (without query) begins with, at a slash.

        Args:
            only: the endpoint to which every path leads; with none of its prefixes a path reaches it as it is.
        """
        place = self._longest(path)
        if not only or (place is not None and place.endpoint.name == only):
            return place
        return Place(self.endpoints[only], "", "") if only in self.endpoints else None

    def _longest(self, path: str) -> Place | None:
        end = 0
        for _ in range(self._depth + 1):  # a path of thousands of slashes costs no more than any other
            end = path.find("/", end + 1)
            if end < 0:
                end = len(path)
                break
        while end > 0:
            place = self._places.get(path[:end])
            if place is not None:
                return place
            end = path.rfind("/", 0, end)
        return None
