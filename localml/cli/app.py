"""All commands, put together."""

from __future__ import annotations

import os
from copy import copy
from typing import Annotated, Any

import typer
from typer import Abort

from localml.cli import (
    buckets,
    machine,
    models,
    output,
    people,
    reports,
    runs,
    serve,
    server,
    settings,
    ssh,
    storage,
    studies,
    tools,
    top,
    tune,
    upkeep,
    users,
    verbs,
    work,
)
from localml.cli.common import FAILED, Json, fail, print_json
from localml.cli.failures import encodable, finished, in_words
from localml.cli.help import CARE, Grouped
from localml.cli.live import colourless
from localml.cli.terminal import guarded

app = typer.Typer(
    name="localml",
    cls=Grouped,
    help="A machine-learning platform on your workstation: one command up, one down.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
_MODULES = (
    server,
    runs,
    work,
    output,
    verbs,
    top,
    reports,
    ssh,
    tune,
    studies,
    serve,
    models,
    tools,
    machine,
    people,
    users,
    storage,
    buckets,
    upkeep,
)
for module in (*_MODULES, settings):
    module.add(app)


@app.command(rich_help_panel=CARE)
def version(as_json: Json = False) -> None:
    """Show the version.

    Example: localml version
    """
    from localml import __version__

    if as_json:
        print_json({"version": __version__})
    else:
        typer.echo(f"localml {__version__}")


def _show_version(wanted: bool) -> None:
    if wanted:
        version()
        raise typer.Exit


@app.callback()
def _main(
    ctx: typer.Context,
    _version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    if colourless():
        ctx.color = False


def run(arguments: list[str]) -> int:
    """Carry out a command line; returns the exit code. Whatever happens is told in words, never as a traceback
    (unless ``LOCALML_DEBUG`` asks for one)."""
    encodable()
    as_json = "--json" in arguments[: arguments.index("--") if "--" in arguments else None]
    with guarded():
        try:
            code = _run(arguments, as_json)
        except Exception as error:
            if os.environ.get("LOCALML_DEBUG"):
                raise
            code = fail(in_words(error), as_json=as_json)
        return finished(code)


def _run(arguments: list[str], as_json: bool) -> int:
    chosen = _narrowed(arguments)
    try:
        if not as_json:
            chosen(arguments, prog_name="localml")
            return 0
        return _code(chosen(arguments, prog_name="localml", standalone_mode=False))
    except SystemExit as end:
        return _code(end.code)
    except Exception as error:
        if as_json and hasattr(error, "format_message"):  # a usage error, which typer would print as text
            print_json({"error": {"code": "usage", "message": error.format_message(), "field": None, "details": {}}})
            return 2
        if isinstance(error, Abort):
            return FAILED
        raise


def _narrowed(arguments: list[str]) -> typer.Typer:
    """Only the command that is asked for: reading the options of all takes longer than a short command itself.

    Everything for help, for completion, and for a name that is not known.
    """
    word = arguments[0] if arguments else ""
    commands = [one for one in app.registered_commands if word in (one.name, getattr(one.callback, "__name__", ""))]
    groups = [one for one in app.registered_groups if one.name == word]
    if not commands and not groups:
        return app
    narrow = copy(app)
    narrow.registered_commands, narrow.registered_groups = commands, groups
    return narrow


def _code(value: Any) -> int:
    return value if isinstance(value, int) else 0
