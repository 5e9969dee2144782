"""Fields of forms that are texts."""

from __future__ import annotations

from localml.core.errors import Code, LocalmlError, invalid
from localml.dialects.kit.multipart import FilePart, Form

MOST_TEXT = 32 << 20
"""Bytes of such a field: a search may list a hundred thousand experiments."""


def find_text(form: Form, name: str) -> str | None:
    """A field of a form, also where a client sends it as a file; None if there is none.

    Raises:
        LocalmlError: ``INVALID`` if it came twice or is no text, ``TOO_LARGE``.
    """
    if form.files.get(name) and name not in form.fields:
        return _decoded(form.file(name))
    return form.text(name)


def need_text(form: Form, name: str) -> str:
    """The same; ``INVALID`` if there is none."""
    text = find_text(form, name)
    if text is None:
        raise invalid(name, "is required, as a part of this name")
    return text


def _decoded(part: FilePart) -> str:
    if part.size > MOST_TEXT:
        raise LocalmlError(Code.TOO_LARGE, f"{part.name}: is larger than {MOST_TEXT} bytes", field=part.name)
    try:
        return part.path.read_text("utf-8")
    except UnicodeDecodeError:
        raise invalid(part.name, "is not UTF-8 text") from None
