"""The machine: gpus, drain, undrain, pools, images."""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer

from localml.cli import show
from localml.cli.common import Data, Json, amount, as_dict, command, connect, print_json
from localml.cli.completion import complete_gpus, complete_images, complete_pools, complete_runtimes, words
from localml.cli.help import MACHINE
from localml.cli.live import Build
from localml.cli.several import each
from localml.client.errors import ClientError
from localml.core.errors import LocalmlError, invalid
from localml.core.quantities import format_memory

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from localml.client import Gpu


def add(app: typer.Typer) -> None:
    """Add the commands of this module."""
    for function in (gpus, drain, undrain):
        app.command(rich_help_panel=MACHINE)(function)
    pools = typer.Typer(invoke_without_command=True)
    pools.callback()(list_pools)
    pools.command("set")(set_limits)
    pools.command("rm")(remove_pools)
    app.add_typer(pools, name="pools", rich_help_panel=MACHINE)
    images = typer.Typer(no_args_is_help=True, help="Images of the runtimes: list, build, prune.")
    images.command("list")(list_images)
    images.command("build")(build_images)
    images.command("prune")(prune_images)
    app.add_typer(images, name="images", rich_help_panel=MACHINE)


@command
def gpus(data: Data = None, as_json: Json = False) -> None:
    """The GPUs: who has them, and what they do.

    Example: localml gpus
    """
    with connect(data) as client:
        status = client.status()
        found = client.gpus()
    if as_json:
        print_json({"gpus": as_dict(found), "source": status["gpu_source"]})
        return
    rows = [
        (
            one.index,
            show.gpu_name(one.name, one.simulated),
            _memory(one),
            _percent(one.usage.get("utilisation")),
            ", ".join(_lease(lease) for lease in one.leases) or "-",
            _condition(one),
            one.uuid,
        )
        for one in found
    ]
    empty = f"No GPUs: {status['gpu_source']}."
    show.table("GPU", "NAME", "MEMORY", "BUSY", "HELD BY", "STATE", "UUID", rows=rows, empty=empty)


def _memory(one: Gpu) -> str:
    used = one.usage.get("memory_used")
    return f"{format_memory(used)} of {format_memory(one.memory)}" if used is not None else format_memory(one.memory)


def _percent(value: int | None) -> str:
    return "-" if value is None else f"{value}%"


def _lease(lease: dict[str, Any]) -> str:
    share = "" if lease["fraction"] >= 1 else f" ({lease['fraction']:g})"
    return (lease["name"] or "somebody else's") + share


def _condition(one: Gpu) -> str:
    if one.fenced or one.drained:
        return f"{'fenced' if one.fenced else 'drained'}: {one.reason}"
    if one.reason:
        return one.reason
    return "free" if one.free >= 1 else "in use"


GpuArgument = Annotated[
    str | None,
    typer.Argument(
        help="Index or UUID of a GPU; the whole machine when left out.",
        autocompletion=complete_gpus,
        show_default=False,
    ),
]


@command
def drain(
    gpu: GpuArgument = None,
    off: Annotated[bool, typer.Option("--off", help="Give it work again.")] = False,
    reason: Annotated[str | None, typer.Option(help="Shown to those who ask why.")] = None,
    data: Data = None,
    as_json: Json = False,
) -> None:
    """Start no new work on a GPU, or on the machine. What runs goes on.

    Example: localml drain 0 --reason noise
    """
    if off:
        undrain(gpu=gpu, data=data, as_json=as_json)
        return
    with connect(data) as client:
        what = client.drain(gpu, reason=reason)
    if as_json:
        print_json({"drained": what})
    else:
        back = f"localml undrain {gpu}" if gpu else "localml undrain"
        typer.echo(f"{_named(what)} takes no new work; undo it with: {back}")


@command
def undrain(gpu: GpuArgument = None, data: Data = None, as_json: Json = False) -> None:
    """Give a GPU (a fenced one too), or the machine, work again.

    Example: localml undrain 0
    """
    with connect(data) as client:
        what = client.undrain(gpu)
    if as_json:
        print_json({"undrained": what})
    else:
        typer.echo(f"{_named(what)} takes work again")


def _named(what: str) -> str:
    return "the machine" if what == "machine" else what


@command
def list_pools(ctx: typer.Context, data: Data = None, as_json: Json = False) -> None:
    """Pools: list them, or set their limits.

    Example: localml pools
    """
    if ctx.invoked_subcommand is not None:
        return
    with connect(data) as client:
        found = client.pools()
    if as_json:
        print_json({"pools": as_dict(found)})
        return
    rows = [
        (
            one.name,
            _of(show.number(one.used["gpu"]), show.number(one.gpu)),
            _of(show.number(one.used["cpu"]), show.number(one.cpu)),
            _of(format_memory(int(one.used["memory"])), format_memory(one.memory)),
            _of(show.number(one.used["workloads"]), show.number(one.max_workloads)),
        )
        for one in found
    ]
    show.table("POOL", "GPU", "CPU", "MEMORY", "WORKLOADS", rows=rows, empty="No pools yet.")


def _of(used: str, limit: str) -> str:
    return used if limit == "-" else f"{used} of {limit}"


@command
def set_limits(
    pool: Annotated[
        str, typer.Argument(help="Path such as team/train.", autocompletion=complete_pools, show_default=False)
    ],
    gpu: Annotated[float | None, typer.Option(help="GPUs.")] = None,
    cpu: Annotated[float | None, typer.Option(help="CPU cores.")] = None,
    memory: Annotated[str | None, typer.Option(metavar="SIZE", help="Memory, such as 64G.")] = None,
    max_workloads: Annotated[int | None, typer.Option(help="Workloads at a time.")] = None,
    data: Data = None,
    as_json: Json = False,
) -> None:
    """Set all limits of a pool; one that is left out is lifted.

    Example: localml pools set team/train --gpu 2
    """
    with connect(data) as client:
        made = client.set_limits(pool, gpu=gpu, cpu=cpu, memory=amount("--memory", memory), max_workloads=max_workloads)
    if as_json:
        print_json(as_dict(made))
    else:
        typer.echo(f"limits of {made.name} are set")


@command
def remove_pools(
    pools: Annotated[
        list[str],
        typer.Argument(help="Paths such as team/train.", autocompletion=complete_pools, show_default=False),
    ],
    data: Data = None,
    as_json: Json = False,
) -> None:
    """Remove pools that nothing uses any more.

    Example: localml pools rm team/train
    """
    with connect(data) as client:

        def remove(pool: str) -> str:
            client.delete_pool(pool)
            if not as_json:
                typer.echo(f"{pool} removed")
            return pool

        tried = each(pools, remove)
    if as_json:
        print_json({"removed": tried.done} | tried.members())
    tried.finish(as_json=as_json)


EngineOption = Annotated[
    str | None,
    typer.Option(
        "--engine",
        help="docker or process; that of the server, or what this machine has.",
        autocompletion=words("docker", "process"),
    ),
]


@command
def list_images(data: Data = None, engine: EngineOption = None, as_json: Json = False) -> None:
    """The runtimes, and which of them are built. Needs no server.

    Example: localml images list
    """
    found = _server_images(data) if engine is None else None
    if found is None:
        found = [asdict(one) for one in _local(engine).status()]
    if as_json:
        print_json({"images": found})
        return
    rows = [
        (
            one["name"],
            "yes" if one["built"] else "no",
            format_memory(one["size"]),
            one["description"],
            one["reference"] or one["image"],
        )
        for one in found
    ]
    show.table("RUNTIME", "BUILT", "SIZE", "DESCRIPTION", "IMAGE", rows=rows, empty="There are no runtimes.")


@command
def build_images(
    names: Annotated[
        list[str] | None,
        typer.Argument(help="Runtimes; the default ones when left out.", autocompletion=complete_runtimes),
    ] = None,
    onto: Annotated[
        str,
        typer.Option(
            metavar="IMAGE",
            help="Make the server of Python kernels ready to run in this image instead.",
            autocompletion=complete_images,
        ),
    ] = "",
    data: Data = None,
    engine: EngineOption = None,
    as_json: Json = False,
) -> None:
    """Build the images of runtimes. Needs no server.

    What a build says goes into a file, which is named.

    Example: localml images build train-sklearn
    """
    from localml.core.catalog import cache_dir

    built: list[dict[str, Any]] = []

    def build(some: list[str]) -> None:
        what = onto or ", ".join(some) or "the runtimes"
        with Build(what, cache_dir() / "logs", quiet=as_json) as line:
            try:
                for step in _build(some, onto, data, engine):
                    if "line" in step:
                        line.add(step["line"])
                        continue
                    built.append(step)
                    if not as_json:
                        line.pause()
                        typer.echo(f"{step['built']}: {step['reference']} ({format_memory(step['size'])})")
            except (ClientError, LocalmlError) as error:
                raise line.failed(error) from error

    tried = each([] if onto else names or [], lambda name: build([name]))
    if onto or not names:
        build(names or [])
    if as_json:
        print_json({"built": built} | tried.members())
    tried.finish(as_json=as_json)


def _build(names: list[str], onto: str, data: Path | None, engine: str | None) -> Iterator[dict[str, Any]]:
    if engine is None:
        try:
            with connect(data) as client:
                yield from client.build_images(names, onto=onto)
                return
        except ClientError as error:
            if error.code != "no_server":
                raise
    from localml.core.catalog import KERNEL_SERVER, default_names

    if onto and names not in ([], [KERNEL_SERVER]):
        raise invalid("names", f"only {KERNEL_SERVER} can be put into another image")
    images = _local(engine)
    progress: Callable[[str], None] = lambda line: typer.echo(line, err=True)  # noqa: E731
    makers = [partial(images.build, name) for name in names or default_names(images.status())]
    for make in [partial(images.build_onto, onto)] if onto else makers:
        made = make(progress)
        yield {"built": made.name, "reference": made.reference, "size": made.size}


@command
def prune_images(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would go.")] = False, as_json: Json = False
) -> None:
    """Remove what older versions left: images, environments, downloads. Needs no server.

    What something still runs in stays, and so do images that have a name of your own.

    Example: localml images prune --dry-run
    """
    from localml.core.catalog import cache_dir
    from localml.engines.runtimes import find_leftovers

    found, freed = [], 0
    for one in find_leftovers(cache_dir()):
        reason = "" if dry_run else one.remove()
        found.append({"kind": one.kind, "name": one.name, "size": one.size, "kept": reason})
        freed += 0 if reason else one.size
        if not as_json:
            words = f"kept: {reason}" if reason else "would be removed" if dry_run else "removed"
            typer.echo(f"{one.kind} {one.name} ({format_memory(one.size)}): {words}")
    if as_json:
        print_json({"leftovers": found, "dry_run": dry_run})
    elif found:  # images share what they were made from
        typer.echo(f"{'This would free' if dry_run else 'Freed'} at most {format_memory(freed)}.")
    else:
        typer.echo("Older versions left nothing.")


def _server_images(data: Path | None) -> list[dict[str, Any]] | None:
    try:
        with connect(data) as client:
            return client.images()
    except ClientError as error:
        if error.code != "no_server":
            raise
        return None


def _local(engine: str | None) -> Any:
    from localml.core.catalog import cache_dir
    from localml.engines.runtimes import open_images

    if engine is None:
        from localml.engines.docker import docker_available

        engine = "docker" if docker_available() is None else "process"
    return open_images(engine, cache_dir())
