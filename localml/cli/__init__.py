"""The ``localml`` command."""

from __future__ import annotations

import os
import signal
import sys

INTERRUPTED = 130
"""The exit code after Ctrl-C, as a shell has it."""


def main() -> None:
    """Entry point of the console script. Ctrl-C ends it without a word of Python's, whatever it does just then."""
    interruptible = signal.getsignal(signal.SIGINT) is signal.default_int_handler  # it is ignored in the background
    _interrupts(signal.SIG_DFL, interruptible)  # nothing has begun that had to be tidied up
    _open_streams()
    from localml.cli.app import run

    try:
        _interrupts(signal.default_int_handler, interruptible)
        code = run(sys.argv[1:])
    except KeyboardInterrupt:
        code = INTERRUPTED
    _interrupts(signal.SIG_DFL, interruptible)
    sys.exit(code)


def _interrupts(handler: object, interruptible: bool) -> None:
    if interruptible:
        signal.signal(signal.SIGINT, handler)  # type: ignore[arg-type]


def _open_streams() -> None:
    """A stream that was closed (``>&-``) is none: files and connections would get its number, and be written to."""
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        if getattr(sys, name) is not None:
            continue
        null = os.open(os.devnull, os.O_RDWR)
        if null != number:
            os.dup2(null, number)
            os.close(null)
        os.set_inheritable(number, True)
        setattr(sys, name, open(number, mode, closefd=False))  # noqa: SIM115 (it is there until the end)
