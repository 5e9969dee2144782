"""Parameters of a search as people write them: ``log:1e-5..1e-1``, ``1..8``, ``0..1:0.1``, ``2^4..8``, ``adam,sgd``.

* ``LOW..HIGH``: a range, of integers where both ends are; ``int:`` or ``float:`` before it says which;
* ``log:LOW..HIGH``: one that is drawn evenly in its logarithm;
* ``LOW..HIGH:STEP``: in steps; ``BASE^LOW..HIGH``: powers, ``2^4..8`` is 16, 32, ... 256;
* ``A,B,C``: choices; one alone is a fixed value.

Elsewhere the same texts, lists of choices, fixed values, or tables with the members of a parameter.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from typing import Any

from localml.core.errors import invalid

_NUMBER = r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"
_RANGE = re.compile(rf"(?:(?P<base>{_NUMBER})\^)?(?P<low>{_NUMBER})\.\.(?P<high>{_NUMBER})(?::(?P<step>{_NUMBER}))?")
_SEEMS_RANGE = re.compile(rf"(?:{_NUMBER}|[+-]?(?:inf|infinity|nan))\s*\.\.", re.IGNORECASE)
_INTEGER = re.compile(r"[+-]?\d+")
_WORDS = {"true": True, "false": False}
_MEMBERS = {"type", "low", "high", "step", "log", "power", "choices", "value"}
_FORMS = "write LOW..HIGH, log:LOW..HIGH, LOW..HIGH:STEP, 2^LOW..HIGH, or choices A,B,C"


def parameter(name: str, given: Any, where: str) -> dict[str, Any]:
    """A parameter as our own API has it.

    Args:
        where: what is said of it where something is wrong.

    Raises:
        LocalmlError: ``INVALID`` with the forms that there are.
    """
    if isinstance(given, str):
        return {"name": name, **_of_text(given, where)}
    if isinstance(given, list):
        return {"name": name, "choices": _need_choices(given, where)}
    if isinstance(given, Mapping):
        return {"name": name, **_of_table(given, where)}
    return {"name": name, "value": given}


def _of_text(text: str, where: str) -> dict[str, Any]:
    rest, type_, log = text.strip(), None, False
    while (word := rest.partition(":")[0].lower()) in ("int", "float", "log") and ":" in rest:
        type_, log = (type_, True) if word == "log" else (word, log)
        rest = rest.partition(":")[2].strip()
    found = _RANGE.fullmatch(rest)
    if found is None:
        if type_ is not None or log or _SEEMS_RANGE.match(rest):
            raise invalid(where, f"{text!r} is no range; {_FORMS}")
        return _of_choices(rest, where)
    return _range(found, type_, log=log)


def _range(found: re.Match[str], type_: str | None, *, log: bool) -> dict[str, Any]:
    given = {name: text for name, text in found.groupdict().items() if text is not None}
    whole = all(_INTEGER.fullmatch(text) for text in given.values())
    made: dict[str, Any] = {"type": type_ or ("int" if whole else "float")}
    made |= {name: value_of(text) for name, text in given.items() if name != "base"}
    if "base" in given:
        made |= {"power": value_of(given["base"])}
        if _INTEGER.fullmatch(given["low"]) and _INTEGER.fullmatch(given["high"]):
            made.setdefault("step", 1)
    return made | ({"log": True} if log else {})


def _of_choices(text: str, where: str) -> dict[str, Any]:
    words = [one.strip() for one in text.split(",")]
    if "" in words:
        raise invalid(where, f"{text!r} has a choice that is empty; {_FORMS}")
    values = [value_of(one) for one in words]
    return {"choices": values} if len(values) > 1 else {"value": values[0]}


def _need_choices(given: list[Any], where: str) -> list[Any]:
    if not given:
        raise invalid(where, "has no choices")
    for one in given:
        if not isinstance(one, str | int | float):
            raise invalid(where, f"choices are texts, numbers, true or false, and {one!r} is none of these")
    return given


def _of_table(given: Mapping[str, Any], where: str) -> dict[str, Any]:
    for name in given:
        if name not in _MEMBERS:
            near = difflib.get_close_matches(str(name), _MEMBERS, 1)
            hint = f"; did you mean {near[0]}?" if near else f"; there are {', '.join(sorted(_MEMBERS))}"
            raise invalid(f"{where}.{name}", f"there is no such member{hint}")
    made = dict(given)
    ends = [made[name] for name in ("low", "high", "step") if name in made]
    if ends and "type" not in made:
        made["type"] = "int" if all(type(one) is int for one in ends) and "power" not in made else "float"
    return made


def value_of(text: str) -> int | float | bool | str:
    """What a word on the command line means: a number, a truth value, or itself."""
    if text.lower() in _WORDS:
        return _WORDS[text.lower()]
    if _INTEGER.fullmatch(text):
        return int(text)
    return float(text) if re.fullmatch(_NUMBER, text) else text
