"""Commands that take several names: all of them are tried, each failure is told, and the exit code tells of any."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import typer

from localml.cli.common import FAILED, fail
from localml.client.errors import ClientError
from localml.core.errors import LocalmlError

R = TypeVar("R")
_HOPELESS = ("no_server", "unreachable", "unauthenticated")
"""What is so for every name."""


@dataclass
class Tried(Generic[R]):
    """What came of each name."""

    done: list[R] = field(default_factory=list)
    failed: dict[str, ClientError | LocalmlError] = field(default_factory=dict)

    def members(self) -> dict[str, Any]:
        """What the answer in JSON says beside what was done."""
        if not self.failed:
            return {}
        return {
            "failed": [
                {"name": name, "code": str(one.code), "message": one.message, "field": one.field}
                for name, one in self.failed.items()
            ]
        }

    def tell(self, *, as_json: bool) -> None:
        """Tell people what failed; programs find it in :meth:`members`."""
        if not as_json:
            for one in self.failed.values():
                fail(one, as_json=False)

    def finish(self, *, as_json: bool) -> None:
        """Tell what failed, and end the command with 1 if anything did."""
        self.tell(as_json=as_json)
        if self.failed:
            raise typer.Exit(FAILED)


def each(names: Iterable[str], act: Callable[[str], R], *, alone: bool | None = None) -> Tried[R]:
    """Do it to each name, once. A failure of the only name, or one that is so for every name, is raised as it is.

    Args:
        alone: whether the command was given one name only, where these are not all that it was given.
    """
    wanted = list(dict.fromkeys(names))
    alone = len(wanted) == 1 if alone is None else alone
    tried: Tried[R] = Tried()
    for name in wanted:
        try:
            tried.done.append(act(name))
        except (ClientError, LocalmlError) as error:
            if alone or error.code in _HOPELESS:
                raise
            tried.failed[name] = error
        except TimeoutError as error:
            if alone:
                raise
            tried.failed[name] = ClientError("timeout", str(error))
    return tried
