"""``localml ssh``: a shell, a command or a forwarded port in a container, through OpenSSH's own client."""

from __future__ import annotations

import os
import re
import shlex
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from localml.cli.common import Data, Json, Name, command, connect, print_json
from localml.cli.help import JOBS
from localml.cli.names import ENDPOINT, RUNNING
from localml.client.errors import ClientError
from localml.core.errors import invalid

if TYPE_CHECKING:
    from localml.client import Client, Thing

_REPLICA = re.compile(r"[^/\s]+/\d+")


def add(app: typer.Typer) -> None:
    """Add the command."""
    app.command(rich_help_panel=JOBS)(ssh)


@command
def ssh(
    name: Name,
    words: Annotated[
        list[str],
        typer.Argument(
            metavar="[ROLE/INDEX] [-- COMMAND...]",
            help="Which replica (of an endpoint VARIANT/NUMBER), and what to run there.",
        ),
    ] = [],  # noqa: B006
    tty: Annotated[bool, typer.Option("--tty", "-t", help="Give the command a terminal.")] = False,
    forward: Annotated[
        list[str], typer.Option("--forward", "-L", metavar="PORT:HOST:PORT", help="As in ssh -L; may be repeated.")
    ] = [],  # noqa: B006
    save: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Only write key and configuration there, for ssh -F, scp -F and editors."),
    ] = None,
    data: Data = None,
    as_json: Json = False,
) -> None:
    """Open a shell in a running container.

    Or run a command there; exits with its exit code.

    Example: localml ssh NAME main/1 -- nvidia-smi
    """
    import tempfile

    with connect(data) as client:
        access = _access(client, client.resolve(name, RUNNING))
    if as_json:
        print_json(access)
        return
    if save is not None:
        save.mkdir(parents=True, exist_ok=True)
        config = _write(save.absolute(), access)
        for door in access["doors"]:
            typer.echo(f"ssh -F {shlex.quote(str(config))} {_alias(door)}")
        return
    door, rest = _choose(name, access["doors"], words)
    with tempfile.TemporaryDirectory(prefix="localml-ssh-") as folder:
        options = ["-t"] * tty + [f"-L{one}" for one in forward]
        raise typer.Exit(_run([*options, _alias(door), *_remote(rest)], _write(Path(folder), access)))


def _access(client: Client, thing: Thing) -> dict[str, Any]:
    """Access to what runs of it; the replicas of an endpoint are called ``VARIANT/NUMBER``, as in ``v1/2``."""
    if thing.kind != ENDPOINT:
        return client.ssh(thing.id)
    doors, access = [], dict[str, Any]()
    one = client.endpoint(thing.id)
    for variant in one.variants:
        for replica in variant["replicas"]:
            if replica["workload_state"] != "running":
                continue
            access = client.ssh(replica["workload_id"])
            place = {"role": variant["name"], "index": int(replica["workload"].rpartition("-")[2])}
            doors += [{**door, **place, "private_key": access["private_key"]} for door in access["doors"]]
    if not doors:
        raise ClientError("wrong_state", f"no replica of {one.name} runs: it is {one.state}")
    return {"user": access["user"], "host_key": access["host_key"], "doors": doors}


def _choose(name: str, doors: list[dict[str, Any]], words: list[str]) -> tuple[dict[str, Any], list[str]]:
    """The replica that is meant, and what to run there; without a choice the first."""
    there = {f"{door['role']}/{door['index']}": door for door in doors}
    if words and (words[0] in there or _REPLICA.fullmatch(words[0])):
        if words[0] not in there:
            raise invalid("ROLE/INDEX", f"{words[0]} does not run; of {name} there are: {', '.join(there)}")
        return there[words[0]], words[1:]
    label, door = next(iter(there.items()))
    if len(there) > 1:
        typer.secho(f"{label}, one of: {', '.join(there)}", dim=True, err=True)
    return door, words


def _remote(words: list[str]) -> list[str]:
    """One word is a line for the shell; several are a command and its arguments, as they are."""
    return words if len(words) <= 1 else [shlex.join(words)]


def _alias(door: dict[str, Any]) -> str:
    return f"{door['role']}-{door['index']}"


def _write(folder: Path, access: dict[str, Any]) -> Path:
    """Keys, known hosts and a configuration that names each replica; returns the configuration's path."""
    known, config = folder / "known_hosts", folder / "config"
    doors = access["doors"]
    if "private_key" in access:
        _write_key(folder / "key", access["private_key"])
    known.write_text("".join(f"[{door['host']}]:{door['port']} {access['host_key']}\n" for door in doors))
    sections = [_section(folder, door) for door in doors]
    common = {
        "User": access["user"],
        **({"IdentityFile": _quoted(folder / "key")} if "private_key" in access else {}),
        "IdentitiesOnly": "yes",
        "UserKnownHostsFile": _quoted(known),
        "StrictHostKeyChecking": "yes",
        "LogLevel": "ERROR",
    }
    everybody = "Host *\n" + "".join(f"    {option} {value}\n" for option, value in common.items())
    config.write_text("\n".join([*sections, everybody]))
    return config


def _section(folder: Path, door: dict[str, Any]) -> str:
    """How one replica is reached; one of an endpoint has a key of its own."""
    lines = [f"Host {_alias(door)}", f"    HostName {door['host']}", f"    Port {door['port']}"]
    if "private_key" in door:
        key = folder / f"key-{_alias(door)}"
        _write_key(key, door["private_key"])
        lines.append(f"    IdentityFile {_quoted(key)}")
    return "\n".join(lines) + "\n"


def _write_key(path: Path, text: str) -> None:
    path.unlink(missing_ok=True)
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)


def _quoted(path: Path) -> str:
    return '"' + str(path).replace("%", "%%") + '"'


def _run(arguments: list[str], config: Path) -> int:
    import shutil
    import subprocess

    program = shutil.which("ssh")
    if program is None:
        raise ClientError("unavailable", "OpenSSH's client is not installed (Debian, Ubuntu: openssh-client)")
    before = signal.signal(signal.SIGINT, lambda *_: None)  # Ctrl-C is for what runs in the container
    try:
        return subprocess.run([program, "-F", str(config), *arguments], check=False).returncode
    finally:
        signal.signal(signal.SIGINT, before)
