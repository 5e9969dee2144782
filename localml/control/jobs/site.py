"""What all jobs of an installation share, and what of a submission can be refused at once."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial

from localml.config import LOOPBACK, Config
from localml.control.jobs.hardware import Hardware
from localml.control.jobs.holdings import LOCAL
from localml.control.jobs.mounts import Mounts
from localml.control.jobs.plans import Site
from localml.control.jobs.snapshot import WorkloadRow
from localml.core.catalog import Catalog
from localml.core.errors import LocalmlError
from localml.core.people.sealing import Sealer
from localml.core.work.workloads import Submission
from localml.engines.base import Engine, EngineError
from localml.objects import Buckets
from localml.objects.registry_auth import read_registry_auth

DEFAULT_IMAGE = "localml/base:latest"


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
    run_token: Callable[[int], str],
    replica_token: Callable[[int], str],
) -> Site:
    """This machine as plans see it. Files that our own images write belong to the data directory's owner."""
    owner = config.data.stat()

    def unseal(row: WorkloadRow, sealed: str) -> str:
        try:
            return sealer.open(row.owner, sealed)
        except LocalmlError as error:
            raise EngineError(error.message) from error

    return Site(
        install=install,
        node=LOCAL,
        capabilities=engine.capabilities,
        bind_address=config.host if config.host not in ("localhost", "::1") else LOOPBACK[0],
        buckets=buckets.root,
        mount_source=mounts.source,
        our_image=lambda image: catalog.of_image(image) is not None,
        default_image=DEFAULT_IMAGE,
        user=f"{owner.st_uid}:{owner.st_gid}",
        gpu=hardware.grant,
        host_cpus=float(os.cpu_count() or 1),
        unseal=unseal,
        registry_auth=partial(read_registry_auth, buckets),
        run_token=run_token,
        replica_token=replica_token,
    )


class Possible:
    """Refuses, before anything is recorded, what can never run here: called with each submission.

    Raises:
        LocalmlError: ``INVALID`` or ``FORBIDDEN`` (mounts, sealed variables), ``CAPACITY`` with the numbers.
    """

    def __init__(self, mounts: Mounts, sealer: Sealer, hardware: Hardware) -> None:
        self._mounts = mounts
        self._sealer = sealer
        self._hardware = hardware

    def __call__(self, submission: Submission) -> None:
        self._mounts.check(submission.spec, submission.caller)
        for role in submission.spec.roles:
            for sealed in role.sealed_env.values():
                self._sealer.open(submission.caller.name, sealed)
        self._hardware.check(submission.spec)
