"""Retention runs by itself: by age and size, and when the disk is short of room; it says before what goes, and why."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.counts import count
from helpers.people import add_workspaces
from sqlmodel import Session, col, func, select

from localml.config import Config, load
from localml.control.watch import rotation
from localml.control.watch.rotation import KEPT_BACKUPS, rotate_logs, thin_backups
from localml.control.watch.upkeep import HOUR_S, LOOK_S, NEAR_S, Upkeep, floor, rules
from localml.core.clock import ManualClock
from localml.core.errors import Code, LocalmlError
from localml.core.events.records import Events, record_event
from localml.core.events.tables import Event
from localml.core.logs.files import LogStore
from localml.core.logs.services import service_limit
from localml.core.people.identity import Caller
from localml.core.prune import DAY, taken
from localml.core.room import Disk, disk_of
from localml.core.subjects import PLATFORM, Subject
from localml.core.work.specs import single
from localml.core.work.states import State
from localml.core.work.tables import Attempt, Workload
from localml.core.work.workloads import Submission, Workloads
from localml.store.database import Database
from localml.store.schema import prepare

ME = Caller(1, "me", True, "p", "default")
MIB = 1 << 20
GIB = 1 << 30
TOTAL = 200 * MIB
FLOOR = 40 * MIB


class House:
    """A data directory on a disk of the test's choosing: what lies in ``logs`` takes room on it, and ``others`` do."""

    def __init__(self, data: Path, **settings: object) -> None:
        self.data = data
        self.db = Database(prepare(data))
        add_workspaces(self.db, "p")
        self.clock = ManualClock()
        self.workloads = Workloads(self.db, self.clock)
        self.logs = LogStore(data)
        self.others = 0
        self.config = Config(data=data, **({"free_disk": FLOOR} | settings))  # type: ignore[arg-type]
        self.upkeep = Upkeep(self.db, data, self.config, self.clock, disk=self.disk)

    def disk(self) -> Disk:
        used = sum(taken(path) for path in (self.data / "logs").rglob("*") if path.is_file())
        return Disk(TOTAL, TOTAL - used - self.others)

    def make(self, name: str, mib: int, *, ended_days_ago: float | None = None, service: bool = False) -> int:
        spec = single(["true"], until_stopped=service)
        number = self.workloads.submit(Submission(name=name, spec=spec, caller=ME))
        self.db.write(lambda session: self._fill(session, number, ended_days_ago))
        self.write(number, mib)
        return number

    def _fill(self, session: Session, number: int, ended_days_ago: float | None) -> None:
        row = session.get_one(Workload, number)
        if ended_days_ago is not None:
            row.state, row.cleaned = State.SUCCEEDED, True
            row.ended_at = self.clock.now() - ended_days_ago * DAY
        session.add(Attempt(workload_id=number, role="main", index=0, number=1, name=f"a{number}", created_at=1))

    def write(self, number: int, mib: int, name: str = "") -> None:
        path = self.logs.path(number, name or f"a{number}", "stdout")
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab") as file:
            file.write((b"x" * 1023 + b"\n") * 1024 * mib)
        count("bytes of output", mib * MIB)

    def kept(self, number: int) -> int:
        return self.logs.kept(number, f"a{number}", "stdout")

    def told(self, subject: Subject = PLATFORM) -> list[str]:
        return [event.reason for event in Events(self.db).of(subject) if event.reason != "Submitted"]

    def words(self) -> list[str]:
        return [event.message for event in Events(self.db).of(PLATFORM)]


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    made = House(tmp_path)
    yield made
    made.db.close()


def test_old_output_goes_by_itself_and_an_event_says_so_before(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    old, young = house.make("old", 2, ended_days_ago=31), house.make("young", 1, ended_days_ago=29)
    before: list[int] = []
    unlink = Path.unlink

    def noticed(path: Path, missing_ok: bool = False) -> None:
        before.append(house.told().count("Pruning"))
        unlink(path, missing_ok)

    monkeypatch.setattr(Path, "unlink", noticed)
    assert house.upkeep.tick() == LOOK_S
    assert (house.kept(old), house.kept(young)) == (0, MIB)
    assert set(before) == {1}
    assert house.told() == ["Pruning", "Pruned"]
    assert house.words()[0].startswith("by the rules of retention 2M of output of 1 workload(s)")
    house.clock.advance(2 * DAY)
    house.upkeep.tick()
    assert house.kept(young) == 0


def test_rules_are_looked_at_once_an_hour_and_nothing_is_said_when_nothing_goes(house: House) -> None:
    young = house.make("young", 1, ended_days_ago=29.99)
    house.upkeep.tick()
    house.clock.advance(HOUR_S - 1)
    house.upkeep.tick()
    assert (house.kept(young), house.told()) == (MIB, [])
    house.clock.advance(1)
    house.upkeep.tick()
    assert house.kept(young) == 0


def test_of_too_much_output_the_oldest_goes(tmp_path: Path) -> None:
    house = House(tmp_path, keep_logs=3 * MIB)
    numbers = [house.make(f"w{age}", 2, ended_days_ago=age) for age in (3, 1, 2)]
    house.upkeep.tick()
    assert [house.kept(number) // MIB for number in numbers] == [0, 2, 0]
    house.db.close()


def test_records_go_with_age_and_the_database_shrinks(tmp_path: Path) -> None:
    house = House(tmp_path, keep_jobs_days=10, keep_events_days=20)
    old, young = house.make("old", 0, ended_days_ago=11), house.make("young", 0, ended_days_ago=9)
    service = house.make("service", 0, service=True)

    def chatter(session: Session) -> None:
        for age in range(30_000):
            at = house.clock.now() - 21 * DAY + age * 60
            record_event(session, Subject.workload(service), "Told", "something happened " * 20, now=at)

    house.db.write(chatter)
    house.upkeep.tick()
    with house.db.read() as session:
        assert set(session.exec(select(Workload.id))) == {young, service}
        oldest = session.exec(select(func.min(col(Event.at))).where(col(Event.reason) == "Told")).one()
    assert old < young
    assert 0 <= oldest - (house.clock.now() - 20 * DAY) <= 60
    assert house.told() == ["Pruning", "Pruned"]
    house.clock.advance(60 * DAY)
    house.upkeep.tick()
    assert house.told()[-2:] == ["Pruning", "Pruned"]
    assert "the database is" in house.words()[-1]


def test_earlier_tries_of_a_service_keep_only_the_last_of_their_output(tmp_path: Path) -> None:
    house = House(tmp_path, service_logs=2 * MIB)
    number = house.make("service", 1, service=True)

    def more_tries(session: Session) -> None:
        session.get_one(Workload, number).attempt = 7
        for one in range(2, 8):
            name, over = f"t{one}", one < 7
            session.add(
                Attempt(workload_id=number, role="main", index=0, number=one, name=name, created_at=1, removed=over)
            )

    house.db.write(more_tries)
    for one in range(2, 8):
        house.write(number, 1, f"t{one}")
    house.upkeep.tick()
    kept = [one for one in range(2, 8) if house.logs.size(number, f"t{one}", "stdout")]
    assert kept == [5, 6, 7]


def test_on_a_full_disk_what_ended_goes_first_then_services_then_jobs(house: House) -> None:
    old, young = house.make("old", 8, ended_days_ago=3), house.make("young", 8, ended_days_ago=1)
    service, job = house.make("service", 30, service=True), house.make("job", 20)
    house.upkeep.tick()
    assert house.told() == []

    house.others = house.disk().free - FLOOR + 4096  # a little too much
    house.write(service, 1)
    assert house.upkeep.tick() == NEAR_S
    assert [house.kept(one) // MIB for one in (old, young, service, job)] == [0, 0, 31, 20]
    assert house.told() == ["Pruning", "Pruned"]
    assert house.disk().free >= FLOOR

    house.others += house.disk().free - FLOOR + MIB
    house.upkeep.tick()
    assert [house.kept(one) // MIB for one in (service, job)] == [0, 20]
    assert house.told(Subject.workload(service)) == ["OutputTrimmed"]
    assert house.told(Subject.workload(job)) == []

    house.others += house.disk().free - FLOOR + MIB
    house.upkeep.tick()
    assert house.kept(job) <= MIB
    assert house.told(Subject.workload(job)) == ["OutputTrimmed"]
    assert house.logs.size(job, f"a{job}", "stdout") == 20 * MIB


def test_when_there_is_no_more_to_give_back_that_is_said_once(house: House) -> None:
    house.others = TOTAL - FLOOR + MIB
    for _ in range(3):
        assert house.upkeep.tick() == NEAR_S
    assert house.told() == ["Pruning", "DiskFull"]
    job = house.make("job", 1, ended_days_ago=0.1)
    house.upkeep.tick()
    assert house.kept(job) == 0
    house.others = 0
    assert house.upkeep.tick() == LOOK_S
    house.others = TOTAL - FLOOR + MIB
    house.upkeep.tick()
    assert house.told().count("DiskFull") == 2


def test_room_is_made_also_when_the_event_has_no_room(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    ended, job = house.make("ended", 8, ended_days_ago=3), house.make("job", 20)
    house.others = house.disk().free - FLOOR + 12 * MIB
    write = house.db.write

    def full(act: object) -> None:
        raise LocalmlError(Code.STORAGE, "the database could not be written (database or disk is full)")

    monkeypatch.setattr(house.db, "write", full)
    with pytest.raises(LocalmlError, match="disk is full"):
        house.upkeep.tick()  # the file is gone, its row could not be told so
    house.upkeep.tick()
    monkeypatch.setattr(house.db, "write", write)
    assert house.kept(ended) == 0
    assert house.kept(job) <= MIB


def test_defaults_fit_the_disk() -> None:
    config = Config(data=Path("data"))
    assert [floor(config, Disk(total, 0)) for total in (GIB, 20 * GIB, 100 * GIB, 10_000 * GIB)] == [
        GIB // 2,
        GIB,
        2 * GIB,
        10 * GIB,
    ]
    assert [rules(config, Disk(total, 0)).keep_log_bytes for total in (100 * GIB, 10_000 * GIB)] == [10 * GIB, 50 * GIB]
    endless = Config(data=Path("data"), keep_logs_days=float("inf"))
    assert rules(endless, Disk(GIB, 0)).logs_older_than is None


def test_a_floor_above_half_of_the_disk_is_refused(house: House) -> None:
    """It would cost all output there is."""
    config = Config(data=house.data, free_disk=100 << 40)
    with pytest.raises(LocalmlError, match="free-disk: at most half of the disk, 50G, not 100T"):
        Upkeep(house.db, house.data, config, house.clock, disk=lambda: Disk(100 * GIB, 50 * GIB))


def test_what_the_disk_says(tmp_path: Path) -> None:
    found = disk_of(tmp_path)
    assert 0 < found.free <= found.total


def test_who_keeps_only_the_last_part(house: House) -> None:
    limit = service_limit(house.db, 5)
    assert limit(house.make("service", 0, service=True)) == 5
    assert limit(house.make("job", 0)) is None
    assert limit(4711) is None


def test_a_view_is_json_whatever_the_rules_are(tmp_path: Path) -> None:
    house = House(tmp_path, keep_events_days=float("inf"))
    json.dumps(house.upkeep.view(), allow_nan=False)
    assert house.upkeep.view()["floor"] == FLOOR
    house.db.close()


def test_the_servers_log_begins_anew_and_its_last_part_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rotation, "MOST_LOG", 10_000)
    log = tmp_path / "server.log"
    with log.open("ab") as writer:
        for number in range(400):
            writer.write(b"%04d what the server said\n" % number)
        writer.flush()
        rotate_logs(tmp_path)
        writer.write(b"it goes on\n")
    logging.getLogger("localml").info("and nobody holds the log")
    assert log.read_bytes() == b"it goes on\n"
    before = (tmp_path / "server.log.1").read_bytes().splitlines()
    assert before[-1] == b"0399 what the server said"
    assert 150 < len(before) < 200
    rotate_logs(tmp_path)
    assert log.read_bytes() == b"it goes on\n"


def test_of_copies_from_before_upgrades_the_newest_stay_and_those_that_were_asked_for(tmp_path: Path) -> None:
    folder = tmp_path / "backups"
    folder.mkdir()
    for number in range(8):
        path = folder / f"before-0006-from-0005-2026010{number}-000000.db"
        path.touch()
        os.utime(path, (number, number))
    (folder / "localml-20200101-000000.db").touch()
    thin_backups(tmp_path)
    found = sorted(path.name for path in folder.iterdir())
    assert len(found) == KEPT_BACKUPS + 1
    assert found[0].endswith("-20260103-000000.db")


@pytest.mark.parametrize(
    ("name", "value", "field"),
    [
        ("KEEP_LOGS_DAYS", "-1", "keep-logs-days"),
        ("KEEP_EVENTS_DAYS", "nan", "keep-events-days"),
        ("KEEP_JOBS_DAYS", "soon", "LOCALML_KEEP_JOBS_DAYS"),
        ("SERVICE_LOGS", "1K", "service-logs"),
        ("FREE_DISK", "much", "LOCALML_FREE_DISK"),
    ],
)
def test_settings_that_make_no_sense_are_named(name: str, value: str, field: str) -> None:
    with pytest.raises(LocalmlError) as caught:
        load({f"LOCALML_{name}": value})
    assert (caught.value.code, caught.value.field) == (Code.INVALID, field)


def test_settings_come_from_the_environment() -> None:
    found = load({"LOCALML_KEEP_LOGS_DAYS": "inf", "LOCALML_SERVICE_LOGS": "1M", "LOCALML_FREE_DISK": "5G"})
    assert rules(found, Disk(GIB, 0)).logs_older_than is None
    assert (found.service_logs, found.free_disk) == (MIB, 5 * GIB)
