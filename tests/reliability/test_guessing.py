"""32 clients guess passwords: they are slowed down, and nobody else is: neither the owner nor the server."""

from __future__ import annotations

import base64
import itertools
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import urllib3
from helpers.http_socket import Talk
from helpers.small_server import small_server

from localml.client import Client
from localml.core.people.attempts import FREE, FREE_OF_ADDRESS
from localml.server import Server

GUESSERS = 32
NATIVE, PAI, MLBENCH = "/localml/v1/status", "/api/v1/token", "/api/runs"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with small_server(tmp_path, threads=8) as one:
        yield one


class Asker:
    """Somebody without a token."""

    def __init__(self, server: Server) -> None:
        self.url = server.url
        self.pool = urllib3.PoolManager(retries=False, maxsize=GUESSERS, block=True, timeout=60)

    def __call__(self, path: str, name: str, password: str) -> Any:
        if path == PAI:
            given = {"username": name, "password": password}
            return self.pool.request("POST", self.url + path, json=given)
        basic = base64.b64encode(f"{name}:{password}".encode()).decode()
        return self.pool.request("GET", self.url + path, headers={"Authorization": f"Basic {basic}"})


@pytest.fixture
def ask(server: Server) -> Iterator[Asker]:
    one = Asker(server)
    yield one
    one.pool.clear()


def attacked(ask: Asker, path: str, name: Callable[[int], str], during: Callable[[], None]) -> Counter[int]:
    """The statuses that guessers got while something went on."""
    over, numbers, found = threading.Event(), itertools.count(), Counter[int]()

    def guess() -> None:
        while not over.is_set():
            number = next(numbers)
            found[ask(path, name(number), f"guess {number}").status] += 1

    with ThreadPoolExecutor(GUESSERS) as pool:
        guessing = [pool.submit(guess) for _ in range(GUESSERS)]
        try:
            during()
        finally:
            over.set()
        for one in guessing:
            one.result(60)
    return found


@pytest.mark.parametrize("path", [NATIVE, PAI, MLBENCH])
def test_guessers_are_refused_and_the_owners_token_works(server: Server, ask: Asker, path: str) -> None:
    token = server.platform.credentials.token
    slowest = 0.0

    def owner() -> None:
        nonlocal slowest
        with Client(server.url, token) as client:
            for _ in range(20):
                began = time.monotonic()
                assert client.people.me() == "admin"
                slowest = max(slowest, time.monotonic() - began)

    found = attacked(ask, path, lambda _: "admin", owner)
    assert found[401] <= FREE + 4  # those at once, and one after each second or two
    assert found[429] > found[401]
    assert set(found) == {401, 429}
    assert slowest < 5.0


def test_guessing_of_many_names_does_not_starve_the_server(server: Server, ask: Asker) -> None:
    token = server.platform.credentials.token

    def owner() -> None:
        with Client(server.url, token) as client:
            for _ in range(20):
                assert client.people.me() == "admin"

    found = attacked(ask, NATIVE, lambda number: f"user{number}", owner)
    assert set(found) <= {401, 429}
    assert found[401] <= FREE_OF_ADDRESS + 4


def test_the_owners_password_that_was_right_before_works_on(server: Server, ask: Asker) -> None:
    given, own = server.platform.credentials, Asker(server)
    assert own(NATIVE, given.user, given.password).status == 200

    def owner() -> None:
        assert {own(NATIVE, given.user, given.password).status for _ in range(5)} == {200}
        assert own(PAI, given.user, given.password).status == 200
        own.pool.clear()

    found = attacked(ask, NATIVE, lambda _: "admin", owner)
    assert found[429]


def test_who_is_on_this_machine_is_one_guesser_from_whatever_address(server: Server) -> None:
    """Every account has all of 127.0.0.0/8 to call from."""
    found = Counter[int]()
    for number in range(FREE + 5):
        with Talk(server.port, source=f"127.0.{number}.7") as talk:
            basic = base64.b64encode(f"admin:guess {number}".encode()).decode()
            talk.ask(f"GET {NATIVE}", f"Authorization: Basic {basic}")
            found[talk.answer().status] += 1
    assert found[401] <= FREE + 2
    assert found[429]


def test_each_dialect_says_when_to_try_again_in_its_own_shape(server: Server, ask: Asker) -> None:
    for number in range(FREE + 2):
        refused = ask(NATIVE, "admin", f"wrong {number}")
    assert refused.status == 429
    assert 1 <= int(refused.headers["Retry-After"]) <= 60
    assert refused.json()["error"]["code"] == "too_many_requests"
    pai = ask(PAI, "admin", "another")
    assert (pai.status, pai.json()["error"]) == (429, "TooManyRequests")
    assert pai.headers["Retry-After"]
    mlbench = ask(MLBENCH, "admin", "another")
    assert (mlbench.status, mlbench.json()["status"]) == (429, "Too Many Requests")
    assert mlbench.headers["Retry-After"]


def test_an_attack_is_an_event(server: Server, ask: Asker) -> None:
    for number in range(FREE + 2):
        ask(NATIVE, "admin", f"wrong {number}")
    found = [one for one in server.platform.events.others() if one.reason == "PasswordGuessed"]
    assert len(found) == 1
    assert "'admin' from 127.0.0.1" in found[0].message
