"""Whatever the documents of our own API make up."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers.fuzz_apis import APIS
from helpers.fuzz_trial import trial

pytestmark = [pytest.mark.slow, pytest.mark.timeout(2400)]


@pytest.mark.parametrize("server", [1, *(pytest.param(number, marks=pytest.mark.long) for number in (2, 3, 4))])
def test_every_answer_is_as_the_documents_have_it(server: int, tmp_path: Path, pytestconfig: pytest.Config) -> None:
    """With ``--long`` on several servers: one that has thousands of jobs waiting takes longer for each request."""
    assert trial(APIS["native"], tmp_path, pytestconfig, short=500, long=4_000) == "", f"server {server}"
