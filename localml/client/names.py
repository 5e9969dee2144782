"""The client's part about names: what one means."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from localml.client.transport import Transport
from localml.client.types import make


@dataclass(frozen=True, slots=True)
class Thing:
    """Something that has a name. ``kind``: job, notebook, tensorboard, trial, replica (a workload each, with its id),
    endpoint or model. ``ref`` is a way to write it that means nothing else; ``state`` is empty where it has none."""

    kind: str
    id: int
    name: str
    state: str
    owner: str
    workspace: str
    ref: str


class Names:
    """Calls about names."""

    _http: Transport

    def resolve(self, reference: str | int, kinds: Sequence[str] = ()) -> Thing:
        """The one thing that a name means, that of a workload's id, or of ``KIND/NAME`` or ``id/NUMBER``.

        Args:
            kinds: of which it may be; any by default. A model is found as ``model/NAME``, or where nothing
                else may be.

        Raises:
            ClientError: ``not_found``; ``conflict`` when several have the name, with ``candidates`` in its details.
        """
        return make(Thing, self._http.json("GET", "/resolve", ref=reference, kind=list(kinds)))

    def names(self, prefix: str = "", kinds: Sequence[str] = ()) -> list[Thing]:
        """Things whose names begin so, at most a hundred."""
        return [make(Thing, one) for one in self._http.json("GET", "/names", prefix=prefix, kind=list(kinds))["things"]]
