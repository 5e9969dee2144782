"""How much was tried: tests add to named counts, which pytest prints at its end, summed over its processes."""

from __future__ import annotations

from collections import Counter

COUNTS: Counter[str] = Counter()
"""What -> how often, such as "faults injected", "requests tried", "bytes of output", "kills", "losses"."""


def count(what: str, number: int = 1) -> None:
    """Add to a count; 0 makes it known, so that it is printed though nothing of it was seen."""
    COUNTS[what] += number


def table(counts: dict[str, int]) -> list[str]:
    """A line for each count, in alphabetical order."""
    width = max((len(f"{number:,}") for number in counts.values()), default=0)
    return [f"{number:>{width},} {what}" for what, number in sorted(counts.items())]
