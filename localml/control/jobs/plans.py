"""From a placed attempt to the engine's plan: environment, folders, ports, names that resolve."""

from __future__ import annotations

import json
import posixpath
import re
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

from localml.control.jobs.addresses import address_of, expanded, host_of, is_gang
from localml.control.jobs.code import CodeFolders
from localml.control.jobs.mounts import BUCKETS_IN_CONTAINER, Mounts
from localml.control.jobs.snapshot import AttemptRow, WorkloadRow
from localml.core.errors import Code, LocalmlError
from localml.core.serving.specs import TOKEN_VARIABLE
from localml.core.work.code import CODE_IN_CONTAINER
from localml.core.work.grants import Grants
from localml.core.work.reservations import shared_memory
from localml.core.work.specs import PIDS, RegistryAuth, WorkloadSpec
from localml.core.work.states import Kind
from localml.engines.base import (
    LABEL_INSTALL,
    LABEL_WORKLOAD,
    Account,
    Bind,
    Capabilities,
    EngineError,
    GpuGrant,
    PublishedPort,
    ReplicaPlan,
)
from localml.engines.proxies import inherited
from localml.objects.sharing import share

_NOT_IN_VARIABLES = re.compile(r"[^A-Z0-9_]")


def _no_secrets(row: WorkloadRow, sealed: str) -> str:
    raise EngineError(f"{row.name} has secret variables, and there is no key to open them")


def _no_run_token(number: int) -> str:
    raise EngineError(f"workload {number} asks for its token, and there is no key to make it with")


def _no_registry_auth(uri: str, bucket: int | None) -> RegistryAuth:
    raise LocalmlError(Code.INVALID, f"registry_auth: {uri} cannot be read here", field="registry_auth")


def _no_token(attempt: int) -> str:
    raise EngineError(f"attempt {attempt} serves, and there is no key to make its token from")


@dataclass(frozen=True, slots=True)
class Site:
    """What all plans of an installation share.

    ``mounts`` finds what a workload may see; ``our_image`` tells whether an image is
    one of the project's runtimes, which run as ``user`` so that the files they write belong to that user. A role
    that names no image gets ``default_image``. ``unseal`` opens secret variables; it raises ``EngineError``.
    ``registry_auth`` reads the credentials for an image from the object that a role names, if its bucket is still the
    one with this id. ``pins`` holds what a plan's folders are until the engine has mounted them. ``run_token`` makes
    the token of a workload, ``replica_token`` what an attempt (by id) to run an endpoint's replica knows the gateway
    by; both are in no spec. ``account`` says whom a workload runs as on an engine of accounts; it raises
    ``EngineError``. ``group`` shares what users of images may write, where root can share it.
    ``proxies`` are variables for every job that sets none.
    ``code`` has the folders of code.
    """

    install: str
    node: str
    capabilities: Capabilities
    bind_address: str
    mounts: Mounts
    our_image: Callable[[str], bool]
    default_image: str
    user: str | None
    gpu: Callable[[str], GpuGrant]
    host_cpus: float
    host_memory: int
    unseal: Callable[[WorkloadRow, str], str] = _no_secrets
    registry_auth: Callable[[str, int | None], RegistryAuth] = _no_registry_auth
    pins: Callable[[ReplicaPlan], AbstractContextManager[ReplicaPlan]] = nullcontext
    run_token: Callable[[int], str] = _no_run_token
    replica_token: Callable[[int], str] = _no_token
    account: Callable[[WorkloadRow], Account | None] = lambda row: None
    group: int | None = None
    proxies: Mapping[str, str] = field(default_factory=dict)
    code: CodeFolders | None = None


def attempt_name(install: str, workload_id: int, role: str, index: int, number: int) -> str:
    """The engine's name of one attempt: deterministic, so that a repeated start finds its own container."""
    safe = "".join(char if char.isalnum() or char in "_.-" else "-" for char in role)
    return f"lml-{install}-{workload_id}-{safe}-{index}-{number}"


def network_name(install: str, workload_id: int, number: int) -> str:
    """The private network of one try of a gang."""
    return f"lml-{install}-{workload_id}-{number}"


def build(
    site: Site,
    row: WorkloadRow,
    spec: WorkloadSpec,
    one: AttemptRow,
    gang: Iterable[AttemptRow],
    image: str,
    grants: Grants,
    image_user: str = "",
) -> ReplicaPlan:
    """The plan of one attempt. ``gang`` are all attempts of the same try, this one included; ``image_user`` is whom the
    image runs its programs as, if that is not root.

    Raises:
        EngineError: what it mounts is not there any more.
    """
    role = spec.role(one.role)
    ports = dict(one.ports or {})
    account = site.account(row)
    binds, buckets = site.mounts.binds(spec, grants, row, site.user), site.mounts.buckets(grants)
    code = _code(site, spec, one, grants)
    binds = binds if code is None else (*binds, Bind(str(code), CODE_IN_CONTAINER, False))
    ours = site.our_image(role.image or site.default_image)
    groups = (site.group,) if image_user and not ours and site.group is not None else ()
    for bind in (*binds, *buckets):
        if account is not None:
            _lend(bind, site.mounts.root, account.groups[0], account)
        elif groups and not bind.read_only:
            _lend(bind, site.mounts.root, groups[0])
    resources = role.resources
    resolve = site.capabilities.names_resolve
    own = {
        **expanded(spec, one, gang, names_resolve=resolve, token=lambda: site.run_token(row.id)),
        **{name: site.unseal(row, sealed) for name, sealed in role.sealed_env.items()},
    }
    near = (address_of(spec, other.role, other.index, names_resolve=resolve) for other in gang)
    env = {
        **inherited(site.proxies, own, (site.bind_address, *near)),
        **own,
        "LOCALML_WORKLOAD": str(row.id),
        "LOCALML_NAME": row.name,
        "LOCALML_ROLE": role.name,
        "LOCALML_INDEX": str(one.index),
        "LOCALML_ATTEMPT": str(one.number),
        "LOCALML_BUCKETS": BUCKETS_IN_CONTAINER if site.capabilities.mounts else str(site.mounts.root),
        "LOCALML_LISTEN": "0.0.0.0" if site.capabilities.own_network else site.bind_address,
        "LOCALML_CLUSTER": json.dumps(cluster(site, spec, gang, role.name, one.index), separators=(",", ":")),
    }
    top = str(code) if not site.capabilities.mounts else CODE_IN_CONTAINER
    if code is not None:
        env["LOCALML_CODE"] = top
    if binds and not site.capabilities.mounts:
        env["LOCALML_MOUNTS"] = json.dumps({one.target: one.source for one in binds}, separators=(",", ":"))
    if row.kind == Kind.ENDPOINT:
        env[TOKEN_VARIABLE] = site.replica_token(one.id)
    for label, (container, _) in ports.items():
        env[f"LOCALML_PORT_{_NOT_IN_VARIABLES.sub('_', label.upper())}"] = str(container)
    return ReplicaPlan(
        name=one.name,
        image=image,
        command=role.command,
        keep_entrypoint=role.keep_entrypoint,
        env=env,
        labels={LABEL_INSTALL: site.install, LABEL_WORKLOAD: str(row.id), "localml.workload-name": row.name},
        workdir=role.workdir if code is None else _in_code(top, role.workdir or ""),
        cpu=min(resources.cpu, site.host_cpus) if resources.cpu else None,
        memory=resources.memory,
        shm=shared_memory(resources, site.host_memory),
        pids=PIDS if resources.pids is None else resources.pids,
        gpus=tuple(_with_fraction(site.gpu(uuid), fraction) for uuid, fraction in one.gpus),
        binds=binds if site.capabilities.mounts or account is not None else (),
        buckets=buckets,
        ports=tuple(PublishedPort(label, inside, host) for label, (inside, host) in ports.items() if host),
        bind_address=site.bind_address,
        hostname=host_of(spec, role.name, one.index),
        network=network_name(site.install, row.id, one.number) if is_gang(spec) else None,
        node=one.node,
        rotate=row.kind != Kind.JOB or spec.until_stopped,
        account=account,
        groups=groups,
        user=site.user if ours else None,
    )


def _code(site: Site, spec: WorkloadSpec, one: AttemptRow, grants: Grants) -> Path | None:
    """The folder of code and files that an attempt has to itself, if it has some."""
    if spec.code is None and not spec.files:
        return None
    if site.code is None:
        raise EngineError("its code is kept nowhere")
    start = _in_code(CODE_IN_CONTAINER, spec.role(one.role).workdir or "")
    below = start[len(CODE_IN_CONTAINER) + 1 :] if f"{start}/".startswith(f"{CODE_IN_CONTAINER}/") else ""
    return site.code.ready(one.name, grants.code, spec.code, spec.files, below)


def _in_code(top: str, wanted: str) -> str:
    """Where it starts: below the code, unless another absolute path is wanted; ``/code`` is there with every engine."""
    inside = f"{wanted}/".removeprefix(f"{CODE_IN_CONTAINER}/").rstrip("/") if wanted.startswith("/") else wanted
    return posixpath.join(top, inside).rstrip("/")


def _with_fraction(grant: GpuGrant, fraction: float) -> GpuGrant:
    return GpuGrant(grant.uuid, grant.index, fraction, grant.simulated, grant.device_nodes)


def _lend(bind: Bind, buckets: Path, group: int, account: Account | None = None) -> None:
    """Let an account, or the user of an image, write what it is given: with all of a group; but what localml keeps for
    an account, with nobody.

    Raises:
        EngineError: somebody put a link in its way.
    """
    source = Path(bind.source)
    try:
        if not source.is_dir() or (account is None and bind.base == "/"):
            return  # what it lies in was lent as a whole; or it is a folder of the machine's
        if source.is_relative_to(buckets):
            share(buckets, source, group=group)
        elif not bind.read_only:
            uid, gid = (account.uid, account.gid) if account is not None else (None, group)
            share(source.parent, source, group=gid, owner=uid)
    except OSError as error:
        raise EngineError(f"{source} cannot be given to a job: {error.strerror}") from error


def cluster(site: Site, spec: WorkloadSpec, gang: Iterable[AttemptRow], role: str, index: int) -> Mapping[str, object]:
    """Who is in the gang and where: ``{"roles": {"worker": ["worker-0:2222", ...]}, "role": ..., "index": ...}``.

    An address is ``host:port`` with the role's first port, or the bare host when it has none.
    """
    roles: dict[str, list[str]] = {}
    for one in sorted(gang, key=lambda attempt: (attempt.role, attempt.index)):
        host = address_of(spec, one.role, one.index, names_resolve=site.capabilities.names_resolve)
        ports = one.ports or {}
        first = next((label.label for label in spec.role(one.role).ports), None)
        address = f"{host}:{ports[first][0]}" if first is not None and first in ports else host
        roles.setdefault(one.role, []).append(address)
    return {"roles": roles, "role": role, "index": index}
