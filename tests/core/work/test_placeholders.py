"""Placeholders in a role's environment: what they mean, and that a user's text is never taken for one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from localml.core.work.placeholders import Reference, expand, literal, references
from localml.core.work.specs import Port, Role, WorkloadSpec

KNOWN = {
    "%{index}": Reference("index"),
    "%{host}": Reference("host"),
    "%{host:wo.rk~er-1:12}": Reference("host", "wo.rk~er-1", 12),
    "%{token}": Reference("token"),
    "%{hosts:ps}": Reference("hosts", "ps"),
    "%{port:http-1}": Reference("port", label="http-1"),
    "%{addresses:ps:http}": Reference("addresses", "ps", label="http"),
}


def refuse(reference: Reference) -> str:
    raise AssertionError(reference)


@pytest.mark.parametrize("text", KNOWN)
def test_every_form_is_read_as_it_is_documented(text: str) -> None:
    assert list(references(f"a{text}b")) == [KNOWN[text]]
    assert expand(f"a{text}b", lambda one: f"<{one.kind}>") == f"a<{KNOWN[text].kind}>b"


@pytest.mark.parametrize(
    "text", ["%{}", "%{unknown}", "%{host:ps}", "%{index:1}", "%{port:}", "%{host:a:x}", "% {index}", "%{index"]
)
def test_anything_else_is_plain_text(text: str) -> None:
    assert expand(text, refuse) == text


pieces = st.lists(st.sampled_from(["%", "{", "}", "%{", "%%{", "index", "host:a:1", *KNOWN, "x"])).map("".join)


@given(pieces | st.text())
def test_a_users_text_comes_through_as_it_is(text: str) -> None:
    assert list(references(literal(text))) == []
    assert expand(literal(text), refuse) == text


@given(st.lists(st.tuples(pieces.map(literal), st.sampled_from(sorted(KNOWN)))))
def test_each_placeholder_between_literal_text_is_replaced_once(parts: list[tuple[str, str]]) -> None:
    text = "".join(f"{plain}|{mark}" for plain, mark in parts)
    assert list(references(text)) == [KNOWN[mark] for _, mark in parts]
    plain = "".join(f"{expand(words, refuse)}|{mark}" for words, mark in parts)
    again = {one: mark for mark, one in KNOWN.items()}
    assert expand(text, again.__getitem__) == plain


@pytest.mark.parametrize(
    "text", ["%{host:b:0}", "%{host:a:2}", "%{hosts:b}", "%{port:y}", "%{addresses:a:y}", "%{addresses:b:x}"]
)
def test_a_reference_to_what_the_workload_has_not_is_refused(text: str) -> None:
    role = Role(name="a", count=2, env={"A": text}, ports=(Port(label="x"),))
    with pytest.raises(ValidationError, match="env A of 'a' refers to what the workload has not"):
        WorkloadSpec(roles=(role,))
    assert WorkloadSpec(roles=(role.model_copy(update={"env": {"A": literal(text)}}),))
