"""Between the server and an algorithm that somebody installed: a process that ends with it whatever it began.

What an algorithm begins in a session of its own, and what it leaves behind, is out of the server's reach; here it
becomes a child. The guard stays who the server is, so an algorithm under another account cannot end it. And it is run
by the server's own Python: that of the algorithm's environment, which runs what its packages say when it starts, begins
inside the box.
"""

from __future__ import annotations

import ctypes
import os
import signal
from collections.abc import Sequence

_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36
_HEARD = {signal.SIGTERM, signal.SIGCHLD}


def end_with(parent: int, number: signal.Signals) -> None:
    """Let this process get a signal when its parent ends."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, number, 0, 0, 0)
    if os.getppid() != parent:  # it ended before that was asked for
        os._exit(1)


def main(parent: int, box: Sequence[Sequence[str]], command: Sequence[str]) -> None:
    """Run a command, whose last argument will be the number of the process that it is to end with.

    Args:
        parent: the server's process number.
        box: options of :mod:`localml.engines.process.box`, to go on as another user, who sees no private folders;
            empty: go on as who this is.
    """
    guard = _guarded(parent)
    if box:
        _enter(box)
    os.execv(command[0], [*command, str(guard)])


def _enter(box: Sequence[Sequence[str]]) -> None:
    from localml.engines.process.box import enter, limit

    folder = os.getcwd()
    options = [(os.fsencode(name), os.fsencode(value)) for name, value in box]
    limit(options)
    enter(options)
    os.chdir(folder)


def _guarded(parent: int) -> int:
    """Go on in a child of this process, which waits for its end, for that of its parent, or for SIGTERM, and ends then
    with all that there is below it.

    Args:
        parent: the server's process number.

    Returns:
        In the child: the number of its parent.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, _HEARD)
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)  # which asks all of the group where they are
    end_with(parent, signal.SIGTERM)
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    me = os.getpid()
    child = os.fork()
    if child:
        _guard(child)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _HEARD)
    return me


def _guard(child: int) -> None:
    from localml.engines.process.box import end_rest

    nothing = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1, 2):  # whose ends tell the server of the child's
        os.dup2(nothing, number)
    ended = None
    while ended is None and signal.sigwait(_HEARD) == signal.SIGCHLD:
        ended = _reaped(child)
    end_rest()
    code = os.waitstatus_to_exitcode(ended or 0)
    if code < 0:  # end as it did
        if -code != signal.SIGKILL:
            signal.signal(-code, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        os.kill(os.getpid(), -code)
    os._exit(code)


def _reaped(child: int) -> int | None:
    """Take in all children that ended; the status of this one, if it is among them."""
    found = None
    while (ended := os.waitpid(-1, os.WNOHANG))[0]:
        if ended[0] == child:
            found = ended[1]
            break
    return found
