"""Promise 3: killing any process at any moment loses no job, no log line and no GPU. One share of the deaths."""

from __future__ import annotations

from helpers.kill_tests import DeathsOverProcesses


class TestDeaths(DeathsOverProcesses):
    """See there."""
