"""What a replica's supervisor is told, as the bytes of the file ``launch``."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from localml.engines.base import EngineError


@dataclass(frozen=True, slots=True)
class Launch:
    """What the supervisor is told: command, complete environment, work directory and its options, in order."""

    command: Sequence[str]
    env: Mapping[str, str]
    workdir: str
    options: Sequence[tuple[str, str]] = ()

    def encode(self) -> bytes:
        """The file ``launch`` (see :class:`localml.engines.process.supervisor.Launch`).

        Raises:
            EngineError: there is no command, or a text that no process can be given.
        """
        if not self.command:
            raise EngineError("a command is needed: the process engine has no image that would bring one")
        options = [f"{key}={value}" for key, value in (("workdir", self.workdir), *self.options)]
        parts = [*options, "", *(f"{name}={value}" for name, value in self.env.items()), "", *self.command]
        if any("\0" in part for part in parts) or any("=" in name or not name for name in self.env):
            raise EngineError("a NUL byte, or a name of an environment variable that is none")
        return b"".join(os.fsencode(part) + b"\0" for part in parts)
