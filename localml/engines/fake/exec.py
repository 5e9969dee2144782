"""What a command inside a replica of the fake engine does."""

from __future__ import annotations

import queue

from localml.engines.base import ExecResult, Stream


class FakeExec:
    """Writes a result, then whatever it is given, until its input ends."""

    def __init__(self, result: ExecResult) -> None:
        self._code = result.exit_code
        self._output: queue.SimpleQueue[tuple[Stream, bytes] | None] = queue.SimpleQueue()
        self.size: tuple[int, int] | None = None
        for stream, data in (("stdout", result.stdout), ("stderr", result.stderr)):
            if data:
                self._output.put((stream, data))  # type: ignore[arg-type]

    def read(self) -> tuple[Stream, bytes] | None:
        """See :class:`localml.engines.base.ExecStream`."""
        piece = self._output.get()
        if piece is None:
            self._output.put(None)
        return piece

    def write(self, data: bytes) -> None:
        """See :class:`localml.engines.base.ExecStream`."""
        self._output.put(("stdout", data))

    def close_stdin(self) -> None:
        """See :class:`localml.engines.base.ExecStream`."""
        self._output.put(None)

    def resize(self, columns: int, rows: int) -> None:
        """Remember the size."""
        self.size = (columns, rows)

    def signal(self, number: int) -> None:
        """End by it."""
        self._code = 128 + number
        self._output.put(None)

    def wait(self) -> int:
        """See :class:`localml.engines.base.ExecStream`."""
        return self._code

    def close(self) -> None:
        """See :class:`localml.engines.base.ExecStream`."""
        self._output.put(None)
