"""Keys of ssh access."""

from __future__ import annotations

from dataclasses import replace

from cryptography.fernet import Fernet
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_ssh_private_key

from localml.control.shell.keys import host_key, workload_key
from localml.core.people.identity import Caller
from localml.core.people.secrets import Vault


def test_a_workloads_key_is_always_the_same_and_nobody_elses() -> None:
    vault, other = Vault(Fernet.generate_key()), Vault(Fernet.generate_key())
    ann = Caller(1, "ann", False, "w", "")
    key = workload_key(vault, 1, 1000.5, ann)
    assert workload_key(vault, 1, 1000.5, ann).public == key.public
    others = [
        workload_key(vault, 2, 1000.5, ann),
        workload_key(vault, 1, 1000.75, ann),  # the id was given again
        workload_key(other, 1, 1000.5, ann),
        workload_key(vault, 1, 1000.5, Caller(2, "bob", False, "w", "")),
        workload_key(vault, 1, 1000.5, Caller(1, "ann", False, "x", "")),  # so was the user's
        workload_key(vault, 1, 1000.5, replace(ann, generation=1)),
        host_key(vault),
        host_key(other),
    ]
    assert len({one.public for one in [key, *others]}) == 9


def test_the_two_halves_belong_together() -> None:
    key = workload_key(Vault(Fernet.generate_key()), 7, 1.0, Caller(1, "ann", False, "w", ""))
    public = load_ssh_private_key(key.private, None).public_key()
    assert public.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode() == key.public
