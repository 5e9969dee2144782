"""Whatever the documents of WMLA make up."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers.fuzz_apis import APIS
from helpers.fuzz_trial import trial

pytestmark = [pytest.mark.slow, pytest.mark.timeout(2400)]


def test_every_answer_is_as_the_documents_have_it(tmp_path: Path, pytestconfig: pytest.Config) -> None:
    assert trial(APIS["wmla"], tmp_path, pytestconfig, short=400, long=10_000) == ""
