"""Endpoints: serve, endpoints, predict, rollout, scale, start."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from localml.cli import serve_show, serve_variants
from localml.cli.common import (
    Data,
    Json,
    Place,
    PoolName,
    Within,
    amount,
    as_dict,
    command,
    connect,
    known_pool,
    print_json,
    time_option,
)
from localml.cli.completion import (
    complete_images,
    complete_variants,
)
from localml.cli.help import MODELS
from localml.cli.live import Build
from localml.cli.models import complete_models_or_uris, registered
from localml.cli.names import ENDPOINT, TOOLS, completer
from localml.cli.tools import start_again
from localml.cli.verbs import show_endpoint
from localml.client.errors import ClientError
from localml.core.errors import invalid
from localml.core.registry.files import KERNELS

if TYPE_CHECKING:
    from localml.client import Client, Endpoint

FAILED = 1
EndpointName = Annotated[
    str, typer.Argument(help="Name of an endpoint.", autocompletion=completer(ENDPOINT), show_default=False)
]
Startable = Annotated[
    str,
    typer.Argument(
        help="Name of an endpoint, notebook or TensorBoard.",
        autocompletion=completer(ENDPOINT, *TOOLS),
        show_default=False,
    ),
]
Image = Annotated[
    str,
    typer.Option(
        help="Image of your own that a Python kernel runs in; for another model, one that serves it itself.",
        autocompletion=complete_images,
    ),
]


NoWait = Annotated[bool, typer.Option("--no-wait", help="Return at once, not when it is ready.")]
Timeout = Annotated[float, time_option("How long to wait for it, such as 90s or 10m.", "5m")]


def add(app: typer.Typer) -> None:
    """Add the commands of this module."""
    for function in (serve, predict, endpoints, rollout, scale, start):
        app.command(rich_help_panel=MODELS)(function)


@command
def serve(
    model: Annotated[
        str,
        typer.Argument(
            help="NAME[:VERSION], a file or folder, or an object URI.", autocompletion=complete_models_or_uris
        ),
    ],
    name: Annotated[str | None, typer.Option(help="The endpoint's name; the model's otherwise.")] = None,
    gpus: Annotated[float, typer.Option("--gpus", "-g", help="GPUs of each replica; below 1 a share of one.")] = 0,
    cpus: Annotated[
        float | None, typer.Option("--cpus", "-c", help="CPU cores of each replica. [default: 0.25, no limit]")
    ] = None,
    memory: Annotated[
        str | None, typer.Option("--memory", "-m", metavar="SIZE", help="Memory of each replica, such as 2G.")
    ] = None,
    replicas: Annotated[int, typer.Option(help="How many at least; 0 lets it sleep while nobody asks.")] = 1,
    max_replicas: Annotated[int | None, typer.Option(help="How many at most, by load.")] = None,
    option: Annotated[
        list[str], typer.Option("--option", "-o", metavar="NAME=VALUE", help="Of the server, such as max_batch=8.")
    ] = [],  # noqa: B006
    env: Annotated[list[str], typer.Option("--env", "-e", metavar="NAME=VALUE", help="May be repeated.")] = [],  # noqa: B006
    pool: PoolName = "default",
    public: Annotated[bool, typer.Option("--public", help="Requests need no token.")] = False,
    port: Annotated[int | None, typer.Option(help="Listen for it on a port of its own, too.")] = None,
    image: Image = "",
    workspace: Place = None,
    no_wait: NoWait = False,
    timeout: Timeout = 300,
    data: Data = None,
    as_json: Json = False,
) -> None:
    """Serve a model behind a stable URL. A file is registered first.

    Example: localml serve model.onnx --name digits
    """
    resources = {"gpu": gpus, "cpu": cpus, "memory": amount("--memory", memory)}
    settings: dict[str, Any] = {
        "resources": {key: value for key, value in resources.items() if value is not None},
        "scaling": {"minimum": replicas, "maximum": max(1, replicas, max_replicas or 0)},
        "options": {key: _value(text) for key, text in _pairs("--option", option).items()},
        "env": _pairs("--env", env),
        "pool": pool,
        "public": public,
        "gateway_port": port,
        "image": image,
        "workspace": workspace,
    }
    with connect(data) as client:
        known_pool(client, pool)
        with registered(client, model, name, workspace, as_json=as_json) as reference:
            _make_ready(client, reference, image)
            made = client.serve(reference, name=name, **settings)
        _finish(client, made, timeout, no_wait=no_wait, as_json=as_json)


@command
def rollout(
    name: EndpointName,
    version: Annotated[
        str | None,
        typer.Argument(
            help="A number, NAME:VERSION, a file or folder, or an object URI.",
            autocompletion=complete_models_or_uris,
            show_default=False,
        ),
    ] = None,
    weight: Annotated[float, typer.Option("--weight", "-w", help="Percent of the requests; 100 replaces all.")] = 100,
    variant: Annotated[
        list[str],
        typer.Option(
            "--variant",
            metavar="[NAME=]MODEL:VERSION@WEIGHT",
            help="All versions at once with their percents, such as v1@90 and canary=3@10; what is not named ends.",
            autocompletion=complete_variants,
        ),
    ] = [],  # noqa: B006
    image: Image = "",
    recreate: Annotated[
        bool, typer.Option("--recreate", help="End the version before first, where there is no room for both.")
    ] = False,
    no_wait: NoWait = False,
    timeout: Timeout = 300,
    data: Data = None,
    as_json: Json = False,
) -> None:
    """Bring up another version beside the one that serves.

    When it is ready it takes over, else nothing changes.

    Example: localml rollout digits 2 --weight 10
    """
    if version is None and not image and not variant:
        raise invalid("version", "give a version, or --image, or --variant for several")
    if variant and (version is not None or image or weight != 100):
        raise invalid("--variant", "says version and weight of each, so neither is given beside it")
    with connect(data) as client:
        before = _endpoint(client, name)
        if variant:
            made = client.put_variants(before.id, serve_variants.parse(variant, before), recreate=recreate)
            asked = serve_variants.asked(made)
            _finish(client, made, timeout, no_wait=no_wait, as_json=as_json, rolled=asked)
            return
        served = next((str(one["model"]) for one in before.variants if one["version"]), "")
        model = served.partition(":")[0]
        settings: dict[str, Any] = {"recreate": recreate} | ({"image": image} if image else {})
        if version is None:
            _make_ready(client, served, image)
            made = client.rollout(before.id, weight=weight, **settings)
            _finish(client, made, timeout, no_wait=no_wait, as_json=as_json, rolled=_serving(served))
            return
        named = f"{model}:{version}" if version.isdigit() else version
        with registered(client, named, model or None, as_json=as_json) as reference:
            _make_ready(client, reference, image)
            made = client.rollout(before.id, reference, weight=weight, **settings)
        _finish(client, made, timeout, no_wait=no_wait, as_json=as_json, rolled=_serving(reference))


@command
def scale(
    name: EndpointName,
    replicas: Annotated[int | None, typer.Argument(help="How many, always.")] = None,
    minimum: Annotated[int | None, typer.Option("--min", help="How many at least; 0 lets it sleep.")] = None,
    maximum: Annotated[int | None, typer.Option("--max", help="How many at most, by load.")] = None,
    target: Annotated[float | None, typer.Option(help="Requests at a time for which one replica is wanted.")] = None,
    idle: Annotated[float | None, time_option("It sleeps after so long without a request, such as 10m.")] = None,
    no_wait: NoWait = False,
    timeout: Timeout = 300,
    data: Data = None,
    as_json: Json = False,
) -> None:
    """Change the number of replicas.

    Or the limits within which the load decides.

    Example: localml scale digits 3
    """
    if all(one is None for one in (replicas, minimum, maximum, target, idle)):
        raise invalid("replicas", "give a number, or --min, --max, --target or --idle")
    with connect(data) as client:
        made = client.scale(
            _endpoint(client, name).id, replicas, minimum=minimum, maximum=maximum, target=target, idle=idle
        )
        _finish(client, made, timeout, no_wait=no_wait, as_json=as_json)


@command
def start(
    name: Startable, no_wait: NoWait = False, timeout: Timeout = 300, data: Data = None, as_json: Json = False
) -> None:
    """Start again what was stopped, failed, or is asleep.

    An endpoint, notebook or TensorBoard; 'localml stop' stops it.

    Example: localml start digits
    """
    with connect(data) as client:
        thing = client.resolve(name, (ENDPOINT, *TOOLS))
        if thing.kind != ENDPOINT:
            start_again(client, thing, detach=no_wait, as_json=as_json)
            return
        _finish(client, client.start_endpoint(thing.id), timeout, no_wait=no_wait, as_json=as_json)


def _endpoint(client: Client, name: str) -> Endpoint:
    return client.endpoint(client.resolve(name, [ENDPOINT]).id)


@command
def endpoints(
    name: Annotated[
        str | None, typer.Argument(help="Show this one with its events.", autocompletion=completer(ENDPOINT))
    ] = None,
    workspace: Within = None,
    data: Data = None,
    as_json: Json = False,
) -> None:
    """What is served.

    Example: localml endpoints
    """
    with connect(data) as client:
        if name is None:
            found = client.endpoints(workspace=workspace)
            print_json({"endpoints": as_dict(found)}) if as_json else serve_show.endpoints(found)
            return
        show_endpoint(client, client.resolve(name, [ENDPOINT]).id, as_json=as_json)


@command
def predict(
    name: EndpointName,
    source: Annotated[
        str,
        typer.Argument(
            metavar="@FILE",
            help="@input.json, .npy, .csv or .png; JSON itself; or - for standard input, as without.",
            autocompletion=lambda: list[str](),
        ),
    ] = "-",
    variant: Annotated[
        str | None,
        typer.Option(help="Ask this version, whatever its share.", autocompletion=complete_variants),
    ] = None,
    white: Annotated[
        float | None, typer.Option(help="What a white pixel is; 1 where the model takes fractions, else 255.")
    ] = None,
    timeout: Annotated[float, time_option("How long to wait for it, such as 90s or 10m.", "5m30s")] = 330,
    data: Data = None,
    as_json: Json = False,
) -> None:
    """Ask an endpoint.

    Example: localml predict digits @input.json
    """
    from localml.client.predict_inputs import request_of, request_of_bytes, request_of_text

    piped = source in ("-", "@-")
    if piped and sys.stdin.isatty():
        raise invalid("input", "give @FILE or JSON, or pipe one of them in")
    read = sys.stdin.buffer.read() if piped else b""
    with connect(data) as client:
        target = _endpoint(client, name)
        inputs = next((one["inputs"] for one in serve_show.live(target) if variant in (None, one["name"])), None)
        if piped:
            request = request_of_bytes(read, inputs, white=white)
        elif source.startswith("@"):
            request = request_of(Path(source[1:]), inputs, white=white)
        else:
            request = request_of_text(source, inputs)
        began = time.perf_counter()
        found = client.predict(
            target.id, request.body, header_length=request.header_length, variant=variant, timeout=timeout
        )
        took = time.perf_counter() - began
    if as_json:
        print_json(found)
    else:
        serve_show.prediction(found, took)


def _make_ready(client: Client, reference: str, image: str) -> None:
    """Make the server of kernels ready for an image; nothing for other models, and where there is no image."""
    if not image or not reference:
        return
    name, _, number = reference.partition(":")
    versions = next((one.versions for one in client.models() if one.name == name), [])
    version = next((one for one in versions if number in ("", "latest", str(one.version))), None)
    if version is None or version.format not in KERNELS:
        return
    from localml.core.catalog import cache_dir

    with Build(image, cache_dir() / "logs", what="making the server ready to run in") as build:
        try:
            for step in client.build_images(onto=image):
                if "line" in step:
                    build.add(step["line"])
        except ClientError as error:
            if error.code != "forbidden":  # an administrator may have done it
                raise build.failed(error) from error


def _finish(
    client: Client,
    made: Endpoint,
    timeout: float,
    *,
    no_wait: bool,
    as_json: bool,
    rolled: Callable[[Endpoint], bool] = lambda _: True,
) -> None:
    """Wait until nothing is under way, show what became of it; exit code 1 unless that is what was asked for."""
    done = made if no_wait else serve_show.follow(client, made, timeout, quiet=as_json)
    if as_json:
        print_json(as_dict(done))
    else:
        serve_show.outcome(done, waited=not no_wait)
    if not no_wait and (done.state in ("failed", "degraded") or not rolled(done)):
        raise typer.Exit(FAILED)


def _serving(reference: str) -> Callable[[Endpoint], bool]:
    """Whether an endpoint serves a version by now; anything will do where there is no version to look for."""

    def look(done: Endpoint) -> bool:
        states = [one["state"] for one in done.variants if one["model"] == reference]
        return ":" not in reference or "serving" in states or "baking" in states

    return look


def _pairs(what: str, given: list[str]) -> dict[str, str]:
    found = {}
    for one in given:
        key, equals, value = one.partition("=")
        if not equals:
            raise invalid(what, f"must be NAME=VALUE, not {one!r}")
        found[key.replace("-", "_") if what == "--option" else key] = value
    return found


def _value(text: str) -> str | int | float | bool:
    """A number or a truth value where the text is one."""
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
