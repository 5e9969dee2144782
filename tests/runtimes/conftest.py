"""The bench that the launcher is tested on."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers.launcher_bench import Bench


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)
