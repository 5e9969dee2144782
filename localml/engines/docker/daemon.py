"""The connection to the Docker daemon, and its failures sorted into the engine's own exceptions."""

from __future__ import annotations

import hashlib
import os
import re
import socket
import struct
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from typing import Any

import requests
import urllib3
from docker import APIClient
from docker.errors import APIError, DockerException, create_api_error_from_http_exception
from docker.transport import UnixHTTPAdapter
from docker.utils import kwargs_from_env, parse_host

from localml.core.work.engines import same_engine
from localml.engines.base import EngineError, EngineUnreachable

ANSWER_S = 5.0
"""Seconds for which the answer to a question is waited for. The control loop asks between everything else that it does,
and tells after so long that the daemon does not answer."""
ACT_S = 60.0
"""Seconds for which the end of an act is waited for: a container with GPUs may take long to start, one that wrote much
to be removed. What takes longer goes on, and is found when the act is said again."""
_SILENT_PULL_S = 600.0  # without a byte about its progress a pull is given up; checking a layer of 50 GB takes minutes
_KNOCK_S = 2.0  # seconds within which one that lives lets somebody in
_POOL_SIZE = 64
_OLDEST_API = "1.41"  # Docker 20.10; only asks for the version that the daemon speaks
_OUT_OF_ORDER = re.compile(
    r"daemon is shutting down|transport is closing|connection error: desc|code = Unavailable|ttrpc: closed"
    r"|context canceled",
    re.IGNORECASE,
)
_RUNTIME_NOISE = re.compile(
    r"^(failed to create (shim task|task for container|shim): |OCI runtime create failed: |runc create failed: "
    r"|container_linux\.go:\d+: |starting container process caused: |unable to start container process: )+"
)


class _OnePool(UnixHTTPAdapter):
    """Keeps one pool of connections for the socket.

    The SDK's own adapter keeps one pool a URL and drops the oldest of 25, also while another thread is using it.
    """

    def get_connection(self, url: Any, proxies: Any = None) -> Any:
        return super().get_connection("http+docker://localhost", proxies)


class _Client(APIClient):
    """The SDK's client, which waits a shorter time for answers than for acts, and for nothing for ever."""

    def request(self, *args: Any, **kwargs: Any) -> requests.Response:
        """As any session's; the SDK attaches to containers without a limit of its own."""
        return super().request(*args, **{"timeout": min(ANSWER_S, self.timeout), **kwargs})

    def _get(self, url: str, **kwargs: Any) -> Any:
        return super()._get(url, **{"timeout": min(ANSWER_S, self.timeout), **kwargs})  # type: ignore[misc]

    def _post(self, url: str, **kwargs: Any) -> Any:
        if kwargs.get("timeout", self.timeout) is None:  # so the SDK pulls images
            kwargs["timeout"] = _SILENT_PULL_S
        return super()._post(url, **kwargs)  # type: ignore[misc]


def open_client(timeout: float | None = None) -> APIClient:
    """A client of the daemon that the environment names (``DOCKER_HOST``, ``DOCKER_TLS_VERIFY`` ...).

    Args:
        timeout: the longest wait for anything; :data:`ACT_S` unless given.

    Raises:
        DockerException: the daemon does not answer.
    """
    timeout = ACT_S if timeout is None else timeout
    environment = dict(kwargs_from_env())
    options: dict[str, Any] = {**environment, "timeout": timeout, "max_pool_size": _POOL_SIZE}
    with closing(_Client(**options, version=_OLDEST_API)) as probe:
        version = probe.version(api_version=False)["ApiVersion"]
    client = _Client(**options, version=version)
    host = environment.get("base_url")
    address = str(parse_host(str(host) if host else None, False, bool(environment.get("tls"))))
    if address.startswith("http+unix://"):
        client.mount("http+docker://", _OnePool(address, int(timeout), max_pool_size=_POOL_SIZE))
    return client


def docker_available(timeout: float = 2.0) -> str | None:
    """None when a Docker daemon answers within ``timeout`` seconds, else a sentence that says why not."""
    try:
        open_client(timeout).close()
    except (DockerException, requests.RequestException, OSError) as error:
        return f"No Docker daemon answers: {_root_cause(error)}."
    return None


def _root_cause(error: BaseException) -> str:
    """The innermost reason, which is the one that tells a person something ("No such file or directory")."""
    seen: BaseException = error
    while (inner := seen.__cause__ or seen.__context__) is not None:
        seen = inner
    return str(getattr(seen, "strerror", None) or seen).rstrip(".") or type(seen).__name__


def readable(message: str) -> str:
    """A daemon's message without the names of the layers that it passed through."""
    return _RUNTIME_NOISE.sub("", " ".join(message.split()))


def explanation(error: APIError) -> str:
    """What the daemon said, as text."""
    said = error.explanation
    return said.decode("utf-8", "replace") if isinstance(said, bytes) else str(said or error)


def out_of_order(error: APIError) -> bool:
    """Whether this answer to an act means that the daemon cannot do anything now."""
    if error.status_code in (502, 503, 504):
        return True
    return bool(error.is_server_error() and _OUT_OF_ORDER.search(explanation(error)))


class Unclear(EngineError):
    """An act was refused in words that say little about its object; said again, it may be done."""


@contextmanager
def engine_errors(*, asking: bool = False) -> Iterator[None]:
    """Turn what the SDK raises inside the block into :class:`EngineUnreachable` or :class:`EngineError`.

    A refusal (4xx, and 501) is about what was asked for. That the daemon failed (5xx) says nothing about any container:
    who knows better, because the daemon is known to say so of what it was told to start, raises the error by itself.
    When the block is only ``asking`` for the state of things, no answer but the state says anything.
    """
    try:
        yield
    except APIError as error:
        failed = error.is_server_error() and error.status_code != 501
        raise (EngineUnreachable if failed or asking else EngineError)(readable(explanation(error))) from error
    except (DockerException, requests.RequestException, urllib3.exceptions.HTTPError, OSError) as error:
        raise EngineUnreachable(f"the Docker daemon did not answer: {_root_cause(error)}") from error


def socket_of(response: requests.Response) -> socket.socket | None:
    """The connection under a body that is read piece by piece; None when it is closed already."""
    with suppress(AttributeError):
        raw: Any = response.raw._fp.fp.raw  # type: ignore[union-attr]
        found: socket.socket = raw.sock if hasattr(raw, "sock") else raw._sock
        return found
    return None


def _listener(path: str) -> int:
    """Number of the process that listens at a socket; 0 for one that is not among those of this process's namespace."""
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(path)
        found = client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("iii"))
    return int(struct.unpack("iii", found)[0])


def identity_of(info: Mapping[str, Any]) -> str:
    """Which daemon it is that says this of itself: by its folder, and its id or its machine's name. Some give another
    id each time, two of one machine may have the same, and names change."""
    folder = info.get("DockerRootDir")
    marks = (hashlib.sha256(f"{one}:{folder}".encode()).hexdigest()[:8] for one in (info.get("ID"), info.get("Name")))
    return ":".join(("docker", *marks))


class Daemon:
    """The daemon's client, opened at first use, and what the daemon said about itself. Safe to share.

    Attributes:
        identity: whose containers are looked after: of the first daemon that answered, unless one is given.
    """

    def __init__(self, client: APIClient | None = None, identity: str = "docker") -> None:
        self._client = client
        self._given = client is not None
        self.identity = identity
        self._info: dict[str, Any] | None = None
        self._doubts, self._settled = 1, 0  # how often it may have become another one, and up to which it is the same
        self._lock = threading.Lock()
        self._failed: tuple[float, str] = (float("-inf"), "")  # when opening failed last, and why

    @property
    def api(self) -> APIClient:
        """The client; asks the daemon for its version the first time.

        Of many who need it at once one asks, and its failure is the failure of all: each would wait as long.
        """
        came = time.monotonic()
        with self._lock:
            if self._client is None:
                failed_at, why = self._failed
                if failed_at > came:
                    raise EngineUnreachable(why)
                self._client = self._open()
            return self._client

    def _open(self) -> APIClient:
        try:
            with engine_errors(asking=True):
                return open_client()
        except EngineUnreachable as error:
            self._failed = (time.monotonic(), str(error))
            raise

    def info(self, *, fresh: bool = False) -> dict[str, Any]:
        """``docker info``; the last answer unless a ``fresh`` one is wanted."""
        if fresh or self._info is None:
            self._info = dict(self.api.info())
        return self._info

    def closed(self) -> bool:
        """Whether it lets nobody in: one that is told to end goes on with those whom it knows, and ends containers."""
        if self._given:
            return False
        options: dict[str, Any] = {**kwargs_from_env(), "timeout": _KNOCK_S, "version": self.api.api_version}
        try:
            with closing(_Client(**options)) as client:
                client.ping()
        except (DockerException, requests.RequestException, urllib3.exceptions.HTTPError, OSError):
            return True
        return False

    def doubt(self) -> None:
        """It was away: who answers next may be another one."""
        self._doubts += 1

    def need_same(self) -> None:
        """Make sure that it has the containers that are looked after: another daemon's "not found" says nothing of
        them. It is asked once, and again after each doubt.

        Raises:
            EngineUnreachable: another daemon answers.
        """
        doubts = self._doubts
        if doubts == self._settled:
            return
        found = identity_of(self.info(fresh=True))
        if not same_engine(found, self.identity):
            raise EngineUnreachable(
                "another Docker daemon answers than before; the server's next start looks at it anew"
            )
        self.identity, self._settled = found, doubts

    def hidden_mounts(self) -> str:
        """Why the daemon would not see what this process mounts; empty when it does: it is on this machine, and has
        the same file systems. Whoever listens at the daemon's socket tells."""
        adapter = getattr(self.api, "_custom_adapter", None)
        if not isinstance(adapter, UnixHTTPAdapter):
            return "the Docker daemon is not reached through a socket of this machine"
        if self.info()["KernelVersion"] != os.uname().release:
            return "the Docker daemon runs in a virtual machine"
        try:
            same = os.readlink(f"/proc/{_listener(adapter.socket_path)}/ns/mnt") == os.readlink("/proc/self/ns/mnt")
        except OSError as error:
            return f"it is not known which file systems the Docker daemon sees ({error.strerror})"
        return "" if same else "the Docker daemon has file systems of its own"

    def stream(self, path: str, params: dict[str, Any], *, timeout: float | None) -> requests.Response:
        """GET ``path`` and leave the body to be read piece by piece, each waited for so long; None: for ever."""
        url = f"{self.api.base_url}/v{self.api.api_version}{path}"
        response = self.api.get(url, params=params, stream=True, timeout=ANSWER_S)
        try:
            response.raise_for_status()
        except requests.HTTPError as error:
            create_api_error_from_http_exception(error)
        if (connection := socket_of(response)) is not None:
            connection.settimeout(timeout)
        return response

    def create_container(self, config: dict[str, Any], name: str) -> dict[str, Any]:
        """``POST /containers/create`` with a body in the daemon's own words."""
        return dict(self.api.create_container_from_config(config, name))  # type: ignore[no-untyped-call]

    def close(self) -> None:
        """Close the connections; a later use opens new ones."""
        with self._lock:
            client, self._client, self._info = self._client, None, None
        if client is not None:
            client.close()
