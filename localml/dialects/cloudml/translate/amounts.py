"""Amounts as Cloud-ML writes them, in requests and in quota records."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import BeforeValidator, WithJsonSchema

from localml.core.quantities import parse_memory

_CPU = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9})?")
_MEMORY = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9})?[KMG]")
_WHOLE = re.compile(r"[0-9]{1,9}")
_MOST = 10**9
MIN_MEMORY = 4 << 20
"""Bytes below which no container starts."""


def _cpu(value: Any) -> float | str:
    if isinstance(value, str) and _CPU.fullmatch(value):
        return value
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= _MOST:
        return value
    raise ValueError("must be a number of cores, such as 0.5 or '0.5'")


def _memory(value: Any) -> str:
    if not isinstance(value, str) or not _MEMORY.fullmatch(value):
        raise ValueError("must be a number and one of the units K, M and G, such as 100M")
    if 0 < parse_memory(value) < MIN_MEMORY:
        raise ValueError(f"must be at least {MIN_MEMORY >> 20}M, not {value}")
    return value


def _whole(value: Any) -> int:
    if isinstance(value, str) and _WHOLE.fullmatch(value):
        return int(value)
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= _MOST and value == int(value):
        return int(value)
    raise ValueError("must be a whole number")


CpuAmount = Annotated[
    float | str,
    BeforeValidator(_cpu),
    WithJsonSchema(
        {
            "anyOf": [{"type": "number", "minimum": 0}, {"type": "string", "pattern": r"^[0-9]+(\.[0-9]+)?$"}],
            "description": "CPU cores, fractions allowed",
        }
    ),
]
"""Cores as a number or as its text; kept as given."""

MemoryAmount = Annotated[
    str,
    BeforeValidator(_memory),
    WithJsonSchema({"type": "string", "pattern": r"^[0-9]+(\.[0-9]+)?[KMG]$", "description": "Such as 100M"}),
]
"""Bytes as a number and a unit of 1024 (K), 1024² (M) or 1024³ (G); kept as given."""

GpuAmount = Annotated[
    int, BeforeValidator(_whole), WithJsonSchema({"type": "integer", "minimum": 0, "description": "Whole GPUs"})
]
"""Whole devices; text of digits is taken too."""


def cores(amount: float | str | None) -> float | None:
    """Cores to reserve; None for no amount and for 0."""
    return float(amount) or None if amount is not None else None


def memory_bytes(amount: str | None) -> int | None:
    """Bytes to reserve; None for no amount and for 0."""
    return parse_memory(amount) or None if amount is not None else None


def memory_text(amount: int) -> str:
    """Bytes as ``2G 952M 0.0K``: large units that would be 0 are left out."""
    gigabytes, rest = divmod(amount, 1 << 30)
    megabytes, rest = divmod(rest, 1 << 20)
    text = f"{rest * 10 // 1024 / 10:.1f}K"
    if gigabytes or megabytes:
        text = f"{megabytes}M {text}"
    return f"{gigabytes}G {text}" if gigabytes else text


def cpu_text(amount: float) -> str:
    """Cores as ``14.4``."""
    return f"{amount:.2f}".removesuffix("0")


def gpu_text(amount: float) -> str:
    """Devices as ``0``."""
    return str(int(amount))
