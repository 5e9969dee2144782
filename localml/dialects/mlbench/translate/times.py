"""Points in time as the dashboard and its clients write them, exact to the microsecond."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LAST = datetime(2100, 1, 1, tzinfo=UTC)  # beyond, seconds as floats are not exact to the microsecond


def micro_time(seconds: float) -> str:
    """``2018-08-03T09:21:29.347960Z``, from seconds since the epoch."""
    return (EPOCH + timedelta(microseconds=round(seconds * 1e6))).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def parse_time(text: str) -> float:
    """Seconds since the epoch of an ISO 8601 time; a blank may stand for T, and without an offset it is UTC.

    Raises:
        ValueError: it is none, or not of the years 1970 to 2099.
    """
    try:
        found = datetime.fromisoformat(text.strip())
    except ValueError:
        raise ValueError(f"{text[:100]!r} is no time such as 2018-08-03T09:21:44.331823Z") from None
    try:
        found = found.astimezone(UTC) if found.tzinfo else found.replace(tzinfo=UTC)
    except OverflowError:
        found = datetime.min.replace(tzinfo=UTC)
    if not EPOCH <= found < _LAST:
        raise ValueError(f"{text[:100]!r} is not between 1970 and 2099")
    return (found - EPOCH) / timedelta(seconds=1)
