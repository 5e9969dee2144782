from __future__ import annotations

from collections.abc import Iterator

import pytest

from localml.core.catalog import cache_dir
from localml.hpo.processes import Limits, Processes


@pytest.fixture(scope="module")
def suggesters(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Processes]:
    """Algorithms in processes of their own; environments are kept in the cache for the next tests."""
    processes = Processes(cache_dir(), tmp_path_factory.mktemp("data"))
    yield processes
    processes.close()


@pytest.fixture
def strict(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Processes]:
    """Algorithms that may take little."""
    folder = tmp_path_factory.mktemp("strict")
    processes = Processes(folder / "cache", folder / "data", limits=Limits(begin=30.0, call=1.0, memory=256 << 20))
    yield processes
    processes.close()
