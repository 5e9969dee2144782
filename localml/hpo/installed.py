"""Installed algorithms as suggesters get them, and whom their processes run as."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from localml.config import Config
from localml.core.clock import Clock
from localml.core.errors import Code, LocalmlError
from localml.core.people.identity import Caller
from localml.core.ports import Store
from localml.core.studies.algorithms import built_in
from localml.core.studies.installed import MOST_BYTES, MOST_FILES, Algorithms
from localml.engines.base import Account
from localml.engines.process.boxes import trouble as boxes_trouble
from localml.hpo.base import Plugin
from localml.hpo.processes import Limits, Processes
from localml.objects.archives import Limits as ArchiveLimits
from localml.objects.archives import unpack


def open_algorithms(
    config: Config, store: Store, clock: Clock, user: Callable[[int], Caller]
) -> tuple[Algorithms, Processes]:
    """The installed algorithms of an installation, and what begins the processes of these and the built-in ones.

    Args:
        user: a user by number, also one that was removed.
    """
    accounts = PluginAccounts(trusted=config.trust_users, first=config.uids, user=user)
    limits = ArchiveLimits(files=MOST_FILES, size=MOST_BYTES)
    algorithms = Algorithms(store, clock, config.data, unpack=partial(unpack, limits=limits), admits=accounts.check)
    may_take = Limits(config.algorithm_seconds, config.algorithm_seconds, memory=config.algorithm_memory)
    return algorithms, Processes(config.cache, config.data, account=accounts.of, limits=may_take)


def plugin_of(algorithms: Algorithms, name: str) -> Plugin | None:
    """The installed algorithm of a name; None for a built-in one.

    Raises:
        LocalmlError: ``NOT_FOUND``: there is neither (any more).
    """
    if built_in(name) is not None:
        return None
    row = algorithms.get(name)
    return Plugin(row.name, algorithms.folder(row), row.owner_id, row.log_level)


class PluginAccounts:
    """Whom an installed algorithm runs as: its owner, where that is no administrator.

    It is a program of somebody else on the server's machine, whatever the engine that jobs run on; so there must be an
    account of its own, in a box as the process engine makes them for jobs.

    Args:
        trusted: everybody's programs may run as the server.
        first: the number that the users' accounts begin with.
        user: a user by number, also one that was removed.
    """

    def __init__(self, *, trusted: bool, first: int, user: Callable[[int], Caller]) -> None:
        self._trusted = trusted
        self._first = first
        self._user = user

    def check(self, caller: Caller) -> None:
        """Refuse the algorithm of a user from whom nobody can be protected here.

        Raises:
            LocalmlError: ``FORBIDDEN``.
        """
        self.of(caller.id)

    def of(self, owner_id: int) -> Account | None:
        """The account of a user's algorithms; None: they run as the server does.

        Raises:
            LocalmlError: ``FORBIDDEN``.
        """
        if self._trusted or owner_id == 0:
            return None
        owner = self._user(owner_id)
        if owner.admin:
            return None
        trouble = boxes_trouble()
        if trouble:
            words = f"algorithms of {owner.name}, who is no administrator, would run as the server: {trouble}"
            advice = "run localml as root, or trust all users: localml up --trust-users"
            raise LocalmlError(Code.FORBIDDEN, f"{words}; {advice}", details={"refused": True})
        return Account(self._first + owner.id, self._first + owner.id)
