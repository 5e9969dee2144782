"""The one exception of the client; in a module of its own so that knowing it costs nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class ClientError(Exception):
    """A request that was refused, or could not be made.

    ``code`` is the server's (``not_found``, ``invalid``, ``quota`` ...), or ``unreachable`` when there was no answer,
    or ``no_server`` when no server was found. ``field`` names the member at fault, ``status`` is HTTP's or None.
    """

    def __init__(
        self,
        code: str,
        message: str,
        *,
        field: str | None = None,
        details: Mapping[str, Any] | None = None,
        status: int | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.field = field
        self.details = dict(details or {})
        self.status = status
