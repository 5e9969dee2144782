"""From a variant to the workload of one of its replicas."""

from __future__ import annotations

import math
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from localml.core.catalog import IMAGE_PREFIX
from localml.core.errors import invalid
from localml.core.registry.tables import ModelVersion
from localml.core.serving.specs import ENDPOINT_PORT, EndpointSpec, VariantSpec
from localml.core.work.placeholders import literal
from localml.core.work.specs import LONGEST_GRACE, Mount, Port, RetryPolicy, Role, WorkloadSpec
from localml.engines.base import Capabilities

MODEL_IN_CONTAINER = "/model"
SERVER_IN_CONTAINER = "/localml-server"
"""Where a container of somebody else's image has our server."""
OPTIONS: Mapping[str, type] = {
    "max_batch": int,
    "max_delay_ms": float,
    "queue": int,
    "run_timeout_ms": float,
    "threads": int,
    "provider": str,
    "allow_cpu_fallback": bool,
    "memory_limit": str,
    "kernel": str,
    "max_body": str,
}
"""Settings of the server that a user may choose: its command line's names, with '_' for '-'."""

SERVER_START = "start.py"
"""Starts the server in an image that it is not installed in."""

_GRACE_S = 35.0
_MARGIN_S = 5.0
"""The server takes up to 30 s to finish requests in flight."""
_RETRIES = RetryPolicy(limit=1000, backoff=0.5, factor=2.0, max_backoff=30.0)


@dataclass(frozen=True, slots=True)
class ServingSite:
    """What all replicas of an installation share.

    Attributes:
        capabilities: what the engine does for replicas.
        host: under which published ports are reached from this machine.
        real_gpus: whether leased GPUs exist; simulated ones are served on the CPU.
        folder: of a model version, by its ``path`` column.
        server: the folder of the server that kernels in images of their users run under; it has ``start.py``.
    """

    capabilities: Capabilities
    host: str
    real_gpus: bool
    folder: Callable[[str], Path]
    server: Callable[[], Path]


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A model version: where its files are, which runtime serves them, what they are."""

    path: str
    runtime: str
    format: str


def served_model(version: ModelVersion | None) -> ServedModel | None:
    """What is to be known of a version; None for None."""
    return ServedModel(version.path, version.runtime, version.format) if version is not None else None


def check_options(spec: VariantSpec) -> None:
    """Refuse settings that the server does not have.

    Raises:
        LocalmlError: ``INVALID`` with field ``options``.
    """
    for name, value in spec.options.items():
        kind = OPTIONS.get(name)
        if kind is None:
            raise invalid("options", f"'{name}' is not known; known are {', '.join(sorted(OPTIONS))}")
        if kind is float and isinstance(value, int) and not isinstance(value, bool):
            continue
        if kind is not str and (not isinstance(value, kind) or (kind is int and isinstance(value, bool))):
            raise invalid("options", f"'{name}' must be of type {kind.__name__}, not {value!r}")


def replica_spec(
    site: ServingSite, endpoint: EndpointSpec, variant: VariantSpec, route: str, model: ServedModel | None
) -> WorkloadSpec:
    """The workload of one replica. It is tried again for ever, at growing intervals.

    Args:
        route: the endpoint's name at the gateway, which is the model's name at its server.
        model: None for a custom image without one.
    """
    folder = site.folder(model.path) if model is not None else None
    mounts = [Mount(source=str(folder), target=MODEL_IN_CONTAINER, read_only=True)] if folder is not None else []
    env = {name: literal(text) for name, text in variant.env.items()}
    if variant.has_own_server(model.format if model is not None else ""):
        command, image = variant.command, variant.image
        if folder is not None:
            env.setdefault("LOCALML_MODEL_DIR", MODEL_IN_CONTAINER if site.capabilities.mounts else str(folder))
    else:
        assert model is not None, "checked when the variant was made"
        assert folder is not None
        words = _arguments(site, endpoint, variant, route, folder)
        if variant.image:
            image = variant.image
            server = str(site.server())
            place = SERVER_IN_CONTAINER if site.capabilities.mounts else server
            command = ("python3", f"{place}/{SERVER_START}", *words)
            mounts.append(Mount(source=server, target=SERVER_IN_CONTAINER, read_only=True))
        else:
            image = _image(site, variant, model.runtime)
            # a shell fills in the port, which is known only when the replica is placed
            text = shlex.join(("exec", "python", "-m", "onnx_server", *words))
            command = ("sh", "-c", text + ' --port "$LOCALML_PORT_HTTP"')
    role = Role(
        image=image,
        command=command,
        env=env,
        resources=variant.resources,
        ports=(Port(label=ENDPOINT_PORT, container=variant.port),),
    )
    grace = min(LONGEST_GRACE, max(_GRACE_S, endpoint.request_timeout + _MARGIN_S))  # what a last request may take
    return WorkloadSpec(
        roles=(role,), mounts=tuple(mounts), priority=endpoint.priority, retries=_RETRIES, stop_grace=grace
    )


def _on_gpu(site: ServingSite, variant: VariantSpec) -> bool:
    return site.real_gpus and variant.resources.gpu > 0


def _image(site: ServingSite, variant: VariantSpec, runtime: str) -> str:
    return f"{IMAGE_PREFIX}{runtime}-gpu:latest" if _on_gpu(site, variant) else f"{IMAGE_PREFIX}{runtime}:latest"


def _arguments(site: ServingSite, endpoint: EndpointSpec, variant: VariantSpec, route: str, folder: Path) -> list[str]:
    """What the server is told, but for the port."""
    where = MODEL_IN_CONTAINER if site.capabilities.mounts else str(folder)
    words = ["--model-dir", where, "--frozen", "--name", route]  # the registry's files never change
    words += ["--host", "0.0.0.0" if site.capabilities.own_network else site.host]
    options: dict[str, str | int | float | bool] = dict(variant.options)
    # nobody waits for an answer any longer
    options.setdefault("run_timeout_ms", math.ceil(endpoint.request_timeout * 1000))
    options.setdefault("max_body", str(endpoint.max_body))  # the gateway lets no more through
    options.setdefault("provider", "auto" if _on_gpu(site, variant) else "cpu")
    for name, value in options.items():
        flag = f"--{name.replace('_', '-')}"
        if isinstance(value, bool):
            words += [flag] if value else []
        else:
            words += [flag, str(value)]
    return words
