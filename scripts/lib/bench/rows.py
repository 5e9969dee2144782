"""Lines of the table, and the small tools that every measurement needs."""

from __future__ import annotations

import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass
class Row:
    """One line of the table. ``ok`` is whether the measured value keeps the budget; no budget, no verdict."""

    what: str
    measured: str
    budget: str
    floor: str
    ok: bool


def ms(seconds: float) -> str:
    """Seconds as they are shown."""
    return f"{seconds * 1000:.2f} ms"


def times(ratio: float) -> str:
    """A ratio as it is shown."""
    return f"{ratio:.2f} times"


def skipped(what: str, why: str) -> Row:
    """A line for what cannot be measured here."""
    return Row(what, "skipped", "", why[:80], True)


def percentile(values: list[float], share: float) -> float:
    """The value that ``share`` (0 to 1) of all values do not pass."""
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]


def timed(act: Callable[[], Any]) -> float:
    """Seconds of one call."""
    begin = time.perf_counter()
    act()
    return time.perf_counter() - begin


@contextmanager
def folder() -> Iterator[Path]:
    """A folder that is thrown away."""
    path = Path(tempfile.mkdtemp(prefix="localml-bench-"))
    try:
        yield path
    finally:
        for _ in range(20):  # what ends just now may still write
            shutil.rmtree(path, ignore_errors=True)
            if not path.exists():
                break
            time.sleep(0.05)


def from_threads(threads: int, each: int, act: Callable[[int, int], float]) -> tuple[list[float], float]:
    """What ``act(thread, number)`` returned ``each`` times on so many threads at once, and calls per second."""
    found: list[list[float]] = [[] for _ in range(threads)]
    failed: list[Exception] = []

    def work(k: int) -> None:
        try:
            for n in range(each):
                found[k].append(act(k, n))
        except Exception as error:
            failed.append(error)

    workers = [threading.Thread(target=work, args=(k,)) for k in range(threads)]
    begin = time.perf_counter()
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    spent = time.perf_counter() - begin
    if failed:
        raise failed[0]
    return [one for some in found for one in some], threads * each / spent
