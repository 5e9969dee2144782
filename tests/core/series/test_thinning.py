"""What becomes of old points: measured ones are thinned out and go, posted ones stay."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.rig import Rig
from hypothesis import given
from hypothesis import strategies as st
from sqlmodel import Session, col, func, select

from localml.core.series import thinning
from localml.core.series.samples import Point, Samples
from localml.core.series.tables import Sample, Series
from localml.core.series.thinning import HOURS, KEPT, MICRO, MINUTES, merged, thin
from localml.core.serving.tables import Endpoint, Variant, VariantSample
from localml.core.subjects import Subject

job = Subject.workload

HOUR, DAY = 3600.0, 86400.0


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    one = Rig(tmp_path)
    yield one
    one.close()


def measure(rig: Rig, samples: Samples, number: int, seconds: float, step: float = 5.0) -> None:
    """Readings of a gauge (the time of day) and of a counter (seconds so far), while the clock goes on."""
    count = int(seconds / step)
    times = [rig.clock.now() + step * index for index in range(count)]
    samples.add_many(job(number), [("gauge", at % DAY, at) for at in times], replica="w-0", measured=True)
    samples.add_many(job(number), [("counter", at, at) for at in times], replica="w-0", measured=True, cumulative=True)
    samples.flush()
    rig.clock.advance(count * step)


def points(samples: Samples, number: int, name: str) -> list[Point]:
    return samples.read(job(number))[("w-0", name)]


def test_fresh_readings_stay_as_they_are(rig: Rig) -> None:
    number, samples = rig.submit("a"), Samples(rig.db)
    measure(rig, samples, number, 2 * HOUR)
    before = samples.read(job(number))
    assert thin(rig.db, rig.clock.now()) == 0
    assert samples.read(job(number)) == before


def test_after_hours_there_is_one_point_a_minute(rig: Rig) -> None:
    number, samples = rig.submit("a"), Samples(rig.db)
    rig.clock.advance(-rig.clock.now() % HOUR)
    begin = rig.clock.now()
    measure(rig, samples, number, 10 * HOUR)
    assert thin(rig.db, rig.clock.now()) > 0
    assert thin(rig.db, rig.clock.now()) == 0  # the work is done, and is not done again
    cutoff = rig.clock.now() - MINUTES.age / MICRO
    for name in ("gauge", "counter"):
        old = [point for point in points(samples, number, name) if point.at < cutoff]
        new = [point for point in points(samples, number, name) if point.at >= cutoff]
        assert len(old) == 4 * 60
        assert len(new) == 6 * 720
    first_gauge, first_counter = points(samples, number, "gauge")[0], points(samples, number, "counter")[0]
    assert first_gauge == Point(begin + 27.5, (begin + 27.5) % DAY)  # the mean of twelve readings and of their times
    assert first_counter == Point(begin + 55, begin + 55)  # the last reading of twelve


def test_after_months_there_is_one_an_hour_and_after_a_year_none(rig: Rig) -> None:
    number, samples = rig.submit("a"), Samples(rig.db)
    rig.clock.advance(-rig.clock.now() % DAY)
    measure(rig, samples, number, 2 * DAY, step=60)
    rig.clock.advance(HOURS.age / MICRO + DAY)
    thin(rig.db, rig.clock.now())
    for name in ("gauge", "counter"):
        assert len(points(samples, number, name)) == 48
    rig.clock.advance(KEPT / MICRO)
    thin(rig.db, rig.clock.now())
    assert samples.read(job(number)) == {}
    with rig.db.read() as session:
        assert session.exec(select(func.count()).select_from(Series)).one() == 0
    measure(rig, samples, number, HOUR)  # the names are known to this process, but gone from the disk
    measure(rig, samples, number, HOUR)
    assert len(points(samples, number, "gauge")) >= 720


def test_a_series_that_goes_on_after_a_pause_is_thinned_out_in_time(rig: Rig) -> None:
    number, samples = rig.submit("a"), Samples(rig.db)
    measure(rig, samples, number, HOUR)
    rig.clock.advance(2 * DAY)
    thin(rig.db, rig.clock.now())
    assert len(points(samples, number, "gauge")) <= 61
    measure(rig, samples, number, HOUR)
    rig.clock.advance(8 * HOUR)
    thin(rig.db, rig.clock.now())
    assert len(points(samples, number, "gauge")) <= 2 * 61


def test_few_points_are_kept_of_readings_every_five_seconds(rig: Rig) -> None:
    number, samples = rig.submit("a"), Samples(rig.db)
    for _ in range(2):
        for hour in range(12):
            times = [rig.clock.now() + hour * HOUR + 5.0 * index for index in range(720)]
            for name in range(2):
                samples.add_many(job(number), [(f"s{name}", at, at) for at in times], replica="w-0", measured=True)
            samples.flush()
        rig.clock.advance(DAY / 2)
        thin(rig.db, rig.clock.now())
    with rig.db.read() as session:
        (count,) = session.exec(select(func.count(col(Sample.at)))).all()
    # at most six hours and the window at hand as they were, the rest a point a minute
    assert count <= 2 * (7 * 720 + 18 * 60)


def test_what_users_post_stays_as_it_was_given_however_old(rig: Rig) -> None:
    number, samples = rig.submit("a"), Samples(rig.db)
    given_points = [("loss", Point(1e9 + index, 1 / (index + 1), "", f"epoch {index}")) for index in range(500)]
    samples.add_points(job(number), given_points)
    samples.flush()
    rig.clock.advance(10 * 365 * DAY)
    thin(rig.db, rig.clock.now())
    (line,) = samples.lines(job(number))
    assert line.points == [point for _, point in given_points]


def test_a_posted_series_that_grows_without_end_is_thinned_out(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(thinning, "MOST_GIVEN", 3000)
    monkeypatch.setattr("localml.core.series.samples.CHECK_EVERY", 1000)
    number, samples = rig.submit("a"), Samples(rig.db)
    for block in range(10):
        samples.add_many(job(number), [("loss", 1.0, 1000.0 * block + index) for index in range(1000)])
        samples.add_points(
            job(number),
            [("words", Point(1000.0 * block + index, float("nan"), "x")) for index in range(1000)],
        )
        samples.flush()
        thin(rig.db, rig.clock.now())
        assert thin(rig.db, rig.clock.now()) == 0
    loss, words = samples.lines(job(number))
    assert len(loss.points) <= 4000
    assert [point.at for point in loss.points][-1000:] == [9000.0 + index for index in range(1000)]
    assert {point.value for point in loss.points} == {1.0}
    assert len(words.points) == 10_000  # there is no mean of words


def test_thinning_stops_when_told_and_goes_on_later(rig: Rig) -> None:
    number, samples = rig.submit("a"), Samples(rig.db)
    measure(rig, samples, number, 10 * HOUR)
    asked = iter([False, False, True])
    assert thin(rig.db, rig.clock.now(), lambda: next(asked)) == 2
    thin(rig.db, rig.clock.now())
    assert len(points(samples, number, "gauge")) <= 7 * 720 + 4 * 60


ROWS = st.lists(
    st.tuples(st.integers(0, 500), st.one_of(st.none(), st.floats(-1e6, 1e6))), unique_by=lambda row: row[0]
)


@given(ROWS, st.integers(1, 120), st.booleans())
def test_merging_keeps_the_span_of_values_and_one_number_for_each_width(
    values: list[tuple[int, float | None]], width: int, cumulative: bool
) -> None:
    rows = [(at, value, "" if value is None else None, None) for at, value in sorted(values)]
    found = list(merged(rows, width, cumulative=cumulative))
    times = [row[0] for row in found]
    assert times == sorted(set(times))
    assert [row for row in found if row[1] is None] == [row for row in rows if row[1] is None]
    numbers = {at // width: value for at, value, _, _ in found if value is not None}
    assert len(numbers) == sum(value is not None for _, value, _, _ in found)
    for bucket, value in numbers.items():
        inside = [number for at, number, _, _ in rows if at // width == bucket and number is not None]
        assert min(inside) - 1e-6 <= value <= max(inside) + 1e-6
        assert not cumulative or value == inside[-1]


def test_what_endpoints_did_is_kept_for_30_days(rig: Rig) -> None:
    now = rig.clock.now()

    def serve(session: Session) -> None:
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
        session.add(endpoint)
        session.flush()
        session.add(Variant(id=1, endpoint_id=endpoint.id, name="v1", spec="{}", weight=100, created_at=1))
        session.flush()
        for days in (31, 29, 0):
            session.add(
                VariantSample(variant_id=1, at=int((now - days * DAY) * 1000), requests=days, errors=0, latency=1)
            )

    rig.db.write(serve)
    thin(rig.db, now)
    with rig.db.read() as session:
        assert set(session.exec(select(col(VariantSample.requests)))) == {29, 0}
