"""Ids that are shown in place of numbers."""

from __future__ import annotations

from pathlib import Path
from uuid import RFC_4122, UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from localml.config import Config
from localml.core.public_ids import PublicIds
from localml.engines.fake.engine import FakeEngine
from localml.platform import Platform

NUMBERS = st.integers(0, (1 << 62) - 1)
KINDS = st.sampled_from(["endpoint", "instance", "workspace", "workload"])


@given(KINDS, NUMBERS)
def test_the_number_is_found_again(kind: str, number: int) -> None:
    ids = PublicIds("0badcafe")
    text = ids.of(kind, number)
    assert (UUID(text).version, UUID(text).variant, str(UUID(text))) == (8, RFC_4122, text)
    assert ids.number(kind, text) == ids.number(kind, text.upper()) == number
    assert ids.of(kind, number) == PublicIds("0badcafe").of(kind, number)


@given(KINDS, NUMBERS, st.integers(0, 127))
def test_no_other_uuid_is_taken_for_it(kind: str, number: int, bit: int) -> None:
    ids = PublicIds("0badcafe")
    text = ids.of(kind, number)
    assert ids.number("another", text) is None
    assert PublicIds("0badcaff").number(kind, text) is None
    assert ids.number(kind, str(UUID(int=UUID(text).int ^ 1 << bit))) is None
    assert ids.number(kind, str(uuid4())) is None


@given(st.text(max_size=40))
def test_what_is_no_uuid_is_nothing(text: str) -> None:
    assert PublicIds("0badcafe").number("endpoint", text) is None


@pytest.mark.parametrize("spelling", ["{{{}}}", "urn:uuid:{}", " {}"])
def test_other_spellings_are_not_taken(spelling: str) -> None:
    ids = PublicIds("0badcafe")
    assert ids.number("endpoint", spelling.format(ids.of("endpoint", 1))) is None
    assert ids.number("endpoint", ids.of("endpoint", 1).replace("-", "")) is None


def test_they_are_all_different() -> None:
    ids = PublicIds("0badcafe")
    assert len({ids.of(kind, number) for kind in ("endpoint", "instance") for number in range(20_000)}) == 40_000


@pytest.mark.parametrize("number", [-1, 1 << 62])
def test_no_row_has_such_a_number(number: int) -> None:
    with pytest.raises(ValueError, match="cannot be the number of a endpoint"):
        PublicIds("0badcafe").of("endpoint", number)


def test_they_stay_over_restarts_and_in_a_copy_and_differ_between_installations(tmp_path: Path) -> None:
    found = []
    for folder in ("one", "one", "copy", "two"):
        opened = Platform(Config(tmp_path / folder, engine="fake", gpus="none"), engine=FakeEngine())
        found.append(opened.public_ids.of("endpoint", 7))
        (tmp_path / "copy").mkdir(exist_ok=True)
        if folder == "one" and not (tmp_path / "copy" / "localml.db").exists():
            opened.backup(tmp_path / "copy" / "localml.db")
        opened.close()
    assert found[0] == found[1] == found[2] != found[3]
