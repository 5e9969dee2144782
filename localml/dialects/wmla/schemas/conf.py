"""The body of the service's settings."""

from __future__ import annotations

from pydantic import RootModel


class StringMap(RootModel[dict[str, str]]):
    """Name of a setting -> its value as text."""
