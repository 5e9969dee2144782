"""The HTTP server: one WSGI server, one app per dialect chosen by path prefix, and the life of the process.

The path is never rewritten: signatures cover the path that the client saw.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import threading
from collections.abc import Callable, Iterable
from importlib import import_module
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from localml import __version__
from localml.core import descriptors
from localml.core.errors import Code, LocalmlError
from localml.dialects import DIALECTS
from localml.httpd.origin import (
    FOREIGN_HOST,
    FOREIGN_PAGE,
    LOCAL_ADDRESS,
    REFUSED,
    from_foreign_page,
    is_own_host,
    own_names,
)
from localml.httpd.server import HttpServer
from localml.platform import Platform

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

log = logging.getLogger("localml.server")

_AT_GATEWAY = "/dlim/v1/"
"""Where IBM's clients ask models; of the server that they know, although it is the gateway that answers."""
_GRACE_S = 3.0
_FINISH_S = 15.0
"""Seconds that requests get to finish in when the server is stopped."""


class Dispatcher:
    """Chooses the app by the longest prefix that fits; makes an app when it is first needed."""

    def __init__(self, platform: Platform) -> None:
        self._platform = platform
        self._apps: dict[str, WSGIApplication] = {}
        self._lock = threading.Lock()
        self._names = own_names(platform.config.host, platform.config.hosts)

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        path = environ.get("PATH_INFO", "")
        refusal = self._refusal(environ)
        for prefix, factory in DIALECTS:
            if path == prefix or path.startswith(prefix + "/"):
                if refusal is not None:  # in the dialect's words, before it looks at anything else
                    environ[REFUSED] = refusal
                return self._app(factory)(environ, start_response)
        if refusal is not None:
            return _answer(start_response, "403 Forbidden", refusal)
        return self._own_page(path, environ, start_response)

    def _refusal(self, environ: WSGIEnvironment) -> str | None:
        """Why nobody may ask this, if so: it is meant for another machine, or made by another site's page."""
        host = environ.get("HTTP_HOST", "")
        if not is_own_host(host, self._names, environ.get(LOCAL_ADDRESS, "")):
            return FOREIGN_HOST
        origin, site = environ.get("HTTP_ORIGIN"), environ.get("HTTP_SEC_FETCH_SITE")
        return FOREIGN_PAGE if from_foreign_page(environ["REQUEST_METHOD"], host, origin, site) else None

    def _own_page(self, path: str, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        page = {"/healthz": self._health, "/metrics": self._metrics}.get(path)
        if page is not None and environ["REQUEST_METHOD"] in ("GET", "HEAD"):
            return page(environ, start_response)
        if page is not None:
            return _answer(start_response, "405 Method Not Allowed", f"{path} can only be read")
        known = ", ".join(prefix for prefix, _ in DIALECTS)
        if path.startswith(_AT_GATEWAY):
            port = urlsplit(self._platform.gateway_url or "").port
            known += "; models answer at the gateway" + (f", which is at port {port}" if port else "")
        return _answer(start_response, "404 Not Found", f"nothing is served at {path}; the APIs are below {known}")

    def app(self, prefix: str) -> WSGIApplication:
        """The app of a prefix; for tests that drive one dialect."""
        return self._app(dict(DIALECTS)[prefix])

    def _app(self, factory: str) -> WSGIApplication:
        app = self._apps.get(factory)
        if app is None:
            with self._lock:
                app = self._apps.get(factory)
                if app is None:
                    module, _, name = factory.partition(":")
                    make: Callable[[Platform], WSGIApplication] = getattr(import_module(module), name)
                    app = self._apps[factory] = make(self._platform)
        return app

    def _health(self, _: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """That it answers; anybody may ask, and is told no more."""
        return _send(start_response, "200 OK", "application/json", b'{"status": "ok"}')

    def _metrics(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        from localml.dialects.kit.authorization import CHALLENGE, metrics_reader
        from localml.metrics import CONTENT_TYPE, render

        try:
            metrics_reader(self._platform, environ.get("HTTP_AUTHORIZATION"), environ.get("REMOTE_ADDR"))
        except LocalmlError as error:
            status = _REFUSALS.get(error.code, "403 Forbidden")
            return _answer(start_response, status, error.message, ("WWW-Authenticate", CHALLENGE))
        return _send(start_response, "200 OK", CONTENT_TYPE, render(self._platform))


_REFUSALS = {Code.UNAUTHENTICATED: "401 Unauthorized", Code.TOO_MANY_REQUESTS: "429 Too Many Requests"}


def _send(
    start_response: StartResponse, status: str, kind: str, body: bytes, *more: tuple[str, str]
) -> Iterable[bytes]:
    start_response(status, [("Content-Type", kind), ("Content-Length", str(len(body))), *more])
    return [body]


def _answer(start_response: StartResponse, status: str, message: str, *more: tuple[str, str]) -> Iterable[bytes]:
    return _send(start_response, status, "application/json", json.dumps({"message": message}).encode(), *more)


class Server:
    """A platform behind a listening socket.

    Args:
        platform: already opened; :meth:`run` or :meth:`start` starts its control loop.

    Raises:
        LocalmlError: ``CONFLICT`` when the port is in use.
    """

    def __init__(self, platform: Platform) -> None:
        config = platform.config
        self.platform = platform
        self.app = Dispatcher(platform)
        try:
            # a body that is too large is refused by the app that it is for, in its own words
            self._http = HttpServer(self.app, config.host, config.port, threads=config.threads, refuse=self.app)
        except OSError as error:
            raise LocalmlError(
                Code.CONFLICT,
                f"port: {config.port} on {config.host} cannot be used: {error.strerror or error}",
                field="port",
            ) from error

    @property
    def port(self) -> int:
        """The port that is listened on, also when the setting was 0."""
        return self._http.port

    @property
    def url(self) -> str:
        """Where clients find this server."""
        host = self.platform.config.host
        shown = "127.0.0.1" if host in ("0.0.0.0", "::") else host
        return f"http://{f'[{shown}]' if ':' in shown else shown}:{self.port}"

    def _publish(self) -> None:
        config = self.platform.config
        self.platform.lock.publish(
            {
                "url": self.url,
                "gateway_url": self.platform.gateway_url,
                "engine": self.platform.engine.name,
                "data": str(config.data),
                "version": __version__,
                "opened": config.opened,
                "users": self.platform.accounts.words(),
            }
        )

    def start(self) -> None:
        """Serve on a thread; for tests and for embedding."""
        self.platform.start()
        self._publish()
        self._http.start()

    def run(self, ready: Callable[[], None] = lambda: None) -> None:
        """Serve until SIGTERM or SIGINT; then close orderly. ``ready`` is called once requests are answered."""

        def stop(number: int, _frame: Any) -> None:
            raise SystemExit(0 if number == signal.SIGTERM else 130)

        signal.signal(signal.SIGTERM, stop)
        signal.signal(signal.SIGINT, stop)
        descriptors.raise_limit()
        self.platform.start()
        self._publish()
        finish = 0.0
        try:
            self._http.start()
            ready()
            _wait_for_a_signal()
        except SystemExit:
            log.info("shutting down; workloads go on")
            finish = _FINISH_S
        finally:
            self.close(finish)

    def close(self, finish: float = 0.0) -> None:
        """Stop listening, let the requests at hand finish, and close the platform.

        Args:
            finish: seconds in which what was asked to stop, or is over, may go before.
        """
        self.platform.feed.close()  # who follows something leaves
        self._http.close(_GRACE_S)
        self.platform.finish(finish)
        self.platform.close()


def _wait_for_a_signal() -> None:
    """Until the handler of a signal raises. Waiting for an event could miss one that comes just before."""
    read, write = os.pipe()
    os.set_blocking(write, False)
    signal.set_wakeup_fd(write)
    while True:
        os.read(read, 1)
