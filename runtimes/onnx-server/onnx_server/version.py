"""A version that is served: its worker process, its queue, and bringing the worker back when it dies."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Hashable
from dataclasses import replace
from pathlib import Path
from typing import Any

from onnx_server import wire
from onnx_server.batcher import Batcher
from onnx_server.errors import LoadError, RequestError, unavailable
from onnx_server.link import Done, Worker
from onnx_server.metrics import Metrics
from onnx_server.protocol import InferRequest
from onnx_server.rows import rows_of
from onnx_server.settings import Settings
from onnx_server.sources import Copy, Source, what
from onnx_server.tensors import Array
from onnx_server.worker import WorkerPlan

log = logging.getLogger("onnx_server")
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 10.0


class ServedVersion:
    """One version with a worker process; made by ``start``."""

    def __init__(
        self, source: Source, copy: Copy, plan: WorkerPlan, worker: Worker, settings: Settings, metrics: Metrics
    ) -> None:
        self.source = source
        self._copy = copy
        self.version = source.version
        self.spec = replace(worker.spec, notes=(*worker.spec.notes, copy.note)) if copy.note else worker.spec
        self._plan = plan
        self._run_timeout = settings.run_timeout
        self._metrics = metrics
        self._worker = worker
        self._down = ""
        self._stopped = False
        self._revival: asyncio.Task[None] | None = None
        max_batch = settings.max_batch if worker.spec.batching else 1
        self._batcher = Batcher(self._run, max_batch, settings.max_delay, settings.queue, metrics.batch)
        worker.watch(self._died)

    @staticmethod
    async def start(source: Source, settings: Settings, metrics: Metrics) -> ServedVersion:
        """Load a version in a process of its own.

        Raises:
            LoadError: it cannot be served.
        """
        copy = await asyncio.to_thread(Copy, source, settings.kernel, frozen=settings.frozen)
        if copy.folder != source.folder:  # which tracebacks name
            log.info("version %s: its files were copied to %s", source.version, copy.folder)
        try:
            plan = ServedVersion._plan_of(copy.folder, settings)
            worker = await Worker.start(plan, settings.run_timeout)
            return ServedVersion(source, copy, plan, worker, settings, metrics)
        except BaseException as error:
            await asyncio.to_thread(copy.remove)
            if isinstance(error, LoadError):
                raise LoadError(copy.in_users_words(str(error))) from error
            raise

    @staticmethod
    def _plan_of(folder: Path, settings: Settings) -> WorkerPlan:
        kind, path = what(folder, settings.kernel)
        return WorkerPlan(
            kind=kind,
            path=str(path.resolve()),
            name=settings.name,
            kernel=settings.kernel,
            provider=settings.provider,
            allow_cpu_fallback=settings.allow_cpu_fallback,
            threads=settings.threads,
            memory_limit=settings.memory_limit,
            max_batch=settings.max_batch,
        )

    @property
    def ready(self) -> bool:
        """Whether requests are taken."""
        return not self._down and not self._stopped

    @property
    def trouble(self) -> str:
        """Why it is not ready; empty while it is."""
        return self._down

    @property
    def waiting(self) -> int:
        """Requests that wait."""
        return self._batcher.waiting

    @property
    def worker_pid(self) -> int:
        """Process id of the worker."""
        return self._worker.pid

    async def infer(self, request: InferRequest) -> dict[str, Array]:
        """Run a request.

        Raises:
            RequestError: it failed, the queue is full, or the worker is down.
        """
        inputs = request.inputs
        if not self.spec.batching:
            return await self._submit(request.outputs, None, inputs, 1)  # type: ignore[no-any-return]
        rows = rows_of(inputs)
        # Without rows, or with unequal ones, there is nothing to put together: the model says what it thinks.
        shapes = {(name, array.dtype, array.shape[1:]) for name, array in inputs.items()} if rows else ()
        key = frozenset(shapes) or None
        return await self._submit(request.outputs, key, inputs, max(rows, 1))  # type: ignore[no-any-return]

    async def infer_text(self, text: str) -> str:
        """Run a request of a model that takes and gives text.

        Raises:
            RequestError: it failed, the queue is full, or the worker is down.
        """
        return await self._submit((), "text", text, 1)  # type: ignore[no-any-return]

    async def _submit(self, outputs: tuple[str, ...], shapes: Hashable, item: Any, rows: int) -> Any:
        if self._down:
            raise unavailable(self._down)
        try:
            return await self._batcher.submit(outputs, shapes, item, rows)
        except RequestError as error:
            raise RequestError(error.status, self._copy.in_users_words(error.message), error.retry_after) from error

    def _run(self, batch: wire.Batch, done: Done) -> None:
        self._worker.run(batch, done)

    def _died(self, reason: str) -> None:
        if self._stopped:  # it was to end anyway
            self._down = f"the worker process died ({reason}) while this version was being unloaded"
            self._batcher.fail(self._down)
            return
        self._down = f"the worker process died ({reason}) and is being started again"
        log.error("version %s: %s", self.version, self._down)
        self._batcher.fail(self._down)
        self._revival = asyncio.create_task(self._revive())

    async def _revive(self) -> None:
        pause = _FIRST_PAUSE
        while True:
            try:
                worker = await Worker.start(self._plan, self._run_timeout)
                break
            except (LoadError, OSError) as error:
                self._down = (
                    f"the worker process died and cannot be started again: {self._copy.in_users_words(str(error))}"
                )
                log.error("version %s: %s", self.version, self._down)
                await asyncio.sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE)
        self._worker, self._down = worker, ""
        self._metrics.restarts.inc()
        log.info("version %s: the worker process is back", self.version)
        worker.watch(self._died)

    async def stop(self, timeout: float) -> None:
        """Finish what is queued, for at most ``timeout`` seconds, and end the worker."""
        self._stopped = True
        if self._revival is not None and not self._revival.done():
            self._revival.cancel()
            await asyncio.wait([self._revival])
        elif not self._down:
            await asyncio.wait([asyncio.create_task(self._batcher.drained())], timeout=timeout)
        self._batcher.fail("this version is being unloaded")
        await self._worker.stop()
        await asyncio.to_thread(self._copy.remove)
