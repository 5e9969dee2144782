from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from localml.core.errors import Code, LocalmlError
from localml.core.studies.halving import brackets


def test_the_table_of_the_paper() -> None:
    tables = [[(rung.configurations, rung.resource) for rung in one.rungs] for one in brackets(81, 3)]
    assert tables == [
        [(81, 1), (27, 3), (9, 9), (3, 27), (1, 81)],
        [(34, 3), (11, 9), (3, 27), (1, 81)],
        [(15, 9), (5, 27), (1, 81)],
        [(8, 27), (2, 81)],
        [(5, 81)],
    ]


def test_a_resource_of_one_is_plain_random_search() -> None:
    (only,) = brackets(1, 3)
    assert [(rung.configurations, rung.resource) for rung in only.rungs] == [(1, 1)]


@given(resource=st.integers(1, 5_000), eta=st.floats(1.5, 10))
def test_each_rung_has_fewer_with_more_up_to_the_whole(resource: int, eta: float) -> None:
    for bracket in brackets(resource, eta):
        assert bracket.rungs[-1].resource == resource
        assert all(rung.configurations >= 1 and 1 <= rung.resource <= resource for rung in bracket.rungs)
        for rung, following in zip(bracket.rungs, bracket.rungs[1:], strict=False):
            assert following.configurations <= rung.configurations
            assert following.resource >= rung.resource


@pytest.mark.parametrize(("resource", "eta", "field"), [(10**9, 3, "ResourceValue"), (100, 1.0001, "eta")])
def test_what_would_never_end_is_refused(resource: int, eta: float, field: str) -> None:
    with pytest.raises(LocalmlError) as refused:
        brackets(resource, eta)
    assert (refused.value.code, refused.value.field) == (Code.INVALID, field)
