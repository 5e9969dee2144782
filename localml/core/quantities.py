"""Amounts as text and as numbers: memory in bytes (binary units), CPU in cores, times in seconds."""

from __future__ import annotations

import re

from localml.core.errors import invalid

_UNITS = {"": 1, "B": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_MEMORY = re.compile(r"^\s*([0-9]+(?:\.[0-9]+)?)\s*([KMGT]?)(?:i?B)?\s*$", re.IGNORECASE)
_DIGITS = 30
_FEW_BYTES = 1 << 20
_SECONDS = {"": 1.0, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 7 * 86400.0}
_NUMBER = r"[0-9]+(?:\.[0-9]+)?"
_TIME = re.compile(rf"\s*(?:{_NUMBER}|(?:{_NUMBER}(?:ms|[smhdw])\s*)+)\s*", re.IGNORECASE)
_PART = re.compile(rf"({_NUMBER})(ms|[smhdw]?)", re.IGNORECASE)


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


def parse_size(text: str | int, field: str = "memory") -> int:
    """As :func:`parse_memory`, for what people type: less than a MiB without a unit is one forgotten (``16B`` is not).

    Raises:
        LocalmlError: ``INVALID`` when the text is no amount, or such a number.
    """
    size = parse_memory(text, field)
    if 0 < size < _FEW_BYTES and str(text).strip().isdigit():
        raise invalid(field, f"{size} is {size} bytes; did you mean {size}G?")
    return size


def exact_memory(amount: int) -> str:
    """As text that :func:`parse_memory` makes the same amount of."""
    text = format_memory(amount)
    return text if parse_memory(text) == amount else f"{amount}B"


def format_memory(amount: int | None) -> str:
    """The shortest exact-enough text: ``100M``, ``1.5G``; ``-`` for none."""
    if amount is None:
        return "-"
    for unit in ("T", "G", "M", "K"):
        size = _UNITS[unit]
        if amount >= size:
            return f"{amount / size:.2f}".rstrip("0").rstrip(".") + unit
    return f"{amount}B"


def parse_duration(text: str | float, field: str = "time") -> float:
    """Seconds of ``90``, ``90s``, ``30m``, ``8h``, ``1d12h`` or ``250ms``; a number is seconds.

    Raises:
        LocalmlError: ``INVALID`` when the text is no time.
    """
    if not isinstance(text, str):
        return float(text)
    if len(text) > _DIGITS or not _TIME.fullmatch(text):
        shown = text if len(text) <= _DIGITS else f"{text[:_DIGITS]}..."
        raise invalid(field, f"must be a time such as 90s, 30m, 8h or 1d12h, not {shown!r}")
    return sum(float(number) * _SECONDS[unit.lower()] for number, unit in _PART.findall(text))


def exact_duration(seconds: float) -> str | float:
    """As text that :func:`parse_duration` makes the same time of, such as ``1d12h``; parts of a second as a number."""
    left = int(seconds)
    if left != seconds or left <= 0:
        return seconds
    parts = []
    for unit in ("d", "h", "m", "s"):
        number, left = divmod(left, int(_SECONDS[unit]))
        parts += [f"{number}{unit}"] if number else []
    return "".join(parts)


def parse_days(text: str | float, field: str = "days") -> float:
    """Days: a number of them, ``inf`` for ever, or a time with its unit, such as ``12h``.

    Raises:
        LocalmlError: ``INVALID`` when the text is neither a number nor a time.
    """
    try:
        return float(text)
    except ValueError:
        return parse_duration(text, field) / _SECONDS["d"]


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
