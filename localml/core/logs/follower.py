"""Following a workload's output, step by step."""

from __future__ import annotations

from collections.abc import Iterator

from localml.core.logs.files import LogStore
from localml.core.logs.reader import Piece, pieces
from localml.core.logs.sources import Position, Selection, Source
from localml.core.work.states import TERMINAL, State
from localml.core.work.workloads import Workloads


class Follower:
    """What is written behind a position. Each step gives what came since the last one; nothing here waits.

    Attributes:
        position: how much was given; moves with each piece.
        state: the workload's at the beginning of the last step.
    """

    def __init__(
        self, store: LogStore, workloads: Workloads, number: int, selection: Selection, position: Position
    ) -> None:
        self.position = position
        self.state: State | None = None
        self._store = store
        self._workloads = workloads
        self._number = number
        self._selection = selection
        self._attempts = -1
        self._sources: list[Source] = []

    @property
    def over(self) -> bool:
        """Whether nothing comes behind the last step. Half a line that it ended with is a line then."""
        return self.state in TERMINAL

    @property
    def newest(self) -> int:
        """The newest try that there was at the last step."""
        return max((source.attempt for source in self._sources), default=1)

    def news(self) -> Iterator[Piece]:
        """One step. The state is looked at at once, before the output: what is over has all of it on disk.

        Raises:
            LocalmlError: ``NOT_FOUND`` when there is no such workload any more.
        """
        self.state, attempts = self._workloads.glance(self._number)
        if attempts != self._attempts:
            self._sources = self._selection.sources(self._workloads.attempts(self._number))
            self._attempts = attempts
        return self._moving()

    def _moving(self) -> Iterator[Piece]:
        for piece in pieces(self._store, self._sources, self.position):
            self.position.offsets[piece.number] = piece.end
            yield piece
