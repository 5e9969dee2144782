"""What a server holds in memory: how many things lie in each container that can be reached from it."""

from __future__ import annotations

import gc
import sys
from collections import Counter, deque
from collections.abc import Iterator
from functools import partial
from types import CellType, FunctionType, MethodType
from typing import Any

_CONTAINERS = (dict, list, set, tuple, frozenset, deque)
_DEEPEST = 24
_FOREIGN = ("flask", "werkzeug")
"""Proxies of theirs are of a request, and may be looked at only in one."""


def held(root: object) -> Counter[str]:
    """Way from the root -> things in the containers there, and instances of our classes by name."""
    found: Counter[str] = Counter()
    seen = {id(root)}
    waiting: deque[tuple[str, Any, int]] = deque([(type(root).__name__, root, 0)])
    while waiting:
        way, thing, deep = waiting.popleft()
        if isinstance(thing, _CONTAINERS):
            found[f"{way} ({type(thing).__name__})"] += len(thing)
        elif _module(thing).startswith("localml"):
            found[f"instances of {type(thing).__module__}.{type(thing).__name__}"] += 1
        if deep < _DEEPEST:
            for name, part in _parts(thing):
                if id(part) not in seen and not _module(part).startswith(_FOREIGN):
                    seen.add(id(part))
                    waiting.append((way + name, part, deep + 1))
    return found


def _module(thing: object) -> str:
    return str(type(thing).__module__)


def _parts(thing: Any) -> Iterator[tuple[str, Any]]:
    """Parts that may hold something; (name, part)."""
    if isinstance(thing, dict):
        yield from (("[]", one) for one in list(thing.values()))
        yield from ((".keys[]", one) for one in list(thing) if not isinstance(one, str | int | bytes))
    elif isinstance(thing, _CONTAINERS):
        yield from (("[]", one) for one in list(thing))
    elif isinstance(thing, partial):
        yield from ((f".partial{number}", one) for number, one in enumerate([thing.func, *thing.args]))
    elif isinstance(thing, MethodType):
        yield ".self", thing.__self__
    elif isinstance(thing, FunctionType):
        yield from ((".closure", one) for one in thing.__closure__ or ())
    elif isinstance(thing, CellType):
        yield from ((("." + "cell"), one) for one in _content(thing))
    elif not isinstance(thing, type) and not _module(thing).startswith(("sqlalchemy", "_thread")):
        for name in (*getattr(thing, "__dict__", ()), *_slots(type(thing))):
            part = getattr(thing, "__dict__", {}).get(name) if name in getattr(thing, "__dict__", ()) else None
            part = getattr(thing, name, None) if part is None else part
            if part is not None and not isinstance(part, str | int | float | bytes | bool):
                yield f".{name}", part


def _content(cell: CellType) -> list[Any]:
    try:
        return [cell.cell_contents]
    except ValueError:  # nothing yet
        return []


def _slots(kind: type) -> list[str]:
    return [name for base in kind.__mro__ for name in getattr(base, "__slots__", ()) if isinstance(name, str)]


def objects() -> Counter[str]:
    """Everything that the collector knows of, by type."""
    gc.collect()
    return Counter(f"{type(one).__module__}.{type(one).__qualname__}" for one in gc.get_objects())


def blocks() -> int:
    """Blocks of memory that the interpreter has given out."""
    gc.collect()
    return sys.getallocatedblocks()
