"""``localml tune``: a search over parameters, from a file or from options alone."""

from __future__ import annotations

import difflib
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from localml.cli.common import Data, Json, Place, as_dict, command, connect, known_pool, print_json, seconds
from localml.cli.completion import complete_algorithms
from localml.cli.completion import words as any_of
from localml.cli.help import STUDIES
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
)
from localml.cli.names import STUDY, completer
from localml.cli.runs import prepare
from localml.cli.studies import find
from localml.client.errors import ClientError
from localml.core.errors import invalid

if TYPE_CHECKING:
    from localml.cli.study_file import Search
    from localml.client import Client, Study

_BRACES = re.compile(r"(?<![%$])\{([^{}]+)\}")
_SPACE = re.compile(r"(?:spec\.)?space\.(\d+)(?:\.\w+)*: ")
_FOR_ALL = ("params", "trial")
"""What braces may hold besides a parameter."""
_WITH_RESUME = ("resume", "trials", "follow", "data", "as_json")


class _Tune(TyperCommand):
    """What is behind ``--`` is the command of a trial; options may stand before and behind the file."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        at = args.index("--") if "--" in args else len(args)
        left = super().parse_args(ctx, args[:at])
        if ctx.params.get("words"):
            ctx.fail("what a trial runs stands behind --, such as: localml tune ... -- python train.py --lr {lr}")
        ctx.params["words"] = args[at + 1 :]
        if ctx.params.get("resume") is not None:
            self._need_alone(ctx, args[at:])
        return left

    def _need_alone(self, ctx: Any, words: list[str]) -> None:
        """That nothing is asked of a resumed study which it would not do."""
        for one in self.params:
            source = ctx.get_parameter_source(one.name)
            if source is not None and source.name == "COMMANDLINE" and one.name not in _WITH_RESUME:
                words = [one.opts[0] if one.opts[0].startswith("-") else "SPEC", *words]
        if words:
            ctx.fail(f"--resume goes on with what the study has: --trials goes with it, and {words[0]} does not")


def add(app: typer.Typer) -> None:
    """Add the command."""
    app.command(cls=_Tune, rich_help_panel=STUDIES)(tune)


@command
def tune(
    file: Annotated[
        Path | None,
        typer.Argument(metavar="[SPEC]", help="A search in TOML, YAML or JSON; options change it.", show_default=False),
    ] = None,
    words: Annotated[
        list[str], typer.Argument(metavar="[-- COMMAND...]", help="What a trial runs; {lr} is the value of lr.")
    ] = [],  # noqa: B006
    param: Annotated[
        list[str],
        typer.Option(
            "--param", "-p", metavar="NAME=VALUES", help="log:1e-5..1e-1, 1..8, 0..1:0.1, 2^4..8 or adam,sgd; repeated."
        ),
    ] = [],  # noqa: B006
    metric: Annotated[
        str | None, typer.Option(metavar="NAME", help="What the trials print, as in 'epoch=3 loss=0.2', and counts.")
    ] = None,
    minimize: Annotated[bool, typer.Option("--minimize", help="The smaller the better, as it is by default.")] = False,
    maximize: Annotated[bool, typer.Option("--maximize", help="The larger the better.")] = False,
    take: Annotated[
        str | None,
        typer.Option(
            help="Of what a trial prints: the best value, or the last one.", autocompletion=any_of("best", "last")
        ),
    ] = None,
    algorithm: Annotated[
        str | None,
        typer.Option("--algorithm", "-a", help="Who proposes. [default: tpe]", autocompletion=complete_algorithms),
    ] = None,
    option: Annotated[
        list[str], typer.Option("--option", metavar="NAME=VALUE", help="Of the algorithm, such as warm_up=10.")
    ] = [],  # noqa: B006
    trials: Annotated[int | None, typer.Option("--trials", "-n", help="Trials in all.")] = None,
    parallel: Annotated[int | None, typer.Option("--parallel", "-j", help="Trials at a time. [default: 1]")] = None,
    max_time: Annotated[str | None, typer.Option(metavar="TIME", help="End it after this time, such as 8h.")] = None,
    max_failures: Annotated[
        int | None, typer.Option(help="Trials in a row that may fail before it does. [default: 5]")
    ] = None,
    early_stopping: Annotated[
        bool, typer.Option("--early-stopping", help="Stop trials that do worse than the median of the others.")
    ] = False,
    seed: Annotated[int | None, typer.Option(help="The same seed proposes the same trials.")] = None,
    resume: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Go on with a study, to --trials.", autocompletion=completer(STUDY)),
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
    time_limit: Annotated[str | None, typer.Option(metavar="TIME", help="Of a trial, such as 30m.")] = None,
    priority: Priority = None,
    pool: Pool = None,
    workspace: Place = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Show how it goes; exit with 1 if it fails.")] = False,
    data: Data = None,
    as_json: Json = False,
) -> None:
    """Search for the best parameters of a command.

    What may be used of one job (GPUs, image, code ...) is what each trial gets.

    Example: localml tune -p lr=log:1e-5..1e-1 --metric loss -- ./train {lr}
    """
    from localml.cli import study_file

    if resume is not None:
        with connect(data) as client:
            made = _resumed(client, resume, trials)
            return _finish(client, made, data, follow, as_json, known=made.asked)
    search = study_file.load(file) if file is not None else study_file.Search()
    given = {"name": name, "pool": pool, "workspace": workspace}
    for member, value in given.items():
        if value is not None:
            setattr(search, member, value)
    if code is not None:
        search.trial.code = str(code)
    members: dict[str, Any] = {"max_trials": trials, "parallel": parallel, "max_failures": max_failures, "seed": seed}
    members["max_time"] = seconds("--max-time", max_time)
    members["early_stopping"] = search.spec.get("early_stopping") or {} if early_stopping else None
    search.spec |= {member: value for member, value in members.items() if value is not None}
    _change_space(search, param)
    _change_objective(search, metric, minimize=minimize, maximize=maximize, take=take)
    _change_algorithm(search, algorithm, option)
    change(
        search.trial,
        words=words,
        image=image,
        entrypoint=entrypoint,
        workdir=workdir,
        needs={"--gpus": gpus, "--gpu-type": gpu_type, "--cpus": cpus, "--memory": memory, "--shm": shm},
        env=env,
        inherit_proxy=inherit_proxy,
        mount=mount,
        members={"time_limit": time_limit, "priority": priority},
    )
    _need_whole(search)
    with connect(data) as client:
        made = submit(client, search, code_limit, quiet=as_json)
        if not as_json:
            _tell_of_braces(search)
            if made.planned is None and search.spec.get("max_time") is None:
                typer.echo("note: it goes on until it is stopped; --trials or --max-time end it", err=True)
        _finish(client, made, data, follow, as_json)
    return None


def _resumed(client: Client, name: str, trials: int | None) -> Study:
    try:
        return client.studies.resume(find(client, name), trials=trials)
    except ClientError as error:
        words = error.message.replace("max_trials", "--trials")
        raise ClientError(error.code, words, field=error.field, details=error.details) from None


def submit(client: Client, search: Search, code_limit: str, *, quiet: bool) -> Study:
    """Send the code of the trials, if they have a folder, and begin the search."""
    search.trial.workspace = search.workspace
    prepare(client, search.trial, code_limit, quiet=quiet)
    pool = known_pool(client, search.pool or "default")
    spec = {**search.spec, "trial": search.trial.spec}
    try:
        return client.studies.submit(spec, name=search.name, pool=pool, workspace=search.workspace)
    except ClientError as error:
        raise _in_words(error, search) from None


def _in_words(error: ClientError, search: Search) -> ClientError:
    """A failure of a parameter, with its name in place of its number."""
    found = _SPACE.match(error.message)
    if found is None:
        return error
    name = search.spec["space"][int(found[1])]["name"]
    where = f"{search.where}: params.{name}" if search.where else f"--param {name}"
    words = error.message[found.end() :].removeprefix(f"{name}: ")
    return ClientError(error.code, f"{where}: {words}", field=error.field, details=error.details)


def _change_space(search: Search, given: list[str]) -> None:
    from localml.client.spaces import parameter

    if given and search.spec.get("experiments"):
        raise invalid("--param", "the file lists its experiments; say it there")
    space = {one["name"]: one for one in search.spec.get("space", ())}
    for text in given:
        name, equals, values = text.partition("=")
        if not (equals and name and values):
            raise invalid("--param", f"must be NAME=VALUES, such as lr=log:1e-5..1e-1, not {text!r}")
        space[name] = parameter(name, values, f"--param {name}")
    if space:
        search.spec["space"] = list(space.values())


def _change_objective(search: Search, metric: str | None, *, minimize: bool, maximize: bool, take: str | None) -> None:
    if minimize and maximize:
        raise invalid("--maximize", "and --minimize exclude each other")
    said = {"metric": metric, "goal": "maximize" if maximize else "minimize" if minimize else None, "take": take}
    found = search.spec.get("objective", {}) | {name: value for name, value in said.items() if value is not None}
    if found:
        search.spec["objective"] = found


def _change_algorithm(search: Search, name: str | None, given: list[str]) -> None:
    from localml.cli.study_file import algorithm

    options = {}
    for text in given:
        key, equals, value = text.partition("=")
        if not (equals and key):
            raise invalid("--option", f"must be NAME=VALUE, such as warm_up=10, not {text!r}")
        options[key] = value
    before = search.spec.get("algorithm", {})
    if name is not None and name != before.get("name"):
        before = {"name": name}  # parameters of another one are none of its
    if made := algorithm(before, "algorithm", options):
        search.spec["algorithm"] = made


def _need_whole(search: Search) -> None:
    where = f"{search.where}: " if search.where else ""
    if not search.spec.get("space") and not search.spec.get("experiments"):
        words = "say what is searched, such as --param lr=log:1e-5..1e-1, or name a file: localml tune SPEC.toml"
        raise invalid(f"{where}params" if where else "--param", words)
    if not any(role.get("command") or role.get("image") for role in search.trial.spec["roles"]):
        words = "say what a trial runs: localml tune ... -- python train.py --lr {lr}"
        raise invalid(f"{where}trial" if where else "COMMAND", words)
    if "metric" not in search.spec.get("objective", {}):
        words = "say which of the metrics that trials print counts, such as "
        raise invalid(f"{where}minimize" if where else "--metric", words + ('"loss"' if where else "--metric loss"))


def _tell_of_braces(search: Search) -> None:
    """What of the command looks like a mistake: values that no trial is told of, a name that nearly is a parameter."""
    named = {one["name"] for one in search.spec.get("space", ())}
    named |= {name for one in search.spec.get("experiments", ()) for name in one}
    texts = [text for role in search.trial.spec["roles"] for text in (*role.get("command", ()), *role["env"].values())]
    used = {found for text in texts for found in _BRACES.findall(str(text))}
    for name in sorted(used - named - {*_FOR_ALL}):
        near = difflib.get_close_matches(name, named, 1, 0.7)
        if near:
            typer.echo(f"note: {{{name}}} is no parameter, so it stays as it is; did you mean {{{near[0]}}}?", err=True)
    if named and not used & {*named, "params"}:
        words = "no command has {%s}: trials find their values in config.json and in $LOCALML_PARAMS"
        typer.echo(f"note: {words % sorted(named)[0]}", err=True)


def _finish(client: Client, made: Study, data: Any, follow: bool, as_json: bool, known: int = 0) -> None:
    from localml.cli.study_live import follow_to_end

    if follow:
        if not as_json:
            words = "goes on" if known else "is begun"
            typer.secho(f"{made.name} {words}; Ctrl-C leaves it alone", dim=True, err=True)
        raise typer.Exit(follow_to_end(client, made, data, as_json=as_json, known=known))
    if as_json:
        print_json(as_dict(made))
    else:
        typer.echo(made.name)
