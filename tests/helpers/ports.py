"""Ports for programs that must be told where to listen."""

from __future__ import annotations

from contextlib import ExitStack

from localml.control.jobs import hostports


def free_port() -> int:
    """A port that nobody listens on, and that nobody is given by chance before it is listened on."""
    with ExitStack() as held:
        return hostports.free_port(set(), held)
