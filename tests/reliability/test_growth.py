"""Nothing grows for ever: not what a server holds in memory of what is over, nor its data directory over months."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from helpers.counts import count
from helpers.growth import held
from helpers.rig import wait_until

from localml.config import Config
from localml.core.errors import LocalmlError
from localml.core.events import feed as feeds
from localml.core.people import attempts, recognition
from localml.core.people.recognition import Caller
from localml.core.series import samples
from localml.core.subjects import Subject
from localml.core.work.specs import single
from localml.core.work.states import Kind
from localml.core.work.workloads import Submission
from localml.engines.fake.engine import FakeEngine
from localml.platform import Platform

SLACK = 5
"""Things more that may lie somewhere for a moment: replicas that the engine's last answer still had."""
MOVES = ("seen._known", "engines.base.Observed", "samples._ids")
"""What the engine said at the last full look, which the next one replaces, and a cache that begins anew when full."""


class House:
    """A server over the fake engine, used through its services."""

    def __init__(self, data: Path) -> None:
        self.engine = FakeEngine()
        config = Config(data, engine="fake", gpus="simulated:2", cpus=64, memory=64 << 30, port=0, gateway_port=0)
        self.platform = Platform(config, engine=self.engine)
        self.platform.start()
        self.admin = self.platform.identity.by_token(self.platform.credentials.token)
        self._made = 0

    def submit(self, *, kind: Kind = Kind.JOB, seconds: str = "0") -> Submission:
        self._made += 1
        spec = single(["true"], env={"FAKE_SECONDS": seconds, "FAKE_OUTPUT": "a line\n"})
        return Submission(name=f"w{self._made}", spec=spec, caller=self.admin, kind=kind)

    def jobs(self, number: int) -> None:
        """Jobs of one line, followed, measured and removed."""
        found = [self.platform.workloads.submit(self.submit()) for _ in range(number)]
        self.over()
        for one in found:
            self.platform.samples.add(Subject.workload(one), f"loss{one}", 1.0, 1.0)
            self.platform.feed.wait(Subject.workload(one), self.platform.feed.version(Subject.workload(one)), 0.0)
        self.platform.samples.flush()
        for one in found[::2]:
            self.platform.workloads.delete(one, self.admin)

    def tools(self, number: int) -> None:
        """Notebooks that are stopped and removed."""
        for _ in range(number):
            made = self.platform.instances.create(self.submit(kind=Kind.NOTEBOOK, seconds="1000"))
            one = made.row.id or 0
            self.platform.instances.stop(one, "me", "enough")
            self.over()
            self.platform.instances.delete(one, self.admin)

    def people(self, number: int) -> None:
        """Users who log in, guess, use tokens, and are removed."""
        identity = self.platform.identity
        for _ in range(number):
            self._made += 1
            name = f"user{self._made}"
            identity.create_user(name, "a password")
            identity.by_password(name, "a password")
            with suppress(LocalmlError):
                identity.by_password(name, "a guess", f"10.0.{self._made % 250}.1")
            token = self.token(identity.user(name))
            identity.by_token(token)
            identity.remove_user(name)

    def token(self, user: Caller) -> str:
        return self.platform.identity.create_token(user, name="t", lifetime=60.0)

    def over(self) -> None:
        """Wait until nothing is left in the engine."""

        def over() -> bool:
            self.engine.tick()
            with self.platform.db.read_raw() as raw:
                return bool(raw.execute("SELECT count(*) FROM workload WHERE cleaned = 0").fetchone()[0] == 0)

        wait_until(over, 120)

    def use(self, jobs: int, others: int) -> None:
        self.jobs(jobs)
        self.tools(others)
        self.people(others)

    def held(self) -> Counter[str]:
        return held(self.platform)


@pytest.fixture
def house(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[House]:
    """One whose bounded memories are small, so that they are full after the first use."""
    for module, name, most in (
        (feeds, "_MOST", 20),
        (recognition, "_MOST_CACHED", 8),
        (samples, "_MOST_IDS", 20),
        (attempts, "_MOST", 8),
        (attempts, "_WRONG", 8),
    ):
        monkeypatch.setattr(module, name, most)
    made = House(tmp_path)
    yield made
    made.platform.close()


def test_what_is_over_leaves_nothing_in_memory(house: House, long_form: bool) -> None:
    """Sizes of all containers that can be reached from the server are the same after twice the use."""
    jobs, others = (2_000, 60) if long_form else (150, 6)
    house.use(jobs, others)
    before = house.held()
    assert len(before) > 200
    house.use(jobs, others)
    count("jobs run", 2 * jobs)
    grown: dict[str, tuple[int, int]] = {}

    def settled() -> bool:
        after = {way: size for way, size in house.held().items() if not any(one in way for one in MOVES)}
        grown.clear()
        grown.update({way: (before[way], size) for way, size in after.items() if size > before[way] + SLACK})
        return not grown

    with suppress(AssertionError):  # threads that write something down may be a little later
        wait_until(settled, 15)
    assert grown == {}
