"""Forms made up by a machine: no combination of brackets is a failure."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from localml.core.errors import LocalmlError
from localml.dialects.openpai.translate.forms import nested

names = st.text("ab[]01", max_size=12)


@given(st.dictionaries(names, names, max_size=6))
def test_no_form_is_too_strange(fields: dict[str, str]) -> None:
    try:
        found = nested(fields)
    except LocalmlError:
        return
    assert isinstance(found, dict)


def test_brackets_are_objects_and_numbers_are_lists() -> None:
    given_fields = {"a[1][x]": "2", "a[0][x]": "1", "b[]": "3", "c[k]": "v", "d": "e"}
    assert nested(given_fields) == {"a": [{"x": "1"}, {"x": "2"}], "b": ["3"], "c": {"k": "v"}, "d": "e"}
