"""Nothing grows for ever: not what a server holds in memory of what is over, nor its data directory over months."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from helpers.counts import count
from helpers.growth import held
from helpers.rig import wait_until

from localml.config import Config
from localml.core.clock import Clock, ManualClock
from localml.core.errors import LocalmlError
from localml.core.events import feed as feeds
from localml.core.logs.reader import pieces
from localml.core.logs.sources import ALL, Position
from localml.core.metrics import reading
from localml.core.people import attempts, recognition
from localml.core.people.recognition import Caller
from localml.core.prune import DAY, PruneRules, taken
from localml.core.series import samples
from localml.core.subjects import Subject
from localml.core.tallies import count_logs
from localml.core.work.specs import single
from localml.core.work.states import TERMINAL, Kind, State
from localml.core.work.workloads import Submission
from localml.engines.fake.engine import FakeEngine
from localml.platform import Platform

SLACK = 5
"""Things more that may lie somewhere for a moment: replicas that the engine's last answer still had."""
MOVES = (
    *("metrics_watch._waiting", "seen._known", "engines.base.Observed", "samples._ids", "feed._versions"),
    *("seen._over", "_invoke_excepthook"),
)
"""What is still to be read for metrics; what the engine said at the last full look, which the next replaces; what loses
half or all when it is full; and what threads lead to outside of the server."""


class House:
    """A server over the fake engine, used through its services."""

    def __init__(self, data: Path, clock: Clock | None = None, **settings: Any) -> None:
        self.data = data
        self.engine = FakeEngine(clock)
        settings = {"cpus": 64, "memory": 64 << 30, "port": 0, "gateway_port": 0, **settings}
        config = Config(data, engine="fake", gpus="simulated:2", **settings)
        self.platform = Platform(config, engine=self.engine, clock=clock)
        self.platform.start()
        self.admin = self.platform.identity.by_token(self.platform.credentials.token)
        self._made = 0

    def submit(self, *, kind: Kind = Kind.JOB, seconds: str = "0") -> Submission:
        self._made += 1
        spec = single(["true"], env={"FAKE_SECONDS": seconds, "FAKE_OUTPUT": "a line\n"})
        return Submission(name=f"w{self._made}", spec=spec, caller=self.admin, kind=kind)

    def jobs(self, number: int, *, beside: int = 0) -> None:
        """Jobs of one line, followed, measured and removed, ``beside`` so many that go on."""
        found = [self.platform.workloads.submit(self.submit()) for _ in range(number)]
        self.over(beside)
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

    def over(self, but: int = 0) -> None:
        """Wait until nothing is left in the engine, ``but`` so many."""

        def over() -> bool:
            self.engine.tick()
            with self.platform.db.read_raw() as raw:
                return bool(raw.execute("SELECT count(*) FROM workload WHERE cleaned = 0").fetchone()[0] == but)

        wait_until(over, 120)

    def service(self) -> tuple[int, str]:
        """A job that goes on until it is stopped: its number, and its container's name."""
        self._made += 1
        spec = single(["true"], until_stopped=True)
        number = self.platform.workloads.submit(Submission(name=f"w{self._made}", spec=spec, caller=self.admin))
        wait_until(lambda: self.platform.workloads.get(number).row.state is State.RUNNING)
        return number, self.platform.workloads.get(number).attempts[0].name

    def on_disk(self) -> int:
        """Bytes that the data directory takes, without the database's journal: a reader may keep that for a day."""
        size = 0
        for folder, _, names in os.walk(self.data):
            for path in (Path(folder, name) for name in names if not name.endswith(".db-wal")):
                with suppress(FileNotFoundError):  # some go meanwhile
                    size += taken(path)
        return size

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
        (reading, "_MOST_OPEN", 8),
        (reading, "_MOST_PASSED", 20),
        (recognition, "_MOST_CACHED", 8),
        (samples, "_MOST_IDS", 20),
        (attempts, "_MOST", 8),
        (attempts, "_WRONG", 8),
    ):
        monkeypatch.setattr(module, name, most)
    made = House(tmp_path)
    yield made
    made.platform.close()


@pytest.mark.timeout(900)
def test_what_is_over_leaves_nothing_in_memory(house: House, long_form: bool) -> None:
    """Sizes of all containers that can be reached from the server are the same after twice the use."""
    jobs, others = (2_000, 64) if long_form else (150, 8)  # as full as before are memories that are emptied at eight
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
    assert len(house.platform.feed._versions) <= feeds._MOST


@pytest.mark.timeout(900)
def test_a_data_directory_stays_within_bounds_for_months(tmp_path: Path, long_form: bool) -> None:
    """A service that writes for ever, and jobs every day: after as long a time again it takes no more room."""
    days = 365 if long_form else 44
    clock = ManualClock()
    kept: dict[str, Any] = {"service_logs": 256 << 10, "keep_logs": 64 << 10, "free_disk": 1}
    ages = {"keep_logs_days": 10, "keep_removed_days": 5, "keep_jobs_days": 15, "keep_events_days": 15}
    house = House(tmp_path, clock, **kept, **ages)
    try:
        number, name = house.service()
        store = house.platform.logs
        sizes = []
        for day in range(days):
            clock.advance(DAY)
            house.engine.write(name, "stdout", (b"day %06d of a service\n" % day) * 8_000)
            written = house.engine.logs(name, {"stdout": 0, "stderr": 0}, follow=False)
            size = sum(len(chunk.data) for chunk in written)
            wait_until(lambda size=size: store.size(number, name, "stdout") == size)  # type: ignore[misc]
            house.jobs(4, beside=1)
            house.platform.upkeep.tick()
            sizes.append(house.on_disk())
        count("bytes of output", size)
        half = max(sizes[days // 4 : days // 2])
        assert max(sizes[days // 2 :]) <= half * 1.1 + (64 << 10), sizes
        assert size > 10 * store.kept(number, name, "stdout") > 0
        assert store.tail(number, name, "stdout", 12) == b"of a service\n"[-12:]
    finally:
        house.platform.close()


def test_a_service_of_child_processes_keeps_its_last_output_once(tmp_path: Path) -> None:
    lines, limit = 40_000, 256 << 10
    script = f"i=0; while [ $i -lt {lines} ]; do echo service line $i of many; i=$((i+1)); done; sleep 1000"
    config = Config(tmp_path, engine="process", gpus="none", port=0, gateway_port=0, service_logs=limit)
    platform = Platform(config)
    platform.start()
    try:
        admin = platform.identity.by_token(platform.credentials.token)
        spec = single(["sh", "-c", script], until_stopped=True, stop_grace=0.0)
        number = platform.workloads.submit(Submission(name="service", spec=spec, caller=admin))
        size = sum(len(f"service line {one} of many\n") for one in range(lines))
        count("bytes of output", size)

        def written() -> bool:
            sources = ALL.sources(platform.workloads.attempts(number))
            return bool(sources) and sources[0].size(platform.logs) == size

        wait_until(written, 120)
        source = ALL.sources(platform.workloads.attempts(number))[0]
        path = platform.logs.path(number, source.name, "stdout")
        assert platform.logs.kept(number, source.name, "stdout") <= limit
        assert taken(path) <= limit + 16384  # with the blocks at both ends, and those that say where the others lie
        given = b"".join(piece.data for piece in pieces(platform.logs, [source], Position()))
        assert given.endswith(b"\nservice line %d of many\n" % (lines - 1))
        assert given.startswith(b"service line ")
        platform.workloads.stop(number, "me", "enough")
        wait_until(lambda: platform.workloads.get(number).row.state in TERMINAL, 60)
        with platform.db.read() as session:
            assert 0 < count_logs(session)[1] <= limit
        assert platform.upkeep.prune(PruneRules(logs_older_than=0), dry_run=False).log_bytes <= limit + 65536
    finally:
        platform.close()
