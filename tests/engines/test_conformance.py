"""Every engine against the same expectations."""

from __future__ import annotations

from helpers.conformance import EngineConformance


class TestEngine(EngineConformance):
    """The suite, once for each kit."""
