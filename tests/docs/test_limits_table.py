"""The table of limits says what the code does."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

from localml.core import limits

TEXT = (Path(__file__).parents[2] / "docs" / "limits.md").read_text()
ROW = re.compile(r"^\| .+ \| (\d+) \| `([\w.:]+)` \|$", re.MULTILINE)


def named(name: str) -> object:
    module, _, constant = name.rpartition(":")
    return getattr(importlib.import_module(module or limits.__name__), constant)


def test_every_number_of_the_table_is_the_constant_beside_it() -> None:
    assert {name: int(number) for number, name in ROW.findall(TEXT)} == {
        name: named(name) for _, name in ROW.findall(TEXT)
    }


def test_every_limit_is_in_the_table() -> None:
    constants = {name for name in vars(limits) if name.isupper()}
    assert constants == {name for _, name in ROW.findall(TEXT) if ":" not in name}
