"""Runs with the MPI backend: what their workers need to start each other (``localml_launcher.mpi`` in the image)."""

from __future__ import annotations

import shlex

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from localml.core.work.specs import Completion, Port, Role
from localml.platform import Platform

_SSH, _SSH_PORT = "ssh", 2222
_LAUNCH = """\
if ! python -c 'import localml_launcher.mpi'; then
  echo 'this image cannot start MPI; use localml/mpi, localml/train-pytorch or an image made from it' >&2
  exit 64
fi
"""


def with_mpi(platform: Platform, role: Role, owner: int) -> Role:
    """The workers' role with SSH between them, by a key that is made here and stored only sealed."""
    return role.model_copy(
        update={
            "env": {**role.env, "LOCALML_MPI_ADDRESSES": f"%{{addresses:{role.name}:{_SSH}}}"},
            "sealed_env": {"LOCALML_MPI_KEY": platform.sealer.seal(owner, _new_key())},
            "ports": (*role.ports, Port(label=_SSH, container=_SSH_PORT, publish=False)),
            # the first ends when the command has ended everywhere, the others serve until then
            "completion": Completion(min_succeeded=1),
        }
    )


def mpi_script(script: str) -> str:
    """A shell script that has another one run on all workers, in the environment of each."""
    return f"{_LAUNCH}exec python -m localml_launcher mpi -- sh -c {shlex.quote(script)}\n"


def _new_key() -> str:
    return (
        Ed25519PrivateKey.generate()
        .private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption())
        .decode("ascii")
    )
