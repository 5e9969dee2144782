"""The administrator's credentials: made once, kept for the owner's eyes, made anew when the file is lost."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlmodel import select

from localml.core.clock import ManualClock
from localml.core.errors import LocalmlError
from localml.core.events.tables import Event
from localml.core.people.credentials import CREDENTIALS_NAME, Administrator
from localml.core.people.identity import Credentials, Identity
from localml.core.people.secrets import Vault
from localml.store.database import Database
from localml.store.schema import prepare


class Home:
    """A data directory that is opened again and again."""

    def __init__(self, data: Path) -> None:
        self.data = data
        self.db = Database(prepare(data))
        self.identity = Identity(self.db, Vault.open(data / "secret.key"), ManualClock())

    def credentials(self) -> Credentials:
        return Administrator(self.data, self.identity, self.db, ManualClock()).credentials

    def reasons(self) -> list[str]:
        with self.db.read() as session:
            return [event.reason for event in session.exec(select(Event))]


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    one = Home(tmp_path)
    yield one
    one.db.close()


def test_they_are_made_at_first_start_and_stay(home: Home) -> None:
    made = home.credentials()
    assert (home.data / CREDENTIALS_NAME).stat().st_mode & 0o777 == 0o600
    assert home.credentials() == made
    assert home.identity.by_token(made.token).admin
    assert home.identity.by_key(made.access_key)[1] == made.secret_key
    assert home.reasons() == []


@pytest.mark.parametrize("left", [None, "", "{}", '{"user": "admin"'])
def test_a_file_that_is_lost_or_broken_is_made_anew_and_an_event_says_so(home: Home, left: str | None) -> None:
    before, path = home.credentials(), home.data / CREDENTIALS_NAME
    path.unlink()
    if left is not None:
        path.write_text(left)
    made = home.credentials()
    assert home.identity.by_password(made.user, made.password).admin
    assert home.identity.by_token(made.token).admin
    with pytest.raises(LocalmlError):
        home.identity.by_password(before.user, before.password)
    assert home.credentials() == made
    assert home.reasons() == ["CredentialsRenewed"]
