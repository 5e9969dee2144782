"""Guessing passwords: slower and slower answers for who guesses, and little work for everybody else's sake.

A password is stretched on purpose, so each guess costs this machine a moment (scrypt: about 50 ms of a core and 32 MB).
Whoever was wrong too often is refused without that for a while, which doubles each time: counted for a name from an
address, so that a guesser locks nobody out who comes from elsewhere; and for an address, whatever names it tries. Few
passwords are judged at a time, and few wait. Tokens, keys and signatures never come here, and neither does a password
that was right before (:meth:`localml.core.people.identity.Identity.by_password`): their owners are not locked out.
"""

from __future__ import annotations

import ipaddress
import logging
import threading
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Final, TypeVar

from localml.core.clock import Clock
from localml.core.errors import Code, LocalmlError

T = TypeVar("T")

log = logging.getLogger("localml.people")

FREE: Final = 5
"""Guesses of one name from one address that are judged at once."""
FREE_OF_ADDRESS: Final = 50
"""Guesses from one address, whatever the names; one is forgotten every :data:`LEAK_S` seconds."""
LEAK_S: Final = 10.0
LONGEST_S: Final = 60.0
"""The longest that one is refused after a guess."""
QUIET_S: Final = 900.0
"""Without another guess for so long, everything is forgotten."""
TOLD_S: Final = 60.0
"""Between two lines of the log."""
AT_ONCE: Final = 2
"""Passwords that are judged at a time."""
WAITING: Final = 8
"""Requests that wait for that; each holds one of the server's threads."""
_HERE = "127.0.0.1"
_MOST = 10_000
_WRONG = 1000

Mark = tuple[bytes, int]
"""A password of a name, unreadable, and how often users had changed when it was given."""
_Key = tuple[str | None, str]


@dataclass(slots=True)
class _Guesser:
    count: int = 0
    last: float = 0.0
    until: float = 0.0


def delay(over: int) -> float:
    """Seconds that are refused after the guess that was the ``over``-th too many."""
    return 0.0 if over <= 0 else min(LONGEST_S, 2.0 ** min(over - 1, 10))


def network(address: str) -> str:
    """What counts as one address: of IPv6 the network, whose host may have as many as it likes; and this machine, where
    everybody may call from each of 127.0.0.0/8."""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return address
    if isinstance(found, ipaddress.IPv6Address) and found.ipv4_mapped is not None:
        found = found.ipv4_mapped
    if found.is_loopback:
        return _HERE
    if isinstance(found, ipaddress.IPv4Address):
        return str(found)
    return str(ipaddress.ip_network((int(found) >> 64 << 64, 64)))


class Attempts:
    """Counts guesses and decides which are judged.

    Attributes:
        tell: told in words, once for each attack, on the thread of a guess.
    """

    def __init__(self, clock: Clock) -> None:
        self.tell: Callable[[str], None] = lambda _: None
        self._clock = clock
        self._lock = threading.Lock()
        self._guessers: OrderedDict[_Key, _Guesser] = OrderedDict()
        self._flights: dict[Mark, Future[object]] = {}
        self._wrong: OrderedDict[tuple[Mark, str], None] = OrderedDict()
        self._slots = threading.BoundedSemaphore(AT_ONCE)
        self._inside = 0
        self._refused = 0
        self._told_at = float("-inf")

    def judged(self, mark: Mark, name: str, address: str, judge: Callable[[], T | None]) -> T:
        """What ``judge`` finds, which is asked once for all who give the same password at the same time.

        Args:
            judge: takes its time; None when the password is wrong.

        Raises:
            LocalmlError: ``UNAUTHENTICATED`` when it is wrong; ``TOO_MANY_REQUESTS`` when it was not looked at, with
                ``retry_after`` in the details.
        """
        source = network(address)
        flight, first = self._enter(mark, name, source)
        try:
            if first:
                self._fly(flight, mark, judge)
            found: T | None = flight.result()  # type: ignore[assignment]
        finally:
            with self._lock:
                self._inside -= 1
        if found is None:
            self._note_wrong(mark, source)
            raise _wrong()
        self._note_right(name, source)
        return found

    def _enter(self, mark: Mark, name: str, source: str) -> tuple[Future[object], bool]:
        told = ""
        try:
            with self._lock:
                if (mark, source) in self._wrong:
                    raise _wrong()  # the same one again, as of a program that was not told of a new password
                if self._inside >= AT_ONCE + WAITING:
                    raise self._refusal(1.0)
                flight = self._flights.get(mark)
                if flight is None:
                    told = self._count(name, source)
                self._inside += 1
                if flight is not None:
                    return flight, False
                flight = self._flights[mark] = Future()
                return flight, True
        finally:
            if told:
                self.tell(told)

    def _fly(self, flight: Future[object], mark: Mark, judge: Callable[[], object]) -> None:
        try:
            with self._slots:
                flight.set_result(judge())
        except BaseException as error:
            flight.set_exception(error)
        finally:
            with self._lock:
                del self._flights[mark]

    # -- counting; with the lock held ------------------------------------------------------------

    def _count(self, name: str, source: str) -> str:
        """Count a guess before it is judged, so that no more are under way at once than are allowed one by one.

        Returns:
            What is to be told of it; empty for nothing.
        """
        now = self._clock.now()
        of_address = self._guesser((None, source), now)
        of_address.count = max(0, of_address.count - int((now - of_address.last) / LEAK_S))
        pairs = [(self._guesser((name, source), now), FREE), (of_address, FREE_OF_ADDRESS)]
        left = max(min(one.until - now, LONGEST_S) for one, _ in pairs)
        if left > 0:
            raise self._refusal(left)
        begins = False
        for one, free in pairs:
            one.count, one.last = one.count + 1, now
            one.until = now + delay(one.count - free)
            begins = begins or one.count == free + 1
        if not begins:
            return ""
        whom = f"{name[:64]!r} from {source or 'an unknown address'}"
        self._say(now, whom)
        return f"somebody guesses passwords; the last of many wrong ones was for {whom}"

    def _guesser(self, key: _Key, now: float) -> _Guesser:
        found = self._guessers.get(key)
        if found is None or found.last + QUIET_S < now:
            found = self._guessers[key] = _Guesser(last=now)
        self._guessers.move_to_end(key)
        while len(self._guessers) > _MOST:
            self._guessers.popitem(last=False)
        return found

    def _refusal(self, left: float) -> LocalmlError:
        self._refused += 1
        self._say(self._clock.now(), "somebody")
        seconds = max(1, int(left + 0.999))
        words = f"too many wrong passwords: try again in {seconds} s; a token or a key is taken meanwhile"
        return LocalmlError(Code.TOO_MANY_REQUESTS, words, details={"retry_after": seconds})

    def _say(self, now: float, whom: str) -> None:
        if now < self._told_at + TOLD_S:
            return
        self._told_at = now
        log.warning("passwords are guessed, now of %s; %d guesses before were not looked at", whom, self._refused)
        self._refused = 0

    # -- outcomes --------------------------------------------------------------------------------

    def _note_wrong(self, mark: Mark, source: str) -> None:
        with self._lock:
            self._wrong[mark, source] = None
            while len(self._wrong) > _WRONG:
                self._wrong.popitem(last=False)

    def _note_right(self, name: str, source: str) -> None:
        """The name's count begins anew; the address's does not, or who has an account could guess others' for ever."""
        with self._lock:
            self._guessers.pop((name, source), None)
            of_address = self._guessers.get((None, source))
            if of_address is not None and of_address.count:
                of_address.count -= 1


def _wrong() -> LocalmlError:
    return LocalmlError(Code.UNAUTHENTICATED, "user name or password is wrong")
