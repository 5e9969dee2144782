"""Numbers in names and references, which anybody may have written."""

from __future__ import annotations

MOST_DIGITS = 18
"""What has no more of them fits 64 bits: the database's integers, and those of protocols."""


def whole(text: str) -> int | None:
    """The number that a text of ASCII digits is; None for every other text, and for more than :data:`MOST_DIGITS`.

    ``str.isdigit`` is no such test: superscripts pass it, which ``int`` refuses, and thousands of digits.
    """
    return int(text) if text.isascii() and text.isdigit() and len(text) <= MOST_DIGITS else None
