"""What goes over the wire about ssh access."""

from __future__ import annotations

from pydantic import BaseModel


class SshDoorOut(BaseModel):
    """Where one running replica is reached. ``name`` is that of its container."""

    role: str
    index: int
    name: str
    host: str
    port: int


class SshOut(BaseModel):
    """Ssh access of a workload.

    ``doors`` holds the replicas that run now. ``private_key`` is a key file of OpenSSH, which opens them for the
    caller; ``host_key`` is what the server identifies itself with, as in a ``known_hosts`` file.
    """

    user: str
    doors: list[SshDoorOut]
    private_key: str
    host_key: str
