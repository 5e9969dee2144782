"""Studies over the control loop with a fake engine, driven tick by tick, and suggesters that are told what to do."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from pathlib import Path
from typing import Any

from helpers.rig import ME, Inline, Rig
from localml.control.studies.driver import StudyDriver
from localml.control.studies.results import Results
from localml.core.errors import Code, LocalmlError
from localml.core.metrics.folders import Entry, Folders
from localml.core.metrics.reading import Metrics
from localml.core.people.identity import Caller
from localml.core.series.samples import Samples
from localml.core.studies.space import Parameter
from localml.core.studies.specs import Objective, StudySpec
from localml.core.studies.studies import Studies, StudySubmission
from localml.core.studies.tables import Study, Trial
from localml.core.studies.trials import happenings
from localml.core.work.specs import single
from localml.hpo.base import Asked, Happening, Proposal, Setup, Suggester, Told

X = (Parameter(name="x", low=0, high=1),)


@dataclass
class Mind(Suggester):
    """A suggester whose proposals follow from all that it was asked and told, in order."""

    setup: Setup
    world: Minds
    happened: list[Happening] = field(default_factory=list)
    closed: bool = False

    def ask(self, number: int) -> Proposal:
        assert not self.closed
        self.world.asked.append(number)
        self.world.before_ask(self, number)
        if self.world.proposals is not None:
            found = self.world.proposals(self, number)
        else:
            found = Proposal({"x": self.thought(number)})
        if found.values is not None:
            self.happened.append(Asked(number, found.values))
        return found

    def thought(self, number: int) -> float:
        """A number from 0 to 1: another one for any other history."""
        text = f"{self.setup.seed} {number} {self.happened}"
        return int.from_bytes(blake2b(text.encode(), digest_size=6).digest()) / (1 << 48)

    def tell(self, number: int, value: float | None) -> None:
        assert not self.closed
        self.happened.append(Told(number, value))

    def state(self) -> bytes | None:
        return repr(self.happened).encode() if self.world.keeps_state else None

    def close(self) -> None:
        self.closed = True


@dataclass
class Minds:
    """Opens :class:`Mind`; what they do is said here.

    Attributes:
        proposals: in place of what they think of.
        before_ask: called first; may raise, or wait.
    """

    proposals: Callable[[Mind, int], Proposal] | None = None
    before_ask: Callable[[Mind, int], None] = lambda *_: None
    keeps_state: bool = False
    opened: list[Mind] = field(default_factory=list)
    asked: list[int] = field(default_factory=list)

    def open(
        self,
        setup: Setup,
        history: Sequence[Happening] = (),
        state: bytes | None = None,
        progress: Callable[[str], None] = lambda _: None,
    ) -> Mind:
        before = eval(state) if state is not None else []
        found = Mind(setup, self, [*before, *history])
        self.opened.append(found)
        return found

    @property
    def live(self) -> int:
        return sum(1 for one in self.opened if not one.closed)


class Files:
    """Objects that are given in memory."""

    def __init__(self) -> None:
        self.found: dict[str, bytes] = {}

    def list(self, owner: int, uri: str) -> list[Entry]:
        del owner, uri
        return []

    def read(self, owner: int, uri: str, offset: int, size: int) -> bytes:
        del owner
        if uri not in self.found:
            raise LocalmlError(Code.NOT_FOUND, f"object '{uri}' does not exist")
        return self.found[uri][offset : offset + size]


class StudyRig(Rig):
    """A rig with studies."""

    def __init__(self, data: Path, **rest: Any) -> None:
        self.minds = Minds()
        self.files = Files()
        self.gone = ""
        super().__init__(data, **{"cpu": 64.0, **rest})
        self.open_studies()

    def open_studies(self) -> None:
        self.samples = Samples(self.db)
        metrics = Metrics(self.db, self.logs, self.samples, Folders(self.db, self.files))
        self.studies = Studies(self.db, self.clock)
        inline = Inline()
        self.driver = StudyDriver(
            self.db,
            self.clock,
            self.studies,
            self.workloads,
            Results(self.db, self.logs, metrics, self.samples, self.files),
            self.minds,
            owner=lambda number: Caller(number, ME.name, True, ME.workspace, "default"),
            gone=lambda *_: self.gone,
            asks=inline,
            reads=inline,
        )

    def restart(self) -> None:
        super().restart()
        self.open_studies()

    def study(self, name: str = "tune", **members: Any) -> int:
        made = self.studies.create(StudySubmission(name, study_spec(**members), ME))
        return made.id or 0

    def steps(self, times: int = 12) -> None:
        """Let both loops work until nothing changes any more at this moment of the clock."""
        for _ in range(times):
            self.settle(3)
            self.look()

    def look(self) -> None:
        """A few ticks of the studies' loop, which hears of every change of a workload."""
        for _ in range(4):
            for workload in list(self.driver._study_of):
                self.driver.changed(workload)
            self.driver.tick()

    def run(self, number: int, seconds: float = 1.0, times: int = 200) -> Study:
        """Let time go on until a study is over."""
        for _ in range(times):
            self.steps(2)
            row = self.row(number)
            if row.ended_at is not None:
                return row
            self.clock.advance(seconds)
        raise AssertionError(f"study {number} is not over: {self.row(number)}")

    def row(self, number: int) -> Study:
        return self.studies.get(number)

    def trials(self, number: int) -> list[Trial]:
        return self.studies.trials(number)

    def told(self, number: int) -> list[tuple[int, str, float | None]]:
        """(number, state, value) of all trials."""
        return [(one.number, str(one.state), one.value) for one in self.trials(number)]

    def write(self, workload: int, text: str) -> None:
        """What a trial writes while it runs."""
        path = self.logs.path(workload, self.get(workload).attempts[-1].name, "stdout")
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab") as file:
            file.write(text.encode())

    def need_replayed(self, number: int) -> None:
        """Whether a suggester that is asked and told the same in the recorded order proposes the same."""
        row = self.row(number)
        with self.db.read_raw() as connection:
            found = list(happenings(connection, number, row.run, 0))
        assert [sequence for sequence, *_ in found] == list(range(1, row.sequence + 1))
        fresh = Mind(replace(self.minds.opened[-1].setup, seed=row.seed), Minds(self.minds.proposals))
        for _, trial, values, value in found:
            if values is None:
                fresh.tell(trial, value)
            else:
                assert fresh.ask(trial).values == values

    def events_of(self, number: int) -> list[str]:
        return [one.reason for one in self.studies.events(number)]


def study_spec(output: str = "loss={x}", seconds: float | None = 1.0, exit_code: int = 0, **members: Any) -> StudySpec:
    """A study whose trials take a second of the fake engine's clock, and then have written ``output``."""
    env = {"FAKE_OUTPUT": f"{output}\n", "FAKE_EXIT": str(exit_code)}
    if seconds is not None:
        env["FAKE_SECONDS"] = str(seconds)
    trial = members.pop("trial", None) or single(["run", "{x}"], env=env, **members.pop("job", {}))
    given = {"space": X, "objective": Objective(metric="loss"), "trial": trial, "seed": 7} | members
    return StudySpec(**given)


def gate() -> tuple[threading.Event, Callable[[Mind, int], None]]:
    """What holds up every question until it is set."""
    opened = threading.Event()
    return opened, lambda *_: (opened.wait(30), None)[1]
