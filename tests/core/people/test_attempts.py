"""Who guesses passwords is answered slower and slower; who is right is not."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from localml.core.clock import ManualClock
from localml.core.errors import Code, LocalmlError
from localml.core.people import recognition
from localml.core.people.attempts import FREE, FREE_OF_ADDRESS, LEAK_S, LONGEST_S, QUIET_S, Attempts, delay, network
from localml.core.people.identity import Identity
from localml.core.people.secrets import Vault
from localml.store.database import Database
from localml.store.schema import prepare

HERE, THERE = "127.0.0.1", "10.0.0.7"


class Place:
    def __init__(self, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.clock = ManualClock()
        self.db = Database(prepare(data))
        self.identity = Identity(self.db, Vault.open(data / "secret.key"), self.clock)
        self.hashed = 0
        self.told: list[str] = []
        self.identity.attempts.tell = self.told.append
        self.identity.create_user("ann", "right", generated=True)
        matches = recognition.password_matches

        def counted(stored: str, password: str) -> bool:
            self.hashed += 1
            return not stored.startswith("scrypt") and matches(stored, password)  # of nobody: it only takes time

        monkeypatch.setattr(recognition, "password_matches", counted)

    def outcome(self, password: str, name: str = "ann", address: str = HERE) -> str:
        try:
            return self.identity.by_password(name, password, address).name
        except LocalmlError as error:
            self.error = error
            return error.code

    def wrong(self, count: int, name: str = "ann", address: str = HERE) -> list[str]:
        return [self.outcome(f"wrong {n} {self.clock.now()}", name, address) for n in range(count)]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    one = Place(tmp_path, monkeypatch)
    yield one
    one.db.close()


def test_each_guess_too_many_doubles_the_time_in_which_none_is_looked_at(place: Place) -> None:
    assert place.wrong(FREE + 1) == [Code.UNAUTHENTICATED] * (FREE + 1)
    waits = []
    for _ in range(9):
        before = place.hashed
        assert place.outcome("right") == Code.TOO_MANY_REQUESTS
        waits.append(place.error.details["retry_after"])
        assert place.hashed == before
        place.clock.advance(waits[-1])
        place.wrong(1)
    assert waits == [1, 2, 4, 8, 16, 32, 60, 60, 60]
    assert max(map(delay, range(100))) == LONGEST_S


def test_who_comes_from_elsewhere_and_who_was_right_before_is_let_in(place: Place) -> None:
    assert place.outcome("right") == "ann"
    place.wrong(FREE + 3)
    for _ in range(2):
        assert place.outcome("right") == "ann"  # known again, though guessed at from the same address
        place.identity.forget()  # others have changed
    place.identity.set_password("ann", "next", generated=True)
    assert place.outcome("right") == Code.TOO_MANY_REQUESTS == place.outcome("next")
    assert place.outcome("next", address=THERE) == "ann"
    assert place.outcome("next") == "ann"


def test_a_right_password_costs_once_and_is_asked_for_again_after_a_change(place: Place) -> None:
    assert {place.outcome("right") for _ in range(5)} == {"ann"}
    assert place.hashed == 1
    place.identity.set_password("ann", "other", generated=True)
    assert place.outcome("right") == Code.UNAUTHENTICATED
    assert place.outcome("other") == "ann"


def test_being_right_begins_anew(place: Place) -> None:
    for _ in range(3):
        assert place.wrong(FREE - 1) == [Code.UNAUTHENTICATED] * (FREE - 1)
        place.identity.set_password("ann", "right", generated=True)
        assert place.outcome("right") == "ann"


def test_quiet_is_forgiven(place: Place) -> None:
    place.wrong(FREE + 1)
    place.clock.advance(QUIET_S + 1)
    assert place.wrong(FREE + 1) == [Code.UNAUTHENTICATED] * (FREE + 1)


def test_many_names_from_one_address_are_one_guesser(place: Place) -> None:
    found = [place.outcome("x", f"user{n}") for n in range(FREE_OF_ADDRESS + 5)]
    assert found.count(Code.TOO_MANY_REQUESTS) == 4
    assert place.outcome("right") == Code.TOO_MANY_REQUESTS
    assert place.outcome("right", address=THERE) == "ann"


def test_an_addresss_guesses_are_forgotten_one_by_one(place: Place) -> None:
    for number in range(FREE_OF_ADDRESS * 4):
        assert place.outcome("x", f"user{number}") == Code.UNAUTHENTICATED
        place.clock.advance(LEAK_S)


def test_a_program_with_an_old_password_is_one_guess(place: Place) -> None:
    assert {place.outcome("old") for _ in range(50)} == {Code.UNAUTHENTICATED}
    assert place.hashed == 1
    assert place.outcome("right") == "ann"


def test_guesses_at_once_are_no_more_than_one_by_one(place: Place) -> None:
    with ThreadPoolExecutor(32) as pool:
        found = list(pool.map(lambda n: place.outcome(f"guess {n}"), range(200)))
    assert found.count(Code.UNAUTHENTICATED) <= FREE + 1
    assert place.hashed <= FREE + 1
    assert found.count(Code.TOO_MANY_REQUESTS) == 200 - found.count(Code.UNAUTHENTICATED)


def test_many_with_the_right_password_at_once_wait_for_one_hash() -> None:
    attempts, entered, go = Attempts(ManualClock()), threading.Semaphore(0), threading.Event()

    def judge() -> str:
        entered.release()
        assert go.wait(30)
        return "ann"

    with ThreadPoolExecutor(8) as pool:
        waiting = [pool.submit(attempts.judged, (b"mark", 1), "ann", HERE, judge) for _ in range(8)]
        assert entered.acquire(timeout=30)
        go.set()
        assert {one.result(30) for one in waiting} == {"ann"}


def test_an_attack_is_told_once_and_logged_once_a_minute(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(4):
        place.wrong(20)
        place.clock.advance(30)
    assert len(place.told) == 1
    assert "for 'ann' from 127.0.0.1" in place.told[0]
    assert [record.levelname for record in caplog.records] == ["WARNING"] * 2


@pytest.mark.parametrize(
    ("address", "counted"),
    [
        ("10.0.0.7", "10.0.0.7"),
        ("::ffff:10.0.0.7", "10.0.0.7"),
        ("2001:db8:0:1:dead::1", "2001:db8:0:1::/64"),
        ("127.8.9.10", "127.0.0.1"),
        ("::1", "127.0.0.1"),
        ("::ffff:127.0.0.2", "127.0.0.1"),
        ("", ""),
    ],
)
def test_what_counts_as_one_address(address: str, counted: str) -> None:
    assert network(address) == counted
