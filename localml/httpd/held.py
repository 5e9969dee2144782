"""Answers that hold no worker: the event loop waits for what they wait for, or for a slow reader.

An app returns one of these as its WSGI iterable. They work with any other WSGI server too, but then on its threads.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from typing import Any, BinaryIO, Protocol

HOLDS = "localml.holds"
"""Key of the WSGI environment: true where :class:`Parked` is understood."""
PARKED = "localml.parked"
"""Key of the WSGI environment: the :class:`Parked` after which this request is asked for the second time."""
SEAT = "localml.seat"
"""Key of the WSGI environment: what the app has taken for as long as this request is at hand; its ``close`` is called
when that is over, and its ``owner``, if it has one, says whose turn its work is."""
_BLOCK = 256 * 1024


class Run(Protocol):
    """Calls a function on one of a few threads; for what may block, such as a look into the database or a file."""

    def __call__(self, act: Callable[[], Any]) -> Awaitable[Any]: ...


class Held(ABC):
    """A body that comes bit by bit, for as long as the client stays. The head is sent at once."""

    @abstractmethod
    def pieces(self, run: Run) -> AsyncGenerator[bytes, None]:
        """The body, made on the event loop. It is closed as soon as the client has gone."""

    @abstractmethod
    def __iter__(self) -> Iterator[bytes]:
        """The same for other WSGI servers: made on the thread that asks."""


class Parked(ABC):
    """No answer yet: the app wants to be asked again once :meth:`wait` is over.

    The second time the request's environment has this object under :data:`PARKED`, and its body again if that was a
    small one. Once the client has gone, the app is not asked any more.
    """

    slow_for: object = None
    """Whose work the second call is, where it may take long: it has a thread of those that are kept for such work, in
    its owner's turn; None for a call like any other."""

    @abstractmethod
    async def wait(self, run: Run) -> None:
        """Return when it is worth asking the app again."""

    def __iter__(self) -> Iterator[bytes]:
        raise TypeError(f"this WSGI server doesn't set {HOLDS}, so no request can be parked with it")


class FileAnswer:
    """``wsgi.file_wrapper``: the loop sends the file's rest at the pace of its reader."""

    def __init__(self, file: BinaryIO, block: int = _BLOCK) -> None:
        self._file = file
        self._block = max(block, _BLOCK)

    def read(self) -> bytes:
        """The next block; empty at the end."""
        return self._file.read(self._block)

    def __iter__(self) -> Iterator[bytes]:
        return iter(self.read, b"")

    def close(self) -> None:
        """Close the file."""
        self._file.close()
