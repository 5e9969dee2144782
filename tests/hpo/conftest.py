from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from localml.core.catalog import cache_dir
from localml.hpo.processes import Limits, Processes


@pytest.fixture(scope="module")
def suggesters() -> Iterator[Processes]:
    """Algorithms in processes of their own; environments are kept in the cache for the next tests."""
    processes = Processes(cache_dir())
    yield processes
    processes.close()


@pytest.fixture
def strict(tmp_path: Path) -> Iterator[Processes]:
    """Algorithms that may take little."""
    processes = Processes(tmp_path / "cache", limits=Limits(begin=20, call=1.0, memory=256 << 20))
    yield processes
    processes.close()
