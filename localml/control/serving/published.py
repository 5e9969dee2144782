"""The route table as the gateway finds it, and which of its generations has what."""

from __future__ import annotations

import logging
import time
from pathlib import Path

from localml.control.serving.load import EndpointRecord, ReplicaRecord
from localml.control.serving.routes import Keys, route, table
from localml.control.serving.views import EndpointView
from localml.core.failpoints import FAILPOINTS
from localml.core.serving.routes_table import BadTable, RouteTable, read_routes, write_routes
from localml.core.serving.specs import ReplicaState

log = logging.getLogger("localml.control")

Pairs = list[tuple[EndpointRecord, EndpointView]]


class Published:
    """Writes the table when it differs, and remembers when it last told of what.

    Args:
        data: the data directory, whose table the gateway follows.
        keys: who gets in where.
    """

    def __init__(self, data: Path, keys: Keys) -> None:
        self._data = data
        self._keys = keys
        self._written: RouteTable | None = None
        self._drains: dict[tuple[int, int], tuple[int, float]] = {}  # replica -> table's generation, when written
        self._generations: dict[str, int] = {}  # route -> of the table that last changed it

    @property
    def empty(self) -> bool:
        """Whether neither this nor an earlier server ever wrote a table."""
        return self._written is None and _read_or_none(self._data) is None

    @property
    def draining(self) -> bool:
        """Whether the table has replicas that drain."""
        return bool(self._drains)

    def drain_of(self, one: ReplicaRecord) -> tuple[int, float] | None:
        """Generation of the table in which a replica first drained, and when that was written (monotonic); None if none
        has it."""
        return self._drains.get(_key(one))

    def has(self, record: EndpointRecord, view: EndpointView) -> bool:
        """Whether the table has an endpoint as it is now."""
        return self._written is not None and route(record, view, self._keys) in self._written.endpoints

    def generation_of(self, name: str) -> int:
        """Of the table that last changed a route."""
        return self._generations.get(name, 0)

    def write(self, pairs: Pairs) -> None:
        """Write the table of these endpoints, unless it is what the gateway has."""
        before = self._written if self._written is not None else _read_or_none(self._data)
        generation = before.generation if before is not None else 0
        made = table(pairs, self._keys, generation)
        if before is None or made != before:
            made = made.model_copy(update={"generation": generation + 1})
            write_routes(self._data, made)
            FAILPOINTS.hit("after-table")
        elif self._written is None:
            write_routes(self._data, made)  # the file of an earlier server may not be on disk
        self._note_changes(before, made)
        self._written = made
        self._note_drains(pairs, made.generation)

    def _note_changes(self, before: RouteTable | None, made: RouteTable) -> None:
        old = {one.name: one for one in before.endpoints} if before is not None else {}
        known = self._generations
        self._generations = {
            one.name: known.get(one.name, made.generation) if old.get(one.name) == one else made.generation
            for one in made.endpoints
        }

    def _note_drains(self, pairs: Pairs, generation: int) -> None:
        replicas = [one for record, _ in pairs for _, one in record.replicas()]
        now = time.monotonic()
        self._drains = {
            key: self._drains.get(key, (generation, now))
            for key in (_key(one) for one in replicas if one.row.state is ReplicaState.DRAINING)
        }


def _key(one: ReplicaRecord) -> tuple[int, int]:
    return one.row.id or 0, one.row.attempt_id or 0


def _read_or_none(data: Path) -> RouteTable | None:
    """The table on disk; None when there is none that can be read."""
    try:
        return read_routes(data)
    except BadTable as error:
        log.error("the route table is written anew: %s", error)
        return None
