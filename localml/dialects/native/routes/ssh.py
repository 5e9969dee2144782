"""Ssh access to what runs."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from flask_openapi.blueprint import APIBlueprint

from localml.core.errors import Code, LocalmlError
from localml.core.people.rights import Action
from localml.core.work.states import TERMINAL
from localml.dialects.kit import caller
from localml.dialects.kit.addresses import called
from localml.dialects.kit.seats import slow
from localml.dialects.native.auth import find
from localml.dialects.native.schemas import shell as shell_schemas
from localml.dialects.native.schemas import work as schemas
from localml.platform import Platform

_USER = "root"  # any other does as well


def add(api: APIBlueprint, platform: Platform) -> None:
    """Add the routes of this module."""

    @api.post("/workloads/<ref>/ssh", responses={"200": shell_schemas.SshOut})
    @slow
    def open_ssh(path: schemas.Reference) -> Any:
        """Open ssh access to the replicas that run, for the owner and administrators."""
        row = find(platform, caller(), path.ref, Action.ENTER).row
        number = row.id or 0
        info = platform.ssh.info(number)
        if not info.doors:
            over = row.state in TERMINAL
            words = f"any more: {row.state}" if over else f"yet: it is {row.state}"
            raise LocalmlError(Code.WRONG_STATE, f"{row.name} does not run {words}")
        return {
            "user": _USER,
            "doors": [asdict(door) | {"host": called(door.host)} for door in info.doors],
            "private_key": platform.ssh.private_key(number, caller()).decode(),
            "host_key": info.host_key,
        }
