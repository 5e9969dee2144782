"""An engine's attached commands for coroutines: each blocking call runs on a thread that belongs to the command."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import ParamSpec, TypeVar

from localml.engines.base import Engine, ExecStream, Stream

P = ParamSpec("P")
R = TypeVar("R")

_THREADS = 4  # reading, writing, waiting, and a change of size or a signal meanwhile


class AsyncExec:
    """A command inside a container; the methods are those of :class:`localml.engines.base.ExecStream`.

    :meth:`close` must be called in the end.
    """

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(_THREADS, "localml-ssh-exec")
        self._stream: ExecStream | None = None

    @classmethod
    async def open(
        cls,
        engine: Engine,
        name: str,
        command: tuple[str, ...],
        tty: tuple[int, int] | None = None,
        env: Mapping[str, str] | None = None,
    ) -> AsyncExec:
        """Start it; raises what the engine raises."""
        made = cls()
        try:
            made._stream = await made._call(partial(engine.open, name, command, tty=tty, env=env))
        except BaseException:
            made._threads.shutdown(wait=False)
            raise
        return made

    async def read(self) -> tuple[Stream, bytes] | None:
        """The next output; None when no more will come."""
        return await self._call(self._given.read)

    async def write(self, data: bytes) -> None:
        """Give it to the command's input."""
        await self._call(self._given.write, data)

    async def close_stdin(self) -> None:
        """The end of its input."""
        await self._call(self._given.close_stdin)

    async def resize(self, columns: int, rows: int) -> None:
        """Change the size of its terminal."""
        await self._call(self._given.resize, columns, rows)

    async def signal(self, number: int) -> None:
        """Send a signal."""
        await self._call(self._given.signal, number)

    async def wait(self) -> int:
        """Its exit code."""
        return await self._call(self._given.wait)

    async def close(self) -> None:
        """End it if it still runs."""
        stream, self._stream = self._stream, None
        if stream is None:
            return
        # Not on the command's own threads: they may all be busy waiting for it.
        try:
            await asyncio.get_running_loop().run_in_executor(None, stream.close)
        finally:
            self._threads.shutdown(wait=False)

    @property
    def closed(self) -> bool:
        """Whether it was let go of."""
        return self._stream is None

    @property
    def _given(self) -> ExecStream:
        if self._stream is None:
            raise BrokenPipeError("the command is over")
        return self._stream

    async def _call(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        return await asyncio.get_running_loop().run_in_executor(self._threads, partial(function, *args, **kwargs))
