"""Who calls our own API."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from helpers.native import Http

from localml.testing import Localml


@pytest.fixture
def admin(localml: Localml) -> Iterator[Http]:
    caller = Http(localml.url, {"Authorization": f"Bearer {localml.platform.credentials.token}"})
    yield caller
    caller.close()


@pytest.fixture(scope="session")
def bob_token(localml: Localml) -> str:
    return str(localml.client.create_user("bob", "secret")["token"])


@pytest.fixture
def bob(localml: Localml, bob_token: str) -> Iterator[Http]:
    """A user who is no administrator."""
    caller = Http(localml.url, {"Authorization": f"Bearer {bob_token}"})
    yield caller
    caller.close()
