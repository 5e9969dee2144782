"""Lists of workloads of several kinds and APIs at once, by place (from the 200th on, 50 of them), sorted by anything.

:mod:`localml.core.work.listing` walks indexes from cursor to cursor. Who asks for a place in a list has all that lies
before it looked at anyway; so here one statement looks at the narrow rows, which takes SQLite some tens of milliseconds
for a hundred thousand, and gives their numbers alone. What is shown of them is read in parts (:meth:`Surveys.shown`).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from sqlalchemy import ColumnElement, Text, and_, case, cast, false, func, literal, literal_column, or_, select
from sqlmodel import Session, col

from localml.core.clock import Clock
from localml.core.ports import Store
from localml.core.sql import id_list, json_text
from localml.core.studies.tables import Study
from localml.core.subjects import Noun
from localml.core.work.states import ACTIVE, HOLDING, Kind, State
from localml.core.work.tables import Workload, WorkloadDetail

_W = Workload
_HOLDS: Final = col(_W.state).in_([*HOLDING])
_AGAIN: Final = and_(col(_W.attempt) > 1, col(_W.state).in_([State.QUEUED, State.PREPARING]))
_REPLICAS: Final[ColumnElement[int]] = literal_column(
    "(SELECT sum(coalesce(json_extract(role.value, '$.count'), 1))"
    " FROM json_each(workload_detail.spec, '$.roles') AS role)"
)
_STUDY: Final = (
    select(col(Study.name))
    .where(col(_W.parent_kind) == Noun.STUDY, col(Study.id) == col(_W.parent_id))
    .correlate(_W.__table__)  # type: ignore[attr-defined]
    .scalar_subquery()
)
SORTS = (
    *("id", "kind", "name", "owner", "state", "message", "created_at", "updated_at", "ended_at"),
    *("ran", "cpu", "replicas", "held_replicas", "held", "study", "failure", "figure"),
)
"""What a list can be sorted by: columns; seconds that it ran; what it holds now: cores, replicas, whether anything;
replicas that it asks for; the study whose trial it is; why it failed; :attr:`Survey.figures`."""


@dataclass(frozen=True, slots=True)
class Source:
    """Some workloads: of these kinds, of one API or (None) of all."""

    kinds: tuple[Kind, ...]
    dialect: str | None = None


@dataclass(frozen=True, slots=True)
class Stages:
    """Where workloads are: in one of these states, but not waiting or prepared to be tried again, which is a stage of
    its own (``again``)."""

    states: frozenset[State] = frozenset()
    again: bool = False


@dataclass(frozen=True, slots=True)
class Search:
    """A text in any of several places: a part of the name, the owner, the message or the study's name, whatever its
    case; or what it is known by elsewhere, which whoever asks has looked up."""

    text: str
    kinds: tuple[Kind, ...] = ()
    stages: Stages | None = None
    numbers: Collection[int] = ()
    paths: tuple[str, ...] = ()  # members of the spec, as JSON paths


@dataclass(frozen=True, slots=True)
class Survey:
    """Which workloads, and in which order. Members that are None do not restrict, and deleted ones are left out.

    Attributes:
        alias: member of the request that goes before the name, where there is one: a JSON path.
        name, pool: exactly this.
        ranks, again: places of the states, and of those that are tried again, where it is sorted by ``state``.
        kinds: places of the kinds, where it is sorted by ``kind``.
        path: sorted by this member of the spec, a JSON path, in place of ``sort``.
        figures: number of a workload -> what it is sorted by, as ``figure``; of those that hold anything.
        length: how many; None for all.
    """

    sources: tuple[Source, ...]
    workspaces: Collection[str] | None = None
    numbers: Collection[int] | None = None
    alias: str = "$.name"
    name: str | None = None
    pool: str | None = None
    stages: Stages | None = None
    search: Search | None = None
    sort: str = "id"
    path: str | None = None
    descending: bool = False
    ranks: Mapping[State, int] = field(default_factory=dict)
    again: int = 0
    kinds: Mapping[Kind, int] = field(default_factory=dict)
    figures: Mapping[int, float] = field(default_factory=dict)
    start: int = 0
    length: int | None = None


@dataclass(frozen=True, slots=True)
class Shown:
    """A row with what a list shows of its wide part."""

    row: Workload
    name: str
    replicas: int
    study: str | None
    members: tuple[Any, ...]  # of the spec, for the paths that were asked for


@dataclass(frozen=True, slots=True)
class OwnersSum:
    """What one owner's workloads ask for that are not over, and hold; and how many of them wait and run."""

    owner: str
    owner_id: int
    cpu: float
    gpu: float
    held_gpu: float
    waiting: int
    running: int


class Surveys:
    """The service over such lists."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock

    def numbers(self, survey: Survey) -> list[int]:
        """The numbers of the workloads, in order."""
        with self._store.read() as session:
            return _numbers(session, survey, self._clock.now())

    def shown(self, wanted: Sequence[int], alias: str, paths: Sequence[str] = ()) -> list[Shown]:
        """What is shown of workloads, in the order of their numbers here; of those that are there still.

        Args:
            alias: as in :class:`Survey`.
            paths: members of the spec, as JSON paths.
        """
        with self._store.read() as session:
            return _shown(session, wanted, alias, paths)

    def sums(self, survey: Survey) -> list[OwnersSum]:
        """The workloads by their owners, these by name."""
        with self._store.read() as session:
            return _sums(session, survey)


def _numbers(session: Session, survey: Survey, now: float) -> list[int]:
    key = _key(survey, now)
    order = [one.desc() if survey.descending else one.asc() for one in (key, col(_W.id))]
    wanted = select(col(_W.id)).where(*_conditions(survey)).order_by(*order)
    if _needs_detail(survey):
        wanted = wanted.join(WorkloadDetail, col(WorkloadDetail.workload_id) == col(_W.id))
    limit = -1 if survey.length is None else survey.length
    return [int(number) for number in session.execute(wanted.limit(limit).offset(survey.start)).scalars()]


def _needs_detail(survey: Survey) -> bool:
    named = survey.search is not None or survey.name is not None
    return named or survey.path is not None or survey.sort in ("name", "replicas", "held_replicas")


def _shown(session: Session, wanted: Sequence[int], alias: str, paths: Sequence[str]) -> list[Shown]:
    members = [func.json_extract(col(WorkloadDetail.spec), path) for path in paths]
    listed = func.json_each(id_list(wanted)).table_valued("value")
    query = (
        select(_W, _name(alias), _REPLICAS, _STUDY, *members)
        .join(WorkloadDetail, col(WorkloadDetail.workload_id) == col(_W.id))
        .where(col(_W.id).in_(select(listed.c.value)))
    )
    found = {
        row.id: Shown(row, name, int(replicas or 0), study, tuple(rest))
        for row, name, replicas, study, *rest in session.execute(query)
    }
    return [found[number] for number in wanted if number in found]


def _sums(session: Session, survey: Survey) -> list[OwnersSum]:
    def total(amount: Any, when: ColumnElement[bool]) -> ColumnElement[Any]:
        return func.coalesce(func.sum(case((when, amount), else_=0)), 0)

    active, waits = col(_W.state).in_([*ACTIVE]), col(_W.state) == State.QUEUED
    query = select(
        col(_W.owner),
        col(_W.owner_id),
        total(_W.cpu, active),
        total(_W.gpu, active),
        total(_W.gpu, _HOLDS),
        total(literal(1), waits),
        total(literal(1), _HOLDS),
    ).where(*_conditions(survey))
    if _needs_detail(survey):
        query = query.join(WorkloadDetail, col(WorkloadDetail.workload_id) == col(_W.id))
    rows = session.execute(query.group_by(col(_W.owner), col(_W.owner_id)).order_by(col(_W.owner), col(_W.owner_id)))
    return [OwnersSum(*row) for row in rows]


def _conditions(survey: Survey) -> list[ColumnElement[bool]]:
    found: list[ColumnElement[bool]] = [col(_W.deleted_at).is_(None), or_(*map(_of_source, survey.sources))]
    if survey.workspaces is not None:
        found.append(_plain("workspace").in_(list(survey.workspaces)))
    if survey.numbers is not None:
        listed = func.json_each(id_list(survey.numbers)).table_valued("value")
        found.append(col(_W.id).in_(select(listed.c.value)))
    if survey.name is not None:
        found.append(_name(survey.alias) == survey.name)
    if survey.pool is not None:
        found.append(_plain("pool") == survey.pool)
    if survey.stages is not None:
        found.append(_at(survey.stages))
    if survey.search is not None:
        found.append(_matches(survey.search, survey.alias))
    return found


def _at(stages: Stages) -> ColumnElement[bool]:
    found = _plain("state").in_(list(stages.states)) & ~_AGAIN
    return or_(found, _AGAIN) if stages.again else found


def _of_source(source: Source) -> ColumnElement[bool]:
    of_kind = _plain("kind").in_(list(source.kinds))
    return of_kind if source.dialect is None else and_(of_kind, _plain("dialect") == source.dialect)


def _matches(search: Search, alias: str) -> ColumnElement[bool]:
    text = search.text.lower()
    places: list[Any] = [_name(alias), col(_W.owner), col(_W.message), _STUDY]
    places += [func.json_extract(col(WorkloadDetail.spec), path) for path in search.paths]
    found = [func.coalesce(func.instr(func.lower(place), text), 0) > 0 for place in places]
    found.append(_plain("kind").in_(list(search.kinds)) if search.kinds else false())
    found.append(_at(search.stages) if search.stages is not None else false())
    listed = func.json_each(id_list(search.numbers)).table_valued("value")
    found.append(col(_W.id).in_(select(listed.c.value)))
    return or_(*found)


def _name(alias: str) -> ColumnElement[Any]:
    request = col(WorkloadDetail.request)
    given = case((func.json_valid(request) == 1, func.json_extract(request, alias)))  # Python writes Infinity, too
    return func.coalesce(given, col(_W.name))


def _plain(name: str) -> ColumnElement[Any]:
    """A column whose index is not used: whatever a filter leaves, the rows are walked in the order of arrival."""
    column = getattr(_W, name)
    return literal_column(f"+workload.{name}", type_=column.type)


def _key(survey: Survey, now: float) -> ColumnElement[Any]:
    if survey.path is not None:
        return func.coalesce(func.json_extract(col(WorkloadDetail.spec), survey.path), "")
    match survey.sort:
        case "name":
            return _name(survey.alias)
        case "kind":
            return case({kind: survey.kinds.get(kind, 0) for kind in Kind}, value=_W.kind)
        case "state":
            places = {state: survey.ranks.get(state, 0) for state in State}
            return case((_AGAIN, survey.again), else_=case(places, value=_W.state))
        case "ran":
            return func.coalesce(func.coalesce(col(_W.ended_at), now) - col(_W.started_at), 0)
        case "cpu":
            return case((_HOLDS, _W.cpu), else_=0)
        case "replicas":
            return _REPLICAS
        case "held_replicas":
            return case((_HOLDS, _REPLICAS), else_=0)
        case "held":
            return case((_HOLDS, 1), else_=0)
        case "study":
            return func.coalesce(_STUDY, "")
        case "failure":
            return case((col(_W.state) == State.FAILED, _W.message), else_="")
        case "figure":
            return case((_HOLDS, func.coalesce(_figure(survey.figures), 0)), else_=0)
        case name if name in SORTS:
            column = getattr(_W, name)
            return column if name == "id" else func.coalesce(column, 0 if name == "ended_at" else "")
    raise ValueError(f"nothing is sorted by {survey.sort}")


def _figure(figures: Mapping[int, float]) -> ColumnElement[Any]:
    text = json_text({str(number): value for number, value in figures.items()})
    each = func.json_each(text).table_valued("key", "value")
    return select(each.c.value).where(each.c.key == cast(col(_W.id), Text)).scalar_subquery()
