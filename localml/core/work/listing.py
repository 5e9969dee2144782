"""Lists of workloads: filters, sorting and pages that stay quick with a hundred thousand rows.

SQLite knows an index's average only, not that 'queued' is rare and 'succeeded' is not; so the plan is chosen here.
Short probes count how many rows the filters leave. Few: they are fetched through the index of the filter that leaves
the fewest by itself, and sorted.
Many: the sort's index is walked and the filters are checked on the way, because fifty are found soon. Where they are
not (who waits has not started: all of the queue stands at the end of that index), the walk is given up after so many
steps, and those that the filters leave are sorted after all. A unary plus keeps SQLite from using a column's index.
"""

from __future__ import annotations

import base64
import json
import sqlite3
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import ColumnElement, and_, func, literal_column, select, tuple_
from sqlalchemy.exc import OperationalError
from sqlmodel import Session, col

from localml.core.errors import invalid
from localml.core.sql import IDS, id_list, reader_of
from localml.core.subjects import Subject
from localml.core.work.states import AttemptState, Kind, State
from localml.core.work.tables import Workload

SORTS = ("id", "name", "state", "owner", "priority", "created_at", "updated_at", "started_at", "ended_at")
MAX_PAGE: Final = 1000
_FEW: Final = 1000  # of 100,000: to sort so many takes as long as to walk until fifty are found
_SOME: Final = 3 * _FEW  # of which the other filters may leave few
_STEPS: Final = 60_000  # instructions of SQLite's machine: some milliseconds, thousands of rows
_PROBE_STEPS: Final = 20_000
_PARTS: Final = 20  # SQLite counts on from a statement's earlier runs: its first call comes any number of steps early
_LAST_EXITS: Final = (
    "SELECT w.id, max(a.exited_at)"
    " FROM workload AS w JOIN attempt AS a ON a.workload_id = w.id AND a.number = w.attempt"
    f" WHERE w.id {IDS} AND a.removed = 0 AND a.state != '{AttemptState.ENDED}'"
    " GROUP BY w.id HAVING count(*) = count(a.exited_at)"
)
_EQUAL: Final = ("dialect", "workspace", "owner", "pool", "name")


@dataclass(frozen=True, slots=True)
class Query:
    """Which workloads to list. Empty members do not restrict; ``contains`` is a part of the name, spelled exactly.

    ``owner`` is a name, which several users may have had; ``owner_id`` says which of them. ``parent``: only its
    children. ``created_at`` sorts by order of arrival, which is what it means. ``after`` is a cursor from the page
    before.
    """

    kinds: tuple[Kind, ...] = ()
    states: tuple[State, ...] = ()
    dialect: str | None = None
    workspace: str | None = None
    workspaces: Collection[str] | None = None  # any of these
    owner: str | None = None
    owner_id: int | None = None
    pool: str | None = None
    name: str | None = None
    parent: Subject | None = None
    contains: str | None = None
    deleted: bool = False
    sort: str = "id"
    descending: bool = True
    limit: int = 50
    after: str | None = None


@dataclass(frozen=True, slots=True)
class Page:
    """One page of a list; ``cursor`` leads to the next one, None at the end."""

    items: list[Workload]
    cursor: str | None


def fetch(session: Session, query: Query) -> Page:
    """One page of workloads.

    Raises:
        LocalmlError: ``INVALID`` naming ``sort``, ``limit`` or ``after``.
    """
    if query.sort not in SORTS:
        raise invalid("sort", f"must be one of {', '.join(SORTS)}, not {query.sort!r}")
    if not 1 <= query.limit <= MAX_PAGE:
        raise invalid("limit", f"must be between 1 and {MAX_PAGE}, not {query.limit}")
    rows = _rows(session, query, through=_through(session, query))
    if rows is None:
        rows = _rows(session, query, through=_conditions(query)) or []
    cursor = _cursor(query, rows[query.limit - 1]) if len(rows) > query.limit else None
    return Page(rows[: query.limit], cursor)


def last_exits(connection: sqlite3.Connection, numbers: Sequence[int]) -> dict[int, float]:
    """When the last program exited, of those of these workloads whose output alone is still under way."""
    return dict(connection.execute(_LAST_EXITS, (id_list(numbers),))) if numbers else {}


def _rows(session: Session, query: Query, *, through: Collection[str] | None) -> list[Workload] | None:
    """One row more than is asked for, if there are so many, ``through`` the indexes of these filters. None: along the
    sort's index; the answer is None where that walk was given up."""
    walks = through is None
    order, filters = _order(query, indexed=walks), _filters(query, through or ())
    rows: list[Workload] = []
    with _at_most(session, _STEPS if walks and filters else None) as given_up:
        for segment in _segments(query):
            wanted = query.limit + 1 - len(rows)
            statement = select(Workload).where(*filters, *segment).order_by(*order).limit(wanted)
            rows.extend(session.execute(statement).scalars())
            if len(rows) > query.limit:
                break
    return None if given_up else rows


@contextmanager
def _at_most(session: Session, steps: int | None) -> Iterator[list[bool]]:
    """Give up what the session asks SQLite in the block after so many steps; the list is not empty then."""
    given_up: list[bool] = []
    if steps is None:
        yield given_up
        return
    parts = iter(range(_PARTS))

    def give_up() -> int:
        if next(parts, None) is not None:
            return 0
        given_up.append(True)
        return 1

    connection = reader_of(session)
    connection.set_progress_handler(give_up, steps // _PARTS)
    try:
        yield given_up
    except OperationalError:
        if not given_up:
            raise
    finally:
        connection.set_progress_handler(None, 0)


def _column(name: str, *, indexed: bool) -> ColumnElement[Any]:
    column = getattr(Workload, name)
    return column if indexed else literal_column(f"+workload.{name}", type_=column.type)


def children_of(parent: Subject, *, indexed: bool = True) -> list[ColumnElement[bool]]:
    """The condition that a workload is a child of this."""
    kind, number = (_column(name, indexed=indexed) for name in ("parent_kind", "parent_id"))
    return [kind == parent.kind, number == parent.id]


def _conditions(query: Query, through: Collection[str] | None = None) -> dict[str, list[ColumnElement[bool]]]:
    """Filter -> its conditions, for all that an index could serve.

    Args:
        through: the filters whose indexes may be used (None: all); the conditions of others are only checked, unless
            they shorten a walk along the sort's own index.
    """

    def column(name: str, filtered: str = "") -> ColumnElement[Any]:
        usable = through is None or (filtered or name) in through
        return _column(name, indexed=usable or (not filtered and _key(query) == name))

    found: dict[str, list[ColumnElement[bool]]] = {}
    if query.kinds:
        found["kind"] = [column("kind").in_(query.kinds)]
    if query.states:
        found["state"] = [column("state").in_(query.states)]
    for name in _EQUAL:
        value = getattr(query, name)
        if value is not None:
            found[name] = [column(name) == value]
    if query.workspaces is not None:
        found["workspaces"] = [column("workspace", "workspaces").in_(list(query.workspaces))]
    if query.parent is not None:
        usable = through is None or "parent" in through or _key(query) == "id"
        found["parent"] = children_of(query.parent, indexed=usable)
    return found


def _filters(query: Query, through: Collection[str], *, live: bool = True) -> list[ColumnElement[bool]]:
    """All conditions."""
    found = [one for conditions in _conditions(query, through).values() for one in conditions]
    if query.contains:
        found.append(func.instr(col(Workload.name), query.contains) > 0)
    if query.owner_id is not None:  # there is no index of it: few users had another's name
        found.append(col(Workload.owner_id) == query.owner_id)
    if live and not query.deleted:
        found.append(col(Workload.deleted_at).is_(None))
    return found


def _through(session: Session, query: Query) -> Collection[str] | None:
    """The filters through whose indexes few rows are found: so few that sorting them is quicker than walking the sort's
    index. None if many would be. Counting what one filter leaves takes its index alone, and no rows."""
    alone = _conditions(query)
    through: Collection[str] = alone
    if len(alone) > 1:
        counts = {name: _count(session, _SOME, conditions, None) for name, conditions in alone.items()}
        narrowest = min(counts, key=counts.__getitem__)
        if counts[narrowest] > _SOME:
            return None
        through = {narrowest}
    filters = _filters(query, through, live=False)
    return through if filters and _count(session, _FEW, filters) <= _FEW else None


def _count(
    session: Session, most: int, filters: Sequence[ColumnElement[bool]], steps: int | None = _PROBE_STEPS
) -> int:
    """How many rows pass; one more than ``most`` if more do, or if it takes long to find out."""
    probe = select(col(Workload.id)).where(*filters).limit(most + 1).subquery()
    found = None
    with _at_most(session, steps):
        found = session.execute(select(func.count()).select_from(probe)).scalar()
    return most + 1 if found is None else int(found)


def _key(query: Query) -> str:
    return "id" if query.sort == "created_at" else query.sort


def _order(query: Query, *, indexed: bool) -> list[Any]:
    names = ["id"] if _key(query) == "id" else [_key(query), "id"]
    columns = [_column(name, indexed=indexed or name == "id") for name in names]
    return [one.desc() if query.descending else one.asc() for one in columns]


def _cursor(query: Query, row: Workload) -> str:
    text = json.dumps([query.sort, query.descending, getattr(row, _key(query)), row.id])
    return base64.urlsafe_b64encode(text.encode()).decode()


def _segments(query: Query) -> list[Sequence[ColumnElement[bool]]]:
    """What lies after the cursor, as one or two conditions to be asked in turn: rows without a value sort first in
    SQLite (last when descending), and a condition with OR would keep it from using the index."""
    if not query.after:
        return [()]
    value, number = _read_cursor(query)
    key, identifier = _key(query), col(Workload.id)
    beyond_id = identifier < number if query.descending else identifier > number
    if key == "id":
        return [(beyond_id,)]
    column: Any = getattr(Workload, key)
    if value is None:
        rest = and_(column.is_(None), beyond_id)
        return [(rest,)] if query.descending else [(rest,), (column.is_not(None),)]
    pair = tuple_(column, identifier)
    if query.descending:
        return [(pair < tuple_(value, number),), (column.is_(None),)]
    return [(pair > tuple_(value, number),)]


def _read_cursor(query: Query) -> tuple[Any, int]:
    try:
        sort, descending, value, number = json.loads(base64.urlsafe_b64decode(query.after or ""))
        number = int(number)
    except (ValueError, TypeError) as error:
        raise invalid("after", "is no cursor of this list") from error
    if sort != query.sort or descending != query.descending:
        raise invalid("after", "belongs to a list with another order")
    return value, number
