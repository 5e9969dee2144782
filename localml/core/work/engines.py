"""Which engine has which work. A data directory remembers it, so that an engine that cannot be asked at the next start,
or is another one, is never taken for an empty one.

An engine's identity is text: its kind, and after colons what tells it from others of its kind, as far as that is known
(``docker:1f0c3a77:90ab12cd``). Two are the same if one of these marks is.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from sqlmodel import Session

from localml.core.events.records import record_event
from localml.core.ports import Store
from localml.core.rows import Meta
from localml.core.sql import driver
from localml.core.subjects import PLATFORM

_META = "engine"
_NAMES = 5
_HELD = (
    "SELECT a.engine, w.name, a.name FROM attempt AS a JOIN workload AS w ON w.id = a.workload_id"
    " WHERE a.removed = 0 AND a.state != 'ended' AND a.engine != '' ORDER BY w.id, a.id"
)
_UNFINISHED = "SELECT 1 FROM workload WHERE ended_at IS NULL AND deleted_at IS NULL LIMIT 1"


def kind_of(engine: str) -> str:
    """The kind of an engine's identity, which is what ``--engine`` calls it."""
    return engine.partition(":")[0]


def same_engine(one: str, other: str) -> bool:
    """Whether two identities may be those of one engine."""
    kind, *marks = one.split(":")
    other_kind, *others = other.split(":")
    known = bool(marks and others)
    return kind == other_kind and (not known or any(a == b for a, b in zip(marks, others, strict=False)))


@dataclass(frozen=True, slots=True)
class Holding:
    """What an engine has that has not ended: names of workloads, each once, and of its containers."""

    engine: str
    workloads: tuple[str, ...]
    containers: tuple[str, ...]

    @property
    def words(self) -> str:
        """The workloads, the first few by name."""
        named, more = self.workloads[:_NAMES], len(self.workloads) - _NAMES
        return ", ".join(named) + (f" and {more} more" if more > 0 else "")


@dataclass(frozen=True, slots=True)
class Memory:
    """What is known of engines before one is chosen; ``waits_for`` is the one of the last start while there is work
    that has not ended, which may wait, and is empty otherwise."""

    holdings: tuple[Holding, ...] = ()
    waits_for: str = ""

    @property
    def kind(self) -> str:
        """The kind of engine with which everything goes on; empty if any will do."""
        return kind_of(self.holdings[0].engine if self.holdings else self.waits_for)

    @property
    def holding(self) -> Holding | None:
        """What the engine of that kind has, if it has anything."""
        return self.holdings[0] if self.holdings else None

    def elsewhere(self, engine: str) -> list[Holding]:
        """What other engines have than this one."""
        return [one for one in self.holdings if not same_engine(one.engine, engine)]


NOTHING = Memory()


def recall(store: Store) -> Memory:
    """What the data directory remembers. The engine in memory is gone with its process, and holds nothing."""
    with store.read_raw() as connection:
        rows = connection.execute(_HELD).fetchall()
        last = connection.execute("SELECT value FROM meta WHERE key = ?", (_META,)).fetchone()
        waits = last is not None and connection.execute(_UNFINISHED).fetchone() is not None
    engines = dict.fromkeys(str(row[0]) for row in rows if row[0] != "fake")
    return Memory(tuple(_holding(one, rows) for one in engines), str(last[0]) if waits else "")


def _holding(engine: str, rows: Iterable[tuple[str, str, str]]) -> Holding:
    mine = [(workload, container) for one, workload, container in rows if one == engine]
    return Holding(engine, tuple(dict.fromkeys(one for one, _ in mine)), tuple(container for _, container in mine))


def remember(store: Store, engine: str) -> None:
    """This start's engine; what is known of it already is not forgotten for an identity without marks."""

    def act(session: Session) -> None:
        found = session.get(Meta, _META)
        if found is None:
            session.add(Meta(key=_META, value=engine))
        elif not same_engine(found.value, engine) or ":" in engine:
            found.value = engine

    store.write(act)


def abandon(store: Store, lost: Iterable[Holding], engine: str, now: float) -> None:
    """Take what these engines have for lost: from now on it counts as this one's, which does not find it. So it ends
    as what an engine lost, and what may be tried again begins here."""

    def act(session: Session) -> None:
        for one in lost:
            query = "UPDATE attempt SET engine = ? WHERE engine = ? AND removed = 0 AND state != 'ended'"
            driver(session).execute(query, (engine, one.engine))
            there, here = kind_of(one.engine), kind_of(engine)
            words = f"what the {there} engine has is taken for lost, and begins again in {here}: {one.words}"
            record_event(session, PLATFORM, "EngineAbandoned", words, now=now, warning=True)

    store.write(act)
