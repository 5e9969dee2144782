"""Whom a workload runs as, on an engine that knows no containers."""

from __future__ import annotations

from collections.abc import Callable

from localml.control.jobs.snapshot import WorkloadRow
from localml.core.errors import Code, LocalmlError
from localml.core.people.identity import Caller
from localml.engines.base import Account, Capabilities, EngineError

_ADVICE = "use the Docker engine, run localml as root, or trust all users: localml up --trust-users"


class Accounts:
    """Gives each user who is no administrator an account of this machine, where the engine wants one.

    A user's uid and gid are ``first`` + the user's number; the group ``first`` itself is that of what all may write.

    Args:
        capabilities: of the engine.
        trusted: everybody's jobs may run as the server.
        first: the number that the accounts begin with.
        user: a user by number, also one that was removed, whose jobs go on under its own account; raises
            ``NOT_FOUND``.
    """

    def __init__(self, capabilities: Capabilities, *, trusted: bool, first: int, user: Callable[[int], Caller]) -> None:
        self._capabilities = capabilities
        self._trusted = trusted
        self._first = first
        self._user = user

    def check(self, caller: Caller) -> None:
        """Refuse the work of a user from whom this engine cannot protect anybody.

        Raises:
            LocalmlError: ``FORBIDDEN``.
        """
        if self._capabilities.exposes and not self._trusted and not self._is_admin(caller):
            raise LocalmlError(Code.FORBIDDEN, self._refusal(caller.name), details={"refused": True})

    def of(self, row: WorkloadRow) -> Account | None:
        """The account of a workload; None where it runs as whatever the engine runs things as.

        Raises:
            EngineError: it must not run here (any more).
        """
        if self._trusted or not (self._capabilities.accounts or self._capabilities.exposes):
            return None
        try:
            owner = self._user(row.owner_id)
        except LocalmlError as error:
            raise EngineError(f"nobody can say whom it is to run as: {error.message}") from error
        if owner.admin:
            return None
        if self._capabilities.exposes:
            raise EngineError(self._refusal(owner.name))
        return Account(self._first + owner.id, self._first + owner.id, (self._first,))

    def words(self) -> str:
        """What users who are no administrators should know; empty where the engine keeps everybody apart."""
        if self._trusted and (self._capabilities.exposes or self._capabilities.accounts):
            return "all are trusted: their jobs run as the server's user and can reach everything that it can"
        if self._capabilities.exposes:
            return f"only administrators run jobs: {self._capabilities.exposes}; {_ADVICE}"
        return ""

    def _is_admin(self, caller: Caller) -> bool:
        """Whether the user is one; what acts in a user's name may have more rights than that user has."""
        return caller.id == 0 or self._user(caller.id).admin

    def _refusal(self, name: str) -> str:
        return f"{name} may run nothing here, being no administrator: {self._capabilities.exposes}; {_ADVICE}"
