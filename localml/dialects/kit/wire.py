"""Reading requests as vendors' clients really send them."""

from __future__ import annotations

import json
import math
import re
import threading
from collections.abc import Iterator
from contextlib import nullcontext
from typing import IO, Any, NoReturn, cast
from urllib.parse import quote

from flask import Request
from werkzeug.datastructures import Authorization
from werkzeug.utils import cached_property

from localml.core.errors import Code, LocalmlError, invalid
from localml.core.limits import MOST_LEVELS, MOST_VALUES, need_at_most, over
from localml.dialects.kit.authorization import credentials
from localml.dialects.kit.bodies import CappedStream

FORM_TYPES = ("application/x-www-form-urlencoded", "multipart/form-data")
_TEXT = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?', re.DOTALL)  # with an end or not: no start is tried twice
_LARGE = 1 << 20
_one_large = threading.Lock()  # to parse one stops all other threads, so nobody parses several at a time


class WireRequest(Request):
    """A request whose body is JSON, or a form where the dialect takes forms.

    ``takes_forms`` and ``typeless`` are those of the dialect, set by :func:`make_app` on a subclass of its own.
    """

    takes_forms = False
    typeless = False
    most_values = MOST_VALUES
    """In the body; see :func:`localml.dialects.kit.bodies.body_limit`."""

    @property
    def raw_path(self) -> str:
        """The path exactly as it stood in the request line: escapes, doubled slashes and all; no query, no host.

        Signatures cover it. Bytes above 127 are Latin-1 characters, as everywhere in WSGI.
        """
        uri = self.environ.get("REQUEST_URI") or self.environ.get("RAW_URI")
        if uri is None:  # a server that keeps it to itself: the commonest spelling of the decoded path
            decoded = self.environ.get("SCRIPT_NAME", "") + self.environ.get("PATH_INFO", "")
            return quote(decoded.encode("latin-1"), safe="/:@!$&'()*+,;=~")
        return str(uri).partition("?")[0]

    @cached_property
    def authorization(self) -> Authorization | None:
        """See :func:`localml.dialects.kit.authorization.credentials`."""
        return credentials(self.headers.get("Authorization"))

    @cached_property
    def stream(self) -> IO[bytes]:
        """The body as it comes; see :mod:`localml.dialects.kit.bodies` for what it may have."""
        if self.content_length is None and "wsgi.input_terminated" in self.environ:
            return cast(IO[bytes], CappedStream(self.environ["wsgi.input"], self.max_content_length or 0))
        return super().stream

    def get_json(self, force: bool = False, silent: bool = False, cache: bool = True) -> Any:
        """The body as a JSON value, or the fields of a form (text; a list where a name repeats).

        The arguments are those of Flask and change nothing: the dialect says which Content-Types do, the answer is
        always kept, and a malformed body is always an error.

        Raises:
            LocalmlError: ``INVALID`` for an empty or malformed body, ``MEDIA_TYPE`` for one that says to be no JSON.
        """
        if "localml.json" not in self.environ:
            self.environ["localml.json"] = self._read_body()
        return self.environ["localml.json"]

    def _read_body(self) -> Any:
        if self.takes_forms and self.mimetype in FORM_TYPES:
            data = b"" if self.mimetype == FORM_TYPES[1] else self.get_data(cache=True)
            # curl -d labels everything as a form
            if not data.lstrip().startswith((b"{", b"[")):
                need_at_most("body", data.count(b"&") + 1, self.most_values, "fields")
                return _fields(self)
        data = self.get_data(cache=True)
        if data and not self._says_json():
            given = f"not {self.mimetype}" if self.mimetype else "and has none"
            raise LocalmlError(Code.MEDIA_TYPE, f"Content-Type: must be application/json, {given}", field="body")
        return parse_json(data, self.most_values)

    def _says_json(self) -> bool:
        """What a page of some other site may send unasked says something else, or nothing (W3C Fetch, 2.2.2)."""
        return self.typeless or self.is_json or (self.takes_forms and self.mimetype in FORM_TYPES)


def _fields(request: Request) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, values in request.form.lists():
        found[name] = values[0] if len(values) == 1 else values
    return found


def parse_json(data: bytes, most_values: int = MOST_VALUES) -> Any:
    """A JSON value as the standards have it: no NaN, no infinities, no half surrogates, no NUL characters.

    Args:
        most_values: that it may have, lists and objects among them.

    Raises:
        LocalmlError: ``INVALID`` with field ``body``.
    """
    if not data.strip():
        raise invalid("body", "must be a JSON object, and is empty")
    with _one_large if len(data) > _LARGE else nullcontext():
        _need_few(data, most_values)
        return _parsed(data)


def _need_few(data: bytes, most: int) -> None:
    """Refuse too many values before any is made. Texts are looked into only where that may matter."""
    if _separators(data) >= most:
        bare = _TEXT.sub(b'""', data).translate(None, b" \t\r\n")
        empty = bare.count(b"[]") + bare.count(b"{}")
        need_at_most("body", _separators(bare) + 1 - empty, most, "values")


def _separators(data: bytes) -> int:
    """Each value but the first follows a comma, or is the first in a list or an object that is not empty."""
    return data.count(b",") + data.count(b"[") + data.count(b"{")


def _parsed(data: bytes) -> Any:
    try:
        value = json.loads(data, parse_constant=_no_constant, parse_float=_finite)
    except RecursionError:
        raise invalid("body", f"is nested too deeply: at most {MOST_LEVELS} levels of lists and objects") from None
    except ValueError as error:
        raise invalid("body", f"is not JSON: {error}") from None
    if isinstance(value, str):
        raise invalid("body", "must be a JSON object, not a text")
    if data.count(b"[") + data.count(b"{") > MOST_LEVELS and (levels := _levels(value)) > MOST_LEVELS:
        raise over("body", levels, MOST_LEVELS, "levels of lists and objects in each other")
    if b"\\u" in data or b"\0" in data:
        for text in _texts(value):
            _check_text(text)
    return value


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text} is too large a number")
    return number


def _levels(value: Any) -> int:
    levels, level = 0, [value]
    while level := [one for one in level if isinstance(one, list | dict)]:
        levels += 1
        level = [inner for one in level for inner in (one.values() if isinstance(one, dict) else one)]
    return levels


def _texts(value: Any) -> Iterator[str]:
    waiting = [value]
    while waiting:
        one = waiting.pop()
        if isinstance(one, str):
            yield one
        elif isinstance(one, dict):
            waiting.extend(one)
            waiting.extend(one.values())
        elif isinstance(one, list):
            waiting.extend(one)


def _check_text(text: str) -> None:
    if "\0" in text:
        raise invalid("body", "holds a NUL character")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise invalid("body", "holds text that is not Unicode (half of a surrogate pair)") from None
