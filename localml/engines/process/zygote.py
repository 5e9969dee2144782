"""The process engine's zygote: an interpreter that is ready, and forks one supervisor for each replica.

Started by :class:`localml.engines.process.spawn.Spawner` as ``python -I -S -E zygote.pyc supervisor.pyc pipes.pyc
[box.pyc]`` with a Unix socket (``SOCK_SEQPACKET``) as its standard input. A request is a replica's folder; the answer
comes from the forked supervisor itself: its process number, and with it a pidfd, which no other process can get in
between. The zygote holds no state: it ends when the server's side of the socket is closed, and what it forked goes on
without it.

Like the supervisor it imports nothing of localml and as little as possible of the standard library.
"""

from __future__ import annotations

import _ctypes  # noqa: F401  # what supervisors import is here before they are forked
import _signal as signals  # type: ignore[import-not-found]
import _socket
import gc
import os
import resource  # noqa: F401
import sys
from collections.abc import Callable
from importlib.machinery import SourcelessFileLoader

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

LONGEST = 1 << 16
"""Bytes that a request may have."""


def serve(control: _socket.socket, supervise: Callable[[str], int]) -> None:
    """Fork a supervisor for each request until the other side is closed."""
    while request := _request(control):
        try:
            pid = os.fork()
        except OSError as error:
            control.send(f"cannot fork: {error.strerror}".encode())
        else:
            if pid == 0:
                _become_supervisor(control, request, supervise)


def _request(control: _socket.socket) -> bytes:
    try:
        return control.recv(LONGEST)
    except ConnectionResetError:  # it was killed with an answer unread
        return b""


def _become_supervisor(control: _socket.socket, folder: bytes, supervise: Callable[[str], int]) -> NoReturn:
    """In the child: let go of all that is the zygote's, and supervise."""
    code = 1
    try:
        os.setsid()
        os.dup2(1, 2)  # /dev/null
        _answer(control)
        os.dup2(1, 0)  # the socket's place: from here on only the zygote holds it
        control.detach()
        code = supervise(os.fsdecode(folder))
    except BaseException:
        _open_notes(folder)
        sys.excepthook(*sys.exc_info())
    finally:
        os._exit(code)


def _open_notes(folder: bytes) -> None:
    """What went wrong in the interpreter is written where the engine looks for it."""
    notes = os.open(folder + b"/notes", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(notes, 2)


def _answer(control: _socket.socket) -> None:
    """Tell the server who supervises. It may have died meanwhile; the replica runs all the same."""
    try:
        descriptor = os.pidfd_open(os.getpid())
        passed = (_socket.SOL_SOCKET, _socket.SCM_RIGHTS, descriptor.to_bytes(4, sys.byteorder))
        control.sendmsg([b"%d" % os.getpid()], [passed])
        os.close(descriptor)
    except OSError:
        pass


def _load(path: str) -> Any:
    """A compiled program as a module."""
    module = type(sys)("program")
    SourcelessFileLoader("program", path).exec_module(module)
    return module


def main(supervisor: str, pipes: str, *boxes: str) -> int:
    """Serve the socket that is the standard input.

    Args:
        supervisor: the program that is forked.
        pipes: what it loads for the output of each; here, so that it need not do so for each of them.
        boxes: the same for replicas in boxes.
    """
    os.closerange(3, os.sysconf("SC_OPEN_MAX"))  # what the server lets its children inherit would live as long as this
    program = _load(supervisor)
    for one in (pipes, *boxes):
        program.load_program(one)
    signals.signal(signals.SIGCHLD, signals.SIG_IGN)  # the kernel reaps; nobody here asks how a supervisor ended
    gc.freeze()  # its pages stay shared with the forks
    serve(_socket.socket(fileno=0), lambda folder: int(program.main(folder, pipes)))
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
