"""Jobs: run, rerun; from options, from files, with a folder of code."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from localml.cli.common import (
    Data,
    Json,
    Name,
    Place,
    as_dict,
    command,
    connect,
    known_pool,
    print_json,
)
from localml.cli.help import JOBS
from localml.cli.job_options import (
    Code,
    CodeLimit,
    Cpus,
    Entrypoint,
    Env,
    Gpus,
    GpuType,
    Image,
    InheritProxy,
    Memory,
    Mounts,
    Pool,
    Priority,
    Shm,
    Workdir,
    change,
    variables,
)
from localml.cli.names import workload_id
from localml.client.errors import ClientError
from localml.core.errors import invalid

if TYPE_CHECKING:
    from localml.cli.job_file import Job
    from localml.client import Client, Workload

_FILES = (".toml", ".yaml", ".yml", ".json")

Replace = Annotated[bool, typer.Option("--replace", help="Stop and remove the one that has this name.")]
Follow = Annotated[bool, typer.Option("--follow", "-f", help="Show its output; exit with its exit code.")]


class _Run(TyperCommand):
    """``-f`` is ``--file`` before the name of a job file; what else follows ``-f`` is no such name."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        valued = {name for one in self.params if not getattr(one, "is_flag", True) for name in one.opts}
        at = 0
        while at < len(args) and args[at].startswith("-") and args[at] != "--":
            if args[at] == "-f" and at + 1 < len(args) and args[at + 1].lower().endswith(_FILES):
                args = [*args[:at], "--file", *args[at + 1 :]]
            at += 2 if args[at] in valued else 1
        return super().parse_args(ctx, args)


def add(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command(cls=_Run, context_settings={"allow_interspersed_args": False}, rich_help_panel=JOBS)(run)
    app.command(rich_help_panel=JOBS)(rerun)


@command
def run(
    words: Annotated[list[str], typer.Argument(metavar="[-- COMMAND...]", help="What to run.")] = [],  # noqa: B006
    file: Annotated[
        Path | None,
        typer.Option(
            "--file", metavar="FILE", help="A job in TOML, YAML or JSON; -f FILE for short. Options change it."
        ),
    ] = None,
    name: Annotated[str | None, typer.Option(help="A name; a friendly one is made up otherwise.")] = None,
    gpus: Gpus = None,
    gpu_type: GpuType = None,
    cpus: Cpus = None,
    memory: Memory = None,
    shm: Shm = None,
    image: Image = None,
    entrypoint: Entrypoint = None,
    code: Code = None,
    code_limit: CodeLimit = "100M",
    env: Env = [],  # noqa: B006
    inherit_proxy: InheritProxy = False,
    mount: Mounts = [],  # noqa: B006
    workdir: Workdir = None,
    retries: Annotated[int | None, typer.Option(help="How often it is tried again when it fails.")] = None,
    time_limit: Annotated[str | None, typer.Option(metavar="TIME", help="Stop it after this time, such as 8h.")] = None,
    priority: Priority = None,
    pool: Pool = None,
    workspace: Place = None,
    replace: Replace = False,
    follow: Follow = False,
    data: Data = None,
    as_json: Json = False,
) -> None:
    """Run a command as a job.

    Example: localml run --code . --gpus 1 --follow -- python train.py
    """
    from localml.cli import job_file

    job = job_file.load(file) if file is not None else job_file.Job()
    given = {"name": name, "pool": pool, "workspace": workspace, "code": None if code is None else str(code)}
    for member, value in given.items():
        if value is not None:
            setattr(job, member, value)
    change(
        job,
        words=words,
        image=image,
        entrypoint=entrypoint,
        workdir=workdir,
        needs={"--gpus": gpus, "--gpu-type": gpu_type, "--cpus": cpus, "--memory": memory, "--shm": shm},
        env=env,
        inherit_proxy=inherit_proxy,
        mount=mount,
        members={"retries": retries, "time_limit": time_limit, "priority": priority},
    )
    if not any(role.get("command") or role.get("image") for role in job.spec["roles"]):
        raise invalid("COMMAND", "say what to run: localml run -- python train.py, or a job file: -f job.yaml")
    with connect(data) as client:
        _finish(client, submit(client, job, code_limit, replace=replace, quiet=as_json), data, follow, as_json)


def submit(client: Client, job: Job, code_limit: str, *, replace: bool, quiet: bool) -> Workload:
    """Send the code of a job, if it has a folder, and submit it."""
    prepare(client, job, code_limit, quiet=quiet)
    pool = known_pool(client, job.pool or "default")
    try:
        return client.submit(job.spec, name=job.name, pool=pool, workspace=job.workspace, replace=replace)
    except ClientError as error:
        if error.code == "conflict" and error.message.endswith("is already used by a job"):
            words = f"{error.message}; --replace stops and removes it"
            raise ClientError(error.code, words, field=error.field, details=error.details) from None
        raise


def prepare(client: Client, job: Job, code_limit: str, *, quiet: bool) -> None:
    """Count the GPUs that a job asks for, and send its code, if it has a folder."""
    for role in job.spec["roles"]:
        needs = role.get("resources", {})
        if "gpu" in needs:
            needs["gpu"] = client.gpu_count(needs["gpu"], needs.get("gpu_type"))
    if job.code is not None:
        job.spec["code"] = send_code(client, Path(job.code), job.workspace, code_limit, quiet=quiet)


def send_code(client: Client, folder: Path, workspace: str | None, limit: str, *, quiet: bool) -> str:
    """Send a folder, and say how large it is."""
    from localml.core.quantities import format_memory, parse_size

    def tell(packed: Any, new: bool) -> None:
        if not quiet:
            words = "is sent" if new else "is there already"
            typer.secho(f"code: {packed.files} file(s), {format_memory(packed.size)}, {words}", dim=True, err=True)
        for one in packed.left_out:
            typer.echo(f"code: left out: {one}", err=True)

    return client.send_code(str(folder), workspace=workspace, limit=parse_size(limit, "--code-limit"), tell=tell)


@command
def rerun(
    name: Name,
    new_name: Annotated[
        str | None, typer.Option("--name", help="Of the new one; the old one's with the next number otherwise.")
    ] = None,
    env: Env = [],  # noqa: B006
    code: Code = None,
    code_limit: CodeLimit = "100M",
    replace: Annotated[bool, typer.Option("--replace", help="In place of the old one, under its name.")] = False,
    follow: Follow = False,
    data: Data = None,
    as_json: Json = False,
) -> None:
    """Run a job once more, or a trial of a study as a job.

    As it was asked for and with the code that it had, but for what is given.

    Example: localml rerun NAME --env LR=0.1
    """
    with connect(data) as client:
        number, sent = workload_id(client, name), None
        if code is not None:
            sent = send_code(client, code, client.get(number).workspace, code_limit, quiet=as_json)
        made = client.rerun(number, name=new_name, env=variables(env), code=sent, replace=replace)
        _finish(client, made, data, follow, as_json)


def _finish(client: Client, made: Workload, data: Any, follow: bool, as_json: bool) -> None:
    from localml.cli.work import follow_to_end

    if follow:
        raise typer.Exit(follow_to_end(client, made, data, as_json=as_json))
    if as_json:
        print_json(as_dict(made))
    else:
        typer.echo(made.name)
