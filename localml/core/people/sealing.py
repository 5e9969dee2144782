"""Secret variables of a workload: kept encrypted in its spec, opened only for its container and for its owner."""

from __future__ import annotations

import json
from collections.abc import Callable

from localml.core.errors import LocalmlError, invalid
from localml.core.people.secrets import Vault


class Sealer:
    """Seals texts for one user: nobody else can put a sealed text that was seen somewhere into a spec of their own.

    Args:
        vault: holds the installation's key.
        was_called: whether the user of this number had this name at this time (seconds): texts of earlier versions
            were sealed for a name.
    """

    def __init__(self, vault: Vault, was_called: Callable[[int, str, float], bool] = lambda *_: False) -> None:
        self._vault = vault
        self._was_called = was_called

    def seal(self, owner: int, text: str) -> str:
        """The text encrypted for the workloads of the user of this number."""
        return self._vault.seal(json.dumps([owner, text])).decode("ascii")

    def open(self, owner: int, sealed: str, *, field: str = "sealed_env") -> str:
        """What :meth:`seal` was given.

        Args:
            owner: number of the owner of the workload that has it.
            field: the request member that an error names.

        Raises:
            LocalmlError: ``INVALID``: this installation did not seal it, or not for this user.
        """
        from cryptography.fernet import InvalidToken

        try:
            whose, text = json.loads(self._vault.unseal(sealed.encode()))
        except (InvalidToken, ValueError):
            raise _foreign(field) from None
        if whose != owner and not (
            isinstance(whose, str) and self._was_called(owner, whose, self._vault.sealed_at(sealed.encode()))
        ):
            raise _foreign(field)
        return str(text)


def _foreign(field: str) -> LocalmlError:
    return invalid(field, "holds a value that was not sealed by this installation for this user")
