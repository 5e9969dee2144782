"""Points in time as vendors write them. All arguments are seconds since the Unix epoch; all texts are UTC."""

from __future__ import annotations

from datetime import UTC, datetime


def plain_time(seconds: float) -> str:
    """``2017-02-20 06:16:39``: Python's text of a date and time, in whole seconds."""
    return datetime.fromtimestamp(int(seconds), UTC).strftime("%Y-%m-%d %H:%M:%S")


def iso_time(seconds: float) -> str:
    """``2017-02-20T06:16:39Z``: ISO 8601, in whole seconds."""
    return datetime.fromtimestamp(int(seconds), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
