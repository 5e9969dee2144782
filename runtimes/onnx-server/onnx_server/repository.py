"""The versions that are served, kept in step with the model's folder.

A version is loaded when its files have lain still for the settle time, in a worker of its own, beside the one that
serves; only when it is loaded and warm does it take over, and the old one finishes what it has. Files that changed
while they were loaded are loaded again. What cannot be loaded replaces nothing.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

from watchdog.events import EVENT_TYPE_CLOSED_NO_WRITE, EVENT_TYPE_OPENED, FileSystemEvent, FileSystemEventHandler
from watchdog.observers import Observer

from onnx_server.errors import LoadError
from onnx_server.metrics import Metrics
from onnx_server.settings import Settings
from onnx_server.sources import Source, scan
from onnx_server.version import ServedVersion

log = logging.getLogger("onnx_server")
_RESCAN = 10.0
"""Seconds between looks at the folder where no event comes, as on some network file systems."""
_UNLOAD_TIMEOUT = 60.0


class Repository:
    """The versions of one model. All methods are for the event loop's thread."""

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        self._settings = settings
        self._metrics = metrics
        self._served: dict[str, ServedVersion] = {}
        self._failures: dict[str, tuple[Source, str]] = {}
        self._changed = asyncio.Event()
        self._watching: asyncio.Task[None] | None = None
        self._observer = Observer()
        self._unloading: set[asyncio.Task[None]] = set()
        metrics.watch(lambda: sum(one.waiting for one in self._served.values()), lambda: self.ready)

    @property
    def ready(self) -> bool:
        """Whether the default version takes requests."""
        newest = self.find(None)
        return newest is not None and newest.ready

    @property
    def versions(self) -> list[ServedVersion]:
        """What is served, oldest version first."""
        return [self._served[version] for version in sorted(self._served, key=int)]

    @property
    def failures(self) -> dict[str, str]:
        """Why versions that lie in the folder are not served (as they lie there), by version."""
        return {version: reason for version, (_, reason) in sorted(self._failures.items(), key=lambda one: int(one[0]))}

    def find(self, version: str | None) -> ServedVersion | None:
        """A version; the newest one for None."""
        if version is not None:
            return self._served.get(version)
        return self._served[max(self._served, key=int)] if self._served else None

    async def start(self) -> None:
        """Load what is there and begin to watch the folder.

        Raises:
            LoadError: nothing can be served.
        """
        folder = self._settings.model_dir
        if not folder.is_dir():
            raise LoadError(f"{folder} is not a folder")
        loop = asyncio.get_running_loop()
        nudge = _Nudge(lambda: loop.call_soon_threadsafe(self._changed.set))
        self._observer.schedule(nudge, str(folder), recursive=True)
        self._observer.start()
        await self._catch_up()
        if not self._served:
            reasons = "; ".join(f"version {version}: {reason}" for version, reason in self.failures.items())
            raise LoadError(reasons or f"{folder} is empty")
        self._watching = asyncio.create_task(self._watch())

    async def stop(self) -> None:
        """End all workers."""
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.wait([self._watching])
        if self._observer.is_alive():
            self._observer.stop()
        served, self._served = list(self._served.values()), {}
        await asyncio.gather(*(one.stop(_UNLOAD_TIMEOUT) for one in served), *self._unloading)

    async def _watch(self) -> None:
        while True:
            try:
                async with asyncio.timeout(_RESCAN):
                    await self._changed.wait()
            except TimeoutError:
                pass
            try:
                await self._catch_up()
            except Exception:  # a fault here must not end the watching
                log.exception("the model's folder could not be read")

    async def _catch_up(self) -> None:
        """Load, replace and unload until what is served is what lies in the folder."""
        seen: dict[str, Source] = {}
        while True:
            self._changed.clear()
            found = scan(self._settings.model_dir)
            due = [source for source in found.values() if not self._is_known(source)]
            settled = [source for source in due if self._is_settled(source, seen.get(source.version))]
            for source in settled:
                await self._load(source)
            self._forget(found)
            if len(settled) == len(due):
                return
            seen = found
            await asyncio.sleep(self._settings.settle)

    def _is_known(self, source: Source) -> bool:
        served, failed = self._served.get(source.version), self._failures.get(source.version)
        if failed is not None:
            return failed[0].fingerprint == source.fingerprint
        return served is not None and served.source.fingerprint == source.fingerprint

    def _is_settled(self, source: Source, before: Source | None) -> bool:
        if before is not None and before.fingerprint == source.fingerprint:
            return True
        # Old files need no second look when the server starts; later on an old time says little (cp --preserve).
        return self._watching is None and time.time() - source.newest > self._settings.settle

    async def _load(self, source: Source) -> None:
        version = source.version
        log.info("loading version %s from %s", version, source.folder)
        fresh, reason = None, ""
        try:
            fresh = await ServedVersion.start(source, self._settings, self._metrics)
        except LoadError as error:
            reason = str(error)
        except OSError as error:
            reason = f"its worker could not be started: {error}"
        if self._has_changed(source):
            log.info("version %s changed while it was loaded", version)
            if fresh is not None:
                await fresh.stop(0)
            return
        if fresh is None:
            self._failures[version] = (source, reason)
            self._metrics.refused.inc()
            log.error("version %s is not served: %s", version, reason)
            return
        self._failures.pop(version, None)
        old = self._served.get(version)
        self._served[version] = fresh
        self._metrics.loaded.inc()
        for note in fresh.spec.notes:
            log.warning("version %s: %s", version, note)
        log.info("version %s is ready on %s", version, fresh.spec.provider)
        if old is not None:
            self._unload(old)

    def _has_changed(self, source: Source) -> bool:
        now = scan(self._settings.model_dir).get(source.version)
        return now is None or now.fingerprint != source.fingerprint

    def _forget(self, found: dict[str, Source]) -> None:
        """Unload what is no longer in the folder, but never the last that works."""
        for version in [one for one in self._failures if one not in found]:
            del self._failures[version]
        gone = [version for version in self._served if version not in found]
        for version in sorted(gone, key=int):
            if len(self._served) == 1:
                log.warning("version %s is gone from the folder; it is served on, as there is no other", version)
                return
            log.info("version %s is gone from the folder", version)
            self._unload(self._served.pop(version))

    def _unload(self, old: ServedVersion) -> None:
        task = asyncio.create_task(old.stop(_UNLOAD_TIMEOUT))
        self._unloading.add(task)
        task.add_done_callback(self._unloading.discard)


class _Nudge(FileSystemEventHandler):
    """Calls back, from a thread of its own, when something in the folder changes."""

    def __init__(self, call: Callable[[], object]) -> None:
        self._call = call

    def on_any_event(self, event: FileSystemEvent) -> None:
        """See ``FileSystemEventHandler``. Reading changes nothing."""
        if event.event_type not in {EVENT_TYPE_OPENED, EVENT_TYPE_CLOSED_NO_WRITE}:
            self._call()
