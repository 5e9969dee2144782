"""Requests with one member that is far too large: made for every operation from the documents that the server
generates, so that an operation or a member that is new is tried, too.

A member of each type is tried with what is larger than anybody needs: a list and a map that fill the body, numbers that
no column holds, a text of nearly the whole body, values that lie a thousand deep in each other.
"""

from __future__ import annotations

import copy
import itertools
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any
from urllib.parse import quote

from helpers.two_users import Form, Operation, Things, Try, filled

ROOM = 900_000
"""Bytes that a list, a map or a text is to fill: a little less than most bodies may have."""
DEPTH = 1_000
WHOLE = (10**18, 2**63, -(10**18), 10**30)
NUMBERS = (1e308, -1e308, 5e-324)
IN_QUERIES = {"integer": ("1" + "0" * 18, str(2**63), "9" * 400), "number": ("1e308", "-1e308", "nan", "inf", "-inf")}
_HERE = "@here@"
"""Stands in a body for what is too large, which is put into its text."""
_LEVELS = 5  # how deep members of members are looked for
_TEXT_IN_URL = 20_000
_TIMES_IN_URL = 3_000


@dataclass(frozen=True)
class Large:
    """A request: what is too large in it, and what makes it, which takes longer than to answer it."""

    what: str
    make: Callable[[], Try]


class Document:
    """One dialect's OpenAPI document."""

    def __init__(self, text: Any) -> None:
        self._text = text

    def of(self, op: Operation) -> Any:
        """What the document says of an operation; None for one that it leaves out."""
        path = op.rule
        for start, kind in (("<int:", ""), ("<path:", ""), ("<", "")):
            path = path.replace(start, "{" + kind)
        path = path.replace(">", "}")
        for one in (path, path.rstrip("/"), path + "/"):
            if (found := self._text["paths"].get(one)) is not None:
                return found.get(op.method.lower())
        return None

    def statuses(self, op: Operation) -> set[int]:
        """The statuses that it names for an operation."""
        return {int(one) for one in (self.of(op) or {}).get("responses", ()) if one.isdigit()}

    def body(self, said: Any) -> Any:
        """The schema of an operation's body, None without one."""
        content = said.get("requestBody", {}).get("content", {})
        return next((one.get("schema") for one in content.values()), None)

    def plain(self, schema: Any) -> Any:
        """A schema without references; of several that may be, the first one that is not null."""
        while True:
            if "$ref" in schema:
                *_, name = schema["$ref"].split("/")
                schema = self._text["components"]["schemas"][name]
            elif "anyOf" in schema or ("oneOf" in schema and "properties" not in schema):
                each = schema.get("anyOf") or schema.get("oneOf")
                schema = next(one for one in each if one.get("type") != "null")
            elif len(schema.get("allOf", ())) == 1:
                schema = schema["allOf"][0]
            else:
                return schema

    def small(self, schema: Any, levels: int = _LEVELS) -> Any:
        """A small value of a schema."""
        schema = self.plain(schema)
        if "enum" in schema or "const" in schema:
            return schema.get("const", (schema.get("enum") or [None])[0])
        kind = _kind(schema)
        if kind == "object":
            needed = schema.get("required", ()) if levels else ()
            return {name: self.small(schema["properties"][name], levels - 1) for name in needed}
        if kind == "array":
            return [self.small(schema["items"], levels - 1)] if schema.get("minItems") and levels else []
        return {"integer": max(1, schema.get("minimum", 1)), "number": 1.0, "boolean": False}.get(kind, "x1")

    def large(self, schema: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Callable[[], str]]]:
        """Where in a body what is to be put: members and positions that lead there, what makes the value's text."""
        schema = self.plain(schema)
        kind = _kind(schema)
        if kind == "array":
            yield place, partial(_list, json.dumps(self.small(schema.get("items", {}))))
            if len(place) < _LEVELS:
                yield from self.large(schema.get("items", {}), (*place, 0))
        elif kind == "object":
            yield from self._in_object(schema, place)
        elif kind == "string":
            yield place, lambda: json.dumps("x" * ROOM)
        elif kind in ("integer", "number"):
            numbers = WHOLE if kind == "integer" else (*NUMBERS, *WHOLE[:2])
            yield from ((place, partial(json.dumps, one)) for one in numbers)
        if kind in ("", "object"):
            yield place, _deep

    def _in_object(self, schema: Any, place: tuple[Any, ...]) -> Iterator[tuple[tuple[Any, ...], Callable[[], str]]]:
        if len(place) < _LEVELS:
            for name, member in schema.get("properties", {}).items():
                yield from self.large(member, (*place, name))
        more = schema.get("additionalProperties", False)
        if more is not False:
            yield place, partial(_map, json.dumps(self.small(more) if isinstance(more, dict) and more else 1))
            yield (*place, "zz"), _deep
            yield (*place, "zz"), partial(_list, "1")

    def put(self, schema: Any, base: Any, place: tuple[Any, ...], value: Any) -> Any:
        """A body with a value in a place; what is missing on the way there is made."""
        if not place:
            return value
        schema, first = self.plain(schema), place[0]
        made = copy.copy(base)
        if isinstance(first, int):
            inner = schema.get("items", {})
            made = list(made) if isinstance(made, list) and made else [self.small(inner)]
        else:
            inner = schema.get("properties", {}).get(first, {})
            made = dict(made) if isinstance(made, dict) else self.small(schema)
        before = made[0] if isinstance(first, int) else made.get(first, self.small(inner) if len(place) > 1 else None)
        made[first] = self.put(inner, before, place[1:], value)
        return made


def requests_of(document: Document, op: Operation, base: Try, things: Things) -> Iterator[Large]:
    """All that is tried with an operation."""
    said = document.of(op)
    if said is None:
        return
    base = Try("", base.params, filled(base.query, things), filled(base.body, things))
    yield from _in_path(op, base)
    yield from _in_query(document, said, base)
    if isinstance(base.body, Form):
        yield from _in_form(base, base.body, things)
        return
    schema = document.body(said)
    if schema is None:
        return
    start = base.body if isinstance(base.body, dict) else document.small(schema)
    for place, make in document.large(schema):
        around = json.dumps(document.put(schema, start, place, _HERE))
        yield Large(".".join(map(str, place)) or "the body", partial(_with_body, base, around, make))
    for text in ("[" + "1," * 10**6 + "1]", "[" * 100_000, '{"a":' * 100_000, '{"a":' + "9" * 100_000 + "}"):
        yield Large(f"the body = {text[:20]}", partial(_with_body, base, json.dumps(_HERE), partial(str, text)))


def _with_body(base: Try, around: str, make: Callable[[], str]) -> Try:
    return Try("", base.params, base.query, around.replace(json.dumps(_HERE), make()))


def _in_form(base: Try, form: Form, things: Things) -> Iterator[Large]:
    """Fields of a form, whose texts are JSON: each member is tried as what it is not, too."""
    makes = (partial(_list, "1"), lambda: json.dumps("x" * ROOM), _deep, *(partial(json.dumps, n) for n in WHOLE))
    for name, value in form.fields.items():
        whole = filled(value, things)
        for place, make in itertools.product(_places(whole), makes):
            around = json.dumps(_replaced(whole, place, _HERE))
            what = ".".join(map(str, (name, *place)))
            yield Large(what, partial(_with_field, base, form, name, around, make))
        for text in ("x" * ROOM, "[" * 100_000, "{'a':" * 100_000, "(" * 100_000, "'" + "\\x41" * 100_000 + "'"):
            given = partial(_with_field, base, form, name, json.dumps(_HERE), partial(str, text))
            yield Large(f"{name} = {text[:20]}", given)


def _with_field(base: Try, form: Form, name: str, around: str, make: Callable[[], str]) -> Try:
    text = around.replace(json.dumps(_HERE), make())
    return Try("", base.params, base.query, Form(form.file, {**form.fields, name: text}))


def _places(value: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """All members and items of a value, at any depth."""
    yield place
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, one in inner:
        yield from _places(one, (*place, name))


def _replaced(value: Any, place: tuple[Any, ...], by: Any) -> Any:
    if not place:
        return by
    made = copy.copy(value)
    made[place[0]] = _replaced(value[place[0]], place[1:], by)
    return made


def _in_path(op: Operation, base: Try) -> Iterator[Large]:
    for name in base.params:
        for value in ("9" * 19, "1" * 30, "a" * _TEXT_IN_URL, "a/" * 5_000):
            if "<path:" in op.rule or "/" not in value:
                params = {**base.params, name: value}
                yield Large(f"{name} in the path = {value[:20]}", partial(Try, "", params, base.query, base.body))


def _in_query(document: Document, said: Any, base: Try) -> Iterator[Large]:
    def asked(what: str, more: str) -> Large:
        query = f"{base.query}&{more}" if base.query else more
        return Large(f"{what} in the query = {more[:30]}", partial(Try, "", base.params, query, base.body))

    for one in said.get("parameters", ()):
        if one["in"] != "query":
            continue
        name, schema = one["name"], document.plain(one["schema"])
        kind = _kind(schema)
        if kind == "array":
            item = document.small(schema["items"])
            yield asked(name, "&".join([f"{name}={quote(str(item))}"] * _TIMES_IN_URL))
        else:
            yield from (asked(name, f"{name}={value}") for value in IN_QUERIES.get(kind, ("a" * _TEXT_IN_URL,)))
    yield asked("members that nobody knows", "&".join(f"k{n}=1" for n in range(_TIMES_IN_URL)))


def _kind(schema: Any) -> str:
    kind = schema.get("type", "object" if "properties" in schema else "")
    return str(kind if isinstance(kind, str) else next(one for one in kind if one != "null"))


def _list(item: str) -> str:
    """A list of items that differ where they hold a text."""
    return "[" + ",".join(item.replace("x1", f"x{n}") for n in range(ROOM // (len(item) + 7))) + "]"


def _map(value: str) -> str:
    return "{" + ",".join(f'"k{n}":{value}' for n in range(ROOM // (len(value) + 12))) + "}"


def _deep() -> str:
    return '[{"a":' * (DEPTH // 2) + "1" + "}]" * (DEPTH // 2)
