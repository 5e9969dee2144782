"""What is a number where it may be something else."""

from __future__ import annotations

import pytest

from localml.core.numerals import whole


@pytest.mark.parametrize(("text", "number"), [("0", 0), ("7", 7), ("007", 7), ("9" * 18, 10**18 - 1)])
def test_ascii_digits_are_a_number(text: str, number: int) -> None:
    assert whole(text) == number


@pytest.mark.parametrize(
    "text", ["", " 1", "+1", "-1", "1_0", "1.0", "1e3", "²", "٣", "１", "9" * 19, "9" * 5000, "\ud800"]
)
def test_nothing_else_is(text: str) -> None:
    assert whole(text) is None
