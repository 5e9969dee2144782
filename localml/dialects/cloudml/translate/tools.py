"""Development environments and tensorboards of Cloud-ML as workloads, and back.

A development environment is a JupyterLab whose token is the ``password`` of the request; where none is given, one is
made. A tensorboard has a token only where others than this machine can reach it: the vendor's clients know none.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from localml.core.catalog import IMAGE_PREFIX
from localml.core.errors import invalid
from localml.core.instances.tools import NOTEBOOK_IMAGES, NOTEBOOK_PORT, Notebook, Tensorboard, host_port
from localml.core.people.allow import Thing, may
from localml.core.people.identity import Caller
from localml.core.people.rights import Action, ThingKind
from localml.core.work.specs import Resources, WorkloadSpec
from localml.core.work.workloads import Full
from localml.dialects.cloudml.schemas.tools import DevEnv, DevEnvCreate, TensorboardCreate
from localml.dialects.cloudml.schemas.tools import Tensorboard as TensorboardAnswer
from localml.dialects.cloudml.translate.training import (
    SECRET_MEMBERS,
    mounts,
    read_only_text,
    replica_resources,
    state_word,
)
from localml.dialects.kit.addresses import access_of
from localml.dialects.kit.times import plain_time
from localml.objects import BucketsFor
from localml.platform import Platform

DEV_FRAMEWORK = "scikitlearn"
_DEV_SECRETS = SECRET_MEMBERS | {"password"}
_MEANINGLESS = frozenset({"ps_count", "worker_count"})
JUPYTER, TCP = "JUPYTER", "TCP"
MASK = "******"
"""In place of a colleague's password."""
_EVERYBODY = {"0.0.0.0/0", "::/0"}
"""What the published client sends as a whitelist when it is given none."""


def dev_spec(platform: Platform, view: BucketsFor, owner: int, dev: DevEnvCreate) -> WorkloadSpec:
    """What to run for a development environment.

    Args:
        view: the objects that its owner may use.

    Raises:
        LocalmlError: ``INVALID`` naming the member that is wrong or cannot be honoured, ``CAPACITY`` for amounts that
            no machine has.
    """
    for name in ("prepare_command", "finish_command"):
        if getattr(dev, name):
            raise invalid(name, "is not run here; a terminal of the notebook can, or docker_command")
    if dev.ceph_volume:
        raise invalid("ceph_volume", "there is no Ceph here; give volume_type and volume_path")
    if dev.docker_command and not dev.docker_image:
        raise invalid("docker_command", "needs docker_image")
    wanted = Notebook(
        folder=dev.dev_name,
        token=dev.password or None,
        image=dev.docker_image or _notebook_with(platform, dev.framework, dev.framework_version),
        command=("sh", "-c", dev.docker_command) if dev.docker_command else (),
        resources=replica_resources(platform, dev.cpu_limit, dev.memory_limit, dev.gpu_limit, dev.gpu_type),
        mounts=mounts(view, dev),
        tcp_ports=_tcp_ports(dev),
    )
    return platform.tools.notebook(owner, wanted)


def _notebook_with(platform: Platform, framework: str | None, version: str | None) -> str:
    """The image of the notebook that has a framework; empty for any."""
    if not framework:
        return ""
    runtime = platform.catalog.find(framework, version)
    for image in NOTEBOOK_IMAGES:
        if runtime in platform.catalog.lineage(image.removeprefix(IMAGE_PREFIX)):
            return image
    raise invalid("framework", f"'{framework}' is not in development environments; give a docker_image that has it")


def _tcp_ports(dev: DevEnvCreate) -> tuple[int, ...]:
    ports: list[int] = []
    for entry in dev.network or ():
        if set(entry.whitelist) - _EVERYBODY:
            raise invalid("network", "whitelists are not kept here; ports are open to whoever reaches this machine")
        if (entry.port == NOTEBOOK_PORT) != (entry.protocol == JUPYTER):
            raise invalid("network", f"the notebook, and nothing else, is at port {NOTEBOOK_PORT}, not {entry.port}")
        if entry.protocol == TCP and entry.port not in ports:
            ports.append(entry.port)
    return tuple(ports)


def stored_dev(given: Mapping[str, Any], dev: DevEnvCreate) -> dict[str, Any]:
    """The request as it is kept: as given, without secrets."""
    kept = {name: value for name, value in given.items() if name not in _DEV_SECRETS | _MEANINGLESS}
    if dev.gpu_limit is not None:
        kept["gpu_limit"] = dev.gpu_limit
    return kept


def dev_answer(platform: Platform, who: Caller, full: Full) -> dict[str, Any]:
    """A development environment as it is answered, a :class:`DevEnv`. There is no ssh, and so no port of it.

    The password is for those who may enter; others see :data:`MASK`.
    """
    row, request = full.row, dict(full.request or {})
    access = access_of(full)
    port = "" if access.port is None else str(access.port)
    own_image = bool(request.get("docker_image"))
    software = request.get("framework") or (None if own_image else DEV_FRAMEWORK)
    versions = platform.catalog.frameworks().get(software or "", [])
    computed = {
        "org_id": row.workspace,
        "org_name": row.workspace,
        "dev_name": row.name,
        "software": software,
        "version": request.get("framework_version") or next(iter(versions), None),
        "state": state_word(row),
        "create_time": plain_time(row.created_at),
        "update_time": plain_time(row.updated_at),
        "mount_read_only": read_only_text(request),
        "password": access.token if _enters(who, full) else MASK,
        "service_port": port,
        "notebook_port": port,
        "ssh_port": "",
        "address": f"{access.host}:{port}" if port else "",
        "ssh_address": "",
        "proxy_whitelist": [],
        "network": _network(full, access.host, port),
        "url": access.url if _enters(who, full) else access.base,
    }
    return {**dict.fromkeys(DevEnv.model_fields), **request, **computed}


def _enters(who: Caller, full: Full) -> bool:
    return may(who, Action.ENTER, Thing.of(ThingKind.WORKLOAD, full.row))


def _network(full: Full, host: str, notebook: str) -> list[dict[str, Any]]:
    """Where the environment's ports are reached: ``port`` inside, ``address`` from outside, empty until it runs."""
    given = {one["port"]: one.get("whitelist") or [] for one in (full.request or {}).get("network") or ()}
    first = full.spec.roles[0].ports[0]
    found = [_entry(JUPYTER, first.container, f"{host}:{notebook}" if notebook else "", given)]
    for port in full.spec.roles[0].ports[1:]:
        published = host_port(full, port.label)
        found.append(_entry(TCP, port.container, f"{host}:{published}" if published else "", given))
    return found


def _entry(protocol: str, port: int, address: str, whitelists: Mapping[int, list[str]]) -> dict[str, Any]:
    return {"protocol": protocol, "port": port, "address": address, "whitelist": whitelists.get(port, [])}


def board_spec(platform: Platform, view: BucketsFor, owner: int, board: TensorboardCreate) -> WorkloadSpec:
    """What to run for a tensorboard.

    Args:
        view: the objects that its owner may use.

    Raises:
        LocalmlError: ``INVALID`` naming the member that is wrong.
    """
    if board.docker_command and not board.docker_image:
        raise invalid("docker_command", "needs docker_image")
    wanted = Tensorboard(
        folder=view.place(board.logdir, field="logdir"),
        image=board.docker_image or "",
        command=("sh", "-c", board.docker_command) if board.docker_command else (),
        resources=Resources(),
    )
    return platform.tools.tensorboard(owner, wanted)


def board_answer(platform: Platform, who: Caller, full: Full) -> dict[str, Any]:
    """A tensorboard as it is answered. Its port is chosen when it starts; until then it reads None, as the vendor's
    does. Where it has a token, ``address`` is ``HOST:PORT/?token=TOKEN`` for those who may enter."""
    row, request = full.row, dict(full.request or {})
    access = access_of(full)
    address, url = f"{access.host}:{access.port}", access.url if _enters(who, full) else access.base
    page = (url or "").partition(address)[2].removesuffix("/")
    computed = {
        "org_id": row.workspace,
        "org_name": row.workspace,
        "tensorboard_name": row.name,
        "service_port": str(access.port),
        "state": state_word(row),
        "create_time": plain_time(row.created_at),
        "update_time": plain_time(row.updated_at),
        "address": address + page,  # all that the vendor's clients print; it is what a browser opens, token included
        "url": url,
    }
    return {**dict.fromkeys(TensorboardAnswer.model_fields), **request, **computed}
