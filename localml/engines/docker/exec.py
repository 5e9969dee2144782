"""Running a command inside a container that runs: to its end, or attached to its input and output."""

from __future__ import annotations

import secrets
import signal
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, suppress
from typing import Any

from docker.errors import APIError, NotFound

from localml.engines.base import STREAMS, EngineError, EngineUnreachable, ExecResult, ExecStream, Stream
from localml.engines.docker.daemon import Daemon, engine_errors
from localml.engines.docker.frames import read_frames

_CHUNK = 1 << 16
_MARK = "LOCALML_EXEC"
# Docker leaves commands running whose client is gone, and has no call to signal them. They carry a mark in their
# environment, as does all that they start.
_SIGNAL_MARKED = (
    'for one in /proc/[0-9]*/environ; do grep -q "$1" "$one" 2>/dev/null || continue; '
    'one=${one#/proc/}; kill -"$2" "${one%/environ}" 2>/dev/null; done'
)
_SIGNAL_S = 10.0
_GONE = 128 + signal.SIGKILL
_RESIZE_TRIES = 10
_UNKNOWN_S = 60.0  # how long a daemon that does not answer is asked for a command's end


class _DeadlineReader:
    """Reads exact numbers of bytes from a socket until a deadline."""

    def __init__(self, sock: socket.socket, timeout: float) -> None:
        self._socket = sock
        self._deadline = time.monotonic() + timeout

    def read(self, size: int) -> bytes:
        data = bytearray()
        while len(data) < size:
            left = self._deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError
            self._socket.settimeout(left)
            piece = self._socket.recv(size - len(data))
            if not piece:
                break
            data += piece
        return bytes(data)


def run_inside(daemon: Daemon, container: str, command: tuple[str, ...], timeout: float) -> ExecResult:
    """Run the command and collect its output.

    Raises:
        EngineError: the container does not run, or the command outlasts ``timeout`` seconds. Docker has no means
            to end such a command; it goes on inside the container.
    """
    try:
        number = daemon.api.exec_create(container, list(command))["Id"]
    except NotFound as error:
        raise EngineError(f"container {container} does not run") from error
    output = {stream: bytearray() for stream in STREAMS}
    with closing(daemon.api.exec_start(number, socket=True)) as connection:
        reader = _DeadlineReader(_plain_socket(connection), timeout)
        try:
            for stream, data in read_frames(reader.read):
                output[stream] += data
        except TimeoutError as error:
            raise EngineError(f"{command[0]} did not end within {timeout:g} s") from error
    code = daemon.api.exec_inspect(number)["ExitCode"]
    return ExecResult(exit_code=code, stdout=bytes(output["stdout"]), stderr=bytes(output["stderr"]))


def _plain_socket(connection: Any) -> Any:
    """The SDK hands out a socket, or the read-only file around it."""
    return getattr(connection, "_sock", connection)


def open_inside(
    daemon: Daemon, container: str, command: tuple[str, ...], tty: tuple[int, int] | None, env: Mapping[str, str]
) -> ExecStream:
    """Start a command and stay attached to it; see :meth:`localml.engines.base.Engine.open`.

    Raises:
        EngineError: the container does not run.
    """
    mark = f"{_MARK}={secrets.token_hex(16)}"
    try:
        number = daemon.api.exec_create(
            container,
            list(command),
            stdin=True,
            tty=tty is not None,
            environment=[mark, *(f"{name}={value}" for name, value in env.items())],
        )["Id"]
    except NotFound as error:
        raise EngineError(f"container {container} does not run") from error
    connection = daemon.api.exec_start(number, tty=tty is not None, socket=True)
    made = DockerExec(daemon, container, number, connection, mark, tty=tty is not None)
    if tty is not None:
        made.resize(*tty)
    return made


class DockerExec:
    """An :class:`localml.engines.base.ExecStream` over the daemon's upgraded connection."""

    def __init__(self, daemon: Daemon, container: str, number: str, connection: Any, mark: str, *, tty: bool) -> None:
        self._daemon = daemon
        self._container = container
        self._number = number
        self._mark = mark
        self._tty = tty
        self._response = connection._response
        # Through the response's own buffer: output that came together with the header is in it already.
        self._file = self._response.raw._fp.fp
        self._socket = _plain_socket(connection)
        self._socket.settimeout(None)
        self._frames: Iterator[tuple[Stream, bytes]] = read_frames(self._read_exactly)
        self._reading = threading.Lock()
        self._closing = threading.Lock()
        self._closed = threading.Event()

    def read(self) -> tuple[Stream, bytes] | None:
        """See :class:`localml.engines.base.ExecStream`."""
        with self._reading:
            try:
                if not self._tty:
                    return next(self._frames, None)
                data = self._file.read1(_CHUNK)
            except (OSError, ValueError):  # the connection was closed, here or there
                return None
            return ("stdout", data) if data else None

    def _read_exactly(self, size: int) -> bytes:
        return bytes(self._file.read(size))

    def write(self, data: bytes) -> None:
        """See :class:`localml.engines.base.ExecStream`."""
        with suppress(OSError):
            self._socket.sendall(data)

    def close_stdin(self) -> None:
        """See :class:`localml.engines.base.ExecStream`."""
        if self._tty:
            self.write(b"\x04")
            return
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_WR)

    def resize(self, columns: int, rows: int) -> None:
        """See :class:`localml.engines.base.ExecStream`. Tried again while the daemon is still starting the command."""
        if not self._tty:
            return
        for turn in range(_RESIZE_TRIES):
            try:
                self._daemon.api.exec_resize(self._number, height=rows, width=columns)
                return
            except APIError:
                if self._closed.wait(0.02 * (turn + 1)) or not self._running():
                    return

    def signal(self, number: int) -> None:
        """See :class:`localml.engines.base.ExecStream`. The image must have a shell and grep."""
        command = ("sh", "-c", _SIGNAL_MARKED, "sh", self._mark, str(int(number)))
        with suppress(EngineError, EngineUnreachable), engine_errors():
            if self._running():
                run_inside(self._daemon, self._container, command, _SIGNAL_S)

    def wait(self) -> int:
        """See :class:`localml.engines.base.ExecStream`; that of a container that was killed is 137."""
        pause, answered = 0.005, time.monotonic()
        while True:
            found = self._inspect()
            if found is not None:
                answered = time.monotonic()
                if not found.get("Running"):
                    code = found.get("ExitCode")
                    return _GONE if code is None else int(code)
            if self._closed.wait(pause) or time.monotonic() - answered > _UNKNOWN_S:
                return _GONE
            pause = min(pause * 2, 0.5)

    def close(self) -> None:
        """See :class:`localml.engines.base.ExecStream`."""
        with self._closing:
            if self._closed.is_set():
                return
            self._closed.set()
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        with self._reading:
            self._response.close()
        self.signal(signal.SIGHUP)

    def _running(self) -> bool:
        """Whether it may still run."""
        found = self._inspect()
        return found is None or bool(found.get("Running"))

    def _inspect(self) -> dict[str, Any] | None:
        """What the daemon says of the command; empty when it is gone with its container, None when it does not say."""
        try:
            with engine_errors():
                return dict(self._daemon.api.exec_inspect(self._number))
        except EngineError:
            return {}
        except EngineUnreachable:
            return None
