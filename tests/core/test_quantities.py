"""Amounts as people write them."""

from __future__ import annotations

import pytest

from localml.core.errors import LocalmlError
from localml.core.quantities import parse_days, parse_duration
from localml.core.work.specs import RetryPolicy, single


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90", 90), (90, 90), (1.5, 1.5), ("30s", 30), ("90m", 5400), ("8h", 28800), ("1d12h", 129600), ("2d", 172800),
        ("1w", 604800), ("250ms", 0.25), ("1h 30m", 5400), ("1.5H", 5400), (" 10s ", 10),
    ],
)  # fmt: skip
def test_times_are_said_as_anybody_says_them(text: str | float, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "h", "8x", "-1h", "8h5", "inf", "nan", "1e3", "8 hours", "1" * 40])
def test_what_is_no_time_is_named(text: str) -> None:
    with pytest.raises(LocalmlError, match=r"time_limit: must be a time such as 90s, 30m, 8h or 1d12h, not '"):
        parse_duration(text, "time_limit")


def test_specs_take_times_as_text() -> None:
    spec = single(["true"], time_limit="8h", stop_grace="1m", idle_limit="30m", retries={"limit": 1, "backoff": "2s"})
    assert (spec.time_limit, spec.stop_grace, spec.idle_limit) == (28800, 60, 1800)
    assert spec.retries == RetryPolicy(limit=1, backoff=2)


@pytest.mark.parametrize(
    ("text", "days"), [("30", 30), (0, 0), ("0.5", 0.5), ("12h", 0.5), ("2w", 14), ("inf", float("inf"))]
)
def test_ages_are_days_or_times(text: str | float, days: float) -> None:
    assert parse_days(text) == days


@pytest.mark.parametrize("text", ["soon", "", "8x"])
def test_what_is_no_age_is_named(text: str) -> None:
    with pytest.raises(LocalmlError, match="LOCALML_KEEP_LOGS_DAYS: must be a time"):
        parse_days(text, "LOCALML_KEEP_LOGS_DAYS")
