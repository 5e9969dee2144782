"""The folders that localml keeps for users: what a notebook works in. They lie below the data directory by the user's
number, so that nobody gets those of a former user of the same name."""

from __future__ import annotations

import logging
from contextlib import suppress
from pathlib import Path

from sqlmodel import col, select

from localml.core.people.tables import User
from localml.core.ports import Store

log = logging.getLogger("localml.people")

FOLDERS = "folders"
"""In the data directory: ``FOLDERS/USER NUMBER/NAME``."""
_BY_NAME = "workspaces"
"""Where earlier versions had them, as ``USER NAME/NAME``."""
_NOBODYS = "of-"
"""Begins the name of a folder of which only the user's name is known; a number it is not."""


def by_number(data: Path, store: Store) -> None:
    """Move the folders that an earlier version kept by user name. For the start, before anybody becomes a user.

    A link stays where each was. What was moved before a crash is not moved again.
    """
    old = data / _BY_NAME
    if not old.is_dir():
        return
    found = [one for one in sorted(old.iterdir()) if one.is_dir() and not one.is_symlink()]
    numbers = _numbers(store) if found else {}
    (data / FOLDERS).mkdir(exist_ok=True)
    for folder in found:
        new = data / FOLDERS / str(numbers.get(folder.name, f"{_NOBODYS}{folder.name}"))
        if not new.exists():
            _move(folder, new)


def _numbers(store: Store) -> dict[str, int]:
    """Name -> number, of the user who has it, or else of the last who had."""
    with store.read() as session:
        users = session.exec(select(User).order_by(col(User.removed_at).asc().nulls_last(), col(User.id)))
        return {user.name: user.id or 0 for user in users}


def _move(folder: Path, new: Path) -> None:
    try:
        folder.rename(new)
    except OSError as error:  # it is on a disk of its own
        log.warning("%s stays where it is, and is linked from %s: %s", folder, new, error)
        new.symlink_to(folder)
        return
    with suppress(OSError):
        folder.symlink_to(Path("..") / FOLDERS / new.name)
