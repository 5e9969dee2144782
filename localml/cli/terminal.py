"""What a terminal gets to see of what others wrote: names, messages, output of programs.

A terminal obeys escape sequences: they set its title, fill its clipboard, clear and overwrite what is shown, and make
some answer as if their user had typed. So while a command runs, everything that it writes to a terminal goes through a
:class:`Guard`, which passes colours and shows everything else as text; commands need not think of it. What is not
written to a terminal stays as it is, byte for byte.
"""

from __future__ import annotations

import codecs
import io
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from threading import Lock
from typing import TextIO, cast

_COLOUR = r"\x1b\[[0-9;:]{0,64}m"
_OBEYED = "[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]"
"""Control characters but tab and line feed, and those that turn the direction of a text."""
_FIELD = re.compile(_OBEYED)
_EITHER = re.compile(f"({_COLOUR})|\r\n|(\n)|{_OBEYED}")
_BEGUN = re.compile(r"(?:\x1b(?:\[[0-9;:]{0,64})?|\r)\Z")
"""The end of a text that may be the beginning of a colour, or of a line's end."""
_PLAIN = "\x1b[0m"
_ENDS = re.compile(r"\x1b\[(?:[0-9;:]*;)?0*m")
"""A sequence after which nothing has a colour."""


def visible(text: str) -> str:
    """A name or message as a line's part: all that a terminal would obey is shown as ``\\x1b`` and the like."""
    return _FIELD.sub(lambda found: _shown(found[0]), text)


def _shown(character: str) -> str:
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


class Guard(io.TextIOBase):
    """A terminal that gets nothing but text and colours, which last to the end of their line at most.

    Args:
        terminal: where it is written.
    """

    def __init__(self, terminal: TextIO) -> None:
        self.terminal = terminal
        self._held = ""  # what may be the beginning of a sequence
        self._coloured = False
        self._lock = Lock()

    def write(self, text: str) -> int:
        """Write what commands say."""
        self._put(text, returns=False)
        return len(text)

    def write_output(self, text: str) -> None:
        """Write what a program wrote: it may return to the beginning of its line, as bars do."""
        self._put(text, returns=True)

    def finish(self) -> None:
        """Nothing more comes: what was held back is no sequence, and colours end."""
        with self._lock:
            rest, self._held = self._held, ""
            self.terminal.write(self._safe(rest, returns=False) + (_PLAIN if self._coloured else ""))
            self._coloured = False

    def _put(self, text: str, *, returns: bool) -> None:
        with self._lock:
            whole = self._held + text
            begun = _BEGUN.search(whole)
            at = begun.start() if begun is not None and not (returns and begun[0] == "\r") else len(whole)
            self._held = whole[at:]
            self.terminal.write(self._safe(whole[:at], returns=returns))

    def _safe(self, text: str, *, returns: bool) -> str:
        def one(found: re.Match[str]) -> str:
            what = found[0]
            if found[1]:
                self._coloured = _ENDS.fullmatch(what) is None
                return what
            if what in ("\n", "\r\n"):
                plain, self._coloured = (_PLAIN if self._coloured else ""), False
                return ("\r" if returns and what == "\r\n" else "") + plain + "\n"
            return what if returns and what == "\r" else _shown(what)

        return _EITHER.sub(one, text)

    def flush(self) -> None:
        self.terminal.flush()

    def isatty(self) -> bool:
        return True

    def fileno(self) -> int:
        return self.terminal.fileno()

    def writable(self) -> bool:
        return True

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return self.terminal.encoding

    @property
    def errors(self) -> str | None:  # type: ignore[override]
        return self.terminal.errors


@contextmanager
def guarded() -> Iterator[None]:
    """While this lasts, standard output and error are guarded where they are terminals."""
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (_guard(stream) for stream in before)
    made = [one for one in (sys.stdout, sys.stderr) if isinstance(one, Guard)]
    try:
        yield
    finally:
        for one in made:
            with suppress(OSError):  # a terminal that is gone
                one.finish()
                one.flush()
        sys.stdout, sys.stderr = before


def _guard(stream: TextIO) -> TextIO:
    return cast(TextIO, Guard(stream)) if stream is not None and stream.isatty() else stream


def below(stream: TextIO | Guard) -> TextIO:
    """The terminal below a guard, for bars that move its cursor and show nothing of others'; others as they are."""
    return stream.terminal if isinstance(stream, Guard) else stream


def show_output(stream: TextIO | Guard, text: str, *, raw: bool = False) -> None:
    """Write what a program wrote. ``raw``: as it is, whatever the terminal makes of it."""
    if raw or not isinstance(stream, Guard):
        below(stream).write(text)
    else:
        stream.write_output(text)


def output_writer(stream: TextIO | Guard, *, raw: bool = False) -> Callable[[bytes], None]:
    """Writes bytes of a program's output, in pieces that may end anywhere."""
    if raw or not isinstance(stream, Guard):
        target = below(stream)
        target.flush()
        return lambda data: _all(target, data)
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    guard = stream
    return lambda data: guard.write_output(decoder.decode(data))


def _all(target: TextIO, data: bytes) -> None:
    target.buffer.write(data)


def settled(stream: TextIO | Guard, line: str, *, raw: bool = False) -> str:
    """What is seen of a line in the end, where a bar returned to its beginning again and again."""
    return line if raw or not isinstance(stream, Guard) else line.rstrip("\r").rpartition("\r")[2]
