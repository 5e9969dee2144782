"""What a search costs beside its trials: asking and telling, going on after a start, a thousand trials."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from pathlib import Path
from typing import Any

from bench.floor import commit, open_database
from bench.rows import Row, folder, ms, timed
from bench.server import Server, platform, serving

_MANY = 10_000
_COMMITS, _GET_S, _BEYOND_S, _TRIAL_S, _GROWN = 4, 0.3, 0.3, 0.010, 16 << 20
_COMMAND = ["sh", "-c", "echo loss=0.5"]
_REBUILD = """
import optuna, random, sys
optuna.logging.set_verbosity(optuna.logging.ERROR)
space = {"x": optuna.distributions.FloatDistribution(0, 1)}
study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=1))
study.add_trials([
    optuna.trial.create_trial(params={"x": random.random()}, distributions=space, value=random.random())
    for _ in range(int(sys.argv[1]))
])
study.ask(space)
"""


def ask_and_tell(quick: bool) -> Iterator[Row]:
    """From a trial's known result to the next trial on disk, with a suggester that does nothing."""
    count = 50 if quick else 300
    with folder() as path:
        for before in (10, _MANY):
            with platform(path / f"data-{before}", "fake", start=False) as one:
                turns, file = _Turns(one, _study(one, before)), open_database(path / f"floor-{before}.db")
                both = [(turns.measured(), _committed(file, n)) for n in range(count)]
                file.close()
            p50, floor = (statistics.median(times) for times in zip(*both, strict=True))
            yield Row(
                f"ask + tell behind {before:,} trials: p50",
                f"{ms(p50)} = {p50 / floor:.1f} commits",
                f"<= {_COMMITS} commits",
                f"{ms(floor)} bare commit of 3 rows",
                p50 <= _COMMITS * floor,
            )


def _committed(file: Any, n: int) -> float:
    return timed(lambda: commit(file, n))


def _study(one: Any, trials: int, algorithm: str = "random", max_trials: int | None = None) -> int:
    """A study with so many trials behind it, one of them running."""
    from localml.core.people.identity import ADMIN
    from localml.core.studies.specs import StudySpec
    from localml.core.studies.studies import StudySubmission

    spec = StudySpec.model_validate(_spec(algorithm, max_trials))
    number: int = one.studies.create(StudySubmission("bench", spec, one.identity.user(ADMIN))).id
    one.db.write(lambda session: _fill(session, number, trials))
    return number


def _spec(algorithm: str, max_trials: int | None, parallel: int = 1) -> dict[str, Any]:
    return {
        "space": [{"name": "x", "low": 0, "high": 1}],
        "objective": {"metric": "loss"},
        "algorithm": {"name": algorithm},
        "trial": {"roles": [{"command": _COMMAND}]},
        "parallel": parallel,
        "seed": 1,
        **({} if max_trials is None else {"max_trials": max_trials}),
    }


def _fill(session: Any, study: int, trials: int) -> None:
    """Trials that completed, as rows of searches that ran."""
    from localml.core.sql import insert_row, update_rows
    from localml.core.studies.tables import Study, StudyState, Trial, TrialState
    from localml.core.subjects import Noun
    from localml.core.work.states import Desired, Kind, State
    from localml.core.work.tables import Workload, WorkloadDetail

    row = session.get(Study, study)
    job = {
        **{name: getattr(row, name) for name in ("dialect", "workspace", "owner", "owner_id", "pool")},
        **{"kind": Kind.TRIAL, "version": "", "priority": 0, "desired": Desired.RUN, "state": State.SUCCEEDED},
        **{"message": "", "attempt": 1, "retries": 0, "cpu": 1.0, "memory": 0, "gpu": 0.0, "cleaned": True},
        **dict.fromkeys(("created_at", "updated_at", "queued_at", "started_at", "ended_at"), 1.0),
        **{"parent_kind": Noun.STUDY, "parent_id": study},
    }
    for number in range(1, trials + 1):
        workload = insert_row(session, Workload, {**job, "name": f"bench-{number}", "parent_index": number})
        insert_row(session, WorkloadDetail, {"workload_id": workload, "spec": "{}", "request": None, "images": None})
        trial = {"study_id": study, "number": number, "workload_id": workload, "run": 1, "state": TrialState.COMPLETE}
        trial |= {"params": {"x": number / trials}, "asked": 2 * number - 1, "told": 2 * number, "value": 1 / number}
        trial |= {
            "metrics": None,
            "pruning": False,
            "improves": number > trials - 20,
            "message": "",
            "created_at": 1.0,
            "ended_at": 1.0,
        }
        insert_row(session, Trial, trial)
    columns = {"state": StudyState.RUNNING, "asked": trials, "complete": trials, "sequence": 2 * trials}
    columns |= {"best": trials, "best_value": 1 / trials, "started_at": 1.0}
    update_rows(session, Study, columns, id=study)


class _Turns:
    """Turns of the loop, in which a result is told and the next trial asked for, both on disk.

    Nothing is waited for but the disk: what would be done on other threads is done at once.
    """

    def __init__(self, one: Any, study: int) -> None:
        from localml.control.studies.errands import Errands

        self._one, self._study, self._driver = one, study, one.searching.driver
        self._driver._suggesters = self._driver._results = _Nothing()
        self._driver._errands = Errands(lambda: None, _AtOnce(), _AtOnce())
        self._until(lambda: bool(self._running))

    @property
    def _running(self) -> dict[int, int]:
        """Workloads of trials that are not told."""
        found: dict[int, int] = self._driver._study_of
        return found

    def measured(self) -> float:
        """Seconds of one."""
        [workload] = self._running
        self._one.db.write(lambda session: _end(session, workload))
        begin = time.perf_counter()
        self._driver.changed(workload)
        self._until(lambda: bool(self._running) and workload not in self._running)
        return time.perf_counter() - begin

    def _until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            self._driver.tick()


class _Nothing:
    """Suggesters that do nothing, and results that are known."""

    def open(self, *_: Any) -> _Nothing:
        return self

    def ask(self, _: int) -> Any:
        from localml.hpo.base import Proposal

        return Proposal({"x": 0.5})

    def read(self, *_: Any) -> Any:
        from localml.control.studies.plan import Report

        return Report(0.5, {})

    def tell(self, *_: Any) -> None:
        """Nothing."""

    state = close = tell


class _AtOnce(Executor):
    """Does what it is given before it returns."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        done: Future[Any] = Future()
        done.set_result(fn(*args, **kwargs))
        return done


def _end(session: Any, workload: int) -> None:
    from localml.core.sql import driver

    text = "UPDATE workload SET state = 'succeeded', ended_at = 1, cleaned = 1 WHERE id = ?"
    driver(session).execute(text, (workload,)).close()


def reopened(quick: bool) -> Iterator[Row]:
    """A study of many trials after a start of its server: shown, and asked for the next trial."""
    trials = 1_000 if quick else _MANY
    rebuild = timed(lambda: subprocess.run([sys.executable, "-c", _REBUILD, str(trials)], check=True))
    with folder() as path:
        with platform(path / "data", "process", start=False) as one:
            number = _study(one, trials, "tpe", trials + 1)
        with serving(path / "data", "process") as server:
            server.ask("GET", "/workloads?limit=1")  # what the first request of a start takes
            begin = time.perf_counter()
            shown = timed(lambda: server.ask("GET", f"/studies/{number}"))
            _await(lambda: server.ask("GET", f"/studies/{number}")["asked"] > trials)
            asked = time.perf_counter() - begin
    what = f"study of {trials:,} trials after a start"
    yield Row(f"{what}: shown", ms(shown), f"<= {_GET_S:g} s", "", shown <= _GET_S)
    beside = f"{rebuild:.2f} s Optuna in memory, built anew"
    yield Row(
        f"{what}: next ask", f"{asked:.2f} s", f"<= floor + {_BEYOND_S:g} s", beside, asked <= rebuild + _BEYOND_S
    )


def thousand_trials(quick: bool) -> Iterator[Row]:
    """A long search, four trials at a time, beside as many plain jobs; what the server spends on one more."""
    count = 100 if quick else 1_000
    with folder() as path, serving(path / "data", "process") as server:
        jobs = _spent(server, lambda: _jobs(server, count))
        made = server.ask("POST", "/studies", {"name": "bench", "spec": _spec("random", count, 4)})
        middle: list[int] = []
        trials = _spent(server, lambda: _search(server, made["id"], count, middle))
        grown = server.resident() - middle[0]
    each = (trials - jobs) / count
    beside = f"{ms(jobs / count)} a plain job"
    yield Row(f"{count:,} trials: server time of one, beyond a job's", ms(each), "<= 10 ms", beside, each <= _TRIAL_S)
    what = f"{count:,} trials: server's memory since the first fifth"
    yield Row(what, f"{grown / (1 << 20):+.1f} MiB", "<= 16 MiB", "", grown <= _GROWN)


def _spent(server: Server, act: Callable[[], None]) -> float:
    """Processor time of the server's process, threads that ended among it, in seconds."""

    def now() -> float:
        fields = Path(f"/proc/{server.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    before = now()
    act()
    return now() - before


def _jobs(server: Server, count: int) -> None:
    """Plain jobs, four at a time, whose metrics are read, too."""
    spec = {"roles": [{"command": _COMMAND}]}
    running: list[int] = []
    for n in range(count):
        if len(running) == 4:
            server.settled(running.pop(0))
        running.append(server.ask("POST", "/workloads", {"name": f"job-{n}", "spec": spec})["id"])
    for number in running:
        server.settled(number)


def _search(server: Server, study: int, count: int, middle: list[int]) -> None:
    def over() -> bool:
        row = server.ask("GET", f"/studies/{study}")
        if not middle and row["complete"] >= count // 5:
            middle.append(server.resident())
        return row["state"] not in ("waiting", "running")

    _await(over, 0.2)


def _await(condition: Callable[[], bool], pause: float = 0.01, seconds: float = 600.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise RuntimeError("it did not come about in time")
        time.sleep(pause)
