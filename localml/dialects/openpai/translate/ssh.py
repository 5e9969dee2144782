"""Ssh access of jobs, for as far as this server has an ssh service (``platform.ssh``)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, cast
from urllib.parse import quote, urlsplit

from localml.core.errors import Code, LocalmlError
from localml.core.people.identity import Caller
from localml.core.work.workloads import Full
from localml.dialects.kit.addresses import WILDCARDS
from localml.platform import Platform


class SshInfo(Protocol):
    """How to reach a workload: (replica name, host, port) of each container, and what its key pair is called.

    ``folder`` is the object URI of the folder with the two key files.
    """

    @property
    def containers(self) -> Sequence[tuple[str, str, int]]: ...

    @property
    def folder(self) -> str: ...

    @property
    def public_key_name(self) -> str: ...

    @property
    def private_key_name(self) -> str: ...


class SshService(Protocol):
    """What the platform offers as ``ssh``."""

    def info(self, workload_id: int) -> SshInfo: ...

    def private_key(self, workload_id: int, user: Caller) -> bytes: ...


def ssh_service(platform: Platform) -> SshService:
    """The platform's ssh service.

    Raises:
        LocalmlError: ``UNAVAILABLE`` when it has none.
    """
    found = getattr(platform, "ssh", None)
    if found is None:
        raise LocalmlError(Code.UNAVAILABLE, "this server gives no ssh access to jobs")
    return cast(SshService, found)


def ssh_answer(platform: Platform, job: Full, root: str) -> dict[str, Any]:
    """Containers and key pair of a job.

    Raises:
        LocalmlError: ``UNAVAILABLE`` when there is no ssh service; what the service raises while no container runs.
    """
    info = ssh_service(platform).info(job.row.id or 0)
    asked = urlsplit(root).hostname or ""
    containers = [(name, asked if host in WILDCARDS else host, port) for name, host, port in info.containers]
    return {
        "containers": [{"id": name, "sshIp": host, "sshPort": str(port)} for name, host, port in containers],
        "keyPair": {
            "folderPath": info.folder,
            "publicKeyFileName": info.public_key_name,
            "privateKeyFileName": info.private_key_name,
            "privateKeyDirectDownloadLink": f"{root}api/v1/jobs/{quote(job.row.name, safe='~')}/ssh/privateKey",
        },
    }
