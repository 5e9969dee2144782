"""Deploying what a task trained: a kernel of elastic inference, or an ONNX model, as an endpoint behind the gateway.

The model's folder is what was sent with the task, with what the task left in its result folder put over it; kernel and
weight are paths in that. What was sent is kept for as long as code is (``docs/retention.md``), the results stay. A
kernel runs in the image that the model was trained in, where localml's server is ready to run there (``localml images
build --onto IMAGE``), else in the server's own; ``runtime`` may name a framework, a runtime or an image instead.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

from localml.core.errors import Code, LocalmlError, invalid
from localml.core.events.records import record_event
from localml.core.people.allow import Thing, allow, may_add_version
from localml.core.people.identity import Caller
from localml.core.people.rights import Action, ThingKind
from localml.core.registry.files import KERNELS, ONNX, WMLA_FILE, WMLA_KERNEL
from localml.core.registry.registry import NewVersion, Registered
from localml.core.serving.endpoints import NewEndpoint
from localml.core.serving.specs import VariantSpec
from localml.core.serving.variants import ROUTE, ROUTE_WORDS, NewVariant
from localml.core.subjects import Subject
from localml.core.work.specs import ENV_NAME
from localml.core.work.workloads import Full
from localml.dialects.kit.errors import renamed
from localml.dialects.wmla.schemas.execs import EDIModelDescription
from localml.dialects.wmla.translate.frameworks import find_framework
from localml.dialects.wmla.translate.ids import DIALECT
from localml.platform import Platform

INFERENCE = "/dlim/v1/inference"
_SCHEMA_VERSION = "1.0"
_MERGED = ".merged"


def href_of(name: str) -> str:
    """Where a deployed model answers, at the gateway."""
    return f"{INFERENCE}/{name}"


def deploy(platform: Platform, caller: Caller, task: Full, wanted: EDIModelDescription) -> str:
    """Register the model that a task trained, and serve it; returns its name.

    Raises:
        LocalmlError: ``INVALID`` naming what cannot be deployed, ``CONFLICT`` when there is an endpoint of this name,
            ``UNAVAILABLE`` when what it runs in is not there.
    """
    name, env = wanted.name or task.row.name, _environment(wanted)
    _need_free(platform, name)
    for kind in (ThingKind.MODEL, ThingKind.ENDPOINT):
        allow(caller, Action.CREATE, Thing(kind, workspace=task.row.workspace))
    with renamed(source="kernel" if wanted.kernel else "weight"):
        registered = _register(platform, caller, task, wanted, name)
    images = _images(platform, task, wanted.runtime) if registered.version.format in KERNELS else [""]
    try:
        image = _serve(platform, _endpoint(caller, task, wanted, name), registered.version.id or 0, env, images)
    except LocalmlError:
        if registered.made:
            platform.registry.delete(registered, caller)
        raise
    _tell(platform, task, f"{registered.label} answers at {href_of(name)} of the gateway, once it is ready", image)
    return name


def _need_free(platform: Platform, name: str) -> None:
    if not ROUTE.fullmatch(name):
        raise invalid("name", f"{name[:200]!r} {ROUTE_WORDS}")
    if any(one.row.route == name for one in platform.endpoints.list()):
        raise LocalmlError(Code.CONFLICT, f"name: there is an inference service '{name}' already", field="name")


def _endpoint(caller: Caller, task: Full, wanted: EDIModelDescription, name: str) -> NewEndpoint:
    return NewEndpoint(
        name=name,
        variants=(),
        caller=caller,
        dialect=DIALECT,
        workspace=task.row.workspace,
        pool=task.row.pool,
        request={**wanted.model_dump(), "execId": task.row.name},
        refuse_over_quota=True,
    )


def _tell(platform: Platform, task: Full, words: str, image: str) -> None:
    words += f"; its kernel runs in {image}" if image else ""
    subject, now = Subject.workload(task.row.id or 0), platform.clock.now()
    platform.db.write(lambda session: record_event(session, subject, "Deployed", words, now=now))


def _environment(wanted: EDIModelDescription) -> dict[str, str]:
    for one in wanted.environments:
        if not ENV_NAME.fullmatch(one.name):
            raise invalid("environments", f"{one.name!r} is no name of an environment variable")
    return {one.name: one.value for one in wanted.environments}


def _register(platform: Platform, caller: Caller, task: Full, wanted: EDIModelDescription, name: str) -> Registered:
    folder = _Folder(platform, caller, task, wanted, name)
    return platform.registry.register(
        NewVersion(
            name,
            (task.request or {}).get("result", ""),
            caller,
            format=WMLA_KERNEL if wanted.kernel else ONNX if wanted.weight else "",
            description=wanted.tag or "",
            workspace=task.row.workspace,
            reuse=True,
            allowed=partial(may_add_version, caller),
            fill=folder.fill,
        )
    )


def _serve(platform: Platform, new: NewEndpoint, version: int, env: dict[str, str], images: list[str]) -> str:
    """Make the endpoint with the first of these images that is there; returns it."""
    for image in images:
        variant = NewVariant(VariantSpec(env=env, image=image), version)
        try:
            platform.endpoints.create(replace(new, variants=(variant,)))
            break
        except LocalmlError as error:
            if image == images[-1] or error.code is not Code.UNAVAILABLE:
                raise
    return image


def _images(platform: Platform, task: Full, runtime: str | None) -> list[str]:
    """What a kernel is to run in, the first that is there; empty for the server's own image."""
    trained = task.spec.roles[0].image
    if not runtime:
        return [trained, ""]
    plugin = find_framework(platform.catalog, runtime)
    if plugin is not None:
        return [f"{platform.catalog.find(plugin.framework).image}:latest"]
    named = platform.catalog.meant(runtime)
    if named:
        return [f"{named}:latest"]
    # the vendor's own names of environments (dlipy3) mean the one that the model was trained in
    return [runtime] if "/" in runtime or ":" in runtime else [trained, ""]


@dataclass(frozen=True, slots=True)
class _Folder:
    """Makes the folder of a model that is to be served."""

    platform: Platform
    caller: Caller
    task: Full
    wanted: EDIModelDescription
    name: str

    def fill(self, place: Path) -> None:
        """Put the model's files into an empty folder."""
        merged = place / _MERGED
        self._merge(merged)
        weight = _inside(merged, self.wanted.weight, "weight")
        if self.wanted.kernel:
            _inside(merged, self.wanted.kernel, "kernel")
            self._describe(merged)
        elif weight is not None:
            merged = _onnx_alone(weight)
        for one in list(merged.iterdir()):
            one.rename(place / one.name)
        shutil.rmtree(place / _MERGED)

    def _merge(self, merged: Path) -> None:
        request, code = self.task.request or {}, self.task.spec.code
        if code is not None and self.platform.code.archives.find(self.task.row.workspace, code) is not None:
            with self.platform.code.opened(self.task.row.workspace, code) as found:
                shutil.copytree(found / request.get("folder", ""), merged, symlinks=True)
        merged.mkdir(exist_ok=True)
        view, uri = self.platform.buckets_for(self.caller), request.get("result", "")
        if uri and view.exists(uri):
            view.get(uri, merged, field="result")

    def _describe(self, merged: Path) -> None:
        """Write the description that the kernel reads, over one that came with the model."""
        attributes = [{"key": one.name, "name": one.name, "value": one.value} for one in self.wanted.attributes]
        told: dict[str, Any] = {
            "schema_version": _SCHEMA_VERSION,
            "tag": self.wanted.tag or "",
            "runtime": self.wanted.runtime or "",
            **_described(merged),
            "name": self.name,
            "kernel_path": _plain(self.wanted.kernel or ""),
            "model_path": ".",
            **({"weight_path": _plain(self.wanted.weight)} if self.wanted.weight else {}),
        }
        told["attributes"] = [*told.get("attributes", []), *attributes]
        (merged / WMLA_FILE).write_text(json.dumps(told, indent=1))


def _described(merged: Path) -> dict[str, Any]:
    try:
        found = json.loads((merged / WMLA_FILE).read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) and isinstance(found.get("attributes", []), list) else {}


def _plain(path: str) -> str:
    return str(PurePosixPath(path))


def _inside(merged: Path, path: str | None, field: str) -> Path | None:
    """A file or folder of the model.

    Raises:
        LocalmlError: ``INVALID`` naming the field: it is not there, or not below the model's folder.
    """
    if not path:
        return None
    pure = PurePosixPath(path)
    if pure.is_absolute() or ".." in pure.parts or "\0" in path or not (merged / pure).exists():
        names = ", ".join(sorted(one.name for one in merged.iterdir())[:10]) or "nothing"
        raise invalid(field, f"there is no {path[:200]!r} in the model's folder, which has {names}")
    return merged / pure


def _onnx_alone(weight: Path) -> Path:
    """The folder of a weight file that is an ONNX model, which has the name that is served."""
    if weight.suffix != ".onnx" or not weight.is_file():
        raise invalid("kernel", "is required for a weight that is no *.onnx file")
    weight.rename(weight.with_name("model.onnx"))
    return weight.parent
