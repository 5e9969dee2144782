"""What one workload's defect does is done to it alone: writes that fail are told apart from those that do not."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from sqlmodel import Session

from localml.core.errors import LocalmlError
from localml.store.database import Database

log = logging.getLogger("localml.control")

Write = Callable[[Session], Any]
Blame = Callable[[int, Exception], None]
"""Told the number of a workload (0: of none), and what went wrong with it."""


def write_apart(db: Database, parts: Sequence[tuple[int, Write]], blame: Blame) -> None:
    """Write all in one transaction; where that fails, each alone, so that what is wrong with one stops no other.

    Args:
        parts: number of the workload and what to write for it, in order.

    Raises:
        LocalmlError: the database takes nothing now; nothing is wrong with the parts.
    """
    if not parts:
        return

    def all_of_them(session: Session) -> None:
        for _, write in parts:
            write(session)

    try:
        db.write(all_of_them)
    except LocalmlError:
        raise
    except Exception as error:
        if len(parts) == 1:
            blame(parts[0][0], error)
            return
        log.exception("what was decided for several workloads could not be written together; each is written alone")
        for part in parts:
            write_apart(db, [part], blame)


def each(numbers: Iterable[tuple[int, Callable[[], None]]], blame: Blame) -> None:
    """Do something for each of several workloads; one that fails stops no other.

    Raises:
        LocalmlError: the database takes nothing now.
    """
    for number, act in numbers:
        try:
            act()
        except LocalmlError:
            raise
        except Exception as error:
            blame(number, error)
