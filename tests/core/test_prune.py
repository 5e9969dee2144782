"""Pruning gives room back and touches nothing that is alive."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers.people import add_workspaces
from sqlmodel import Session, col, func, select

from localml.core.clock import ManualClock
from localml.core.events.records import Events, record_event
from localml.core.events.tables import Event
from localml.core.logs.files import LogStore
from localml.core.logs.tables import LogFile
from localml.core.metrics.tables import MetricPlace, Parameter
from localml.core.people.identity import Caller
from localml.core.prune import DAY, Pruned, PruneRules, prune
from localml.core.registry.tables import Model, ModelVersion
from localml.core.series.samples import Samples
from localml.core.series.tables import Sample, Series
from localml.core.serving.tables import Endpoint, EndpointReplica, Variant
from localml.core.subjects import Noun, Subject
from localml.core.tallies import count_logs
from localml.core.work.specs import single
from localml.core.work.states import State
from localml.core.work.tables import Attempt, Workload, WorkloadDetail
from localml.core.work.workloads import Submission, Workloads
from localml.store.database import Database
from localml.store.schema import prepare

ME = Caller(1, "me", True, "p", "default")
EVERYTHING = PruneRules(logs_older_than=0, deleted_older_than=0)


class House:
    """A data directory with workloads that ended at times of the test's choosing."""

    def __init__(self, data: Path) -> None:
        self.data = data
        self.db = Database(prepare(data))
        self.clock = ManualClock()
        add_workspaces(self.db, "p")
        self.workloads = Workloads(self.db, self.clock)
        self.logs = LogStore(data)

    def make(self, name: str, *, ended_days_ago: float | None, output: bytes = b"x" * 100, depends: int = 0) -> int:
        spec = single(["true"], depends_on=(depends,) if depends else ())
        number = self.workloads.submit(Submission(name=name, spec=spec, caller=ME))
        self.db.write(lambda session: self._fill(session, number, ended_days_ago, len(output)))
        path = self.logs.path(number, f"a{number}", "stdout")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(output)
        path.with_suffix(".stdout.idx").write_bytes(b"0" * 16)
        return number

    def _fill(self, session: Session, number: int, ended_days_ago: float | None, size: int) -> None:
        row = session.get_one(Workload, number)
        if ended_days_ago is not None:
            row.state, row.cleaned = State.SUCCEEDED, True
            row.ended_at = self.clock.now() - ended_days_ago * DAY
        attempt = Attempt(
            workload_id=number, role="main", index=0, number=1, name=f"a{number}", created_at=1, removed=True
        )
        session.add(attempt)
        session.flush()
        path = self.logs.relative(number, f"a{number}", "stdout")
        about: dict[str, Any] = {"subject_kind": Noun.WORKLOAD, "subject_id": number}
        session.add(LogFile(**about, attempt_id=attempt.id, stream="stdout", path=path, size=size))
        series = Series(**about, name="loss")
        session.add(series)
        session.flush()
        session.add(Sample(series_id=series.id, at=1, value=1.0))

    def prune(self, rules: PruneRules, *, dry_run: bool = False) -> Pruned:
        return prune(self.db, self.data, rules, now=self.clock.now(), dry_run=dry_run)

    def kept(self, number: int) -> bool:
        return self.logs.size(number, f"a{number}", "stdout") > 0

    def count(self, table: type) -> int:
        with self.db.read() as session:
            return session.exec(select(func.count()).select_from(table)).one()


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    made = House(tmp_path)
    yield made
    made.db.close()


def test_old_output_goes_and_its_record_says_when(house: House) -> None:
    old, young = house.make("old", ended_days_ago=31), house.make("young", ended_days_ago=29)
    done = house.prune(PruneRules(logs_older_than=30 * DAY))
    assert (done.logs_of, done.log_files, done.log_bytes) == ([old], 2, 116)
    assert (house.kept(old), house.kept(young)) == (False, True)
    assert not (house.data / "logs" / str(old)).exists()
    with house.db.read() as session:
        marks = dict(session.exec(select(LogFile.subject_id, LogFile.pruned_at)).all())
    assert marks == {old: house.clock.now(), young: None}
    with house.db.read() as session:
        assert count_logs(session) == (1, 100)


def test_over_the_size_the_oldest_goes_first(house: House) -> None:
    numbers = [house.make(f"w{age}", ended_days_ago=age) for age in (3, 1, 2)]
    done = house.prune(PruneRules(logs_older_than=None, keep_log_bytes=250))
    assert done.logs_of == [numbers[0]]
    assert [house.kept(number) for number in numbers] == [False, True, True]


def test_what_is_alive_or_not_cleaned_up_is_never_touched(house: House) -> None:
    alive = house.make("alive", ended_days_ago=None)
    ending = house.make("ending", ended_days_ago=99)
    house.workloads.delete(ending, ME)

    def uncleaned(session: Session) -> None:
        session.get_one(Workload, ending).cleaned = False

    house.db.write(uncleaned)
    house.clock.advance(365 * DAY)
    done = house.prune(PruneRules(logs_older_than=0, keep_log_bytes=0, deleted_older_than=0))
    assert (done.logs_of, done.workloads) == ([], [])
    assert house.kept(alive)
    assert house.kept(ending)


def test_deleted_ones_lose_their_records_others_keep_them(house: House) -> None:
    gone, stays = house.make("gone", ended_days_ago=1), house.make("stays", ended_days_ago=1)
    house.workloads.delete(gone, ME)
    house.clock.advance(DAY)
    done = house.prune(PruneRules(logs_older_than=None, deleted_older_than=DAY / 2))
    assert done.workloads == [gone]
    assert not house.kept(gone)
    for table in (Workload, WorkloadDetail, Attempt, LogFile, Series, Sample):
        assert house.count(table) == 1
    with house.db.read() as session:
        assert set(session.exec(select(col(Event.subject_id)))) == {stays}


def test_what_is_of_something_else_with_the_same_number_stays(house: House) -> None:
    gone = house.make("gone", ended_days_ago=1)
    endpoint, samples = Subject.endpoint(gone), Samples(house.db)
    house.db.write(lambda session: record_event(session, endpoint, "Ready", "it is ready", now=1.0))
    samples.add(endpoint, "requests", 1.0, 1.0)
    house.workloads.delete(gone, ME)
    house.clock.advance(DAY)
    assert house.prune(EVERYTHING).workloads == [gone]
    assert [one.reason for one in Events(house.db).of(endpoint)] == ["Ready"]
    assert [line.name for line in samples.lines(endpoint)] == ["requests"]
    assert samples.lines(Subject.workload(gone)) == []


def test_a_replica_and_a_job_that_wrote_a_model_can_be_forgotten(house: House) -> None:
    replica, trained = house.make("d-v1-1", ended_days_ago=1), house.make("train", ended_days_ago=1)

    def serve(session: Session) -> None:
        model = Model(workspace="p", owner="me", name="d", created_at=1, updated_at=1)
        endpoint = Endpoint(
            dialect="native",
            workspace="p",
            owner="me",
            name="d",
            route="d",
            pool="",
            spec="{}",
            created_at=1,
            updated_at=1,
        )
        session.add_all([model, endpoint])
        session.flush()
        version = ModelVersion(
            model_id=model.id, number=1, owner="me", source="s3://b/d", format="onnx", runtime="onnx-server",
            path="models/1/v1", size=1, checksum="", workload_id=trained, created_at=1,
        )  # fmt: skip
        variant = Variant(endpoint_id=endpoint.id, name="v1", spec="{}", weight=100, created_at=1)
        session.add_all([version, variant])
        session.flush()
        row = EndpointReplica(endpoint_id=endpoint.id, variant_id=variant.id, workload_id=replica, created_at=1)
        session.add(row)

    house.db.write(serve)
    for number in (replica, trained):
        house.workloads.delete(number, ME)
    house.clock.advance(1)
    assert house.prune(EVERYTHING).workloads == [replica, trained]
    assert (house.count(Workload), house.count(EndpointReplica), house.count(ModelVersion)) == (0, 0, 1)


def test_what_somebody_waits_for_stays(house: House) -> None:
    wanted = house.make("wanted", ended_days_ago=1)
    house.make("waits", ended_days_ago=None, depends=wanted)
    house.workloads.delete(wanted, ME)
    house.clock.advance(DAY)
    assert house.prune(EVERYTHING).workloads == []


def test_a_dry_run_says_what_would_go_and_changes_nothing(house: House) -> None:
    first, second = house.make("a", ended_days_ago=5), house.make("b", ended_days_ago=5)
    house.workloads.delete(second, ME)
    house.clock.advance(1)
    would = house.prune(EVERYTHING, dry_run=True)
    assert (house.kept(first), house.kept(second), house.count(Workload)) == (True, True, 2)
    did = house.prune(EVERYTHING)
    assert (would.logs_of, would.workloads, would.log_bytes) == (did.logs_of, did.workloads, did.log_bytes)
    again = house.prune(EVERYTHING)
    assert (again.logs_of, again.workloads, again.log_bytes) == ([], [], 0)


def test_an_empty_folder_of_a_live_workload_stays(house: House) -> None:
    live = house.make("live", ended_days_ago=None)
    folder = house.data / "logs" / str(live)
    for path in folder.iterdir():
        path.unlink()
    forgotten = house.data / "logs" / "99"
    assert house.prune(EVERYTHING).folders == 0
    assert folder.exists()
    assert not forgotten.exists()


def test_what_refers_to_what_is_pruned_has_an_index(house: House) -> None:
    """Without one the database looks at all rows of the referring table for each row that goes."""
    pruned, missing = {"workload", "attempt", "series"}, []
    with house.db.read_raw() as raw:
        tables = [row[0] for row in raw.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        for table in tables:
            indexes = [row[1] for row in raw.execute(f"PRAGMA index_list({table})")]
            first = {raw.execute(f"PRAGMA index_info({index})").fetchone()[2] for index in indexes}
            key = [row[1] for row in raw.execute(f"PRAGMA table_info({table})") if row[5] == 1]
            for reference in raw.execute(f"PRAGMA foreign_key_list({table})").fetchall():
                if reference[2] in pruned and reference[3] not in first | set(key):
                    missing.append(f"{table}.{reference[3]}")
    assert missing == []


def test_what_was_read_of_a_job_goes_with_its_records(house: House) -> None:
    gone, stays = house.make("gone", ended_days_ago=2), house.make("stays", ended_days_ago=2)

    def report(session: Session) -> None:
        for number in (gone, stays):
            session.add(MetricPlace(workload_id=number, places={}))
            session.add(Parameter(workload_id=number, name="lr", value="0.1"))

    house.db.write(report)
    house.workloads.delete(gone, ME)
    prune(house.db, house.data, EVERYTHING, now=house.clock.now() + 1)
    with house.db.read() as session:
        assert list(session.exec(select(MetricPlace.workload_id))) == [stays]
        assert list(session.exec(select(Parameter.workload_id))) == [stays]
