"""A search whose server is killed again and again, and the same one asked and told once more in the recorded order."""

from __future__ import annotations

import json
import random
from contextlib import suppress
from pathlib import Path
from typing import Any

from helpers.counts import count
from helpers.records import Records
from helpers.rig import wait_until
from helpers.server_process import Api, Running, servers
from localml.core.studies.algorithms import checked
from localml.core.studies.specs import StudySpec
from localml.hpo.base import Setup
from localml.hpo.processes import Processes

SPACE = [
    {"name": "x", "low": -5, "high": 10},
    {"name": "y", "low": 0.001, "high": 1, "log": True},
    {"name": "n", "type": "int", "low": 1, "high": 8},
    {"name": "kind", "choices": ["a", "b"]},
]
_OVER = "select count(*) from study where ended_at is not null"
_TOLD = "select count(*) as told from trial where told is not null"
_TRIALS = "select number, state, params, value, asked, told from trial order by number"
_ORDER = (
    "select number, asked as at, params, value, 1 as asks from trial"
    " union all select number, told, params, value, 0 from trial order by 2"
)
_STUDY = "select state, best, best_value, seed, complete, running from study"


def spec(ledger: Path, algorithm: str, trials: int, parallel: int) -> dict[str, Any]:
    """A study whose trials note in a ledger that they ran; the objective is worked out by awk."""
    script = (
        f"echo {{trial}} >> {ledger}; "
        'awk \'BEGIN {printf "loss=%.6f\\n", ({x} - 2) ^ 2 + {y} * {n} + ("{kind}" == "a")}\''
    )
    return {
        "space": SPACE,
        "algorithm": {"name": algorithm},
        "objective": {"metric": "loss"},
        "trial": {"roles": [{"command": ["sh", "-c", script]}]},
        "max_trials": trials,
        "parallel": parallel,
        "seed": 11,
    }


class Search:
    """One search in one data directory."""

    def __init__(self, data: Path, algorithm: str, trials: int, parallel: int) -> None:
        self.data = data
        self.ledger = data.with_name(f"{data.name}.ledger")
        self.spec = spec(self.ledger, algorithm, trials, parallel)
        self.records = Records(data)

    def run(self, kills: int = 0, seed: int = 0) -> None:
        """Begin it, kill its server so many times on the way, and wait for its end."""
        chance = random.Random(seed)
        trials = self.spec["max_trials"]
        with servers(self.data, gpus="none") as found:
            server = found.start()
            server.api.post("/studies", {"name": "killed", "spec": self.spec})
            for left in range(kills, 0, -1):
                self._live(server, chance, (trials - self.told) // (left + 1) or 1)
                server.end()
                count("kills of processes")
                point = chance.choice([None, "before-commit", "after-commit", "after-intent", "after-start"])
                server = found.launch(point and f"{point}:{chance.randint(1, 60)}")
                if not server.ready():  # it came early
                    server = found.start()
            if server.poll() is not None:
                server = found.start()
            self._finish(found, server)

    def _live(self, server: Running, chance: random.Random, trials: int) -> None:
        """Until some more trials are told and a moment has passed, or a failpoint ended it."""
        wanted = self.told + chance.randint(0, 2 * trials)
        wait_until(lambda: server.poll() is not None or self.told >= wanted or self._over, 120)
        commits = self._commits() + chance.randint(0, 8)
        wait_until(lambda: server.poll() is not None or self._commits() >= commits or self._over, 60)

    def _finish(self, found: Any, server: Running) -> None:
        wait_until(lambda: server.poll() is not None or self._over, 300)
        if server.poll() is not None:  # its failpoint came late
            server = found.start()
            wait_until(lambda: self._over, 300)
        with suppress(Exception):
            Api.close(server.api)

    def _commits(self) -> int:
        """A number that grows with what is written: events are numbered."""
        return int(self.records.ask("select max(id) as last from event")[0]["last"] or 0)

    @property
    def told(self) -> int:
        return int(self.records.ask(_TOLD)[0]["told"])

    @property
    def _over(self) -> bool:
        return bool(next(iter(self.records.ask(_OVER)[0].values())))

    def trials(self) -> list[tuple[Any, ...]]:
        """Number, state, parameters and value of all trials."""
        found = self.records.ask(_TRIALS)
        return [(one["number"], one["state"], json.loads(one["params"]), one["value"]) for one in found]

    def study(self) -> dict[str, Any]:
        return self.records.ask(_STUDY)[0]

    def need_each_trial_ran_once(self) -> None:
        ran = sorted(int(line) for line in self.ledger.read_text().split())
        assert ran == list(range(1, self.spec["max_trials"] + 1))

    def need_replayed(self) -> None:
        """A suggester that is asked and told in the recorded order proposes what the killed servers' ones did."""
        wanted = StudySpec.model_validate(self.spec)
        setup = Setup(
            wanted.algorithm.name,
            checked(wanted.algorithm, wanted),
            wanted.space,
            wanted.objective.goal,
            wanted.seed or 0,
            wanted.max_trials,
        )
        happened = self.records.ask(_ORDER)
        assert [one["at"] for one in happened] == list(range(1, len(happened) + 1))
        processes = Processes(self.data / "cache", self.data)
        suggester = processes.open(setup)
        try:
            for one in happened:
                if one["asks"]:
                    assert suggester.ask(one["number"]).values == json.loads(one["params"]), one
                else:
                    suggester.tell(one["number"], one["value"])
        finally:
            suggester.close()
            processes.close()
