"""The server's life: up, down, status."""

from __future__ import annotations

import os
import signal
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import typer

from localml.cli import completion, show
from localml.cli.common import Data, Json, command, connect, days_option, print_json, size, time_option
from localml.cli.help import SERVER
from localml.client.errors import ClientError
from localml.core.errors import LocalmlError
from localml.core.quantities import format_duration, format_memory

_POLL_S = 0.05
_ASK_S = 2.0
_NAMED = 3


def add(app: typer.Typer) -> None:
    """Add the commands of this module."""
    for function in (up, down, status):
        app.command(rich_help_panel=SERVER)(function)


@command
def up(
    data: Data = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on. [default: 127.0.0.1]")] = None,
    port: Annotated[int | None, typer.Option(help="Port, 0 for a free one. [default: 7070]")] = None,
    gateway_port: Annotated[int | None, typer.Option(help="Port of the model gateway. [default: 7071]")] = None,
    engine: Annotated[
        str | None,
        typer.Option(
            help="auto, docker, process or fake. [default: auto]",
            autocompletion=completion.words("auto", "docker", "process", "fake"),
        ),
    ] = None,
    abandon: Annotated[
        str | None,
        typer.Option(
            help="Take all for lost that another engine has (docker or process), and begin it again here.",
            autocompletion=completion.words("docker", "process"),
        ),
    ] = None,
    gpus: Annotated[
        str | None,
        typer.Option(
            help="auto, free, none, simulated:N, or a list such as 0,1. [default: auto]",
            autocompletion=completion.words(*completion.GPUS),
        ),
    ] = None,
    cpus: Annotated[float | None, typer.Option(help="Cores that there are. [default: the machine's]")] = None,
    memory: Annotated[
        str | None, typer.Option(metavar="SIZE", help="Memory that there is, such as 64G. [default: the machine's]")
    ] = None,
    cpu_overcommit: Annotated[float | None, typer.Option(help="Cores reserved for each there is. [default: 1]")] = None,
    max_replicas: Annotated[
        int | None, typer.Option(help="Containers that run at a time. [default: 16 for each core]")
    ] = None,
    detach: Annotated[bool, typer.Option("--detach", "-d", help="Return when it answers; it goes on.")] = False,
    no_auth: Annotated[bool, typer.Option("--no-auth", help="Ask nobody who they are; on loopback only.")] = False,
    opens: Annotated[
        list[str] | None,
        typer.Option(
            "--open",
            help="An API that asks nobody on this machine who they are: mlbench.",
            autocompletion=completion.words("mlbench"),
        ),
    ] = None,
    closed: Annotated[
        bool, typer.Option("--closed", help="Everything asks who calls, also what vendors leave open on a machine.")
    ] = False,
    hosts: Annotated[
        list[str] | None,
        typer.Option(
            "--allow-host", help="Another name or address that clients call this server by, such as a published one."
        ),
    ] = None,
    inherit_proxy: Annotated[
        bool,
        typer.Option("--inherit-proxy", help="Give all jobs the proxies of this shell and of ~/.docker/config.json."),
    ] = False,
    trust_users: Annotated[
        bool, typer.Option("--trust-users", help="Run everybody's jobs also where nothing keeps them apart.")
    ] = False,
    keep_logs: Annotated[
        str | None,
        typer.Option(
            metavar="SIZE", help="Output of what ended that is kept. [default: a tenth of the disk, at most 50G]"
        ),
    ] = None,
    keep_logs_days: Annotated[
        float | None, days_option(words="For so many days, or a time such as 12h, or 'inf'. [default: 30]")
    ] = None,
    service_logs: Annotated[
        str | None, typer.Option(metavar="SIZE", help="The last output of each service that is kept. [default: 64M]")
    ] = None,
    free_disk: Annotated[
        str | None, typer.Option(metavar="SIZE", help="What stays free of the disk. [default: a fiftieth, 1G to 10G]")
    ] = None,
    as_json: Json = False,
) -> None:
    """Start the server.

    Example: localml up --detach
    """
    from localml.cli import daemon as serving
    from localml.config import load, recalled

    config = load(
        data=data,
        host=host,
        port=port,
        gateway_port=gateway_port,
        engine=engine,
        abandon=abandon,
        gpus=gpus,
        cpus=cpus,
        cpu_overcommit=cpu_overcommit,
        max_replicas=max_replicas,
        memory=size("--memory", memory),
        auth=False if no_auth else None,
        open=tuple(opens) if opens else None,
        closed=closed or None,
        hosts=tuple(hosts) if hosts else None,
        inherit_proxy=inherit_proxy or None,
        trust_users=trust_users or None,
        keep_logs=size("--keep-logs", keep_logs),
        keep_logs_days=keep_logs_days,
        service_logs=size("--service-logs", service_logs),
        free_disk=size("--free-disk", free_disk),
    )
    last = recalled(config.data, port=port, gateway_port=gateway_port, gpus=gpus)
    if detach:
        _show_banner({**serving.start_detached(config), "last_start": last}, as_json=as_json)
    else:
        serving.serve(config, lambda banner: _show_banner({**banner, "last_start": last}, as_json=as_json))


def _show_banner(banner: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        print_json(banner)
        return
    typer.secho(f"localml {banner['version']} is up at {banner['url']}", fg=typer.colors.GREEN)
    note = f" ({banner['engine_note']})" if banner["engine_note"] else ""
    typer.echo(f"  engine       {banner['engine']}{note}")
    if banner["users"]:
        typer.echo(f"  users        {banner['users']}")
    typer.echo(f"  GPUs         {_gpu_words(banner['gpus'], banner['gpu_source'])}")
    typer.echo(f"  data         {banner['data']}, process {banner['pid']}")
    from localml.client.transport import data_directory
    from localml.dialects import served

    others = ", ".join(sorted(served() - {"native"}))
    where = "" if Path(banner["data"]) == data_directory(None) else f" --data {banner['data']}"
    typer.echo(f"  credentials  localml env native{where}   (or {others})")
    if banner["last_start"]:
        words = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in banner["last_start"].items())
        typer.echo(f"  as before    {words}; options of 'localml up' change it")
    for words in banner["moved"]:
        typer.secho(f"  PORT         {words}", fg=typer.colors.YELLOW)
    for words in banner["opened"]:
        typer.secho(f"  OPEN         {words}", fg=typer.colors.YELLOW)
    if banner.get("log"):
        typer.echo(f"  log          {banner['log']}")
        typer.echo(f"  stop it      localml down{where}")


def _gpu_words(gpus: list[dict[str, Any]], source: str) -> str:
    if not gpus:
        return f"none ({source})"
    names: dict[str, int] = {}
    for one in gpus:
        name = show.gpu_name(one["name"], one["simulated"])
        names[name] = names.get(name, 0) + 1
    return ", ".join(f"{count} x {name}" for name, count in names.items())


@command
def down(
    data: Data = None,
    timeout: Annotated[float, time_option("How long to wait for its orderly end.", "30s")] = 30,
    keep_serving: Annotated[bool, typer.Option("--keep-serving", help="Leave the model gateway running.")] = False,
    as_json: Json = False,
) -> None:
    """Stop the server and the model gateway. Workloads go on; the next start takes them up again.

    Example: localml down
    """
    from localml.client.transport import server_directory
    from localml.store.lock import holder

    folder = server_directory(data)
    deadline = time.monotonic() + timeout
    while (info := holder(folder)) is not None and "pid" not in info and time.monotonic() < deadline:
        time.sleep(_POLL_S)  # it starts or ends
    if info is None or "pid" not in info:
        gateway = None if keep_serving else _stop_gateway(folder)
        words = f"no server runs on {folder}" + (f"; stopped its gateway (process {gateway})" if gateway else "")
        _say({"stopped": False, "gateway": gateway, "data": str(folder)}, words, as_json=as_json)
        return
    pid = int(info["pid"])
    running = _running(folder)
    try:
        os.kill(pid, signal.SIGTERM)
    except ProcessLookupError:
        pass
    except PermissionError as error:
        raise ClientError("forbidden", f"process {pid} belongs to somebody else and cannot be stopped") from error
    while holder(folder) is not None:
        if time.monotonic() > deadline:
            raise ClientError("timeout", f"process {pid} has not ended within {timeout:g} s; see {folder}/server.log")
        time.sleep(_POLL_S)
    gateway = None if keep_serving else _stop_gateway(folder)
    words = f"stopped (process {pid}" + (f", gateway {gateway})" if gateway else ")")
    if running:
        more = f" and {len(running) - _NAMED} more" if len(running) > _NAMED else ""
        words += f"; {', '.join(running[:_NAMED])}{more} go on: 'localml up' takes them up again"
    answer = {"stopped": True, "pid": pid, "gateway": gateway, "data": str(folder), "running": running}
    _say(answer, words, as_json=as_json)


def _running(folder: Path) -> list[str]:
    """Names of what runs, if the server says so at once: one that hangs is stopped as well."""
    found: list[str] = []

    def ask() -> None:
        with suppress(ClientError, LocalmlError, OSError), connect(folder) as client:
            found.extend(one.name for one in client.all(state=["running"]))

    asks = threading.Thread(target=ask, name="localml-down", daemon=True)
    asks.start()
    asks.join(_ASK_S)
    return list(found)


def _stop_gateway(folder: Path) -> int | None:
    if not (folder / "gateway").is_dir():  # nothing was ever served, and what follows takes a while to import
        return None
    from localml.control.serving.gateway_process import stop

    return stop(folder)


def _say(answer: dict[str, Any], words: str, *, as_json: bool) -> None:
    if as_json:
        print_json(answer)
    else:
        typer.echo(words)


def _kept_words(disk: dict[str, Any]) -> str:
    """What this server keeps of output, as it was told when it was started."""
    rules = disk["rules"]
    age, size = rules["logs_older_than"], rules["keep_log_bytes"]
    days = "for ever" if age is None else f"for {age / 86_400:g} days"
    last = format_memory(disk["service_logs"])
    return f"output of what ended {days}, {format_memory(size)} in all; the last {last} of each stream of a service"


@command
def status(data: Data = None, as_json: Json = False) -> None:
    """The installation at a glance. Exits with 2 when no server runs.

    Example: localml status
    """
    with connect(data) as client:
        found = client.status()
    if as_json:
        print_json(found)
        return
    typer.secho(f"localml {found['version']} at {found['url']}", fg=typer.colors.GREEN)
    typer.echo(f"  engine     {found['engine']}{_engine_words(found)}")
    typer.echo(f"  GPUs       {_gpu_use(found)}")
    typer.echo(f"  size       {_size_words(found['size'])}")
    typer.echo(f"  workloads  {_count_words(found['counts'])}")
    typer.echo(f"  gateway    {_gateway_words(found)}")
    if found["data"]:  # which is told to administrators
        typer.echo(f"  data       {found['data']}")
        disk = found["disk"]
        room = f"{format_memory(disk['free'])} free of {format_memory(disk['total'])}"
        typer.echo(f"  disk       {room}; below {format_memory(disk['floor'])} old output goes")
        typer.echo(f"  kept       {_kept_words(disk)}")
    typer.echo(f"  process    {found['pid']}, up for {format_duration(found['uptime'])}")
    for words in found["opened"]:
        typer.secho(f"  OPEN       {words}", fg="yellow")
    if found["drained"]:
        typer.secho(f"  drained    {found['drained']['reason']}; undo it with: localml undrain", fg="yellow")


def _gateway_words(found: dict[str, Any]) -> str:
    if found["gateway_up"]:
        return str(found["gateway_url"])
    return (
        f"does not listen: {found['gateway_trouble']}" if found["gateway_trouble"] else "begins with the first endpoint"
    )


def _engine_words(found: dict[str, Any]) -> str:
    if not found["engine_up"]:
        return " does not answer" + (f": {found['engine_note']}" if found["engine_note"] else "")
    return f" ({found['engine_note']})" if found["engine_note"] else ""


def _gpu_use(found: dict[str, Any]) -> str:
    words = _gpu_words(found["gpus"], found["gpu_source"])
    if not found["gpus"]:
        return words
    return f"{words}; {sum(one['free'] >= 1 for one in found['gpus'])} free"


def _size_words(size: dict[str, Any]) -> str:
    cpus, memory, replicas = size["cpus"], size["memory"], size["replicas"]
    return (
        f"{cpus['reserved']:g} of {cpus['total']:g} cores and {format_memory(memory['reserved'])} of "
        f"{format_memory(memory['total'])} of memory reserved; {replicas['running']} of at most {replicas['total']} "
        "containers"
    )


def _count_words(counts: dict[str, int]) -> str:
    order = ("running", "preparing", "stopping", "queued", "succeeded", "failed", "stopped")
    words = [f"{counts[name]} {name}" for name in order if counts.get(name)]
    return ", ".join(words) or "none yet"
