"""Those who follow something are woken by its changes, and by no others."""

from __future__ import annotations

import threading

import pytest

from localml.core.events import feed as feeds
from localml.core.events.feed import Feed
from localml.core.subjects import Subject

JOB = Subject.workload(1)


def test_a_follower_wakes_for_a_change_and_for_the_end() -> None:
    feed = Feed()
    seen = feed.version(JOB)
    threading.Timer(0.01, lambda: feed.changed(JOB)).start()
    assert feed.wait(JOB, seen, timeout=60)
    assert not feed.wait(JOB, feed.version(JOB), timeout=0.01)
    assert feed.wait(JOB, seen, timeout=60)
    threading.Timer(0.01, feed.close).start()
    assert not feed.wait(JOB, feed.version(JOB), timeout=60)
    assert feed.closed


def test_an_endpoint_and_a_workload_of_one_number_are_two() -> None:
    feed = Feed()
    seen = feed.version(JOB)
    feed.changed(Subject.endpoint(1))
    assert not feed.wait(JOB, seen, timeout=0.01)


def test_no_change_is_missed_when_the_oldest_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feeds, "_MOST", 10)
    feed = Feed()
    before = [(subject := Subject.workload(number), feed.version(subject)) for number in range(50)]
    for subject, _ in before:
        feed.changed(subject)
    assert all(feed.wait(subject, seen, timeout=0) for subject, seen in before)
    assert len(feed._versions) <= 10
    assert not feed.wait(Subject.workload(49), feed.version(Subject.workload(49)), timeout=0.01)


def test_a_watcher_is_told_once_of_a_change_that_came_or_comes_and_of_the_end() -> None:
    feed, told = Feed(), []
    seen = feed.version(JOB)
    feed.watch(JOB, seen, lambda: told.append("first"))
    take_back = feed.watch(JOB, seen, lambda: told.append("taken back"))
    take_back()
    feed.changed(JOB)
    feed.changed(JOB)
    feed.watch(JOB, seen, lambda: told.append("at once"))
    feed.watch(JOB, feed.version(JOB), lambda: told.append("end"))
    assert told == ["first", "at once"]
    feed.close()
    feed.watch(JOB, feed.version(JOB), lambda: told.append("after the end"))
    assert told == ["first", "at once", "end", "after the end"]
