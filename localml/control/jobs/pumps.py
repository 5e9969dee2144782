"""Log pumps: threads that carry containers' output into files, gap-free and without doubles.

The file is the truth: a pump resumes at the file's size, so a server that was killed at any moment goes on exactly
where its last completed write ended. A side file of (offset, time) pairs answers questions about time; losing its
tail costs nothing but precision.

Whatever fails is tried again, ever more slowly, and told once. Nobody waits for ever: what an engine that answers does
not give within a minute after the container's end counts as lost, which an event says.
"""

from __future__ import annotations

import errno
import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field

from localml.control.jobs.turns import Turns
from localml.core.logs.files import LogStore
from localml.core.logs.writer import LogWriter
from localml.engines.base import STREAMS, Engine, EngineError, EngineUnreachable, LogChunk, Phase

log = logging.getLogger("localml.control")

STALLED, RESUMED, INCOMPLETE = "LogStalled", "LogResumed", "LogIncomplete"
"""The reasons of events: nothing is carried at the moment; it is again; something will never be."""

PATIENCE_S = 60.0
"""So long after its container's end a pump waits for bytes from an engine that answers, counted from the last one."""

_RETRY_S, _LONGEST_RETRY_S = 0.5, 10.0
_STUCK_S = 5.0
"""A reading that gives nothing for so long after the end is begun again, then after twice that, and so on."""
_LOOKS_S = 30.0
"""Who asks more seldom whether the output is complete was kept by something else, such as an engine that is away."""
_JOIN_S = 0.5
_GAPS_S = 600.0
_FORGET = 8 << 20
"""After so many bytes the engine is told that it may forget them."""

Tell = Callable[[int, str, str, str], bool]
"""Workload, name of the attempt, reason of the event, words; whether it could be stored."""


class _Unwritable(Exception):
    """The files cannot be written; says why."""


@dataclass(eq=False)
class _Pump:
    """One container's output on its way."""

    workload_id: int
    name: str
    moved: float  # when there was a reason to wait: bytes, or an engine or a disk that was away
    chunks: Iterator[LogChunk] | None = None
    thread: threading.Thread | None = None
    writing: threading.Lock = field(default_factory=threading.Lock)
    over: bool = False  # nothing may be written any more; changes under ``writing``
    again: bool = False  # the reading was closed to be begun again
    failures: int = 0  # in a row, without a byte
    gap_told: float | None = None
    unsaid: int = 0  # bytes of which the engine was not told that they are safe
    words: str = "the engine gives nothing more"
    asked: float = 0.0  # since when its end is waited for
    looked: float = float("-inf")  # when that was asked last
    restart_after: float = _STUCK_S

    def waited(self, now: float) -> float:
        """Seconds for which nothing came since the end is waited for."""
        if now - self.looked > _LOOKS_S:
            self.asked = now
        self.looked = now
        return now - max(self.asked, self.moved)

    def close(self) -> None:
        """End the reading at this moment, if it is one that another thread can end."""
        with suppress(Exception):
            self.chunks.close()  # type: ignore[union-attr]


class LogPumps:
    """One thread per container whose output is still coming.

    Args:
        engine: where the output comes from.
        store: where it goes.
        done: called (from the pump's thread) when a container's output is complete.
        changed: called after bytes were written, so that followers wake up.
        tell: told what becomes an event. What it could not store is told again with the next failure.
        clock: monotonic seconds.
        wait: waits so many seconds, less when the pumps are closed.
    """

    def __init__(
        self,
        engine: Engine,
        store: LogStore,
        *,
        done: Callable[[], None],
        changed: Callable[[int], None],
        tell: Tell,
        clock: Callable[[], float] = time.monotonic,
        wait: Callable[[float], object] | None = None,
    ) -> None:
        self._engine = engine
        self._store = store
        self._done = done
        self._changed = changed
        self._tell = tell
        self._clock = clock
        self._lock = threading.Lock()
        self._active: dict[str, _Pump] = {}
        self._finished: set[str] = set()
        self._stalled: dict[str, int] = {}  # attempt -> workload
        self._stop = threading.Event()
        self._wait = wait or self._stop.wait
        self._turns = Turns(self._stop.wait)

    def ensure(self, workload_id: int, name: str) -> None:
        """Make sure that this container's output is being carried over; cheap to repeat."""
        if name in self._active or name in self._finished:  # in the order in which it gets there
            return
        with self._lock:
            if self._stop.is_set() or name in self._active or name in self._finished:
                return
            pump = _Pump(workload_id, name, self._clock())
            pump.thread = threading.Thread(target=self._run, args=(pump,), name=f"log-{name}", daemon=True)
            try:
                pump.thread.start()
                self._active[name] = pump
                return
            except RuntimeError as error:  # the next look tries again
                words = f"no thread to carry the output: {error}"
        self._stall(pump, words)

    def drained(self, name: str) -> bool:
        """Whether all output of this container, which has ended, is in its files; or all that there will ever be."""
        pump = self._active.get(name)
        if pump is not None and name not in self._finished:
            waited = pump.waited(self._clock())
            if waited >= PATIENCE_S:
                self._give_up(pump, f"{pump.words}; not waited for any longer")
            elif waited >= pump.restart_after:
                pump.restart_after *= 2
                pump.again = True
                pump.close()
        return name in self._finished

    def forget(self, name: str) -> None:
        """Drop the memory of a container whose end is recorded."""
        self._finished.discard(name)
        self._stalled.pop(name, None)

    def close(self) -> None:
        """Stop carrying; the next start goes on where the files end. Waits a moment for the threads; one that reads
        what cannot be closed ends with its engine, and writes nothing more."""
        with self._lock:
            self._stop.set()
            pumps = list(self._active.values())
        for pump in pumps:
            pump.close()
        end = time.monotonic() + _JOIN_S
        for pump in pumps:
            assert pump.thread is not None
            pump.thread.join(max(0.0, end - time.monotonic()))

    # -- on the pump's thread ---------------------------------------------------------------------

    def _run(self, pump: _Pump) -> None:
        pause = _RETRY_S
        while not self._stop.is_set() and not pump.over:
            try:
                phase = self._carry(pump)
                if phase is Phase.EXITED:
                    return self._finish(pump)
                if phase is Phase.GONE and self._give_up(pump, "the container is gone from the engine"):
                    return None
                if phase is None:
                    continue
                raise EngineError(f"the engine ended the output of a container that is {phase}")
            except Exception as error:
                pause = _RETRY_S if not pump.failures else min(2 * pause, _LONGEST_RETRY_S)
                self._failed(pump, error)
            self._wait(pause)

    def _carry(self, pump: _Pump) -> Phase | None:
        """Carry until the engine has no more; what the container is then. None when it was kept from it."""
        with _disk():
            writer = LogWriter(self._store, pump.workload_id, pump.name)
        with closing(writer):
            since = {stream: writer.size(stream) for stream in STREAMS}
            with _disk():
                place = writer.place
            pump.chunks = self._engine.logs(pump.name, since, follow=True, place=place)
            try:
                for chunk in pump.chunks:
                    if not self._take(pump, writer, chunk):
                        return None
            finally:
                pump.close()
                pump.chunks = None
        again, pump.again = pump.again, False
        return None if again or pump.over or self._stop.is_set() else self._engine.inspect(pump.name).phase

    def _take(self, pump: _Pump, writer: LogWriter, chunk: LogChunk) -> bool:
        pump.moved = self._clock()
        if chunk.gap:
            self._tell_of_gap(pump, chunk.gap)
        if chunk.place:
            with _disk():
                writer.note(chunk.place)
        if chunk.data:
            with self._turns.turn(len(chunk.data)), pump.writing:
                if pump.over:
                    return False
                with _disk():
                    writer.append(chunk.stream, chunk.data, chunk.at)
            pump.unsaid += len(chunk.data)
            if pump.unsaid >= _FORGET:
                self._let_forget(pump, writer)
            self._goes_on(pump)
            self._changed(pump.workload_id)
        return not self._stop.is_set()

    def _tell_of_gap(self, pump: _Pump, why: str) -> None:
        """Before what is behind it is kept. What floods for days loses output again and again: the server's log has
        each gap, the events one in a while."""
        words, now = self._missing(pump, why), self._clock()
        log.warning("%s: %s", pump.name, words)
        if pump.gap_told is not None and now - pump.gap_told < _GAPS_S:
            return
        if not self._told(pump.workload_id, pump.name, INCOMPLETE, words):
            raise EngineError(why)
        pump.gap_told = now

    def _let_forget(self, pump: _Pump, writer: LogWriter) -> None:
        pump.unsaid = 0
        with _disk():
            safe = writer.sync()
        with suppress(EngineError, EngineUnreachable):  # what is not forgotten now is with the next part
            self._engine.carried(pump.name, {stream: safe[stream] for stream in STREAMS if stream in safe})

    def _finish(self, pump: _Pump) -> None:
        self._goes_on(pump)
        with self._lock:
            pump.over = True
            self._finished.add(pump.name)
            self._active.pop(pump.name, None)
        self._done()

    # -- failures ---------------------------------------------------------------------------------

    def _failed(self, pump: _Pump, error: Exception) -> None:
        pump.failures += 1
        if isinstance(error, _Unwritable):
            words, excused = str(error), True
        else:
            words, excused = f"the engine does not give the output: {error}", not self._answers(pump.name)
            pump.words = words
        if not isinstance(error, _Unwritable | EngineError | EngineUnreachable):
            log.warning("the output of %s is not carried over", pump.name, exc_info=error)
        if excused:
            pump.moved = self._clock()
        if pump.failures > 1 and (not excused or isinstance(error, _Unwritable)):
            self._stall(pump, words)

    def _answers(self, name: str) -> bool:
        """Whether the engine answers at all: as long as it does not, nothing is concluded."""
        try:
            self._engine.inspect(name)
        except EngineUnreachable:
            return False
        except Exception:  # a refusal is an answer
            return True
        return True

    def _stall(self, pump: _Pump, words: str) -> None:
        with self._lock:
            if pump.over or pump.name in self._stalled:
                return
            known = pump.workload_id in self._stalled.values()
            self._stalled[pump.name] = pump.workload_id
        if not known and not self._told(pump.workload_id, pump.name, STALLED, words):
            with self._lock:
                self._stalled.pop(pump.name, None)

    def _goes_on(self, pump: _Pump) -> None:
        pump.failures = 0
        if pump.name not in self._stalled:
            return
        with self._lock:
            self._stalled.pop(pump.name, None)
            others = pump.workload_id in self._stalled.values()
        if not others:
            self._told(pump.workload_id, pump.name, RESUMED, "the output is carried over again")

    def _give_up(self, pump: _Pump, why: str) -> bool:
        """What there is of the output is all; told, or else tried again later. False while bytes are being written."""
        if not pump.writing.acquire(blocking=False):
            return False
        try:
            if pump.over:
                return True
            pump.over = self._told(pump.workload_id, pump.name, INCOMPLETE, self._missing(pump, why))
            if not pump.over:
                return False
        finally:
            pump.writing.release()
        with self._lock:
            self._stalled.pop(pump.name, None)
            self._finished.add(pump.name)
            self._active.pop(pump.name, None)
        pump.close()
        self._done()
        return True

    def _told(self, workload_id: int, name: str, reason: str, words: str) -> bool:
        try:
            return self._tell(workload_id, name, reason, words)
        except Exception as error:  # nobody is there to hear it: carrying is worth more than telling
            log.error("%s of %s cannot be told: %s", reason, name, error)
            return False

    def _missing(self, pump: _Pump, why: str) -> str:
        sizes = [f"{self._store.size(pump.workload_id, pump.name, stream):,} bytes of {stream}" for stream in STREAMS]
        return f"output may be missing behind {' and '.join(sizes)}: {why}"


@contextmanager
def _disk() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise _Unwritable("the disk is full: the log cannot be written and waits for room") from error
        raise _Unwritable(f"the log cannot be written: {error.strerror or error}") from error
