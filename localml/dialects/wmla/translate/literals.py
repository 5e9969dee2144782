"""Fields of forms that hold an object as text: JSON, or what Python prints of a dict. Nothing is ever evaluated."""

from __future__ import annotations

import ast
import io
import math
import tokenize
from typing import Any

from localml.core.errors import LocalmlError, invalid
from localml.core.limits import MOST_LEVELS, MOST_VALUES, need_at_most
from localml.dialects.kit.wire import parse_json

_WORDS = frozenset({"True", "False", "None"})
_MARKS = frozenset("{}[](),:+-")
_SILENT = frozenset({tokenize.NL, tokenize.NEWLINE, tokenize.ENDMARKER, tokenize.INDENT, tokenize.DEDENT})


def parse_object(text: str, field: str, *, most_values: int = MOST_VALUES) -> dict[str, Any]:
    """The object that a text stands for, in JSON or in Python's notation; of JSON's values only, in both.

    Raises:
        LocalmlError: ``INVALID`` naming the field: it is neither, no object, nested too deeply or too much.
    """
    try:
        found = _json(text, field, most_values)
    except LocalmlError as refusal:
        if _is_python(text, field, most_values):
            found = _literal(text, field)
        else:
            raise _of_both(refusal, field) from None
    if not isinstance(found, dict):
        raise invalid(field, "must be an object, in JSON or as Python writes a dict")
    return found


def _of_both(refusal: LocalmlError, field: str) -> LocalmlError:
    """The same failure, which also says that it is no dict as Python writes it."""
    if " is not JSON: " not in refusal.message:
        return refusal
    return invalid(
        field, f"{refusal.message.removeprefix(f'{field}: ')}; and no dict of plain values as Python writes it"
    )


def _json(text: str, field: str, most_values: int) -> Any:
    try:
        return parse_json(text.encode(), most_values)
    except LocalmlError as error:
        words = f"{field}: {error.message.removeprefix('body: ')}"
        raise LocalmlError(error.code, words, field=field, details=error.details) from None


def _is_python(text: str, field: str, most_values: int) -> bool:
    """Whether it has nothing but texts, numbers and brackets, not too many and not too deep: what the parser is given
    cannot make it call itself without end."""
    depth = deepest = values = 0
    try:
        for token in tokenize.generate_tokens(io.StringIO(text.strip()).readline):
            if not _is_plain(token):
                return False
            depth += (token.string in ("{", "[", "(")) - (token.string in ("}", "]", ")"))
            deepest = max(deepest, depth)
            values += token.string == "," or token.type == tokenize.NUMBER
    except (tokenize.TokenError, SyntaxError):
        return False
    need_at_most(field, deepest, MOST_LEVELS, "levels of lists and objects in each other")
    need_at_most(field, values, most_values, "values")
    return True


def _is_plain(token: tokenize.TokenInfo) -> bool:
    if token.type == tokenize.OP:
        return token.string in _MARKS
    if token.type == tokenize.NAME:
        return token.string in _WORDS
    return token.type in _SILENT or token.type in (tokenize.STRING, tokenize.NUMBER)


def _literal(text: str, field: str) -> Any:
    try:
        return _plain(ast.literal_eval(text.strip()), field)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        raise invalid(field, "is neither JSON nor what Python writes of a dict") from None


def _plain(value: Any, field: str) -> Any:
    """The same with lists for tuples; refused is what JSON has not."""
    if isinstance(value, dict):
        return {_text(name, field): _plain(one, field) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one, field) for one in value]
    if isinstance(value, str):
        return _text(value, field)
    if value is None or isinstance(value, bool | int) or (isinstance(value, float) and math.isfinite(value)):
        return value
    raise invalid(field, f"holds a {type(value).__name__} ({str(value)[:40]}), which JSON has not")


def _text(value: Any, field: str) -> str:
    if not isinstance(value, str):
        raise invalid(field, f"names a member {str(value)[:40]}, which is no text")
    if "\0" in value or value.encode("utf-8", "ignore").decode() != value:
        raise invalid(field, "holds a NUL character or half a character")
    return value
