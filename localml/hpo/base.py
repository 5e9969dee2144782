"""What a suggester is asked and told, whatever the algorithm.

A suggester is a function of what it was set up with and of what it was asked and told so far, in order: told the same
again it proposes the same. So a study goes on after any crash: a suggester that is opened with the rows' history, or
with the state that it gave and the history since, is the one that there was.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from localml.core.studies.space import Parameter, Values
from localml.core.studies.specs import Goal


@dataclass(frozen=True, slots=True)
class Plugin:
    """An installed algorithm: the folder of its class, whose it is (a user's number), and what its log shows."""

    name: str
    folder: Path
    owner_id: int = 0
    log_level: str = "INFO"
    settings: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Setup:
    """What an algorithm works on. ``params`` were checked; see :mod:`localml.core.studies.algorithms`.

    Attributes:
        max_trials: None: without end.
        plugin: None for a built-in algorithm.
    """

    algorithm: str
    params: dict[str, str]
    space: tuple[Parameter, ...]
    goal: Goal
    seed: int
    max_trials: int | None = None
    experiments: tuple[Values, ...] = ()
    plugin: Plugin | None = None


@dataclass(frozen=True, slots=True)
class Asked:
    """A trial that was proposed."""

    number: int
    values: Values


@dataclass(frozen=True, slots=True)
class Told:
    """What came of one; ``value`` None: it failed or was stopped. One that was stopped early may have a value."""

    number: int
    value: float | None


Happening = Asked | Told


@dataclass(frozen=True, slots=True)
class Proposal:
    """What a suggester answers. ``values`` None: nothing now; ``over``: and nothing ever more, else ask again once one
    of the trials that run has ended."""

    values: Values | None = None
    over: bool = False


class Suggester(Protocol):
    """One study's algorithm. Not to be used by two threads at a time.

    Every call raises ``LocalmlError`` with the algorithm's own words, and its traceback in ``details["traceback"]``,
    when it fails, proposes what is no value of the space, or takes longer or more memory than it may.
    """

    def ask(self, number: int) -> Proposal:
        """Propose trial ``number`` (1 is the study's first)."""
        ...

    def tell(self, number: int, value: float | None) -> None:
        """Say what came of a trial: a finite number, or None for one that failed or was stopped."""
        ...

    def state(self) -> bytes | None:
        """What it wants to be kept, so that it can be opened again without all of the history; None: nothing."""
        ...

    def close(self) -> None:
        """End its process."""
        ...


class Suggesters(Protocol):
    """Opens suggesters."""

    def open(
        self,
        setup: Setup,
        history: Sequence[Happening] = (),
        state: bytes | None = None,
        progress: Callable[[str], None] = lambda _: None,
    ) -> Suggester:
        """Begin an algorithm's process.

        Args:
            history: what it was asked and told in order, in this run of the study; with ``state`` only what came after
                it.
            progress: gets sentences while an environment is made, which takes minutes, once.

        Raises:
            LocalmlError: as the calls of a suggester do; ``UNAVAILABLE`` where its environment cannot be made.
        """
        ...
