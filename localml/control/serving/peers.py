"""Whether who answers at a replica's port is the replica: on an engine that shares the machine's ports, somebody else
may have taken it in the moment between its choice and the replica's start, and answer anything to anybody."""

from __future__ import annotations

from collections.abc import Mapping

import psutil

from localml.control.own_ports import listening, words_of
from localml.core.serving.specs import TOKEN_VARIABLE

WORKLOAD_VARIABLE = "LOCALML_WORKLOAD"
_ENGINES = "/replicas/."
"""In the command line of what starts the process engine's replicas."""


def stranger(port: int, workload: int, token: str) -> str:
    """Who listens at a port in place of a replica, in words; empty where it is the replica, or that can't be told.

    A program knows by its environment whose it is; one that says nothing is whose child it is.

    Args:
        workload: id of the replica's workload.
        token: what its attempt knows the gateway by.
    """
    pid = listening(port)
    if pid is None:
        return ""
    try:
        process = psutil.Process(pid)
        said = process.environ()
        if TOKEN_VARIABLE in said or WORKLOAD_VARIABLE in said:
            own = _is_own(said, workload, token)
        else:
            own = any(_started(one, workload, token) for one in process.parents())
        return "" if own else words_of(process)
    except psutil.Error:  # another user's, or gone meanwhile
        return ""


def _is_own(said: Mapping[str, str], workload: int, token: str) -> bool:
    """A replica that an older version started has no token."""
    return said.get(TOKEN_VARIABLE, token) == token and said.get(WORKLOAD_VARIABLE) == str(workload)


def _started(above: psutil.Process, workload: int, token: str) -> bool:
    try:
        return _is_own(above.environ(), workload, token) or any(_ENGINES in word for word in above.cmdline())
    except psutil.AccessDenied:
        return False
