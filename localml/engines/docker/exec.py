"""Running a command inside a container that runs."""

from __future__ import annotations

import socket
import time
from contextlib import closing
from typing import Any

from docker.errors import NotFound

from localml.engines.base import STREAMS, EngineError, ExecResult
from localml.engines.docker.daemon import Daemon
from localml.engines.docker.logs import read_frames


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
