"""Which container is meant by a name: the one that carries it as a label, whatever people have called it since.

"Not found" is believed only when neither the id nor the name nor the label leads to a container. What was seen of a
container is remembered, so that looking at all of them costs one request.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from docker.errors import APIError, NotFound

from localml.engines.base import LABEL_INSTALL, EngineUnreachable, Observed, Phase
from localml.engines.docker.containers import LABEL_NAME, container_name, listed, name_of, observed, phase_of, row_name
from localml.engines.docker.daemon import Daemon
from localml.engines.docker.outages import Outages

_PUZZLED_S = 60.0
"""So long nothing is concluded of a container that the daemon lists and fails to tell about; then its list is all that
there is to go by."""


class Lookup:
    """The containers of one installation. Safe to use from many threads."""

    def __init__(self, daemon: Daemon, install: str, outages: Outages) -> None:
        self._daemon = daemon
        self._outages = outages
        self._install = install
        self._seen: dict[str, Observed] = {}
        self._puzzling: dict[str, float] = {}  # id -> since when the daemon fails to tell about it

    def seen(self, name: str) -> Observed | None:
        """What was last seen of a container, if it is known."""
        return self._seen.get(name)

    def remember(self, inspection: Mapping[str, Any]) -> Observed:
        """What an inspection says, kept if the container is ours."""
        found = observed(inspection)
        known = self._seen.get(found.name)
        if known is not None and replace(found, interrupted=known.interrupted) == known:
            return known
        found = self._outages.told(found)
        if found.labels.get(LABEL_INSTALL) == self._install:
            self._seen[found.name] = found
        return found

    def forget(self, name: str, container: str | None = None) -> None:
        """Drop what was seen; if it was of this container, where one is given."""
        seen = self._seen.get(name)
        if seen is not None and container in (None, seen.handle["id"]):
            self._seen.pop(name, None)

    def reference(self, name: str) -> str:
        """What to call a container in a request: its id when it is known."""
        seen = self._seen.get(name)
        return container_name(name) if seen is None else str(seen.handle["id"])

    def identify(self, name: str) -> str | None:
        """The id of our container of that name; the daemon is asked only for one that is not known."""
        try:
            seen = self._seen.get(name) or self.look(name)
        except APIError:
            rows = self._rows(f"{LABEL_NAME}={name}")
            if not rows:
                raise
            return str(rows[-1]["Id"])  # the daemon cannot tell about it, but may be able to remove it
        return None if seen.phase is Phase.GONE else str(seen.handle["id"])

    def look(self, name: str) -> Observed:
        """Our container of that name as it is now."""
        found = self.find(name)
        return Observed(name, Phase.GONE) if found is None else self.remember(found)

    def find(self, name: str) -> Mapping[str, Any] | None:
        """The inspection of our container of that name; None when there is none.

        Raises:
            EngineUnreachable: the daemon contradicts itself.
        """
        seen = self._seen.get(name)
        known = str(seen.handle["id"]) if seen is not None else None
        for reference in filter(None, (known, container_name(name))):
            if (found := self._inspect(reference)) is not None and self._is_ours(found, name):
                return found
        rows = self._rows(f"{LABEL_NAME}={name}")
        for row in reversed(rows):
            if (found := self._inspect(row["Id"])) is not None:
                return found
        if rows:  # it has gone just now, or one of the two answers is wrong
            raise EngineUnreachable(f"the daemon lists container {name} and does not find it")
        self.forget(name, known)
        return None

    def foreign(self, name: str) -> bool:
        """Whether somebody else's container has the name that ours would have."""
        found = self._inspect(container_name(name))
        return found is not None and not self._is_ours(found, name)

    def all(self) -> dict[str, Observed]:
        """All our containers by name."""
        before = set(self._seen)
        rows = self._rows()
        found = {one.name: one for row in rows if (one := self._observe(row)) is not None}
        for other in set(self._puzzling) - {row["Id"] for row in rows}:
            self._puzzling.pop(other, None)
        for gone in before - set(found):
            self.forget(gone)
        return found

    def _observe(self, row: Mapping[str, Any]) -> Observed | None:
        """What is known of a listed container; it is inspected only if its phase is new to us."""
        phase, seen = phase_of(row["State"]), self._seen.get(row_name(row))
        if seen is not None and seen.handle["id"] != row["Id"]:
            seen = None
        if phase is Phase.CREATED:  # there is no more to say, and while it is being started the daemon would not
            return listed(row)
        if seen is not None and seen.phase is phase:
            return seen
        try:
            found = self._inspect(row["Id"])
        except APIError:
            return self._puzzle(row, seen)
        self._puzzling.pop(row["Id"], None)
        return None if found is None else self.remember(found)

    def _puzzle(self, row: Mapping[str, Any], seen: Observed | None) -> Observed:
        since = self._puzzling.setdefault(row["Id"], time.monotonic())
        if time.monotonic() - since > _PUZZLED_S:
            return listed(row)
        return seen or listed(row, puzzling=True)

    def _inspect(self, reference: str) -> dict[str, Any] | None:
        try:
            return dict(self._daemon.api.inspect_container(reference))
        except NotFound:
            return None

    def _is_ours(self, inspection: Mapping[str, Any], name: str) -> bool:
        labels = inspection["Config"].get("Labels") or {}
        return labels.get(LABEL_INSTALL) == self._install and name_of(labels, inspection["Name"]) == name

    def _rows(self, *labels: str) -> list[dict[str, Any]]:
        """Our containers, with these labels too; of copies with the same name the one that is known comes last."""
        filters = {"label": [f"{LABEL_INSTALL}={self._install}", *labels]}
        rows: list[dict[str, Any]] = self._daemon.api.containers(all=True, filters=filters)
        return sorted(rows, key=self._is_known)

    def _is_known(self, row: Mapping[str, Any]) -> bool:
        names = (name.removeprefix("/") for name in row["Names"] or ())
        return self.reference(row_name(row)) in (row["Id"], *names)
