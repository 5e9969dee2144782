"""Form fields with brackets (``taskRoles[0][name]=worker``) as the nested value that they stand for."""

from __future__ import annotations

import re
from typing import Any

from localml.core.errors import invalid

_FIELD = re.compile(r"([^\[\]]+)((?:\[[^\[\]]*\])+)")
_PART = re.compile(r"\[([^\[\]]*)\]")
MAX_DEPTH = 8


def nested(given: Any) -> Any:
    """The value with bracketed members put into objects and, where all names are numbers, into lists.

    Anything but an object, and an object without brackets in its names, is given back as it is.
    """
    if not isinstance(given, dict) or not any("[" in name for name in given):
        return given
    found: dict[str, Any] = {}
    for name, value in given.items():
        parts = _FIELD.fullmatch(name)
        path = [parts[1], *_PART.findall(parts[2])] if parts else [name]
        if len(path) > MAX_DEPTH:
            raise invalid(name[:100], "is nested too deeply")
        _put(found, path, value)
    return {name: _with_lists(value) for name, value in found.items()}


def _put(target: dict[str, Any], path: list[str], value: Any) -> None:
    for depth, part in enumerate(path[:-1]):
        deeper = target.setdefault(part or str(len(target)), {})
        if not isinstance(deeper, dict):
            raise invalid(".".join(path[: depth + 1]), "is given as a value and as an object")
        target = deeper
    target[path[-1] or str(len(target))] = value


def _with_lists(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    inner = {name: _with_lists(one) for name, one in value.items()}
    if inner and all(name.isdecimal() and name.isascii() for name in inner):
        return [inner[name] for name in sorted(inner, key=int)]
    return inner
