"""What jobs leave in their output folders, read in their owners' names."""

from __future__ import annotations

from collections.abc import Callable

from localml.core.metrics.folders import Entry
from localml.core.people.identity import Caller
from localml.objects.access import BucketsFor


class Results:
    """Objects as the owner of a job may read them; see :class:`localml.core.metrics.folders.Objects`.

    Args:
        caller: a user by number.
    """

    def __init__(self, caller: Callable[[int], Caller], objects: Callable[[Caller], BucketsFor]) -> None:
        self._caller, self._objects = caller, objects

    def list(self, owner: int, uri: str) -> list[Entry]:
        """What a folder holds; nothing where there is none."""
        view = self._objects(self._caller(owner))
        if not view.exists(uri):
            return []
        return [Entry(one.name, one.size, one.modified, one.is_folder) for one in view.list(uri)]

    def read(self, owner: int, uri: str, offset: int, size: int) -> bytes:
        """At most so many bytes of an object."""
        with self._objects(self._caller(owner)).open(uri) as file:
            file.seek(offset)
            return file.read(size)
