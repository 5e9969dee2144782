"""The machine: GPUs, drains, pools, images."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from typing import Any

from flask import Response
from flask_openapi.blueprint import APIBlueprint

from localml.core.catalog import KERNEL_SERVER, Progress, RuntimeImage, default_names
from localml.core.errors import Code, LocalmlError, invalid
from localml.core.people.allow import MACHINE, Thing, allow
from localml.core.people.identity import Caller
from localml.core.people.rights import Action, ThingKind
from localml.dialects.kit import caller
from localml.dialects.kit.held import Say, Telling
from localml.dialects.kit.pools import pools_seen
from localml.dialects.kit.seats import slow
from localml.dialects.native.auth import admin_only
from localml.dialects.native.errors import error_body
from localml.dialects.native.schemas import machine as schemas
from localml.dialects.native.translate import work as translate
from localml.platform import Platform

log = logging.getLogger("localml.images")


def add(api: APIBlueprint, platform: Platform) -> None:
    """Add the routes of this module."""
    _add_gpus(api, platform)
    _add_pools(api, platform)
    _add_images(api, platform)


def gpus(platform: Platform, who: Caller) -> list[dict[str, Any]]:
    """All GPUs with their leases and what they do now; whose leases those are is said of what the caller may read."""
    usage, views = platform.gpus.usage(), platform.hardware.gpu_views()
    ids = {lease.workload_id for view in views for lease in view.leases}
    names = {number: row.name for number in ids if (row := translate.seen(platform, who, number)) is not None}
    return [translate.gpu(view, usage.get(view.gpu.uuid), names, everything=who.admin) for view in views]


def _add_gpus(api: APIBlueprint, platform: Platform) -> None:
    @api.get("/gpus", responses={"200": schemas.GpusOut})
    def list_gpus() -> Any:
        """All GPUs."""
        allow(caller(), Action.READ, MACHINE)
        return {"gpus": gpus(platform, caller()), "source": platform.gpus.reason}

    @api.post("/drain")
    def drain(body: schemas.DrainIn) -> Any:
        """Give a GPU, or the machine, no new work. What runs goes on."""
        admin_only(caller())
        if body.gpu is None:
            platform.hardware.drain(body.reason)
            return {"drained": "machine"}
        gpu = platform.hardware.find_gpu(body.gpu)
        platform.hardware.mark_gpu(gpu.uuid, body.reason)
        return {"drained": gpu.uuid}

    @api.post("/undrain")
    def undrain(body: schemas.DrainIn) -> Any:
        """Give a GPU (a fenced one too), or the machine, work again."""
        admin_only(caller())
        if body.gpu is None:
            platform.hardware.undrain()
            return {"undrained": "machine"}
        gpu = platform.hardware.find_gpu(body.gpu)
        platform.hardware.unmark_gpu(gpu.uuid)
        return {"undrained": gpu.uuid}


def _add_pools(api: APIBlueprint, platform: Platform) -> None:
    @api.get("/pools", responses={"200": schemas.PoolsOut})
    def list_pools() -> Any:
        """The pools that the caller may know of, with their limits and use."""
        allow(caller(), Action.READ, Thing(ThingKind.POOL))
        return {"pools": [translate.pool(one) for one in pools_seen(platform, caller())]}

    @api.put("/pools/<path:path>", responses={"200": schemas.PoolOut})
    def set_limits(path: schemas.PoolPath, body: schemas.LimitsIn) -> Any:
        """Make a pool if it is new, and set all its limits."""
        allow(caller(), Action.CHANGE, Thing(ThingKind.POOL, path.path, path.path))
        info = platform.pools.set_limits(
            path.path, cpu=body.cpu, memory=body.memory, gpu=body.gpu, max_workloads=body.max_workloads
        )
        platform.reconciler.nudge()
        return translate.pool(info)

    @api.delete("/pools/<path:path>")
    def delete_pool(path: schemas.PoolPath) -> Any:
        """Remove a pool that nothing uses."""
        admin_only(caller())
        platform.pools.delete(path.path)
        platform.reconciler.nudge()
        return {"deleted": path.path}


def _add_images(api: APIBlueprint, platform: Platform) -> None:
    @api.get("/images")
    @slow
    def list_images() -> Any:
        """The runtimes, and which of them are built."""
        allow(caller(), Action.READ, MACHINE)
        from dataclasses import asdict

        return {"images": [asdict(one) for one in platform.images().status()]}

    @api.post("/images/build")
    def build(body: schemas.BuildIn) -> Any:
        """Build runtimes.

        The answer is lines of JSON: ``{"line"}`` while it works, then ``{"built"}`` or ``{"error"}``. A build that was
        begun goes on when the client leaves.
        """
        admin_only(caller())
        images = platform.images()
        if body.onto:
            if body.names not in ([], [KERNEL_SERVER]):
                raise invalid("names", f"only {KERNEL_SERVER} can be put into another image")
            return _built(lambda progress: iter([images.build_onto(body.onto, progress)]))
        names = body.names or default_names(images.status())
        for name in names:
            platform.catalog.runtime(name)
        return _built(lambda progress: (images.build(name, progress) for name in names))


def _built(make: Callable[[Progress], Iterator[RuntimeImage]]) -> Response:
    def work(say: Say) -> None:
        def tell(what: dict[str, Any]) -> None:
            say(json.dumps(what).encode() + b"\n")

        try:
            for made in make(lambda line: tell({"line": line})):
                tell({"built": made.name, "reference": made.reference, "size": made.size})
        except LocalmlError as error:
            tell(error_body(error))
        except Exception:
            log.exception("building images failed")
            tell(error_body(LocalmlError(Code.INTERNAL, "an internal error, which the server's log describes")))

    return Telling(work, mimetype="application/x-ndjson")
