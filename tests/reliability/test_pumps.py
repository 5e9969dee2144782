"""Whatever fails while output is carried over, no job waits for it for ever, and nothing is lost that can be had."""

from __future__ import annotations

import errno
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from helpers.counts import count
from helpers.rig import wait_until

from localml.control.jobs.pumps import PATIENCE_S, LogPumps
from localml.core.clock import ManualClock
from localml.core.logs.files import LogStore
from localml.core.logs.writer import LogWriter
from localml.engines.base import EngineError, EngineUnreachable, LogChunk, ReplicaPlan, Stream
from localml.engines.fake.engine import FakeEngine

TEXT = "hello\n" * 100


class Bench:
    """Pumps over a fake engine, on threads, with pauses that take no time and a clock that the test moves."""

    def __init__(self, data: Path) -> None:
        self.clock = ManualClock()
        self.engine = FakeEngine(self.clock)
        self.store = LogStore(data)
        self.told: list[tuple[str, str]] = []
        self.deaf = False
        self.pauses: list[float] = []
        self._closing = threading.Event()
        self.pumps = LogPumps(
            self.engine,
            self.store,
            done=lambda: None,
            changed=lambda _: None,
            tell=self._tell,
            clock=self.clock.now,
            wait=self._wait,
        )

    def _tell(self, workload_id: int, name: str, reason: str, words: str) -> bool:
        assert workload_id == 1
        if not self.deaf:
            self.told.append((reason, words))
        return not self.deaf

    def _wait(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self._closing.wait(0.001)

    def start(self, name: str = "a", **env: str) -> None:
        self.engine.start(ReplicaPlan(name, "image", env={"FAKE_OUTPUT": TEXT, **env}))
        self.pumps.ensure(1, name)

    def reasons(self) -> Counter[str]:
        return Counter(reason for reason, _ in self.told)

    def kept(self, name: str = "a") -> bytes:
        return self.store.read(1, name, "stdout", 0, 1 << 20)

    def wait_given_up(self, name: str = "a") -> None:
        """Ask as the loop does, every few seconds of the clock, until the pump gives up."""
        steps = 0

        def over() -> bool:
            nonlocal steps
            steps += 1
            self.clock.advance(5)
            return self.pumps.drained(name)

        wait_until(over)
        assert steps * 5 >= PATIENCE_S

    def close(self) -> None:
        self._closing.set()
        self.engine.close()
        self.pumps.close()


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path)
    yield made
    made.close()


ERRORS = [EngineError("500: something broke"), RuntimeError("oops"), ValueError("I/O operation on closed file")]


@pytest.mark.parametrize("error", [*ERRORS, EngineUnreachable("away")], ids=lambda error: type(error).__name__)
def test_one_failure_costs_nothing(bench: Bench, error: Exception) -> None:
    bench.engine.fail_next("logs", error)
    bench.start(FAKE_SECONDS="0")
    wait_until(lambda: bench.pumps.drained("a"))
    assert bench.kept() == TEXT.encode()
    assert not bench.told
    count("faults injected")


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_failures_in_a_row_are_told_once_with_growing_pauses_and_so_is_their_end(
    bench: Bench, error: Exception
) -> None:
    bench.engine.fail_next("logs", error, times=10)
    bench.start(FAKE_SECONDS="0")
    wait_until(lambda: bench.pumps.drained("a"))
    assert bench.kept() == TEXT.encode()
    assert bench.reasons() == {"LogStalled": 1, "LogResumed": 1}
    assert str(error) in bench.told[0][1]
    assert bench.pauses == sorted(bench.pauses)
    assert bench.pauses[-1] > 5 * bench.pauses[0]
    count("faults injected", 10)


@pytest.mark.parametrize("error", [*ERRORS, EngineUnreachable("no answer in time")], ids=lambda e: type(e).__name__)
def test_an_engine_that_answers_and_never_gives_the_output_is_not_waited_for_for_ever(
    bench: Bench, error: Exception
) -> None:
    bench.engine.fail_next("logs", error, times=1_000_000)
    bench.start(FAKE_SECONDS="0")
    wait_until(lambda: len(bench.pauses) > 1)
    bench.wait_given_up()
    (words,) = [words for reason, words in bench.told if reason == "LogIncomplete"]
    assert str(error) in words
    assert "behind 0 bytes of stdout" in words
    count("faults injected")


def test_while_the_container_runs_nothing_is_given_up(bench: Bench) -> None:
    bench.engine.fail_next("logs", EngineError("500"), times=50)
    bench.start()
    for _ in range(40):
        bench.clock.advance(60)
    wait_until(lambda: bench.kept() == TEXT.encode())
    bench.engine.finish("a")
    wait_until(lambda: bench.pumps.drained("a"))
    assert "LogIncomplete" not in bench.reasons()


def test_an_engine_that_is_away_is_waited_for(bench: Bench) -> None:
    bench.start()
    wait_until(lambda: bench.kept() == TEXT.encode())
    bench.engine.write("a", "stdout", b"more")
    bench.engine.finish("a")
    bench.engine.unreachable = True
    fresh = Bench(Path(bench.store.path(1, "b", "stdout").parents[2]))
    fresh.engine = bench.engine
    fresh.pumps._engine = bench.engine
    fresh.pumps.ensure(1, "b")
    for _ in range(100):
        before = len(fresh.pauses)
        wait_until(lambda before=before: len(fresh.pauses) > before)
        fresh.clock.advance(20)
        assert not fresh.pumps.drained("b")
    assert not fresh.told
    fresh.close()


class Hanging(FakeEngine):
    """Its readings give what there is by now and then nothing more, not even an end, as often as it is told."""

    def __init__(self, clock: ManualClock) -> None:
        super().__init__(clock)
        self.hangs = 1_000_000
        self.closed = threading.Event()

    def logs(self, name: str, since: Mapping[Stream, int], *, follow: bool, place: str = "") -> Iterator[LogChunk]:
        self.hangs -= 1
        return super().logs(name, since, follow=follow) if self.hangs < 0 else _Stuck(self.closed)

    def close(self) -> None:
        self.closed.set()
        super().close()


class _Stuck(Iterator[LogChunk]):
    def __init__(self, closed: threading.Event) -> None:
        self._closed = closed
        self._over = threading.Event()

    def __next__(self) -> LogChunk:
        while not self._closed.is_set() and not self._over.wait(0.005):
            pass
        raise StopIteration

    def close(self) -> None:
        self._over.set()


@pytest.mark.parametrize("hangs", [1, 3])
def test_a_reading_that_hangs_is_begun_again(bench: Bench, hangs: int) -> None:
    bench.engine = bench.pumps._engine = engine = Hanging(bench.clock)
    engine.hangs = hangs
    bench.start(FAKE_SECONDS="0")
    assert not bench.pumps.drained("a")
    for number in range(hangs):
        wait_until(lambda number=number: engine.hangs == hangs - number - 1)
        bench.clock.advance(5 << number)
        bench.pumps.drained("a")
    wait_until(lambda: bench.pumps.drained("a"))
    assert bench.kept() == TEXT.encode()
    assert not bench.told
    count("faults injected", hangs)


def test_a_reading_that_always_hangs_is_given_up(bench: Bench) -> None:
    bench.engine = bench.pumps._engine = Hanging(bench.clock)
    bench.start(FAKE_SECONDS="0")
    bench.wait_given_up()
    assert bench.reasons() == {"LogIncomplete": 1}
    count("faults injected")


def test_a_container_that_is_gone_before_its_output_was_complete_is_told(bench: Bench) -> None:
    bench.start()
    wait_until(lambda: bench.kept() == TEXT.encode())
    bench.engine.lose("a")
    wait_until(lambda: bench.pumps.drained("a"))
    assert bench.reasons() == {"LogIncomplete": 1}
    assert "gone" in bench.told[0][1]
    assert "600 bytes of stdout" in bench.told[0][1]


def test_what_cannot_be_told_is_told_later(bench: Bench) -> None:
    bench.deaf = True
    bench.engine.fail_next("logs", EngineError("500"), times=50)
    bench.start()
    wait_until(lambda: len(bench.pauses) > 5)
    bench.deaf = False
    wait_until(lambda: bench.reasons()["LogResumed"] == 1)
    bench.deaf = True
    bench.engine.lose("a")
    wait_until(lambda: len(bench.pauses) > 55)
    assert not bench.pumps.drained("a")
    bench.deaf = False
    wait_until(lambda: bench.pumps.drained("a"))
    assert bench.reasons() == {"LogStalled": 1, "LogResumed": 1, "LogIncomplete": 1}


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EROFS])
def test_a_disk_that_cannot_be_written_is_waited_for(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def fail(*_: object) -> None:
        raise OSError(number, "no")

    with monkeypatch.context() as patch:
        patch.setattr(LogWriter, "append", fail)
        bench.start(FAKE_SECONDS="0")
        for _ in range(40):
            before = len(bench.pauses)
            wait_until(lambda before=before: len(bench.pauses) > before)
            bench.clock.advance(20)
            assert not bench.pumps.drained("a")
        assert bench.reasons() == {"LogStalled": 1}
    wait_until(lambda: bench.pumps.drained("a"))
    assert bench.kept() == TEXT.encode()
    assert bench.reasons() == {"LogStalled": 1, "LogResumed": 1}
    count("faults injected", 40)


def test_a_thread_that_cannot_be_started_is_tried_again(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        bench.start(FAKE_SECONDS="0")
        bench.pumps.ensure(1, "a")
        assert bench.reasons() == {"LogStalled": 1}
        assert not bench.pumps.drained("a")
    bench.pumps.ensure(1, "a")
    wait_until(lambda: bench.pumps.drained("a"))
    assert bench.kept() == TEXT.encode()
    assert bench.reasons() == {"LogStalled": 1, "LogResumed": 1}


def test_a_container_never_has_two_pumps(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[threading.Thread] = []
    both = threading.Barrier(2)

    class Late(threading.Thread):
        def __init__(self, *args: object, **rest: object) -> None:
            super().__init__(*args, **rest)  # type: ignore[arg-type]
            if self.name == "log-a":
                made.append(self)
                with pytest.raises(threading.BrokenBarrierError):
                    both.wait(0.2)

    monkeypatch.setattr("localml.control.jobs.pumps.threading.Thread", Late)
    bench.engine.start(ReplicaPlan("a", "image", env={"FAKE_OUTPUT": TEXT, "FAKE_SECONDS": "0"}))
    with ThreadPoolExecutor(2) as threads:
        list(threads.map(lambda _: bench.pumps.ensure(1, "a"), range(2)))
    wait_until(lambda: bench.pumps.drained("a"))
    assert len(made) == 1
    assert bench.kept() == TEXT.encode()


def test_nothing_is_written_after_what_was_given_up(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.engine = bench.pumps._engine = Hanging(bench.clock)
    late = threading.Event()

    def given(reading: _Stuck) -> LogChunk:
        late.wait(30)
        return LogChunk("stdout", b"late", 0.0)

    monkeypatch.setattr(_Stuck, "__next__", given)
    bench.start(FAKE_SECONDS="0")
    thread = bench.pumps._active["a"].thread
    bench.wait_given_up()
    late.set()
    assert thread is not None
    thread.join(30)
    assert not thread.is_alive()
    assert bench.kept() == b""


def test_a_gap_is_told_before_what_is_behind_it_is_kept_and_places_are_kept_too(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    places: list[str] = []

    def logs(name: str, since: Mapping[Stream, int], *, follow: bool, place: str = "") -> Iterator[LogChunk]:
        places.append(place)
        if not place:
            yield LogChunk("stdout", b"", 0.0, place="p1", gap="rotated")
            yield LogChunk("stdout", b"", 0.0, place="p1", gap="rotated again")
            raise EngineError("broken off")
        yield LogChunk("stdout", b"behind", 0.0)

    bench.deaf = True
    monkeypatch.setattr(bench.engine, "logs", logs)
    bench.start(FAKE_SECONDS="0")
    wait_until(lambda: len(places) > 3)
    assert set(places) == {""}
    bench.deaf = False
    wait_until(lambda: bench.pumps.drained("a"))
    assert places[-1] == "p1"
    assert bench.kept() == b"behind"
    assert (
        "LogIncomplete",
        "output may be missing behind 0 bytes of stdout and 0 bytes of stderr: rotated",
    ) in bench.told


def test_the_engine_may_forget_what_is_safely_on_disk(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[Mapping[Stream, int]] = []
    synced: list[int] = []
    monkeypatch.setattr("os.fdatasync", synced.append)
    monkeypatch.setattr(bench.engine, "carried", lambda _, upto: said.append(upto))
    bench.start(FAKE_OUTPUT="")
    for _ in range(20):
        bench.engine.write("a", "stdout", b"x" * (1 << 20))
    bench.engine.finish("a")
    wait_until(lambda: bench.pumps.drained("a"))
    assert [upto["stdout"] >> 20 for upto in said] == [8, 16]
    assert len(synced) == 2


def test_closing_ends_the_threads(bench: Bench) -> None:
    bench.start("a")
    bench.start("b")
    threads = [pump.thread for pump in bench.pumps._active.values()]
    bench.engine.close()
    bench.pumps.close()
    assert not any(thread.is_alive() for thread in threads if thread is not None)
    bench.pumps.ensure(1, "c")
    assert not bench.pumps._active.keys() - {"a", "b"}
