"""The options that say what a job is, of every command that makes one; and what they change of a job's members."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from localml.cli.common import amount, seconds
from localml.cli.completion import complete_gpu_types, complete_images, complete_pools
from localml.cli.completion import words as any_of
from localml.core.errors import invalid

if TYPE_CHECKING:
    from localml.cli.job_file import Job

Env = Annotated[list[str], typer.Option("--env", "-e", metavar="NAME=VALUE", help="May be repeated.")]
Code = Annotated[
    Path | None,
    typer.Option("--code", metavar="DIR", help="Send this folder, but for what .gitignore and .localmlignore name."),
]
CodeLimit = Annotated[str, typer.Option(metavar="SIZE", help="How large the folder of code may be.")]
Gpus = Annotated[
    str | None,
    typer.Option("--gpus", "-g", help="GPUs; below 1 a share of one; or 'all'.", autocompletion=any_of("all")),
]
GpuType = Annotated[
    str | None, typer.Option(help="Part of the GPU's name, such as A100.", autocompletion=complete_gpu_types)
]
Cpus = Annotated[float | None, typer.Option("--cpus", "-c", help="CPU cores. [default: 1, and no limit]")]
Memory = Annotated[str | None, typer.Option("--memory", "-m", metavar="SIZE", help="Memory, such as 8G.")]
Shm = Annotated[
    str | None, typer.Option(metavar="SIZE", help="Shared memory, such as 1G. [default: half of the memory]")
]
Image = Annotated[str | None, typer.Option("--image", "-i", help="Container image.", autocompletion=complete_images)]
Entrypoint = Annotated[
    str | None, typer.Option(metavar="PROGRAM", help="In place of the image's own ENTRYPOINT; '' for none.")
]
InheritProxy = Annotated[
    bool, typer.Option("--inherit-proxy", help="Give it the proxies of this shell and of ~/.docker/config.json.")
]
Mounts = Annotated[
    list[str],
    typer.Option("--mount", "-v", metavar="SRC:DST[:ro]", help="Folder, object URI or workspace:NAME."),
]
Workdir = Annotated[
    str | None, typer.Option("--workdir", "-w", help="Where it starts; with --code, seen from that folder.")
]
Priority = Annotated[int | None, typer.Option(help="Higher goes first: -1000 to 100, for administrators to 1000.")]
Pool = Annotated[
    str | None,
    typer.Option(help="Pool whose limits count; 'default' unless one is given.", autocompletion=complete_pools),
]


def change(
    job: Job,
    *,
    words: list[str],
    image: str | None,
    entrypoint: str | None,
    workdir: str | None,
    needs: dict[str, Any],
    env: list[str],
    inherit_proxy: bool,
    mount: list[str],
    members: dict[str, Any],
) -> None:
    """What the options say, in place of what a file says or beside it.

    Args:
        words: the command; empty: as it is.
        needs: ``--gpus``, ``--memory`` ... -> how much, of the only role.
        members: ``retries``, ``time_limit`` and ``priority`` of the job.
    """
    from localml.cli import job_file

    needs = needs | {option: amount(option, needs[option]) for option in ("--memory", "--shm")}
    _change_role(job, words, image, entrypoint, workdir, needs)
    for role in job.spec["roles"]:
        role["env"] = role.get("env", {}) | variables(env)
        if inherit_proxy:
            role["env"] |= _proxies(role["env"])
    job.spec["mounts"] = [*job.spec.get("mounts", ()), *(job_file.mount(one) for one in mount)]
    retries = members.get("retries")
    rest = {
        "retries": None if retries is None else {"limit": retries},
        "time_limit": seconds("--time-limit", members.get("time_limit")),
        "priority": members.get("priority"),
    }
    job.spec |= {key: value for key, value in rest.items() if value is not None}


def _change_role(
    job: Job,
    words: list[str],
    image: str | None,
    entrypoint: str | None,
    workdir: str | None,
    needs: dict[str, Any],
) -> None:
    """What the options say of the only role."""
    from localml.client.jobs import entered

    if image is not None or words or entrypoint is not None:
        role = job.only_role("--image" if image is not None else "COMMAND")
        role |= {"image": image} if image is not None else {}
        role["command"] = words or role.get("command", [])
        if image is not None or entrypoint is not None:
            role.pop("keep_entrypoint", None)
            role |= entered(role.get("image", ""), entrypoint, role["command"])
    if workdir is not None:
        job.only_role("--workdir")["workdir"] = workdir
    for option, value in needs.items():
        if value is not None:
            member = {"--gpus": "gpu", "--cpus": "cpu"}.get(option, option.removeprefix("--").replace("-", "_"))
            job.only_role(option).setdefault("resources", {})[member] = value


def variables(given: list[str]) -> dict[str, str]:
    """``NAME=VALUE`` each, as of ``--env``."""
    found = {}
    for one in given:
        name, equals, value = one.partition("=")
        if not equals:
            raise invalid("--env", f"must be NAME=VALUE, not {one!r}")
        found[name] = value
    return found


def _proxies(env: dict[str, str]) -> dict[str, str]:
    from localml.engines.proxies import inherited, proxies

    return dict(inherited(proxies(), env))
