"""What keeps the data directory from growing for ever: it prunes by the rules of the settings, and sees to it that some
of the disk stays free.

Once an hour what the rules name goes, and the database shrinks. In between only the free room of the disk is asked
for: once a minute, every second where it is short. Below the floor output is given back in an order of its own
(:mod:`localml.core.room`). Each time an event says before why, and one after it what went.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import asdict
from math import isfinite
from pathlib import Path
from typing import Any

from localml.config import Config
from localml.control.watch.rotation import rotate_logs, thin_backups
from localml.control.worker import Worker
from localml.core.clock import Clock
from localml.core.errors import LocalmlError, invalid
from localml.core.events.records import record_event
from localml.core.prune import DAY, Pruned, PruneRules, prune
from localml.core.quantities import format_memory
from localml.core.room import Disk, disk_of, make_room
from localml.core.subjects import PLATFORM
from localml.store.database import Database
from localml.store.shrinking import empty_journal, shrink

log = logging.getLogger("localml.control")

HOUR_S = 3600.0
LOOK_S, NEAR_S = 60.0, 1.0
"""Seconds between two looks at the free room, and where less than :data:`NEAR` times the floor is left."""
NEAR = 4
FIRST_S = 5.0
_GIB = 1 << 30
_LEAST_FLOOR, _MOST_FLOOR, _MOST_LOGS = _GIB, 10 * _GIB, 50 * _GIB
_MOST_JOURNAL = 64 << 20


def floor(config: Config, disk: Disk) -> int:
    """Bytes of the disk that stay free: by default the fiftieth part, at least 1 GiB, for the database, whose commits
    must not fail, and what jobs are about to write; at most 10 GiB, and never more than half of a small disk."""
    if config.free_disk is not None:
        return config.free_disk
    return min(max(_LEAST_FLOOR, disk.total // 50), _MOST_FLOOR, disk.total // 2)


def rules(config: Config, disk: Disk) -> PruneRules:
    """What the settings say; of all output of what ended a tenth of the disk stays by default, at most 50 GiB."""
    kept = config.keep_logs if config.keep_logs is not None else min(disk.total // 10, _MOST_LOGS)
    return PruneRules(
        logs_older_than=_age(config.keep_logs_days),
        keep_log_bytes=kept,
        deleted_older_than=_age(config.keep_removed_days),
        jobs_older_than=_age(config.keep_jobs_days),
        events_older_than=_age(config.keep_events_days),
        tries_bytes=config.service_logs,
        code_older_than=_age(config.keep_logs_days),
    )


def _check_floor(given: int | None, disk: Disk) -> None:
    if given is not None and given > disk.total // 2:
        raise invalid(
            "free-disk", f"at most half of the disk, {format_memory(disk.total // 2)}, not {format_memory(given)}"
        )


def _age(days: float) -> float | None:
    return days * DAY if isfinite(days) else None


class Upkeep:
    """Prunes by itself, and when it is asked to.

    Args:
        disk: asked for the file system that the data directory is on.

    Raises:
        LocalmlError: ``INVALID`` when more of the disk is to stay free than half of it: a slip of a unit would cost all
            output.
    """

    def __init__(
        self,
        db: Database,
        data: Path,
        config: Config,
        clock: Clock,
        *,
        disk: Callable[[], Disk] | None = None,
    ) -> None:
        self._db = db
        self._data = data
        self._config = config
        self._clock = clock
        self._disk = disk or (lambda: disk_of(data))
        _check_floor(config.free_disk, self._disk())
        self._worker = Worker("upkeep", self.tick, what="pruning")
        self._one = threading.Lock()
        self._due = 0.0
        self._short = False  # an event said that nothing more can be given back

    def start(self) -> None:
        """Begin, once the server has answered its first requests."""
        self._worker.start(after=FIRST_S)

    def close(self) -> None:
        """Stop, between two steps."""
        self._worker.close()

    def tick(self) -> float | None:
        """Prune if it is time, make room if there is none. Returns the seconds until the next look."""
        now = self._clock.now()
        if now >= self._due or now < self._due - HOUR_S:  # or the clock was put back
            self._due = now + HOUR_S
            self._by_the_rules(now)
        disk = self._disk()
        least = floor(self._config, disk)
        if disk.free >= least:
            self._short = False
        elif not self._worker.stopping.is_set():
            self._make_room(disk, least, now)
        return NEAR_S if disk.free < NEAR * least else LOOK_S

    def prune(self, rules: PruneRules, *, dry_run: bool = False) -> Pruned:
        """What :func:`localml.core.prune.prune` does, and then the files shrink."""
        with self._one:
            stopped = self._worker.stopping.is_set
            done = prune(self._db, self._data, rules, now=self._clock.now(), dry_run=dry_run, stopped=stopped)
            if not dry_run:
                done.database_bytes = shrink(self._db, self._db.path, stopped)
        return done

    def view(self) -> dict[str, Any]:
        """The disk and the rules: ``free``, ``total``, ``floor`` in bytes, ``rules`` as they stand in a request."""
        disk = self._disk()
        return {
            "free": disk.free,
            "total": disk.total,
            "floor": floor(self._config, disk),
            "service_logs": self._config.service_logs,
            "rules": asdict(rules(self._config, disk)),
        }

    def _by_the_rules(self, now: float) -> None:
        rotate_logs(self._data)
        thin_backups(self._data)
        wanted = rules(self._config, self._disk())
        coming = self.prune(wanted, dry_run=True)
        if coming.events and not coming.some:  # of which no new events are made, hour by hour
            self.prune(wanted)
        elif coming.some:
            self._tell("Pruning", f"by the rules of retention {coming.words()} go", now)
            done = self.prune(wanted)
            more = f"; the database is {format_memory(done.database_bytes)} smaller" if done.database_bytes else ""
            self._tell("Pruned", f"{done.words()} went{more}", now)
        elif self._journal() > _MOST_JOURNAL:
            empty_journal(self._db.path)

    def _journal(self) -> int:
        path = self._db.path.with_name(self._db.path.name + "-wal")
        return path.stat().st_size if path.exists() else 0

    def _make_room(self, disk: Disk, least: int, now: float) -> None:
        words = f"the disk has {format_memory(disk.free)} free, less than {format_memory(least)}"
        if self._short:
            need = least - disk.free  # tried again in silence: something may have ended meanwhile
        else:
            need = least + least // 4 - disk.free
            self._tell(
                "Pruning",
                f"{words}: unused code and the oldest output go, {format_memory(need)} if there is so much",
                now,
                warning=True,
            )
        with self._one:
            room = make_room(self._db, self._data, need, now=now, stopped=self._worker.stopping.is_set)
        if room.bytes:
            ended, running = len(room.ended.logs_of), len(room.trimmed)
            code = f"of unused code ({format_memory(room.code)}) and " if room.code else ""
            what = f"{code}of output of {ended} workload(s) that ended and {running} that run went"
            self._tell("Pruned", f"{format_memory(room.bytes)} {what}", now)
        if room.bytes < need and not self._short:
            self._tell("DiskFull", f"{words}, and there is no more output to give back", now, warning=True)
            self._short = True

    def _tell(self, reason: str, words: str, now: float, *, warning: bool = False) -> None:
        log.log(logging.WARNING if warning else logging.INFO, "%s", words)
        try:
            self._db.write(lambda s: record_event(s, PLATFORM, reason, words, now=now, warning=warning))
        except LocalmlError as error:  # a full disk: room is made all the same
            log.error("the event could not be stored: %s", error)
