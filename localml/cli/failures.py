"""What nobody foresaw, in words: a command never ends in a traceback.

A file that cannot be written, a full disk behind standard output, a terminal that has no such letters, a defect of
localml itself.
"""

from __future__ import annotations

import io
import os
import sys

from localml.cli.common import FAILED, fail
from localml.client.errors import ClientError
from localml.core.errors import LocalmlError


def in_words(error: Exception) -> ClientError | LocalmlError:
    """Any failure as one that can be shown."""
    if isinstance(error, ClientError | LocalmlError):
        return error
    if isinstance(error, OSError):
        return ClientError("storage" if error.errno else "unavailable", _of_system(error))
    if isinstance(error, UnicodeError):
        return ClientError("invalid", "an argument or a file's name holds bytes that are no text in UTF-8")
    words = f"{type(error).__name__}: {error}".rstrip(": ")
    return ClientError(
        "internal", f"{words}; a defect of localml, or what answered is none (LOCALML_DEBUG=1 shows where)"
    )


def _of_system(error: OSError) -> str:
    """The file and the reason, without Python's numbers."""
    reason = error.strerror or str(error) or type(error).__name__
    where = [os.fsdecode(one) for one in (error.filename, error.filename2) if isinstance(one, str | bytes)]
    return f"{' -> '.join(where)}: {reason}" if where else reason


def encodable() -> None:
    """Let standard output and error show what their encoding has no letters for as ``\\xe4`` and the like."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="backslashreplace")


def finished(code: int) -> int:
    """The exit code, once all output is written: what cannot be written is a failure, unless its reader has left."""
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:
                stream.flush()
        except OSError as error:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())  # it is flushed once more at the very end
            if not isinstance(error, BrokenPipeError):
                code = code or FAILED
                if stream is sys.stdout:
                    fail(ClientError("storage", f"the output cannot be written: {_of_system(error)}"), as_json=False)
    return code
