"""The installation: status, credentials, pruning, backups."""

from __future__ import annotations

import os
import time
from dataclasses import asdict
from typing import Any

from flask import request
from flask_openapi.blueprint import APIBlueprint

from localml import __version__
from localml.core.people.allow import MACHINE, allow, places
from localml.core.people.rights import Action
from localml.core.prune import DAY, PruneRules
from localml.dialects.kit import caller
from localml.dialects.kit.addresses import gateway_url
from localml.dialects.kit.environment import environment
from localml.dialects.kit.seats import slow
from localml.dialects.native.auth import admin_only
from localml.dialects.native.routes.machine import gpus
from localml.dialects.native.schemas import machine as machine_schemas
from localml.dialects.native.schemas import work as schemas
from localml.platform import Platform


def add(api: APIBlueprint, platform: Platform) -> None:
    """Add the routes of this module."""
    _add_status(api, platform)
    _add_upkeep(api, platform)


def _add_status(api: APIBlueprint, platform: Platform) -> None:
    @api.get("/status")
    def status() -> Any:
        """The installation at a glance; of the workloads those count that the caller may read."""
        allow(caller(), Action.READ, MACHINE)
        counts: dict[str, int] = {}
        for (_, state), number in platform.workloads.counts(places(caller())).items():
            counts[state] = counts.get(state, 0) + number
        mark = platform.hardware.drained()
        return {
            **platform.info(),
            "data": str(platform.data) if caller().admin else None,
            "pid": os.getpid(),
            "version": __version__,
            "url": request.host_url.rstrip("/"),
            "gateway_url": gateway_url(),
            "gateway_up": platform.serving.gateway.listening,
            "gateway_trouble": platform.serving.gateway.trouble,
            "started_at": platform.started_at,
            "uptime": max(0.0, platform.clock.now() - platform.started_at),
            "auth": platform.config.auth,
            "opened": platform.config.opened,
            "closed": platform.config.closed,
            "engine_up": not platform.reconciler.engine_down,
            "counts": counts,
            "size": _size(platform),
            "gpus": gpus(platform, caller()),
            "gpu_source": platform.gpus.reason,
            "disk": platform.upkeep.view() if caller().admin else None,
            "drained": None if mark is None else {"reason": mark.reason, "at": mark.at},
            "user": caller().name,
        }

    @api.get("/env/<dialect>")
    def env(path: schemas.DialectPath) -> Any:
        """What a client of one of the APIs needs to reach this server."""
        return environment(platform, caller(), path.dialect, request.host_url.rstrip("/"), gateway_url())


def _size(platform: Platform) -> dict[str, Any]:
    """What is reserved of the machine's cores and memory (bytes), and how many containers run of how many at most."""
    nodes, machine = platform.reconciler.questions.nodes(), platform.hardware.machine()
    return {
        "cpus": {"total": machine.cpu, "reserved": sum(node.light + node.busy for node in nodes)},
        "memory": {"total": machine.memory, "reserved": machine.memory - sum(node.free.memory for node in nodes)},
        "replicas": {"total": machine.max_replicas, "running": sum(node.replicas for node in nodes)},
    }


def _add_upkeep(api: APIBlueprint, platform: Platform) -> None:
    @api.post("/prune")
    @slow
    def prune_now(body: machine_schemas.PruneIn) -> Any:
        """Remove old output and records of workloads that are over, and code that nothing needs."""
        admin_only(caller())
        days = _days(body.logs_days)
        rules = PruneRules(days, body.keep_log_bytes, _days(body.deleted_days), code_older_than=days)
        return asdict(platform.upkeep.prune(rules, dry_run=body.dry_run))

    @api.post("/backup")
    @slow
    def backup() -> Any:
        """Copy the database while everything goes on; answers where the copy is."""
        admin_only(caller())
        stamp = time.strftime("%Y%m%d-%H%M%S", time.gmtime(platform.clock.now()))
        folder = platform.data / "backups"
        target = folder / f"localml-{stamp}.db"
        number = 1
        while target.exists():
            number += 1
            target = folder / f"localml-{stamp}-{number}.db"
        platform.backup(target)
        return {"path": str(target), "size": target.stat().st_size}, 201


def _days(days: float | None) -> float | None:
    return None if days is None else days * DAY
