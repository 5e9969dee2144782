"""Output of several replicas as it comes: each line, and each state of a progress bar, is marked with its replica."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TextIO

from localml.cli import terminal

LONGEST = 1 << 16
"""Characters that are held back of what has not ended."""
_RECORD = re.compile(r"[^\r\n]*(?:\r?\n|\r(?!\n|\Z))")
"""What ends with a newline, or with a carriage return that is known to be none's beginning."""


class Marked:
    """Holds back what has not ended, of each replica and stream, and little of it.

    A carriage return ends a record as a newline does. A terminal gets the last state of a bar, when its line ends.
    """

    def __init__(self, *, raw: bool = False) -> None:
        self._held: dict[tuple[str, str], str] = {}
        self._raw = raw

    def show(self, target: TextIO, replica: str, text: str, stream: str = "stdout") -> None:
        """Write what has ended by now."""
        text = self._held.pop((replica, stream), "") + text
        if not self._raw and isinstance(target, terminal.Guard):
            *lines, rest = text.split("\n")
            for line in lines:
                self._write(target, replica, terminal.settled(target, line) + "\n")
            settled = terminal.settled(target, rest)
            rest = settled + "\r" * rest.endswith("\r")
        else:
            at = 0
            while found := _RECORD.match(text, at):
                self._write(target, replica, found[0])
                at = found.end()
            rest = text[at:]
        if len(rest) > LONGEST:
            self._write(target, replica, rest.rstrip("\r") + "\n")
        elif rest:
            self._held[replica, stream] = rest

    def rest(self, target: Callable[[str], TextIO]) -> None:
        """Nothing more comes: write what is held back.

        Args:
            target: asked where a stream goes.
        """
        for (replica, stream), text in self._held.items():
            into = target(stream)
            self._write(into, replica, terminal.settled(into, text, raw=self._raw).rstrip("\r") + "\n")
        self._held.clear()

    def _write(self, target: TextIO, replica: str, record: str) -> None:
        terminal.show_output(target, f"[{replica}] {record}", raw=self._raw)
