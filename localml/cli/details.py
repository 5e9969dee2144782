"""One workload in full, for people."""

from __future__ import annotations

import shlex
import time
from collections.abc import Iterator
from typing import Any

from localml.cli import show
from localml.cli.terminal import visible
from localml.cli.waiting import holders
from localml.client import Replica, Workload
from localml.core.quantities import format_duration, format_memory


def print_workload(found: Workload) -> None:
    """Members, roles, replicas, and what happened last."""
    from rich.text import Text

    console = show.console()
    rows: list[tuple[str, Any]] = [
        ("Name", f"{found.name} (id {found.id})"),
        ("Kind", f"{found.kind}, submitted through {found.dialect}"),
        ("State", show.state(found.state)),
        ("Owner", f"{found.owner}, pool {found.pool}, priority {found.priority}"),
        ("Created", f"{show.clock(found.created_at)} ({show.ago(found.created_at)})"),
        ("Started", f"{show.clock(found.started_at)}, ran {show.took(found.started_at, _over_at(found))}"),
        ("Ended", show.clock(found.ended_at)),
        ("Try", f"{found.attempt}, {found.retries} retries"),
    ]
    rows += [("Trial", f"{found.parent_index} of study {found.parent_id}")] if found.parent_kind == "study" else []
    rows += [("Code", found.spec["code"])] if found.spec.get("code") else []
    rows += [("Why", line) for line in explain(found)]
    for label, value in rows:
        line = Text(f"{label + ':':<9} ", style="bold")
        console.print(line.append(value if isinstance(value, Text) else Text(visible(value), style="not bold")))
    for role in found.spec.get("roles", ()):
        console.print(Text(f"\nRole {visible(role.get('name', 'main'))}", style="bold"))
        for text in _role(role, found.images):
            console.print(Text(f"  {visible(text)}"))
    if found.replicas:
        console.print()
        _print_replicas(found.replicas)
    if found.events:
        console.print()
        happened = [(show.clock(one.at), one.reason, one.message) for one in found.events]
        show.table("AT", "EVENT", "MESSAGE", rows=happened, empty="")


def _over_at(found: Workload) -> float | None:
    """When its programs were over, also while their output is still being copied; None while one runs."""
    if found.why is not None and found.why.code == "draining":
        return max((one.exited_at for one in found.replicas if one.exited_at is not None), default=None)
    return found.ended_at


def explain(found: Workload) -> Iterator[str]:
    """Sentences on why a workload waits or how it ended; what it does now otherwise."""
    if found.why is not None:
        yield found.why.message
        if found.why.code == "stuck":
            yield "it is tried again until it succeeds; 'localml doctor' checks the engine and the disk"
        if found.why.expected_start is not None:
            left = max(0.0, found.why.expected_start - time.time())
            yield f"it is expected to start in {format_duration(left)}"
        if found.why.held_by and found.why.code != "behind":  # who is ahead has none of it either
            yield f"held by {holders(found.why, time.time())}"
    if found.ended:
        yield f"{found.state}: {found.message or found.cause}"
        if found.help and found.state != "succeeded":
            yield found.help
    elif found.why is None:
        yield f"it does not wait: it is {found.state}" + (f" ({found.message})" if found.message else "")


def _role(role: dict[str, Any], images: dict[str, str]) -> Iterator[str]:
    name = role.get("name", "main")
    yield f"command: {shlex.join(role.get('command', ())) or '(the image has its own)'}"
    pinned = images.get(name)
    given = role.get("image") or "(default)"
    yield f"image: {given}" + (f", pinned as {pinned}" if pinned and pinned != given else "")
    need = role.get("resources", {})
    words = [f"{role.get('count', 1)} replica(s)"]
    words += [f"{need['gpu']:g} GPU"] if need.get("gpu") else []
    words += [f"{need['cpu']:g} cores"] if need.get("cpu") else []
    words += [f"{format_memory(need['memory'])} memory"] if need.get("memory") else []
    yield "needs: " + ", ".join(words)


def _print_replicas(replicas: list[Replica]) -> None:
    rows = [
        (
            f"{one.role}-{one.index}",
            one.attempt,
            "exited" if one.exited_at is not None and one.ended_at is None else one.state,
            ", ".join(_gpu(gpu) for gpu in one.gpus) or "-",
            one.address or "-",
            ", ".join(f"{label} {port['url'] or port['container']}" for label, port in one.ports.items()) or "-",
            show.took(one.started_at, one.ended_at or one.exited_at),
            one.message,
        )
        for one in replicas
    ]
    show.table("REPLICA", "TRY", "STATE", "GPUS", "ADDRESS", "PORTS", "RAN", "MESSAGE", rows=rows, empty="")


def _gpu(gpu: dict[str, Any]) -> str:
    label = gpu["index"] if gpu["index"] is not None else gpu["uuid"]
    share = "" if gpu["fraction"] >= 1 else f" x{gpu['fraction']:g}"
    return f"{label}{share}{' (simulated)' if gpu['simulated'] else ''}"
