"""Amounts in Cloud-ML's spelling."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from localml.dialects.cloudml.translate.amounts import (
    CpuAmount,
    GpuAmount,
    MemoryAmount,
    cores,
    cpu_text,
    gpu_text,
    memory_bytes,
    memory_text,
)

SCHEMAS = yaml.safe_load((Path(__file__).parents[2] / "contracts" / "cloudml.yaml").read_text())["components"][
    "schemas"
]
UNITS = {"G": 1 << 30, "M": 1 << 20, "K": 1 << 10}


@pytest.mark.parametrize(
    ("amount", "text"),
    [
        (3000 << 20, "2G 952M 0.0K"),
        (900 << 20, "900M 0.0K"),
        (10 << 30, "10G 0M 0.0K"),
        (1000 << 30, "1000G 0M 0.0K"),
        (0, "0.0K"),
        (1536, "1.5K"),
        ((1 << 20) - 1, "1023.9K"),
    ],
)
def test_memory_is_split_into_units(amount: int, text: str) -> None:
    assert memory_text(amount) == text


@given(st.integers(0, 1 << 50))
def test_memory_text_has_the_contracts_form_and_loses_less_than_a_tenth_of_a_kilobyte(amount: int) -> None:
    text = memory_text(amount)
    assert re.match(SCHEMAS["MemoryText"]["pattern"], text)
    told = sum(float(part[:-1]) * UNITS[part[-1]] for part in text.split())
    assert 0 <= amount - told < 103


@given(st.floats(0, 1e9))
def test_cpu_and_gpu_texts_have_the_contracts_form(amount: float) -> None:
    assert re.match(SCHEMAS["CpuText"]["pattern"], cpu_text(amount))
    assert float(cpu_text(amount)) == pytest.approx(amount, abs=0.0051)
    assert re.match(SCHEMAS["GpuText"]["pattern"], gpu_text(amount))


@pytest.mark.parametrize(("amount", "text"), [(14.4, "14.4"), (2000.0, "2000.0"), (0.25, "0.25")])
def test_cpu_text(amount: float, text: str) -> None:
    assert cpu_text(amount) == text


@given(st.integers(1, 10**6), st.sampled_from("MG"))
def test_memory_of_a_request_counts_in_units_of_1024(number: int, unit: str) -> None:
    text = TypeAdapter(MemoryAmount).validate_python(f"{number + 4}{unit}")
    assert memory_bytes(text) == (number + 4) * UNITS[unit]


@given(st.text(max_size=12))
def test_other_texts_are_no_amounts(text: str) -> None:
    for kind, name in ((CpuAmount, "CpuAmount"), (MemoryAmount, "MemoryAmount")):
        if not re.fullmatch(SCHEMAS[name]["pattern"].strip("^$"), text):
            with pytest.raises(ValidationError):
                TypeAdapter(kind).validate_python(text)


@given(st.one_of(st.floats(allow_nan=True), st.integers(), st.booleans(), st.none(), st.text(max_size=5)))
def test_whatever_is_sent_is_an_amount_or_refused(value: object) -> None:
    for kind in (CpuAmount, MemoryAmount, GpuAmount):
        try:
            TypeAdapter(kind).validate_python(value)
        except ValidationError:
            continue
        assert not isinstance(value, bool)


def test_nothing_is_reserved_for_no_amount_or_zero() -> None:
    assert (cores(None), cores(0), cores("0.0"), memory_bytes(None), memory_bytes("0M")) == (None,) * 5
