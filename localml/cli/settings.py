"""The file of settings: config."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from localml.cli.common import Data, Json, command, print_json
from localml.cli.completion import complete_setting
from localml.cli.help import SERVER
from localml.core.errors import invalid

HELP = """Settings of a data directory, in a file of yours.

They count from the next start on; comments of your own stay.

What counts: an option of 'localml up', then LOCALML_... in the environment, then the file, then (ports and GPUs) the
last start, then the default. LOCALML_CONFIG names another file.

Example: localml config list
"""


def _names() -> list[str]:
    from localml.config import IN_FILE

    return IN_FILE


Name = Annotated[str, typer.Argument(help="A setting, or images.PATTERN.", autocompletion=_names, show_default=False)]


def add(app: typer.Typer) -> None:
    """Add the commands of this module."""
    config = typer.Typer(no_args_is_help=True, help=HELP)
    for name, function in (("list", list_all), ("get", get), ("set", set_one), ("unset", unset), ("path", path)):
        config.command(name)(function)
    app.add_typer(config, name="config", rich_help_panel=SERVER)


@command
def list_all(data: Data = None, as_json: Json = False) -> None:
    """All settings, and who says so.

    Example: localml config list
    """
    from localml.cli import show
    from localml.config import settings

    found = settings(_folder(data))
    if as_json:
        print_json({"settings": [one._asdict() for one in found]})
        return
    show.table("NAME", "VALUE", "SOURCE", rows=[(one.name, _shown(*one[:2]), one.source) for one in found], empty="")


@command
def get(name: Name, data: Data = None, as_json: Json = False) -> None:
    """The value of one setting.

    Example: localml config get port
    """
    from localml.config import known, settings

    plain, _, pattern = _unquoted(name).partition(".") if name.startswith("images.") else (name, "", "")
    found = next(one for one in settings(_folder(data)) if one.name == known(plain))
    value = found.value.get(pattern) if pattern else found.value
    if as_json:
        print_json({**found._asdict(), "name": name, "value": value})
    else:
        typer.echo(_shown(found.name, value))


@command
def set_one(
    name: Name,
    value: Annotated[
        str,
        typer.Argument(
            help="Its value; several parted by commas.", autocompletion=complete_setting, show_default=False
        ),
    ],
    data: Data = None,
    as_json: Json = False,
) -> None:
    """Write one setting into the file.

    Example: localml config set port 7080
    """
    from localml.config import Config, convert, known

    if name.startswith("images."):
        from localml.core.catalog import load_catalog

        plain, made = _unquoted(name), value
        load_catalog().check({plain.partition(".")[2]: value})
    else:
        plain = known(name)
        made = convert(plain, value)
        if plain == "images":
            raise invalid("images", "is a table: localml config set images.PATTERN RUNTIME")
        Config(data=_folder(data), **{plain: made})  # what is refused at the start is refused here
        made = value if isinstance(made, int) and not isinstance(made, bool) and not value.isdigit() else made
    _change(plain, made, data, as_json=as_json)


@command
def unset(name: Name, data: Data = None, as_json: Json = False) -> None:
    """Remove one setting from the file.

    Example: localml config unset port
    """
    from localml.config import known

    _change(_unquoted(name) if name.startswith("images.") else known(name), None, data, as_json=as_json)


@command
def path(data: Data = None, as_json: Json = False) -> None:
    """Where the file is, or would be.

    Example: localml config path
    """
    from localml.config_file import place

    where = place(_folder(data))
    if as_json:
        print_json({"path": str(where), "exists": where.exists()})
    else:
        typer.echo(where)


def _unquoted(name: str) -> str:
    """``images.PATTERN``, also where the pattern is in quotes, as in the file."""
    table, _, pattern = name.partition(".")
    quoted = len(pattern) > 1 and pattern[0] == pattern[-1] and pattern[0] in "\"'"
    return f"{table}.{pattern[1:-1]}" if quoted else name


def _change(name: str, value: Any, data: Path | None, *, as_json: bool) -> None:
    from localml.config import settings
    from localml.config_file import change
    from localml.store.lock import holder

    folder = _folder(data)
    settings(folder)  # a file that is wrong is mended by hand first
    where = change(folder, name, value)
    if as_json:
        print_json({"name": name, "value": value, "path": str(where)})
    elif holder(folder) is not None:
        typer.echo("the server that runs goes on as it is; it counts from its next start on", err=True)


def _folder(data: Path | None) -> Path:
    from localml.client.transport import data_directory

    return data_directory(data)


def _shown(name: str, value: Any) -> str:
    from localml.config import SIZES
    from localml.core.quantities import exact_memory

    if value is None:
        return "-"
    if name in SIZES:
        return exact_memory(value)
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        return ", ".join(f"{name} = {one}" for name, one in value.items()) or "-"
    return (", ".join(value) or "-") if isinstance(value, tuple) else str(value)
