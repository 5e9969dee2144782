"""Asking replicas over HTTP whether they are ready: often while they start, seldom once they are.

With the standard library's client: a probe takes it half of urllib3's processor time (0.12 to 0.17 ms), and a server
that has nothing else to ask need not import that.
"""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections.abc import Callable, Hashable, Mapping
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from localml.control import asking
from localml.control.asking import MOST
from localml.control.serving.peers import stranger
from localml.control.worker import Worker
from localml.core.serving.specs import REPLICA_TOKEN

FIRST_S, LAST_S = 0.05, 1.0
READY_S = 5.0
_AGAIN_S = 0.5
_TIMEOUT_S = 3.0
_STRIKES = 3
"""So many failures in a row make a ready replica unready."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What is known of a replica; ``why`` says why it is not ready."""

    ready: bool
    why: str = ""


@dataclass(frozen=True, slots=True)
class Page:
    """A page of a replica, and the token that it is asked with.

    Attributes:
        workload: id of the replica's workload, where others could have its port; else 0.
    """

    url: str
    token: str = field(default="", repr=False)
    workload: int = 0


@dataclass(slots=True)
class _Watch:
    page: Page
    due: float = 0.0
    wait: float = FIRST_S
    strikes: int = 0
    asking: bool = False
    answer: Answer | None = None


def get(page: Page, timeout: float, most: int = MOST, *, cut: bool = False) -> tuple[int, bytes]:
    """Status and body of a page of a replica; see :func:`localml.control.asking.ask`."""
    return asking.ask(
        page.url, seconds=timeout, headers={REPLICA_TOKEN: page.token} if page.token else {}, most=most, cut=cut
    )


def ask(page: Page) -> str:
    """GET a health page. Returns nothing when it answers 2xx, else why the replica is not ready."""
    try:
        status, body = get(page, _TIMEOUT_S, 4096, cut=True)
    except (OSError, http.client.HTTPException) as error:
        return f"does not answer yet ({getattr(error, 'strerror', None) or type(error).__name__})"
    return "" if 200 <= status < 300 else f"answers {status}{_said(body)}"


def whose(page: Page) -> str:
    """Nothing when the replica itself answers, as far as that can be told; else why what answers is not it."""
    if not page.workload:
        return ""
    port = urlsplit(page.url).port or 0
    who = stranger(port, page.workload, page.token)
    return f"cannot be reached: {who} listens at its port {port}" if who else ""


def _said(body: bytes) -> str:
    try:
        error = json.loads(body)["error"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return ""
    return f": {error}" if error else ""


class Prober:
    """Watches a set of pages.

    Args:
        changed: called from a thread of this when an answer differs from the one before.
        ask: see :func:`ask`.
    """

    def __init__(
        self, changed: Callable[[], None], ask: Callable[[Page], str] = ask, executor: Executor | None = None
    ) -> None:
        self._changed = changed
        self._ask = ask
        self._executor = executor or ThreadPoolExecutor(4, "localml-probe")
        self._watched: dict[Hashable, _Watch] = {}
        self._lock = threading.Lock()
        self._worker = Worker("prober", self.tick, what="asking replicas")

    def watch(self, pages: Mapping[Hashable, Page]) -> None:
        """From now on, exactly these; what is known of one that stays is kept."""
        with self._lock:
            for key in self._watched.keys() - pages.keys():
                del self._watched[key]
            for key, page in pages.items():
                if key not in self._watched or self._watched[key].page != page:
                    self._watched[key] = _Watch(page)
        if pages:
            self._worker.start()
        self._worker.nudge()

    def answer(self, key: Hashable) -> Answer | None:
        """What is known; None when it was never asked."""
        found = self._watched.get(key)
        return found.answer if found is not None else None

    def close(self) -> None:
        """Ask no more."""
        self._worker.close()
        self._executor.shutdown(wait=False, cancel_futures=True)

    def tick(self) -> float | None:
        """Have those asked that are due. Returns the seconds until the next one is; None when answers are awaited."""
        now = time.monotonic()
        with self._lock:
            due = [(key, watch) for key, watch in self._watched.items() if watch.due <= now and not watch.asking]
            for _, watch in due:
                watch.asking = True
            waits = [watch.due - now for watch in self._watched.values() if not watch.asking]
        for key, watch in due:
            self._executor.submit(self._one, key, watch)
        return min(waits, default=None)

    def _one(self, key: Hashable, watch: _Watch) -> None:
        why = self._ask(watch.page)
        if not why and (watch.answer is None or not watch.answer.ready):
            why = whose(watch.page)
        with self._lock:
            before = watch.answer
            watch.asking = False
            self._take(watch, why)
            watch.due = time.monotonic() + watch.wait
            known = self._watched.get(key) is watch
        self._worker.nudge()
        if known and watch.answer != before:
            self._changed()

    @staticmethod
    def _take(watch: _Watch, why: str) -> None:
        was_ready = watch.answer is not None and watch.answer.ready
        if not why:
            watch.answer, watch.strikes, watch.wait = Answer(True), 0, READY_S
            return
        watch.strikes += 1
        if was_ready and watch.strikes < _STRIKES:
            watch.wait = _AGAIN_S
            return
        watch.wait = FIRST_S if was_ready else min(LAST_S, watch.wait * 1.5)
        watch.answer = Answer(False, why)
