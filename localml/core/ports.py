"""What the core needs from outside, as protocols; the store and the control loop provide them."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Protocol, TypeVar

from sqlmodel import Session

T = TypeVar("T")


class Store(Protocol):
    """A database: consistent reads, and writes that are on disk when the call returns."""

    def read(self) -> AbstractContextManager[Session]: ...

    def read_raw(self) -> AbstractContextManager[sqlite3.Connection]: ...

    def write(self, act: Callable[[Session], T]) -> T: ...
