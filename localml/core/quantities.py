"""Amounts as text and as numbers: memory in bytes (binary units), CPU in cores."""

from __future__ import annotations

import re

from localml.core.errors import invalid

_UNITS = {"": 1, "B": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_MEMORY = re.compile(r"^\s*([0-9]+(?:\.[0-9]+)?)\s*([KMGT]?)(?:i?B)?\s*$", re.IGNORECASE)
_DIGITS = 30


def parse_memory(text: str | int, field: str = "memory") -> int:
    """Bytes of ``512M``, ``2G``, ``1.5Gi`` or a plain number of bytes; units are powers of 1024.

    Raises:
        LocalmlError: ``INVALID`` when the text is no amount.
    """
    if isinstance(text, int):
        if text < 0:
            raise invalid(field, f"must not be negative, not {text}")
        return text
    found = _MEMORY.match(text.removesuffix("i") if text.endswith("i") else text)
    if not found:
        raise invalid(field, f"must be a number with a unit (K, M, G or T), such as 512M, not {text!r}")
    if len(found[1]) > _DIGITS:
        raise invalid(field, f"must be a number of at most {_DIGITS} digits, not one of {len(found[1])}")
    return int(float(found[1]) * _UNITS[found[2].upper()])


def format_memory(amount: int | None) -> str:
    """The shortest exact-enough text: ``100M``, ``1.5G``; ``-`` for none."""
    if amount is None:
        return "-"
    for unit in ("T", "G", "M", "K"):
        size = _UNITS[unit]
        if amount >= size:
            return f"{amount / size:.2f}".rstrip("0").rstrip(".") + unit
    return f"{amount}B"


def format_duration(seconds: float | None) -> str:
    """``850ms``, ``12s``, ``3m05s``, ``2h07m``, ``4d03h``; ``-`` for none."""
    if seconds is None:
        return "-"
    if seconds < 1:
        return f"{seconds * 1000:.0f}ms"
    whole = int(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    if whole < 86400:
        return f"{whole // 3600}h{whole % 3600 // 60:02d}m"
    return f"{whole // 86400}d{whole % 86400 // 3600:02d}h"
