"""Keeping it in order: prune, backup, restore, env, completion, doctor."""

from __future__ import annotations

import shlex
import time
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from localml.cli.common import FAILED, Data, Json, command, connect, days_option, print_json, size
from localml.cli.completion import complete_backups
from localml.cli.help import CARE
from localml.core.home import expanded
from localml.core.quantities import format_memory
from localml.dialects import REGISTRY

APIS = [one.name for one in REGISTRY if one.prefixes]
"""Those that are served. ``env`` knows the others, too, so that people can prepare for them."""


class Format(StrEnum):
    """How ``env`` answers."""

    SHELL = "shell"
    JSON = "json"
    DOTENV = "dotenv"


class Shell(StrEnum):
    """Shells that completion is made for."""

    BASH = "bash"
    ZSH = "zsh"
    FISH = "fish"


def add(app: typer.Typer) -> None:
    """Add the commands of this module."""
    for function in (prune, backup, restore, env, completion, doctor):
        app.command(rich_help_panel=CARE)(function)


@command
def prune(
    logs_days: Annotated[
        float,
        days_option("--logs-days", words="Output of what ended so many days ago goes, and code unused since."),
    ] = 30,
    keep: Annotated[
        str | None, typer.Option(metavar="SIZE", help="Keep so much output in all, such as 10G; the oldest goes.")
    ] = None,
    deleted_days: Annotated[
        float, days_option("--deleted-days", words="Records of what was removed so many days ago go.")
    ] = 30,
    dry_run: Annotated[bool, typer.Option("--dry-run", "-n", help="Only say what would go.")] = False,
    data: Data = None,
    as_json: Json = False,
) -> None:
    """Remove old output and records. Nothing of a live workload is touched.

    The server does so by itself, by the rules that 'localml up' was given: see 'localml doctor'.

    Example: localml prune --logs-days 7 --dry-run
    """
    kept = size("--keep", keep)
    with connect(data) as client:
        done = client.prune(logs_days=logs_days, keep_log_bytes=kept, deleted_days=deleted_days, dry_run=dry_run)
    if as_json:
        print_json(done)
        return
    verb = "would free" if dry_run else "freed"
    typer.echo(
        f"{verb} {format_memory(done['log_bytes'])} of output of {len(done['logs_of'])} workload(s), "
        f"and the records of {len(done['workloads'])} removed one(s)"
    )
    if done["code_archives"]:
        typer.echo(f"and {format_memory(done['code_bytes'])} of code that nothing needs")
    if done["database_bytes"]:
        typer.echo(f"the database is {format_memory(done['database_bytes'])} smaller")


@command
def backup(data: Data = None, as_json: Json = False) -> None:
    """Copy the database while everything goes on.

    'localml restore' goes back to it.

    Example: localml backup
    """
    with connect(data) as client:
        made = client.backup()
    if as_json:
        print_json(made)
    else:
        typer.echo(made["path"])


@command
def restore(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="BACKUP",
            help="What 'localml backup' made: the file or its name.",
            autocompletion=complete_backups,
            show_default=False,
        ),
    ],
    data: Data = None,
    as_json: Json = False,
) -> None:
    """Go back to a backup of the database, while no server runs.

    What came since is set aside in the data directory's 'backups'; files that were deleted since stay deleted. What
    runs and is not in the backup is ended by the next start.

    Example: localml restore localml-20260131-120000.db
    """
    from localml.client.transport import data_directory
    from localml.store.restoring import restore as go_back

    folder = data_directory(data)
    done = go_back(folder, expanded(source, "BACKUP"), time.time())
    if as_json:
        print_json(asdict(done))
        return
    typer.echo(f"{folder} is as it was when {done.source} was made")
    if done.aside is not None:
        more = f", with {done.moved} files and folders that came since" if done.moved else ""
        typer.echo(f"the database that was there is in {done.aside}{more}")
    if done.live:
        words = "were not over then: what of them still runs goes on, and what is gone counts as lost"
        typer.echo(f"{done.live} workload(s) {words}, and is tried again where its retries allow it")


@command
def env(
    dialect: Annotated[str, typer.Argument(help=f"One of {', '.join(APIS)}.", autocompletion=lambda: APIS)],
    form: Annotated[Format, typer.Option("--format", help="How to answer.")] = Format.SHELL,
    data: Data = None,
    as_json: Json = False,
) -> None:
    """What a vendor's client needs to reach this server.

    Example: eval "$(localml env cloudml)"
    """
    with connect(data) as client:
        found = client.env(dialect)
    if not found["served"]:
        typer.echo(f"note: this version does not serve {dialect} yet", err=True)
    if as_json or form is Format.JSON:
        print_json(found)
        return
    start = "export " if form is Format.SHELL else ""
    for name, value in found["variables"].items():
        if value:
            typer.echo(f"{start}{name}={shlex.quote(value)}")
        else:
            typer.echo(f"note: {name} is left out: what you chose yourself is known to you alone", err=True)


@command
def completion(shell: Annotated[Shell, typer.Argument(help="Your shell.")] = Shell.BASH, as_json: Json = False) -> None:
    """Print a completion script.

    Use: source <(localml completion bash)

    Example: localml completion bash
    """
    from typer._completion_shared import get_completion_script

    script = get_completion_script(prog_name="localml", complete_var="_LOCALML_COMPLETE", shell=shell.value)
    if shell is Shell.BASH:  # which parts words at colons otherwise, those of fds:// and NAME:VERSION too
        script = f"COMP_WORDBREAKS=${{COMP_WORDBREAKS//:}}\n{script}"
    if as_json:
        print_json({"shell": shell.value, "script": script})
    else:
        typer.echo(script)


@command
def doctor(data: Data = None, as_json: Json = False) -> None:
    """Check this machine, and say what to do.

    Example: localml doctor
    """
    from localml.cli.doctor import Level, examine
    from localml.client.transport import data_directory

    checks = examine(data_directory(data))
    failed = any(one.level is Level.FAIL for one in checks)
    if as_json:
        print_json({"ok": not failed, "checks": [asdict(one) for one in checks]})
    else:
        colours = {Level.OK: "green", Level.WARN: "yellow", Level.FAIL: "red"}
        for one in checks:
            typer.secho(f"{one.level:<5}", fg=colours[one.level], nl=False)
            typer.echo(f"{one.name}: {one.message}")
            if one.advice:
                typer.echo(f"     {one.advice}")
    if failed:
        raise typer.Exit(FAILED)
