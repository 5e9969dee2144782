"""Death and standstill of the processes that help a server of the process engine: its zygote and its supervisors."""

from __future__ import annotations

import json
import os
import random
import signal
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from helpers.counts import count
from helpers.records import Records


class Helpers:
    """Strikes one at a time. What was killed with a supervisor is in ``struck``, by its workload's name: that workload
    may fail, as it would if its program had been killed."""

    def __init__(self, data: Path, seed: int) -> None:
        self._replicas = data / "replicas"
        self._records = Records(data)
        self._chance = random.Random(f"helpers-{seed}")
        self.struck: set[str] = set()

    def strike(self) -> None:
        """Kill or freeze a zygote or a supervisor, if there is one."""
        strikes = [self._kill_zygote, self._freeze_zygote, self._kill_supervisor, self._freeze_supervisor]
        self._chance.choices(strikes, [2, 1, 2, 3])[0]()

    def _kill_zygote(self) -> None:
        for pid in self._zygotes():
            _send(pid, signal.SIGKILL, "kills of processes")

    def _freeze_zygote(self) -> None:
        for pid in self._zygotes():
            _send(pid, signal.SIGSTOP, "processes frozen")

    def _kill_supervisor(self) -> None:
        if found := self._supervisor():
            replica, pid = found
            query = "select w.name from workload w join attempt a on a.workload_id = w.id where a.name = ?"
            self.struck |= {row["name"] for row in self._records.ask(query, replica)}
            _send(pid, signal.SIGKILL, "kills of processes")

    def _freeze_supervisor(self) -> None:
        if found := self._supervisor():
            _send(found[1], signal.SIGSTOP, "processes frozen")

    def _supervisor(self) -> tuple[str, int] | None:
        """A replica that runs, and the process number of its supervisor."""
        running = list(self._replicas.glob("[!.]*/running.json"))
        if not running:
            return None
        path = self._chance.choice(running)
        with suppress(OSError, ValueError):
            said = json.loads(path.read_text())
            stat = Path(f"/proc/{said['supervisor']}/stat").read_bytes().rpartition(b")")[2].split()
            if int(stat[19]) == said["start_ticks"] and not (path.parent / "exit.json").exists():
                return path.parent.name, said["supervisor"]
        return None

    def _zygotes(self) -> list[int]:
        wanted = f"{self._replicas}/.zygote-".encode()
        ours = {pid: parent for pid, parent in _processes() if wanted in _read(pid, "cmdline")}
        # Its forks, the supervisors, look the same, but for the socket, which they have in their first moment, too.
        return [pid for pid, parent in ours.items() if parent not in ours and _asked(pid)]


def _processes() -> Iterator[tuple[int, int]]:
    """All processes, and their parents."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (stat := _read(int(entry.name), "stat")):
            yield int(entry.name), int(stat.rpartition(b")")[2].split()[1])


def _asked(pid: int) -> bool:
    try:
        return os.readlink(f"/proc/{pid}/fd/0").startswith("socket:")
    except OSError:
        return False


def _read(pid: int, name: str) -> bytes:
    try:
        return Path(f"/proc/{pid}/{name}").read_bytes()
    except OSError:
        return b""


def _send(pid: int, number: signal.Signals, what: str) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)
        count(what)
