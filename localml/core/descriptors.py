"""How many files and connections this process may have open at a time, and what is kept of that for what matters."""

from __future__ import annotations

import resource

_MOST = 1 << 20  # what "unlimited" comes to
_RESERVE = 512

_before: tuple[int, int] | None = None


def raise_limit() -> int:
    """Allow this process as many as the system lets it have; returns how many.

    Programs that it starts should get :func:`limit_of_children`: those that use ``select`` cannot cope with more than
    1024, and trust the limit to keep them from it.
    """
    global _before
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        _before = (soft, hard) if _before is None else _before
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return limit()


def limit() -> int:
    """How many this process may have now."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return _MOST if soft == resource.RLIM_INFINITY else min(soft, _MOST)


def limit_of_children() -> tuple[int, int] | None:
    """The limit of before :func:`raise_limit`, and how far it may be raised; None where it was not raised."""
    return _before


def for_clients() -> int:
    """The first descriptor that clients' connections may not have: those above are for the database, the engine, logs
    and whatever else is opened while the server is crowded. (The system gives the lowest one that is free.)"""
    most = limit()
    return most - min(_RESERVE, most // 4)
