"""What a name means: the one thing that has it, whatever its noun, or a refusal that names all that have it.

``twin`` is the only thing of that name; ``job/twin`` and ``endpoint/twin`` say which, where there are several. ``7`` is
the workload with that id, as lists show it, and ``id/7`` is so even where something is named ``7``. Models are only
found as ``model/twin``, because an endpoint is usually named as its model is. A new noun is a row of :data:`_FINDERS`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar

from localml.core.errors import Code, LocalmlError, invalid, not_found
from localml.core.numerals import whole
from localml.core.people.allow import InWorkspace, Thing, may, places, reach
from localml.core.people.identity import Caller
from localml.core.people.rights import Action, ThingKind
from localml.core.studies.studies import StudyQuery
from localml.core.work.states import Kind
from localml.core.work.tables import Workload
from localml.core.work.workloads import Query
from localml.platform import Platform

REPLICA, ENDPOINT, MODEL, STUDY = "replica", "endpoint", "model", "study"
WORKLOADS = tuple(REPLICA if kind is Kind.ENDPOINT else str(kind) for kind in Kind)
"""The kinds of workloads, as people call them: those of kind ``endpoint`` are an endpoint's replicas."""
KINDS = (*WORKLOADS, ENDPOINT, MODEL, STUDY)
_ID = "id"
_MOST = 100
_LISTED = 3
"""So many kinds are listed where something is none of them."""
Row = TypeVar("Row", bound=InWorkspace)


@dataclass(frozen=True, slots=True)
class Named:
    """Something that has a name. ``route`` is another name that an endpoint has."""

    kind: str
    id: int
    name: str
    state: str
    row: InWorkspace
    route: str = ""

    @property
    def forms(self) -> tuple[str, ...]:
        """How it may be written, the plainest first."""
        if self.kind in WORKLOADS:
            return f"{self.kind}/{self.name}", f"{_ID}/{self.id}"
        if self.kind == ENDPOINT:
            return f"{ENDPOINT}/{self.name}", f"{ENDPOINT}/{self.route}", f"{ENDPOINT}/{self.id}"
        if self.kind == STUDY:
            return f"{STUDY}/{self.name}", f"{STUDY}/{self.id}"
        return (f"{self.kind}/{self.name}",)


@dataclass(frozen=True, slots=True)
class _Asked:
    """A reference: of which kinds, and the name or number; ``by_id`` means a workload's number alone."""

    kinds: Collection[str]
    name: str
    explicit: bool
    by_id: bool = False


def resolve(platform: Platform, caller: Caller, reference: str, kinds: Sequence[str] = ()) -> tuple[Named, str]:
    """The one thing that is meant, and how it is written without doubt.

    Args:
        kinds: of which it may be; any by default.

    Raises:
        LocalmlError: ``NOT_FOUND``, naming what has the name but is of another kind; ``CONFLICT`` with the candidates;
            ``INVALID`` for what begins with no kind.
    """
    allowed = tuple(kinds) or KINDS
    asked = _parsed(reference, allowed)
    found = list(_matching(platform, caller, asked))
    if not found:
        raise _missing(platform, caller, asked, reference, allowed)
    if len(found) > 1:
        raise _several(platform, caller, reference, found)
    return found[0], _form(platform, caller, found[0])


def offered(platform: Platform, caller: Caller, prefix: str, kinds: Sequence[str] = ()) -> list[tuple[Named, str]]:
    """Things whose names begin so, at most a hundred, and how each is written: with its kind where it takes that.

    Raises:
        LocalmlError: ``FORBIDDEN`` for a token whose scope leaves out lists of all of them.
    """
    word, slash, start = prefix.partition("/")
    wanted = tuple(kinds) or tuple(kind for kind in KINDS if kind != MODEL or slash)
    wanted = tuple(kind for kind in wanted if not slash or kind == word)
    found, refused = list[Named](), list[LocalmlError]()
    for find in _FINDERS:
        try:
            found += find(platform, caller, wanted, None, start if slash else prefix)
        except LocalmlError as error:  # what a token's scope leaves out of lists
            refused.append(error)
    if refused and not found:
        raise refused[0]
    found = found[:_MOST]
    names = [one.name for one in found]
    return [(one, one.name if not slash and names.count(one.name) == 1 else one.forms[0]) for one in found]


def _parsed(reference: str, allowed: Collection[str]) -> _Asked:
    word, slash, name = reference.partition("/")
    if not slash:
        return _Asked([kind for kind in allowed if kind != MODEL or len(allowed) == 1], reference, explicit=False)
    workloads = [kind for kind in allowed if kind in WORKLOADS]
    if word == _ID and whole(name) is not None and workloads:
        return _Asked(workloads, name, explicit=True, by_id=True)
    if word not in (*KINDS, _ID) or not name:
        words = f"{reference!r} begins with no kind of thing; there are {', '.join(KINDS)}, and id/NUMBER"
        raise invalid("NAME", words)
    if word not in allowed:
        raise invalid("NAME", f"{reference!r} is no {_either(allowed)}")
    return _Asked((word,), name, explicit=True)


def _matching(platform: Platform, caller: Caller, asked: _Asked) -> Iterator[Named]:
    found = [one for find in _FINDERS for one in find(platform, caller, asked.kinds, asked, "")]
    mine = [one for one in found if not caller.admin and one.row.workspace == caller.workspace]
    yield from mine or found


def _missing(
    platform: Platform, caller: Caller, asked: _Asked, reference: str, allowed: Collection[str]
) -> LocalmlError:
    """That there is none, and what else has the name."""
    kinds = asked.kinds if asked.explicit else allowed
    name = asked.name.partition(":")[0]  # versions are a model's, which there is or is not
    error = not_found(_either(kinds), name)
    if len(kinds) > _LISTED:
        error = LocalmlError(Code.NOT_FOUND, f"nothing is named '{name}'", details={"what": "thing"})
    others = _matching(platform, caller, _Asked(KINDS, asked.name, explicit=True))
    there = [_form(platform, caller, one) for one in others]
    if not there or asked.by_id:
        return error
    return LocalmlError(Code.NOT_FOUND, f"{error.message}; there is {' and '.join(there)}", details=error.details)


def _several(platform: Platform, caller: Caller, reference: str, found: Sequence[Named]) -> LocalmlError:
    refs = [_form(platform, caller, one) for one in found]
    told = [
        f"{ref} ({one.state or one.kind}, {one.row.owner}'s{_through(one)})"
        for ref, one in zip(refs, found, strict=True)
    ]
    candidates = [shown(one, ref) for one, ref in zip(found, refs, strict=True)]
    words = f"NAME: {reference!r} names several things; say which: {', '.join(told)}"
    return LocalmlError(Code.CONFLICT, words, field="NAME", details={"candidates": candidates})


def _through(one: Named) -> str:
    dialect = getattr(one.row, "dialect", "native")
    return "" if dialect == "native" else f", through {dialect}"


def _form(platform: Platform, caller: Caller, one: Named) -> str:
    """The plainest way to write it that means nothing else."""
    for text in one.forms:
        if len(list(_matching(platform, caller, _parsed(text, KINDS)))) == 1:
            return text
    return one.forms[-1]


def _either(kinds: Collection[str]) -> str:
    *others, last = kinds
    return f"{', '.join(others)} or {last}" if others else last


def shown(one: Named, ref: str) -> dict[str, Any]:
    """A thing as JSON values."""
    names = ("kind", "id", "name", "state")
    return {name: getattr(one, name) for name in names} | {
        "ref": ref,
        "owner": one.row.owner,
        "workspace": one.row.workspace,
    }


# -- the nouns -----------------------------------------------------------------------------------------


def _workloads(
    platform: Platform, caller: Caller, kinds: Collection[str], asked: _Asked | None, prefix: str
) -> Iterator[Named]:
    wanted = tuple(Kind.ENDPOINT if kind == REPLICA else Kind(kind) for kind in kinds if kind in WORKLOADS)
    if not wanted:
        return
    rows: dict[int, Workload] = {}
    if asked is None:
        query = Query(kinds=wanted, contains=prefix or None, workspaces=reach(caller, ThingKind.WORKLOAD), limit=_MOST)
        rows = {one.id or 0: one for one in platform.workloads.page(query).items if one.name.startswith(prefix)}
    else:
        if not asked.by_id:
            query = Query(kinds=wanted, name=asked.name, workspaces=places(caller))
            rows = {one.id or 0: one for one in platform.workloads.page(query).items}
        number = whole(asked.name)
        if number is not None and (asked.by_id or not asked.explicit or not rows):
            with suppress(LocalmlError):
                row = platform.workloads.row(number)
                rows |= {number: row} if row.kind in wanted else {}
    for row in _seen(caller, ThingKind.WORKLOAD, rows.values()):
        yield Named(REPLICA if row.kind is Kind.ENDPOINT else str(row.kind), row.id or 0, row.name, str(row.state), row)


def _endpoints(
    platform: Platform, caller: Caller, kinds: Collection[str], asked: _Asked | None, prefix: str
) -> Iterator[Named]:
    if ENDPOINT not in kinds:
        return
    where = reach(caller, ThingKind.ENDPOINT) if asked is None else places(caller)
    there = _seen(caller, ThingKind.ENDPOINT, (one.row for one in platform.endpoints.list(where)))
    if asked is None:
        rows = [row for row in there if row.name.startswith(prefix)]
    else:
        rows = [row for row in there if row.route == asked.name == row.name]
        rows = rows or [row for row in there if asked.name in (row.name, row.route)]
        if not rows and asked.explicit:
            rows = [row for row in there if row.id == whole(asked.name)]
    for row in rows:
        yield Named(ENDPOINT, row.id or 0, row.name, str(row.state), row, row.route)


def _models(
    platform: Platform, caller: Caller, kinds: Collection[str], asked: _Asked | None, prefix: str
) -> Iterator[Named]:
    if MODEL not in kinds:
        return
    where = reach(caller, ThingKind.MODEL) if asked is None else places(caller)
    there = _seen(caller, ThingKind.MODEL, (row for row, _ in platform.registry.models(where)))
    for row in there:
        if asked is None and row.name.startswith(prefix):
            yield Named(MODEL, row.id or 0, row.name, "", row)
        elif asked is not None and row.name == asked.name.partition(":")[0]:
            yield Named(MODEL, row.id or 0, asked.name, "", row)


def _studies(
    platform: Platform, caller: Caller, kinds: Collection[str], asked: _Asked | None, prefix: str
) -> Iterator[Named]:
    if STUDY not in kinds:
        return
    if asked is None:
        query = StudyQuery(contains=prefix or None, workspaces=reach(caller, ThingKind.STUDY), limit=_MOST)
        rows = [row for row in platform.studies.page(query).items if row.name.startswith(prefix)]
    else:
        rows = platform.studies.page(StudyQuery(name=asked.name, workspaces=places(caller), limit=_MOST)).items
        if not rows and asked.explicit and (number := whole(asked.name)) is not None:
            with suppress(LocalmlError):
                rows = [row for row in (platform.studies.get(number),) if row.deleted_at is None]
    for row in _seen(caller, ThingKind.STUDY, rows):
        yield Named(STUDY, row.id or 0, row.name, str(row.state), row)


def _seen(caller: Caller, noun: ThingKind, rows: Iterable[Row]) -> list[Row]:
    return [row for row in rows if may(caller, Action.READ, Thing.of(noun, row))]


_Finder = Callable[[Platform, Caller, Collection[str], _Asked | None, str], Iterator[Named]]
_FINDERS: tuple[_Finder, ...] = (_workloads, _endpoints, _models, _studies)
