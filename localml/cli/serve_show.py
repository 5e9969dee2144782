"""How models and endpoints look on a terminal."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import typer

from localml.cli import show
from localml.cli.live import Line
from localml.cli.terminal import visible
from localml.core.quantities import format_memory

if TYPE_CHECKING:
    from localml.client import Client, Endpoint, Event, Model, ModelVersion

_COLOURS = {
    "ready": "green",
    "asleep": "bright_black",
    "starting": "cyan",
    "updating": "cyan",
    "stopping": "magenta",
    "degraded": "yellow",
    "failed": "red",
    "stopped": "bright_black",
}
_SHOWN = 10
_STEP_S = 2.0
_PATIENCE_S = 20.0
"""So long nothing is said where there is no terminal."""


def models(found: Sequence[Model]) -> None:
    """A line for each version."""
    rows = [
        (
            f"{one.name}:{version.version}",
            version.format,
            _tensors(version.inputs),
            _tensors(version.outputs),
            format_memory(version.size),
            show.ago(version.created_at),
            version.source,
        )
        for one in found
        for version in one.versions
    ]
    columns = ("MODEL", "FORMAT", "INPUTS", "OUTPUTS", "SIZE", "REGISTERED", "SOURCE")
    show.table(*columns, rows=rows, empty="no models yet; register one with: localml register NAME FILE")


def model(one: ModelVersion) -> None:
    """One version in full."""
    rows = (
        ("Model", f"{one.model}:{one.version}, {one.owner}'s"),
        ("Format", f"{one.format}, served by {one.runtime}"),
        ("Inputs", _tensors(one.inputs)),
        ("Outputs", _tensors(one.outputs)),
        ("Size", format_memory(one.size)),
        ("Checksum", one.checksum),
        ("Registered", f"{show.clock(one.created_at)} ({show.ago(one.created_at)})"),
        ("Source", one.source),
    )
    for label, value in rows:
        typer.echo(f"{label + ':':<11} {visible(str(value))}")


def _tensors(found: Sequence[dict[str, Any]] | None) -> str:
    if found is None:
        return "?"
    return ", ".join(f"{one['name']} {one['datatype']}{_shape(one['shape'])}" for one in found)


def _shape(shape: Sequence[int]) -> str:
    return "[" + ",".join("*" if size < 0 else str(size) for size in shape) + "]"


def endpoints(found: Sequence[Endpoint]) -> None:
    """A line for each endpoint."""
    rows = [
        (one.name, state(one.state), _versions(one), _replicas(one), one.url or "-", one.message or "") for one in found
    ]
    columns = ("NAME", "STATE", "SERVES", "READY", "URL", "MESSAGE")
    show.table(*columns, rows=rows, empty="nothing is served yet; serve a model with: localml serve MODEL")


def state(name: str) -> Any:
    """A state in its colour."""
    from rich.text import Text

    return Text(name, style=_COLOURS.get(name, ""))


def live(one: Endpoint) -> list[dict[str, Any]]:
    """Variants that serve, or are brought up; those that get most requests first."""
    found = [variant for variant in one.variants if variant["state"] in ("serving", "baking", "rolling")]
    return sorted(found, key=lambda variant: (variant["state"] == "rolling", -float(variant["weight"])))


def _versions(one: Endpoint) -> str:
    shares = [f"{variant['model']} {variant['weight']:g}%" for variant in live(one)]
    return ", ".join(shares) if len(shares) > 1 else ", ".join(variant["model"] for variant in live(one)) or "-"


def _replicas(one: Endpoint) -> str:
    ready = sum(variant["ready"] for variant in live(one))
    return f"{ready}/{sum(len(variant['replicas']) for variant in live(one))}"


def endpoint(one: Endpoint, events: Sequence[Event]) -> None:
    """Everything about one."""
    outcome(one)
    for variant in one.variants:
        share = f"{variant['weight']:g} %" if variant["weight"] else "-"
        typer.echo(
            f"  {variant['name']:<10} {variant['model']:<24} {variant['state']:<9} {share:>6}  {variant['message']}"
        )
        for replica in variant["replicas"]:
            typer.echo(f"    {replica['workload']:<24} {replica['state']:<9} {replica['url'] or ''}")
    if events:
        typer.echo("  events")
    for event in events[-_SHOWN:]:
        typer.echo(f"    {show.clock(event.at)}  {event.reason}: {event.message}")


def outcome(one: Endpoint, *, waited: bool = True) -> None:
    """What became of it, and where it is."""
    colour = _COLOURS.get(one.state)
    words = f"{one.name} is {one.state}" + (f": {one.message}" if one.message else "")
    typer.secho(words, fg=colour)
    if one.url is not None and (one.state not in ("failed", "stopped")):
        typer.echo(f"  {one.infer_url}")
        if port := one.spec.get("gateway_port"):
            typer.echo(f"  http://{urlsplit(one.url).hostname}:{port}/v2/models/{one.route}/infer")
    for output in (each for variant in live(one)[:1] for each in variant["outputs"] or []):
        if not output["datatype"]:
            words = "is no tensor and is not served; make it one in the model, with ConcatFromSequence or SequenceAt"
            typer.secho(f"  output '{output['name']}' {words}", fg=typer.colors.YELLOW)
    if not waited and not one.settled:
        typer.echo(f"  see: localml endpoints {one.name}")


def follow(client: Client, made: Endpoint, timeout: float, *, quiet: bool) -> Endpoint:
    """Wait until nothing is under way, and show what happens meanwhile.

    Raises:
        TimeoutError: it takes longer than ``timeout`` seconds.
    """
    deadline = time.monotonic() + timeout
    with Line(quiet=quiet, patience=_PATIENCE_S) as line:
        line.say(_progress(made))
        while True:
            left = deadline - time.monotonic()
            try:
                return client.wait_endpoint(made.id, max(0.0, min(_STEP_S, left)))
            except TimeoutError:
                if left <= 0:
                    raise
                line.say(_progress(client.endpoint(made.id)))


def _progress(one: Endpoint) -> str:
    return f"{one.name} is {one.state}" + (f": {one.message}" if one.message else "")


def prediction(found: dict[str, Any], took: float) -> None:
    """The outputs, one after the other."""
    for output in found.get("outputs", []):
        shape = _shape(output["shape"])
        labels = output.get("parameters", {}).get("class_labels")
        columns = f"  {', '.join(map(str, json.loads(labels)))}" if labels else ""
        typer.secho(f"{output['name']} {output['datatype']}{shape}{columns}", bold=True)
        typer.echo(json.dumps(_nested(output["data"], list(output["shape"]))))
    if "outputs" not in found:
        typer.echo(json.dumps(found, indent=2))
    name, version = found.get("model_name", ""), found.get("model_version", "")
    typer.secho(f"{name} version {version}, {took * 1000:.1f} ms", dim=True, err=True)


def _nested(data: list[Any], shape: list[int]) -> Any:
    """Flat values as lists of lists of the shape."""
    if len(shape) <= 1 or any(isinstance(one, list) for one in data):
        return data
    size = len(data) // shape[0] if shape[0] else 0
    return [_nested(data[at * size : (at + 1) * size], shape[1:]) for at in range(shape[0])]
