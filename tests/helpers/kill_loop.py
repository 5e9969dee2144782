"""Random calls to a server that is killed again and again, and what must hold after each death and at the end."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from helpers.counts import count
from helpers.kill_helpers import Helpers
from helpers.kill_jobs import Jobs, Kind, kind_of
from helpers.records import Records
from helpers.server_process import Api, Down, Running, Servers
from localml.core.failpoints import DRAINING, JOBS

_CLIENTS = 3
_MANY = 40
_FIRST_S = 30.0


@dataclass
class Told:
    """What the server acknowledged, and what it may have been told. Shared by the clients."""

    submitted: dict[int, str] = field(default_factory=dict)
    stopped: set[int] = field(default_factory=set)
    deleted: set[int] = field(default_factory=set)
    maybe_stopped: set[str] = field(default_factory=set)
    problems: list[str] = field(default_factory=list)
    calls: Counter[str] = field(default_factory=Counter)

    def open_ones(self) -> list[int]:
        """Acknowledged workloads that nobody was asked to stop, newest first."""
        return sorted(self.submitted.keys() - self.stopped, reverse=True)


class Client:
    """Calls one server at random until it is gone."""

    def __init__(self, api: Api, jobs: Jobs, told: Told, name: str, seed: str, pace: float) -> None:
        self.name = name
        self._api = api
        self._jobs = jobs
        self._told = told
        self._chance = random.Random(seed)
        self._pace = pace
        self._count = 0
        self.thread = threading.Thread(target=self._run, name=name, daemon=True)
        self.thread.start()

    def _run(self) -> None:
        calls = {self._submit: 10, self._stop: 3, self._delete: 1, self._log: 4, self._look: 4}
        with suppress(Down):
            while True:
                call = self._chance.choices(list(calls), list(calls.values()))[0]
                self._told.calls[call.__name__] += 1
                try:
                    call()
                except Down:
                    raise
                except Exception as error:
                    self._told.problems.append(f"{call.__name__}: {error!r}")
                threading.Event().wait(self._chance.random() * self._pace)

    def _call(self, method: str, path: str, body: Any = None, also: tuple[int, ...] = (), **query: Any) -> Any:
        answer = self._api.call(method, path, body, **query)
        if not answer.ok and answer.status not in also:
            self._told.problems.append(f"{method} {path}: {answer.status} {answer.body[:300]!r}")
        return answer

    def _submit(self) -> None:
        kind = self._jobs.pick(self._chance)
        self._count += 1
        name = f"{kind.name}.{self.name}.{self._count}"
        answer = self._call("POST", "/workloads", {"name": name, "spec": self._jobs.spec(kind)})
        if answer.ok:
            self._told.submitted[answer.json["id"]] = name

    def _choose(self) -> int | None:
        recent = self._told.open_ones()[:_MANY]
        return self._chance.choice(recent) if recent else None

    def _end(self, method: str, path: str, number: int, told: set[int]) -> None:
        self._told.maybe_stopped.add(self._told.submitted[number])
        if self._call(method, path, also=(404,)).ok:
            told.add(number)
            self._told.stopped.add(number)

    def _stop(self) -> None:
        endless = [one for one in self._told.open_ones() if kind_of(self._told.submitted[one]).endless]
        number = self._chance.choice(endless) if len(endless) > 3 else self._choose()
        if number is not None:
            self._end("POST", f"/workloads/{number}/stop", number, self._told.stopped)

    def _delete(self) -> None:
        number = self._choose()
        if number is not None:
            self._end("DELETE", f"/workloads/{number}", number, self._told.deleted)

    def _log(self) -> None:
        """What is read of a growing log is always the beginning of what is written."""
        number = self._choose()
        if number is None:
            return
        name = self._told.submitted[number]
        query = {"role": "main", "index": 0, "attempt": 1, "stream": "stdout", "prefix": False}
        answer = self._call("GET", f"/workloads/{number}/logs", **query)
        expected = kind_of(name).output(name, 0, 1)["stdout"] + kind_of(name).late
        if answer.ok and not expected.startswith(answer.body):
            self._told.problems.append(f"log of {name}: {_apart(answer.body, expected)}")

    def _look(self) -> None:
        number = self._choose()
        paths = ["/status", "/gpus", "/workloads?limit=20", "/events"]
        if number is not None:
            paths += [f"/workloads/{number}", f"/workloads/{number}/why", f"/workloads/{number}/events"]
        self._call("GET", self._chance.choice(paths))


class KillLoop:
    """The whole of it.

    Args:
        lives: shortest and longest time in seconds that a server is given, from its first answer.
        pace: longest pause of a client between two calls, in seconds.
        live: names of the containers that run, for an engine whose replicas cannot see that for themselves.
        helpers: what else is killed, or frozen, while a server lives.
    """

    def __init__(
        self,
        servers: Servers,
        jobs: Jobs,
        seed: int,
        *,
        lives: tuple[float, float],
        pace: float,
        live: Callable[[], list[str]] = list,
        helpers: Helpers | None = None,
    ) -> None:
        self._servers = servers
        self._jobs = jobs
        self._seed = seed
        self._lives = lives
        self._pace = pace
        self._live = live
        self._helpers = helpers
        self._chance = random.Random(seed)
        self.told = Told()
        self.records = Records(servers.data)
        self.died_at: Counter[str] = Counter()

    def round(self, number: int) -> None:
        """One life of a server, and what its death leaves."""
        unreached = [point for point in JOBS if point not in self.died_at]
        failpoint = self._chance.choice(unreached or JOBS + DRAINING) if self._chance.random() < 0.5 else None
        passes = self._chance.choice((1, 1, 2, 3, 5, 8))
        server = self._servers.launch(f"{failpoint}:{passes}" if failpoint else None)
        clients = self._clients(server, number) if server.ready() else []
        lives = self._chance.uniform(*self._lives)
        if failpoint and failpoint not in self.died_at:
            lives += _FIRST_S  # however slow the machine is, each point is reached once
        deadline = time.monotonic() + lives
        strikes = sorted(
            time.monotonic() + self._chance.uniform(0, lives) for _ in range(self._chance.choice((0, 1, 2)))
        )
        while server.poll() is None and time.monotonic() < deadline:
            threading.Event().wait(0.01)
            if self._helpers is not None and strikes and time.monotonic() > strikes[0]:
                strikes.pop(0)
                self._helpers.strike()
        by_itself = server.poll() is not None
        status = server.end()
        assert status == -signal.SIGKILL, f"the server ended by itself with {status}"
        self.died_at[failpoint if by_itself and failpoint else "any moment"] += 1
        for client in clients:
            client.thread.join(90)
            assert not client.thread.is_alive(), "a client waits for a dead server"
        assert not self.told.problems, self.told.problems[:5]
        self.records.check_after_death(self.told.submitted)
        replicas = Counter(name.rpartition("-")[0] for name in self._live())
        assert all(count == 1 for count in replicas.values()), f"several live containers of one replica: {replicas}"

    def _clients(self, server: Running, number: int) -> list[Client]:
        names = [f"{number}-{one}" for one in range(_CLIENTS)]
        return [Client(server.api, self._jobs, self.told, name, f"{self._seed}-{name}", self._pace) for name in names]

    def drain(self, seconds: float) -> None:
        """Let everything end that can, stop what can't, and stop the server orderly."""
        server = self._servers.start()
        deadline = time.monotonic() + seconds
        for number, name in self.records.active():
            if kind_of(name).endless:
                self.told.maybe_stopped.add(name)
                server.api.post(f"/workloads/{number}/stop")
        while left := self.records.unfinished():
            assert time.monotonic() < deadline, f"not over after {seconds:g} s: {left[:10]}"
            threading.Event().wait(0.05)
        status = server.end(signal.SIGTERM)
        assert status == 0, f"an orderly stop gave {status}"

    def check(self) -> None:
        """The promises, held against the files and the ledger, after :meth:`drain`; what breaks them is counted."""
        runs = self._jobs.runs()
        found = {
            "jobs lost": self.records.lost(self.told.submitted) + self._wrong_ends(),
            "jobs doubled": [one for one, times in runs.items() if times > 1] + self._ran_wrong(runs),
            "leases leaked": self.records.open_leases(),
            "logs that differ": self._different_logs(),
        }
        for what, those in found.items():
            count(what, len(those))
        wrong = {what: those[:5] for what, those in found.items() if those}
        assert wrong == {}, wrong
        self.records.check_after_death(self.told.submitted)
        self.records.check_at_end()
        deleted = self.records.deleted()
        assert self.told.deleted <= deleted, f"deletions were lost: {self.told.deleted - deleted}"

    def _struck(self, name: str) -> bool:
        return self._helpers is not None and name in self._helpers.struck

    def _wrong_ends(self) -> list[str]:
        """Workloads that ended otherwise than they do by themselves, though nobody stopped them."""
        wrong = []
        for row in self.records.workloads():
            kind, name = kind_of(row["name"]), row["name"]
            right = (row["state"], row["exit_code"], row["attempt"]) == (kind.state, kind.exit_code, kind.tries)
            stopped = row["state"] == "stopped" and name in self.told.maybe_stopped
            if not stopped and not self._struck(name) and (kind.endless or not right):
                wrong.append(f"{name} ({row['id']}) is {row['state']} ({row['exit_code']}): {row['message']}")
        return wrong

    def _ran_wrong(self, runs: Counter[str]) -> list[str]:
        """Tries that ended in their own way, but did not begin once."""
        wrong = []
        for row, kind, attempt in self._tries():
            ran = runs[f"{row['name']}-main-{attempt['index']}-{attempt['number']}"]
            if attempt["exit_code"] == kind.exit_code and ran != 1:
                wrong.append(f"{attempt['name']} ended with {attempt['exit_code']} but began {ran} times")
        return wrong

    def _different_logs(self) -> list[str]:
        """A log is what the program wrote: all of it when the program came to its own end, else a beginning."""
        wrong = []
        for row, kind, attempt in self._tries():
            whole = attempt["exit_code"] == kind.exit_code
            for stream, words in kind.output(row["name"], attempt["index"], attempt["number"]).items():
                most = words + (kind.late if stream == "stdout" else b"")
                log = self.records.log(row["id"], attempt["name"], stream)
                if not most.startswith(log) or (whole and not log.startswith(words)):
                    wrong.append(f"{attempt['name']}.{stream} ({attempt['cause']}): {_apart(log, words)}")
                count("logs compared")
        return wrong

    def _tries(self) -> Iterator[tuple[dict[str, Any], Kind, dict[str, Any]]]:
        for row in self.records.workloads():
            for attempt in self.records.attempts(row["id"]):
                yield row, kind_of(row["name"]), attempt


def _apart(found: bytes, expected: bytes) -> str:
    """Where two logs begin to differ, in words."""
    pairs = enumerate(zip(found, expected, strict=False))
    at = next((number for number, (one, other) in pairs if one != other), min(len(found), len(expected)))
    window = slice(max(0, at - 20), at + 40)
    sizes = f"{len(found)} bytes instead of {len(expected)}"
    return f"{sizes}, other from byte {at} on: {found[window]!r} instead of {expected[window]!r}"


def run_kill_loop(loop: KillLoop, rounds: int, drain: float) -> None:
    """Kill, drain, check."""
    for number in range(rounds):
        loop.round(number)
    loop.drain(drain)
    loop.check()


def processes_with(text: str) -> list[str]:
    """Command lines of processes that have ``text`` in their arguments or environment, this one's own left out."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            with suppress(OSError):
                words = (entry / "cmdline").read_bytes()
                if text.encode() in words + (entry / "environ").read_bytes():
                    found.append(words.replace(b"\0", b" ").decode(errors="replace"))
    return found
