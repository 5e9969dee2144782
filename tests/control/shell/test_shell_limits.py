"""How much of the server one user's ssh connections may take."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from localml.control.shell.server import Container, Guest, Place
from localml.control.shell.stream import AsyncExec
from localml.core.limits import MOST_COMMANDS, MOST_CONNECTIONS
from localml.engines.base import EngineError

PLACE = Place(1, "main", 0)


class Doorman:
    """A server of which all are guests that come with one key."""

    engine: Any = None

    def __init__(self, guests: int = 1) -> None:
        self.count = guests

    def find(self, place: Place) -> Container:
        return Container("c", None)

    def admits(self, place: Place, key: str) -> bool:
        return True

    def guests(self, place: Place, key: str) -> int:
        return self.count


class Command:
    """One that runs until it is told to end."""

    closed = False


class Key:
    def export_public_key(self, _: str) -> bytes:
        return b"ssh-ed25519 AAAA somebody"


class Connection:
    def __init__(self) -> None:
        self.told: list[str] = []

    def disconnect(self, _: int, why: str) -> None:
        self.told.append(why)


def guest_of(server: Doorman) -> tuple[Guest, Connection]:
    guest, connection = Guest(server, PLACE), Connection()  # type: ignore[arg-type]
    guest._connection = connection
    return guest, connection


def test_one_connection_runs_only_so_many_commands_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Command] = []

    async def opened(*_: Any) -> Command:
        await asyncio.sleep(0)
        made.append(Command())
        return made[-1]

    monkeypatch.setattr(AsyncExec, "open", opened)

    async def many() -> None:
        guest, _ = guest_of(Doorman())
        found = await asyncio.gather(*(guest.open(("true",)) for _ in range(MOST_COMMANDS + 5)), return_exceptions=True)
        refused = [str(one) for one in found if isinstance(one, EngineError)]
        assert (len(made), refused) == (
            MOST_COMMANDS,
            [f"at most {MOST_COMMANDS} commands at a time run in one ssh connection"] * 5,
        )
        made[0].closed = True
        await guest.open(("true",))

    asyncio.run(many())


@pytest.mark.parametrize(("guests", "admitted"), [(MOST_CONNECTIONS, True), (MOST_CONNECTIONS + 1, False)])
def test_one_user_has_only_so_many_connections_to_a_replica(guests: int, admitted: bool) -> None:
    guest, connection = guest_of(Doorman(guests))
    assert asyncio.run(guest.validate_public_key("root", Key())) is admitted  # type: ignore[arg-type]
    assert bool(connection.told) is not admitted
