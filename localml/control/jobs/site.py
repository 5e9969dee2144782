"""What all jobs of an installation share, and what of a submission can be refused at once."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection

from localml.config import LOOPBACK, Config
from localml.control.jobs.accounts import Accounts
from localml.control.jobs.code import CodeFolders
from localml.control.jobs.hardware import Hardware
from localml.control.jobs.holdings import LOCAL
from localml.control.jobs.mounts import Mounts
from localml.control.jobs.pins import Pins
from localml.control.jobs.plans import Site
from localml.control.jobs.snapshot import WorkloadRow
from localml.core.catalog import HOST, Catalog
from localml.core.errors import LocalmlError, invalid
from localml.core.people.allow import MACHINE, may
from localml.core.people.rights import Action
from localml.core.people.sealing import Sealer
from localml.core.work.code import CODE_IN_CONTAINER, CodeArchives
from localml.core.work.grants import Grants
from localml.core.work.specs import RegistryAuth, Role, WorkloadSpec, most_pids, need_unprivileged
from localml.core.work.totals import need_within
from localml.core.work.workloads import Submission
from localml.engines.base import Engine, EngineError
from localml.engines.proxies import proxies
from localml.objects import Buckets
from localml.objects.registry_auth import read_registry_auth

DEFAULT_IMAGE = "localml/base:latest"
"""Of whatever names no image, where there are images; elsewhere it runs in the Python of this machine."""


def open_site(
    config: Config,
    install: str,
    *,
    engine: Engine,
    hardware: Hardware,
    mounts: Mounts,
    buckets: Buckets,
    catalog: Catalog,
    sealer: Sealer,
    pins: Pins,
    run_token: Callable[[int], str],
    replica_token: Callable[[int], str],
    accounts: Accounts,
    code: CodeFolders,
) -> Site:
    """This machine as plans see it. Files that our own images write belong to the data directory's owner."""
    owner = config.data.stat()

    def unseal(row: WorkloadRow, sealed: str) -> str:
        try:
            return sealer.open(row.owner_id, sealed)
        except LocalmlError as error:
            raise EngineError(error.message) from error

    def registry_auth(uri: str, bucket: int | None) -> RegistryAuth:
        mounts.need_same(uri, bucket)
        return read_registry_auth(buckets, uri)

    return Site(
        install=install,
        node=LOCAL,
        capabilities=engine.capabilities,
        bind_address=config.host if config.host not in ("localhost", "::1") else LOOPBACK[0],
        mounts=mounts,
        our_image=lambda image: catalog.of_image(image) is not None,
        default_image=DEFAULT_IMAGE if engine.capabilities.images else HOST,
        user=f"{owner.st_uid}:{owner.st_gid}",
        gpu=hardware.grant,
        host_cpus=float(os.cpu_count() or 1),
        host_memory=hardware.machine().memory,
        unseal=unseal,
        account=accounts.of,
        proxies=proxies() if config.inherit_proxy else {},
        group=config.uids if engine.capabilities.mounts and os.geteuid() == 0 else None,
        registry_auth=registry_auth,
        pins=pins,
        run_token=run_token,
        replica_token=replica_token,
        code=code,
    )


class Possible:
    """Refuses, before anything is recorded, what can never run here or not for its caller, and decides what the rest
    may see: called with each submission.

    Args:
        code: the archives of code.
        gang: see :attr:`localml.engines.base.Capabilities.gang`.

    Raises:
        LocalmlError: ``INVALID``, ``FORBIDDEN`` or ``CONFLICT`` (totals, mounts, sealed variables, ports, pids, users
            from whom the engine protects nobody), ``CAPACITY`` with the numbers.
    """

    def __init__(
        self,
        accounts: Accounts,
        mounts: Mounts,
        sealer: Sealer,
        hardware: Hardware,
        own_ports: Collection[int],
        code: CodeArchives,
        gang: int = 0,
    ) -> None:
        self._accounts = accounts
        self._mounts = mounts
        self._sealer = sealer
        self._hardware = hardware
        self._own_ports = own_ports
        self._code = code
        self._gang = gang or None

    def __call__(self, submission: Submission) -> Grants:
        if submission.parent is None:  # a replica, or a later run, of what was admitted is nothing new
            need_within(submission.spec, gang=self._gang)
        self._accounts.check(submission.caller)
        for role in submission.spec.roles:
            for sealed in role.sealed_env.values():
                self._sealer.open(submission.caller.id, sealed)
        askers = [one for one in (submission.caller, submission.by) if one is not None]
        administers = all(may(one, Action.ADMINISTER, MACHINE) for one in askers)
        for role in submission.spec.roles:
            self._check_ports(role)
            if not administers:
                _check_share(role)
        self._hardware.check(submission.spec)
        caller, code = submission.caller, submission.spec.code
        place = submission.workspace or caller.workspace
        if code is not None:
            self._code.use(place, code)
        if code is not None or submission.spec.files:
            _check_mounts(submission.spec)
        # last: it makes the buckets that there are not yet
        grants = self._mounts.decide(submission.spec, caller, place, submission.sees)
        return grants if code is None else grants.model_copy(update={"code": place})

    def _check_ports(self, role: Role) -> None:
        """Nobody waits at the server's or gateway's own door for its next restart, and the tokens that come then."""
        for port in role.ports:
            if port.host in self._own_ports or port.prefer in self._own_ports:
                raise invalid("ports", f"port {port.host or port.prefer} is localml's own")


def _check_mounts(spec: WorkloadSpec) -> None:
    if any(mount.target.rstrip("/") == CODE_IN_CONTAINER for mount in spec.mounts):
        raise invalid("mounts", f"{CODE_IN_CONTAINER} is where the code is; choose another target")


def _check_share(role: Role) -> None:
    """Refuse a user's role what would take the machine from others."""
    for port in role.ports:
        need_unprivileged(port.host, "ports")
        need_unprivileged(port.prefer, "ports")
    most = most_pids()
    if (role.resources.pids or 0) > most:
        raise invalid("pids", f"at most {most} processes and threads, not {role.resources.pids}")
