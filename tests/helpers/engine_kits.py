"""One kit for each engine: the engine, and how to make its replicas do what a test needs."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from helpers.docker_image import tiny_image
from localml.core.clock import ManualClock
from localml.engines.base import LABEL_INSTALL, Account, Engine, Observed, Phase, ReplicaPlan
from localml.engines.fake.engine import FakeEngine
from localml.engines.process.engine import ProcessEngine

DEADLINE = 60.0
_numbers = itertools.count(1)


def wait_until(condition: Callable[[], Any], what: str) -> Any:
    """The first true answer of ``condition``; fails after DEADLINE seconds."""
    end = time.monotonic() + DEADLINE
    pause = threading.Event()
    while time.monotonic() < end:
        if answer := condition():
            return answer
        pause.wait(0.005)
    pytest.fail(f"did not come about: {what}")


class EngineKit:
    """An engine under test. ``reopen`` makes another engine object over the same replicas, as a restart does."""

    runs_programs = True
    grants_any_gpu = False

    def __init__(self, make: Callable[[str], Engine], image: str, install: str) -> None:
        self._make = make
        self._opened: list[Engine] = []
        self.image = image
        self.install = install
        self.engine = self.reopen()

    def reopen(self, install: str | None = None) -> Engine:
        engine = self._make(install or self.install)
        self._opened.append(engine)
        return engine

    def plan(self, script: str, **fields: Any) -> ReplicaPlan:
        """A replica that runs a shell script; skips the test on an engine without programs."""
        if not self.runs_programs:
            pytest.skip("the fake engine runs no programs")
        return self._plan(command=("sh", "-c", script), **fields)

    def ending(self, exit_code: int = 0, **fields: Any) -> ReplicaPlan:
        """A replica that ends by itself with that code."""
        return self.plan(f"exit {exit_code}", **fields)

    def endless(self, **fields: Any) -> ReplicaPlan:
        """A replica that runs until it is stopped, and then ends at once."""
        return self.plan('trap "exit 143" TERM; sleep 600 & wait', **fields)

    def stubborn(self, **fields: Any) -> ReplicaPlan:
        """A replica that SIGTERM does not end; it says ``told`` for each one."""
        return self.plan("trap 'echo told' TERM; echo ready; while :; do sleep 600 & wait $!; done", **fields)

    def wait_ready(self, name: str) -> None:
        """Wait for the replica's first output."""
        wait_until(lambda: list(self.engine.logs(name, {}, follow=False)), f"first output of {name}")

    def wait_told(self, name: str) -> None:
        """Wait until a stubborn replica was asked to stop."""

        def output() -> bytes:
            return b"".join(chunk.data for chunk in self.engine.logs(name, {}, follow=False))

        wait_until(lambda: b"told" in output(), f"the wish that {name} ends")

    def pass_time(self, seconds: float) -> None:
        """Let engines that live by a clock of their own know that time has passed."""

    def run(self, plan: ReplicaPlan) -> Observed:
        """Start and wait for the end."""
        self.engine.start(plan)
        return self.wait_end(plan.name)

    def wait_end(self, name: str) -> Observed:
        def ended() -> Observed | None:
            seen = self.engine.inspect(name)
            assert seen.phase is not Phase.GONE
            return seen if seen.phase is Phase.EXITED else None

        return wait_until(ended, f"end of {name}")

    def output(self, name: str, **since: int) -> dict[str, bytes]:
        """All output of both streams, read with follow."""
        found = {"stdout": b"", "stderr": b""}
        for chunk in self.engine.logs(name, since, follow=True):  # type: ignore[arg-type]
            found[chunk.stream] += chunk.data
        return found

    def close(self) -> None:
        engine = self.reopen()
        for name in engine.list():
            engine.remove(name)
        for opened in self._opened:
            opened.close()

    def _plan(self, **fields: Any) -> ReplicaPlan:
        values: dict[str, Any] = {"name": f"lml-{self.install}-{next(_numbers)}", "image": self.image, **fields}
        values["labels"] = {LABEL_INSTALL: self.install, **values.get("labels", {})}
        return ReplicaPlan(**values)


NOBODY = Account(2_000_000_001, 2_000_000_001, (2_000_000_000,))
"""An account of no user."""


class ProcessKit(EngineKit):
    grants_any_gpu = True

    def __init__(self, root: Path) -> None:
        super().__init__(lambda install: ProcessEngine(root, install), "none", "conformance")


class BoxedKit(ProcessKit):
    """The process engine's replicas of somebody who is not trusted."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        if reason := self.engine.capabilities.exposes:
            pytest.skip(reason)

    def _plan(self, **fields: Any) -> ReplicaPlan:
        return super()._plan(**{"account": NOBODY, **fields})


class FakeKit(EngineKit):
    runs_programs = False

    def __init__(self) -> None:
        self.clock = ManualClock()
        self._first = FakeEngine(self.clock, install="conformance")
        super().__init__(self._open, "none", "conformance")

    def _open(self, install: str) -> Engine:
        if install != self.install:
            pytest.skip("a fake engine's replicas are seen by no other installation by construction")
        return self._first.restarted()

    def ending(self, exit_code: int = 0, **fields: Any) -> ReplicaPlan:
        env = {"FAKE_SECONDS": "0", "FAKE_EXIT": str(exit_code)}
        return self._plan(**{**fields, "env": {**env, **fields.get("env", {})}})

    def endless(self, **fields: Any) -> ReplicaPlan:
        return self._plan(**fields)

    def stubborn(self, **fields: Any) -> ReplicaPlan:
        env = {"FAKE_IGNORE_TERM": "1", "FAKE_OUTPUT": "ready\n"}
        return self._plan(**{**fields, "env": {**env, **fields.get("env", {})}})

    def wait_told(self, name: str) -> None:
        """Nothing shows it, and ``stop`` returns at once."""

    def pass_time(self, seconds: float) -> None:
        self.clock.advance(seconds)
        self._first.tick()


def docker_kit() -> EngineKit:
    docker = pytest.importorskip("localml.engines.docker")
    if reason := docker.docker_available():
        pytest.skip(reason)
    image = tiny_image()
    install = f"conformance{time.time_ns()}"
    return EngineKit(lambda install: docker.DockerEngine(install=install, bind_address="127.0.0.1"), image, install)
