"""Forms with files (``multipart/form-data``), read while they arrive: files go to disk, fields stay in memory.

Flask's own reader takes a part for a file only when it has a filename. Vendors' clients send binary parts with neither
a filename nor a Content-Type, so here an operation says by name which parts are files.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, TypeVar

from flask import Request, request
from werkzeug.exceptions import RequestEntityTooLarge
from werkzeug.sansio.multipart import Data, Epilogue, Event, Field, File, MultipartDecoder, NeedData

from localml.core.errors import Code, LocalmlError, invalid
from localml.dialects.kit.context import platform
from localml.objects.files import explained
from localml.objects.uploads import Uploads

_T = TypeVar("_T")

FORM = "multipart/form-data"
_BLOCK = 1 << 18
_MAX_HEAD = _BLOCK << 1
"""Bytes that are held back at a time: a block, and the head of a part."""


@dataclass(frozen=True, slots=True)
class FormRules:
    """What a form may hold. The size of the whole is the operation's :func:`localml.dialects.kit.bodies.body_limit`.

    Attributes:
        files: names of parts that are files, whether or not they say so; any part with a filename is one.
        max_parts: fields and files together.
        max_field: bytes of one field.
        max_file: bytes of one file; None has no limit of its own.
    """

    files: frozenset[str] = frozenset()
    max_parts: int = 100
    max_field: int = 1 << 20
    max_file: int | None = None


@dataclass(frozen=True, slots=True)
class FilePart:
    """A file that came, until the form is left; it may be moved. ``filename`` is as sent, and no safe name."""

    name: str
    filename: str | None
    content_type: str | None
    path: Path
    size: int

    def open(self) -> BinaryIO:
        """Read it."""
        return self.path.open("rb")


@dataclass(frozen=True, slots=True)
class Form:
    """What came: name -> values, in the order of their arrival."""

    fields: dict[str, list[str]] = field(default_factory=dict)
    files: dict[str, list[FilePart]] = field(default_factory=dict)

    def text(self, name: str) -> str | None:
        """The field of this name; None without one. ``INVALID`` if it came twice."""
        return _only(self.fields.get(name, []), name)

    def file(self, name: str) -> FilePart:
        """The file of this name. ``INVALID`` if there is none, or several."""
        found = _only(self.files.get(name, []), name)
        if found is None:
            raise invalid(name, "a file is required, as a part of this name of a multipart/form-data body")
        return found


@contextmanager
def read_form(rules: FormRules) -> Iterator[Form]:
    """Read the form of the request at hand. Its files exist inside the ``with`` block, whatever happens in it.

    Raises:
        LocalmlError: ``INVALID`` (no form, or a malformed one; the part's name), ``TOO_LARGE`` (naming the part, or for
            too many of them), ``STORAGE`` when the disk is full.
    """
    reader = _Reader(platform().uploads, rules)
    try:
        reader.read(request)
        yield reader.form
    finally:
        reader.clear()


def _only(found: list[_T], name: str) -> _T | None:
    if len(found) > 1:
        raise invalid(name, f"came {len(found)} times, and is wanted once")
    return found[0] if found else None


class _Part:
    """A part that is arriving: a field in memory, or a file with its writer."""

    def __init__(self, event: Field | File, most: int | None, uploads: Uploads | None) -> None:
        self.name, self.most, self.size = event.name, most, 0
        self.filename = event.filename if isinstance(event, File) else None
        self.content_type = event.headers.get("content-type")
        self.text = bytearray()
        self.path: Path | None = None
        self._file: BinaryIO | None = None
        if uploads is not None:
            self.path, self._file = uploads.create(self.name)

    def take(self, data: bytes) -> None:
        self.size += len(data)
        if self.most is not None and self.size > self.most:
            raise LocalmlError(Code.TOO_LARGE, f"{self.name}: is larger than {self.most} bytes", field=self.name)
        if self._file is None:
            self.text += data
            return
        with explained("the upload", self.name):
            view = memoryview(data)
            while view:
                view = view[self._file.write(view) :]

    def close(self) -> None:
        if self._file is not None:
            self._file.close()


class _Reader:
    """Reads one form."""

    def __init__(self, uploads: Uploads, rules: FormRules) -> None:
        self.form = Form()
        self._uploads, self._rules = uploads, rules
        self._made: list[Path] = []
        self._part: _Part | None = None

    def read(self, request: Request) -> None:
        boundary = request.mimetype_params.get("boundary")
        if request.mimetype != FORM or not boundary:
            raise invalid("body", f"must be {FORM} with a boundary, not {request.content_type or 'without a type'}")
        decoder = MultipartDecoder(boundary.encode(), _MAX_HEAD, max_parts=self._rules.max_parts)
        try:
            while block := request.stream.read(_BLOCK):
                self._feed(decoder, block)
            self._feed(decoder, None)
        except ValueError as error:
            raise invalid("body", f"is no {FORM}: {error}") from None

    def _feed(self, decoder: MultipartDecoder, block: bytes | None) -> None:
        with _too_large(f"the body has a part whose head is larger than {_MAX_HEAD} bytes"):
            decoder.receive_data(block)
        with _too_large(f"the body has more than {self._rules.max_parts} parts"):
            while not isinstance(event := decoder.next_event(), NeedData | Epilogue):
                self._take(event)

    def _take(self, event: Event) -> None:
        if isinstance(event, Field | File):
            self._part = self._begun(event)
        elif isinstance(event, Data) and self._part is not None:
            self._part.take(event.data)
            if not event.more_data:
                self._end(self._part)

    def _begun(self, event: Field | File) -> _Part:
        if not event.name:
            raise invalid("body", "has a part without a name")
        if isinstance(event, Field) and event.name not in self._rules.files:
            return _Part(event, self._rules.max_field, None)
        part = _Part(event, self._rules.max_file, self._uploads)
        if part.path is not None:
            self._made.append(part.path)
        return part

    def _end(self, part: _Part) -> None:
        part.close()
        self._part = None
        if part.path is None:
            self.form.fields.setdefault(part.name, []).append(_decoded(part))
            return
        made = FilePart(part.name, part.filename, part.content_type, part.path, part.size)
        self.form.files.setdefault(part.name, []).append(made)

    def clear(self) -> None:
        if self._part is not None:
            self._part.close()
        for path in self._made:
            path.unlink(missing_ok=True)


@contextmanager
def _too_large(words: str) -> Iterator[None]:
    try:
        yield
    except RequestEntityTooLarge:
        raise LocalmlError(Code.TOO_LARGE, words, field="body") from None


def _decoded(part: _Part) -> str:
    try:
        text = part.text.decode()
    except UnicodeDecodeError:
        raise invalid(part.name, "is not UTF-8 text") from None
    if "\0" in text:
        raise invalid(part.name, "holds a NUL character")
    return text
