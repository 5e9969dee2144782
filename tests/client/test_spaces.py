"""Parameters of a search as people write them."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from localml.cli.study_show import space as written
from localml.client.spaces import parameter
from localml.core.errors import LocalmlError
from localml.core.studies.space import Parameter


@pytest.mark.parametrize(
    ("text", "means"),
    [
        ("log:1e-5..1e-1", {"type": "float", "low": 1e-5, "high": 0.1, "log": True}),
        ("1..8", {"type": "int", "low": 1, "high": 8}),
        ("1.0..8", {"type": "float", "low": 1.0, "high": 8}),
        ("float:1..8", {"type": "float", "low": 1, "high": 8}),
        ("log:int:1..1000", {"type": "int", "low": 1, "high": 1000, "log": True}),
        ("-1..1:0.5", {"type": "float", "low": -1, "high": 1, "step": 0.5}),
        ("2^4..8", {"type": "int", "low": 4, "high": 8, "step": 1, "power": 2}),
        ("adam,sgd", {"choices": ["adam", "sgd"]}),
        ("16,32.5,true,x", {"choices": [16, 32.5, True, "x"]}),
        ("adam", {"value": "adam"}),
        ("../data", {"value": "../data"}),
        ([1, "a"], {"choices": [1, "a"]}),
        (0.5, {"value": 0.5}),
        ({"low": 1, "high": 8}, {"type": "int", "low": 1, "high": 8}),
        ({"low": 1, "high": 8.5, "log": True}, {"type": "float", "low": 1, "high": 8.5, "log": True}),
        ({"choices": ["a"]}, {"choices": ["a"]}),
    ],
)
def test_what_is_written_is_a_parameter(text: Any, means: dict[str, Any]) -> None:
    found = parameter("x", text, "--param x")
    assert found == {"name": "x", **means}
    Parameter.model_validate(found)  # as the server reads it


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("log:1e-5", "--param x: 'log:1e-5' is no range; write LOW..HIGH, log:LOW..HIGH"),
        ("1..", "'1..' is no range"),
        ("int:a..b", "'int:a..b' is no range"),
        ("1..2..3", "is no range"),
        ("nan..1", "'nan..1' is no range"),
        ([], "--param x: has no choices"),
        ([[1, 2], 3], "--param x: choices are texts, numbers, true or false, and [1, 2] is none of these"),
        ("-Inf..1", "'-Inf..1' is no range"),
        ("a,,b", "has a choice that is empty"),
        ({"lo": 1, "high": 2}, "--param x.lo: there is no such member; did you mean low?"),
    ],
)
def test_what_is_none_is_refused_with_the_forms(text: Any, words: str) -> None:
    with pytest.raises(LocalmlError) as refused:
        parameter("x", text, "--param x")
    assert words in refused.value.message


_ENDS = st.integers(-1000, 1000)
_RANGES = st.one_of(
    st.tuples(_ENDS, _ENDS).map(lambda ends: {"type": "int", "low": min(ends), "high": max(ends)}),
    st.tuples(st.floats(-1e6, 1e6), st.floats(0, 1e6)).map(
        lambda one: {"type": "float", "low": float(f"{one[0]:g}"), "high": float(f"{one[0]:g}") + float(f"{one[1]:g}")}
    ),
    st.floats(1e-9, 1).map(lambda low: {"type": "float", "low": float(f"{low:g}"), "high": 2.0, "log": True}),
    st.integers(2, 9).map(lambda base: {"type": "int", "low": 1, "high": 8, "power": base, "step": 1}),
)


@given(_RANGES)
def test_a_parameter_is_shown_as_it_may_be_written(one: dict[str, Any]) -> None:
    def rounded(found: dict[str, Any]) -> dict[str, Any]:
        return {name: f"{value:g}" if isinstance(value, int | float) else value for name, value in found.items()}

    assert rounded(parameter("x", written({"name": "x", **one}), "")) == rounded({"name": "x", **one})


@given(st.text(max_size=30))
def test_any_text_is_a_parameter_or_refused(text: str) -> None:
    told = ""
    try:
        found = parameter("x", text, "x")
    except LocalmlError as error:
        told, found = error.message, {}
    assert told.startswith("x: ") or {"choices", "value", "low"} & set(found)
