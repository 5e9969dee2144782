"""What all commands share: options, the client, how failures and answers are shown.

Imports here are paid by every command, so there are few.
"""

from __future__ import annotations

import functools
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ParamSpec, TypeVar

import typer

from localml.client.errors import ClientError
from localml.core.errors import LocalmlError, invalid

if TYPE_CHECKING:
    from localml.client import Client

P = ParamSpec("P")
R = TypeVar("R")

FAILED = 1
NO_SERVER = 2

Data = Annotated[
    Path | None,
    typer.Option("--data", help="Data directory of the server. [env: LOCALML_DATA]", show_default=False),
]


def _complete(what: str) -> Callable[[typer.Context, str], list[tuple[str, str]]]:
    """Completion by a function of :mod:`localml.cli.completion`, which is read when the shell asks."""

    def complete(ctx: typer.Context, incomplete: str) -> list[tuple[str, str]]:
        from localml.cli import completion

        found: list[tuple[str, str]] = getattr(completion, f"complete_{what}")(ctx, incomplete)
        return found

    return complete


Place = Annotated[
    str | None,
    typer.Option(
        "--workspace", help="Name or id of a workspace; your own by default.", autocompletion=_complete("workspaces")
    ),
]
Within = Annotated[
    str | None,
    typer.Option("--workspace", help="Only those of this workspace.", autocompletion=_complete("workspaces")),
]
PoolName = Annotated[str, typer.Option("--pool", help="Pool whose limits count.", autocompletion=_complete("pools"))]
Json = Annotated[bool, typer.Option("--json", help="Answer in JSON, for programs.")]


def complete_names(ctx: typer.Context, incomplete: str) -> list[tuple[str, str]]:
    """Names of all nouns for the shell's completion; nothing when there is no answer."""
    return offer_names(ctx, incomplete)


def offer_names(ctx: typer.Context, incomplete: str, kinds: Sequence[str] = ()) -> list[tuple[str, str]]:
    """Names of things of these kinds (of all by default), and what they are, or how it is said which is meant."""
    try:
        with connect(ctx.params.get("data")) as client:
            found = client.names(incomplete, kinds)
    except (ClientError, LocalmlError, OSError):
        return []
    if "/" in incomplete:
        return [(one.ref, one.state) for one in found]
    told: dict[str, list[str]] = {}
    for one in found:
        plain = f"{one.kind}, {one.state}" if one.state else one.kind
        told.setdefault(one.name, []).append(plain if one.ref == one.name else one.ref)
    return [(name, " or ".join(words)) for name, words in sorted(told.items())]


WHICH = "Name or id; KIND/NAME where several things have the name."
Name = Annotated[str, typer.Argument(help=WHICH, autocompletion=complete_names, show_default=False)]
SomeNames = Annotated[
    list[str],
    typer.Argument(
        help="Names or ids; KIND/NAME where several things have the name.",
        autocompletion=complete_names,
        show_default=False,
    ),
]


@contextmanager
def connect(data: Path | None) -> Iterator[Client]:
    """The server that the command is for."""
    from localml.client import Client

    with Client.connect(data) as client:
        yield client


def command(function: Callable[P, R]) -> Callable[P, R]:
    """Show failures as what, why and what to do; in JSON when ``--json`` was given."""

    @functools.wraps(function)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return function(*args, **kwargs)
        except (ClientError, LocalmlError) as error:
            as_json = bool(kwargs.get("as_json"))
            raise typer.Exit(fail(error if as_json else _in_words(error, function, kwargs), as_json=as_json)) from error
        except TimeoutError as error:
            words = LocalmlClientTimeout(str(error))
            raise typer.Exit(fail(words, as_json=bool(kwargs.get("as_json")))) from error
        except BrokenPipeError:
            # the reader of our output has left (a pager, head): that is no failure
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(0) from None
        except OSError as error:
            from localml.cli.failures import in_words

            raise typer.Exit(fail(in_words(error), as_json=bool(kwargs.get("as_json")))) from error

    return wrapper


def _in_words(error: ClientError | LocalmlError, function: Callable[..., Any], given: Mapping[str, Any]) -> ClientError:
    """The same in the words of the command, for people."""
    from localml.cli.fields import in_words

    code = str(getattr(error.code, "value", error.code))
    return ClientError(code, in_words(error.message, function, given), field=error.field, details=error.details)


class LocalmlClientTimeout(ClientError):
    """Something did not happen in time."""

    def __init__(self, message: str) -> None:
        super().__init__("timeout", message)


def fail(error: ClientError | LocalmlError, *, as_json: bool) -> int:
    """Show a failure; returns the exit code."""
    code = str(getattr(error.code, "value", error.code))
    body = {"code": code, "message": error.message, "field": error.field, "details": error.details}
    with suppress(OSError):  # nobody reads it, or there is no room for it
        if as_json and _written(lambda: print_json({"error": body})):
            return _exit_code(code)
        typer.secho("error: ", fg=typer.colors.RED, err=True, nl=False)
        typer.echo(error.message, err=True)
        hint = _HINTS.get(code)
        if hint:
            typer.echo(hint, err=True)
    return _exit_code(code)


def _written(write: Callable[[], None]) -> bool:
    try:
        write()
    except OSError:
        return False
    return True


def _exit_code(code: str) -> int:
    return NO_SERVER if code in ("no_server", "unreachable") else FAILED


_HINTS = {
    "unauthenticated": "Set LOCALML_URL and LOCALML_TOKEN, or use --data with the server's data directory.",
    "unreachable": "See 'localml status', or start a server with: localml up --detach",
    "capacity": "See 'localml gpus' and 'localml status' for what this machine has.",
    "quota": "See 'localml pools' for limits and use.",
}


def seconds(option: str, text: str | None) -> float | None:
    """``90``, ``90s``, ``30m``, ``8h`` or ``1d12h`` as seconds, more than none of them."""
    from localml.core.quantities import parse_duration

    if text is None:
        return None
    found = parse_duration(text, option)
    if not found:
        raise invalid(option, f"must be a time such as 90s, 30m, 8h or 1d12h, not {text!r}")
    return found


def amount(option: str, text: str | None) -> str | None:
    """An amount of memory as it was given.

    Raises:
        LocalmlError: ``INVALID`` for none, and for so few bytes that a unit was forgotten.
    """
    size(option, text)
    return text


def size(option: str, text: str | None) -> int | None:
    """The same in bytes."""
    from localml.core.quantities import parse_size

    return None if text is None else parse_size(text, option)


def known_pool(client: Client, path: str) -> str:
    """A pool that there is.

    Raises:
        LocalmlError: ``INVALID``, naming those that there are.
    """
    if path == _ROOT_POOL:
        return path
    known = [one.name for one in client.pools()]
    if path not in known:
        new = f"; an administrator makes one with: localml pools set {path}"
        raise invalid("pool", f"there is no pool '{path}'; there are: {', '.join(sorted({_ROOT_POOL, *known}))}{new}")
    return path


_ROOT_POOL = "default"


def _time(text: str | float) -> float:
    from localml.core.quantities import parse_duration

    try:
        return parse_duration(text, "it")
    except LocalmlError as error:
        raise typer.BadParameter(error.message) from None


def time_option(words: str, default: str = "") -> Any:
    """An option whose value is a time, in seconds or as :func:`seconds` takes it; none at all is one, too.

    Args:
        default: what the help calls the time that is meant otherwise.
    """
    said = f"{words} [default: {default}]" if default else words
    return typer.Option(parser=_time, metavar="TIME", help=said, show_default=False)


def _days(text: str | float) -> float:
    from localml.core.quantities import parse_days

    try:
        return parse_days(text, "it")
    except LocalmlError as error:
        raise typer.BadParameter(error.message) from None


def days_option(*names: str, words: str) -> Any:
    """An option whose value is a number of days, ``inf``, or a time with its unit."""
    return typer.Option(*names, parser=_days, metavar="DAYS", help=words)


def print_json(value: Any) -> None:
    """One JSON document on standard output."""
    typer.echo(json.dumps(value, indent=2, default=str))


def as_dict(value: Any) -> Any:
    """Dataclasses as JSON values."""
    from dataclasses import asdict, is_dataclass

    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    return [as_dict(one) for one in value] if isinstance(value, list) else value
