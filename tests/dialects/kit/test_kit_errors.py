"""What is told of a request that asks for too much or too little."""

from __future__ import annotations

from typing import Annotated, Any

import pytest
from annotated_types import Ge, Gt, Le, Lt, MaxLen, MinLen
from pydantic import BaseModel, ValidationError

from localml.dialects.kit.errors import from_pydantic


class Asked(BaseModel):
    count: Annotated[int, Ge(1), Le(1000)] = 1
    share: Annotated[float, Gt(0), Lt(1)] = 0.5
    name: Annotated[str, MinLen(2), MaxLen(8)] = "ab"
    ports: Annotated[list[int], MinLen(1), MaxLen(2)] = [1]


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ({"count": 10_000}, "count: should be less than or equal to 1000, not 10000"),
        ({"count": "10000"}, "count: should be less than or equal to 1000, not 10000"),
        ({"count": 0}, "count: should be greater than or equal to 1, not 0"),
        ({"share": 1.5}, "share: should be less than 1, not 1.5"),
        ({"share": -1}, "share: should be greater than 0, not -1"),
        ({"name": "x" * 300}, "name: string should have at most 8 characters, not 300"),
        ({"name": ""}, "name: string should have at least 2 characters, not 0"),
        ({"ports": [1, 2, 3]}, "ports: list should have at most 2 items after validation, not 3"),
        ({"count": 10**60}, f"count: should be less than or equal to 1000, not 1{'0' * 39}..."),
        ({"count": "many"}, "count: should be a valid integer, unable to parse string as an integer"),
    ],
)
def test_a_refusal_has_the_number_that_was_given(body: dict[str, Any], told: str) -> None:
    with pytest.raises(ValidationError) as caught:
        Asked.model_validate(body)
    assert str(from_pydantic(caught.value)) == told
