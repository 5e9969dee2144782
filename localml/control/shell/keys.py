"""Keys of ssh access: one pair for each workload and user, one for the host.

They are computed from the installation's key file and never stored, so that they are the same after a restart and
nothing is left of them when a workload is gone.
"""

from __future__ import annotations

from dataclasses import dataclass

from localml.core.people.identity import Caller
from localml.core.people.secrets import Vault


@dataclass(frozen=True, slots=True)
class KeyPair:
    """An Ed25519 key pair in OpenSSH's formats: ``private`` as a key file, ``public`` as ``ssh-ed25519 BASE64``."""

    private: bytes
    public: str


def host_key(vault: Vault) -> KeyPair:
    """What the server identifies itself with."""
    return _pair(vault, "ssh host")


def workload_key(vault: Vault, workload_id: int, created_at: float, user: Caller) -> KeyPair:
    """The only key that opens a workload's containers for a user. It is another one once the user's credentials were
    ended.

    Args:
        created_at: of the workload; its id may be given again when the newest workload is pruned.
    """
    whose = f"user {user.id} {user.workspace} {user.generation}"
    return _pair(vault, f"ssh workload {workload_id} of {created_at!r} for {whose}")


def _pair(vault: Vault, purpose: str) -> KeyPair:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    key = Ed25519PrivateKey.from_private_bytes(vault.derive(purpose))
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
    )
    public = key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    return KeyPair(private, public.decode("ascii"))
