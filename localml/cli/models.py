"""Models: models, register, unregister."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from localml.cli import serve_show
from localml.cli.common import Data, Json, Place, Within, as_dict, command, connect, print_json
from localml.cli.completion import complete_model_names, complete_models, complete_uris, complete_versions
from localml.cli.help import MODELS
from localml.cli.storage import is_uri, upload
from localml.client.errors import ClientError
from localml.core.errors import invalid
from localml.core.home import expanded

if TYPE_CHECKING:
    from localml.client import Client, ModelVersion

UPLOADS = "s3://localml-upload-"
"""Begins the bucket where files of this machine lie until they are registered: one for each time, because a bucket that
is there already may be somebody else's."""


def add(app: typer.Typer) -> None:
    """Add the commands of this module."""
    for function in (models, register, unregister):
        app.command(rich_help_panel=MODELS)(function)


def complete_models_or_uris(ctx: typer.Context, incomplete: str) -> list[tuple[str, str]]:
    """Models, or object URIs where one is begun."""
    return complete_uris(ctx, incomplete) if "://" in incomplete else complete_models(ctx, incomplete)


@command
def models(workspace: Within = None, data: Data = None, as_json: Json = False) -> None:
    """Registered models with their versions.

    Example: localml models
    """
    with connect(data) as client:
        found = client.models(workspace=workspace)
    print_json({"models": as_dict(found)}) if as_json else serve_show.models(found)


@command
def register(
    name: Annotated[
        str,
        typer.Argument(help="The model's name.", autocompletion=complete_model_names, show_default=False),
    ],
    source: Annotated[
        str,
        typer.Argument(help="A file or folder, or an object URI.", autocompletion=complete_uris, show_default=False),
    ],
    workspace: Place = None,
    data: Data = None,
    as_json: Json = False,
) -> None:
    """Register a model's files as a new version.

    Example: localml register digits model.onnx
    """
    with connect(data) as client:
        made = _register(client, name, source, workspace, as_json=as_json)
    if as_json:
        print_json(as_dict(made))
    else:
        typer.echo(f"{made.model}:{made.version}")


@command
def unregister(
    reference: Annotated[
        str, typer.Argument(metavar="NAME:VERSION", autocompletion=complete_versions, show_default=False)
    ],
    data: Data = None,
    as_json: Json = False,
) -> None:
    """Delete a version of a model with its files.

    Example: localml unregister digits:1
    """
    if ":" not in reference:
        raise invalid("reference", f"must name a version, such as {reference}:1")
    with connect(data) as client:
        gone = client.unregister(reference)
    if as_json:
        print_json(as_dict(gone))
    else:
        typer.echo(f"{gone.model}:{gone.version} deleted")


@contextmanager
def registered(
    client: Client, model: str, name: str | None, workspace: str | None = None, *, as_json: bool
) -> Iterator[str]:
    """``name:version`` of what the user named; files are registered first, under ``name`` or their own.

    What was registered for a request that is refused then is removed again.
    """
    path = expanded(model, "model")
    if not is_uri(model) and not path.exists():
        if "/" in model or path.suffix == ".onnx":  # a name may have a dot, too
            raise invalid("model", f"the file {model} does not exist")
        yield model
        return
    own = Path(model.rstrip("/")).stem
    if own == "model":
        own = path.absolute().parent.name if not is_uri(model) else model.rstrip("/").split("/")[-2]
    made = _register(client, name or own, model, workspace, as_json=as_json)
    reference = f"{made.model}:{made.version}"
    try:
        yield reference
    except ClientError:
        with suppress(ClientError):
            client.unregister(reference)
        raise


def _register(client: Client, name: str, source: str, workspace: str | None, *, as_json: bool) -> ModelVersion:
    if is_uri(source):
        return client.register(name, source, workspace=workspace)
    path = expanded(source, "source")
    if not path.exists():
        raise invalid("source", f"the file {source} does not exist")
    bucket = f"{UPLOADS}{secrets.token_hex(8)}"
    target = f"{bucket}/{name}"
    try:
        upload(client, str(path), f"{target}/{path.name}" if path.is_file() else target, as_json)
        return client.register(name, f"{target}/", workspace=workspace)
    finally:
        try:
            client.delete_object(bucket, recursive=True)
        except ClientError as error:
            if error.code != "not_found":
                typer.secho(f"{bucket} could not be removed: {error.message}", fg=typer.colors.YELLOW, err=True)
