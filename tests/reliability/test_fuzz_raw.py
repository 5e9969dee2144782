"""Whatever no client's library would send: no failure, no exception in the log, and no other words than the API's."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers.fuzz_apis import APIS
from helpers.fuzz_trial import raw_trial

from localml.dialects import served

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def test_every_api_that_is_served_is_fuzzed() -> None:
    assert set(APIS) == served()


@pytest.mark.parametrize("name", APIS)
def test_what_no_library_sends_is_answered_in_the_words_of_the_api(
    name: str, tmp_path: Path, pytestconfig: pytest.Config
) -> None:
    assert raw_trial(APIS[name], tmp_path, pytestconfig, short=1, long=12) == ""
