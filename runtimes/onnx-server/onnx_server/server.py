"""The server's process: HTTP in front, workers behind, and an orderly end."""

from __future__ import annotations

import asyncio
import logging
import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn
import uvloop

from onnx_server.app import App
from onnx_server.errors import LoadError
from onnx_server.http import Protocol
from onnx_server.metrics import Metrics
from onnx_server.repository import Repository
from onnx_server.settings import Settings

log = logging.getLogger("onnx_server")
EXIT_REFUSED = 1
_BACKLOG = 2048
_KEEP_ALIVE = 75


class _Http(uvicorn.Server):
    """uvicorn, but for the signals: when to close is for ``serve`` to say."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the signals alone."""
        yield


def run(settings: Settings) -> int:
    """Serve until told to end (SIGTERM or SIGINT); returns the exit status: 0, or 1 if no model can be served."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:  # each connection is an open file, and idle ones are kept
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return uvloop.run(serve(settings))


async def serve(settings: Settings) -> int:
    """As ``run``, on the running event loop."""
    metrics = Metrics(settings.name)
    repository = Repository(settings, metrics)
    app = App(settings, repository, metrics)
    http = _Http(_config(app, settings))
    ending = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ending.set)
    serving = asyncio.create_task(http.serve())
    loading = asyncio.create_task(repository.start())
    told = asyncio.create_task(ending.wait())
    try:
        await asyncio.wait([serving, loading, told], return_when=asyncio.FIRST_COMPLETED)
        if loading.done():
            loading.result()
            await asyncio.wait([serving, told], return_when=asyncio.FIRST_COMPLETED)
        return await _end(app, http, serving, settings)
    except LoadError as error:
        log.error("the model cannot be served: %s", error)
        http.should_exit = True
        await asyncio.wait([serving])
        return EXIT_REFUSED
    finally:
        told.cancel()
        loading.cancel()
        await asyncio.wait([loading, told])
        await repository.stop()


async def _end(app: App, http: _Http, serving: asyncio.Task[None], settings: Settings) -> int:
    """Become unready, give a router time to notice, let requests in flight finish."""
    app.draining = True
    if serving.done():  # it ended by itself: the port is taken, most likely
        if not serving.cancelled() and serving.exception():
            log.error("HTTP ended: %s", serving.exception())
        return EXIT_REFUSED
    log.info("ending: not ready any more, finishing requests in flight")
    await asyncio.wait([serving], timeout=settings.drain_delay)
    http.should_exit = True
    await asyncio.wait([serving])
    return 0


def _config(app: App, settings: Settings) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        http=Protocol,
        loop="none",
        ws="none",
        lifespan="off",
        interface="asgi3",
        access_log=False,
        log_config=None,
        server_header=False,
        date_header=False,
        proxy_headers=False,
        backlog=_BACKLOG,
        timeout_keep_alive=_KEEP_ALIVE,
        timeout_graceful_shutdown=int(settings.drain_timeout) or 1,
    )
