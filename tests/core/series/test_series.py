"""Numeric series."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.rig import Rig

from localml.core.errors import Code, LocalmlError
from localml.core.series.samples import Point, Samples
from localml.core.subjects import Subject

job = Subject.workload


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    one = Rig(tmp_path)
    yield one
    one.close()


def test_points_come_back_in_order_of_time(rig: Rig) -> None:
    number = rig.submit("a")
    samples = Samples(rig.db)
    samples.add(job(number), "loss", 0.5, 20.0)
    samples.add(job(number), "loss", 0.9, 10.0)
    samples.add(job(number), "loss", 0.7, 10.0)
    samples.add_many(job(number), [("cpu", 1.0, 5.0)], replica="worker-0")
    assert samples.read(job(number)) == {
        ("", "loss"): [Point(10.0, 0.7), Point(20.0, 0.5)],
        ("worker-0", "cpu"): [Point(5.0, 1.0)],
    }
    assert samples.read(job(number), since=15)[("", "loss")] == [Point(20.0, 0.5)]


def test_many_threads_lose_no_point(rig: Rig) -> None:
    number = rig.submit("a")
    samples = Samples(rig.db)
    threads = [
        threading.Thread(target=lambda k=k: [samples.add(job(number), f"s{k}", float(n), float(n)) for n in range(700)])
        for k in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {name: len(points) for (_, name), points in samples.read(job(number)).items()} == {
        f"s{k}": 700 for k in range(4)
    }


def test_points_wait_for_a_disk_that_is_full(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    number, samples = rig.submit("a"), Samples(rig.db)
    samples.add(job(number), "loss", 0.5, 1.0)
    write = rig.db.write

    def full(act: object) -> None:
        raise LocalmlError(Code.STORAGE, "the disk is full")

    monkeypatch.setattr(rig.db, "write", full)
    with pytest.raises(LocalmlError, match="full"):
        samples.flush()
    monkeypatch.setattr(rig.db, "write", write)
    assert samples.read(job(number)) == {("", "loss"): [Point(1.0, 0.5)]}


def test_texts_notes_and_kinds_of_series_come_back(rig: Rig) -> None:
    number, samples = rig.submit("a"), Samples(rig.db)
    given_points = [Point(1.000001, 0.1, "0.10", "first"), Point(1.000002, 2.0)]
    samples.add_points(job(number), [("loss", point) for point in given_points], cumulative=True)
    samples.add_points(job(number), [("words", Point(1.0, float("nan"), "done"))], replica="w-0")
    samples.add_many(job(number), [("loss", 3.0, 2.0)])
    loss, words = samples.lines(job(number))
    assert (loss.replica, loss.name, loss.cumulative, loss.points) == (
        "",
        "loss",
        True,
        [*given_points, Point(2.0, 3.0)],
    )
    assert words.points[0].text == "done"
    assert samples.read(job(number))[("w-0", "words")] == []
    assert [line.name for line in samples.lines(job(number), replica="w-0")] == ["words"]
    assert [line.points for line in samples.lines(job(number), name="loss", after=1.000001, last=1)] == [
        [Point(2.0, 3.0)]
    ]
    assert [line.points for line in samples.lines(job(number), name="loss", until=1.000001)] == [given_points[:1]]
