"""Runs a trainer package: fetch, unpack, install, prepare, run, finish.

``LOCALML_LAUNCH`` holds JSON:

- ``trainer_uri``: the package, a ``.tar.gz`` with ``setup.py`` or ``pyproject.toml`` (:mod:`localml_launcher.objects`);
- ``module_name``: what ``python -m`` runs;
- ``job_args``: its arguments as one string, split as a shell would, nothing expanded;
- ``prepare_command``: a shell command run before the module; if it fails, the job fails with its status;
- ``finish_command``: a shell command run once the module has ended, whether it succeeded or not, with the module's
  status in ``LOCALML_EXIT_CODE``. The module's failure is the job's; only if the module succeeded does a failing
  finish command fail the job;
- ``output_uri``: optional; its folder is made, and the program finds the URI in ``LOCALML_OUTPUT_URI``.

Commands and module run in the job's working directory and see the package on ``PYTHONPATH``.
"""

from __future__ import annotations

import json
import os
import shlex
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from localml_launcher.archives import unpack
from localml_launcher.cluster import framework_env
from localml_launcher.console import EXIT_NO_INPUT, LauncherError, say
from localml_launcher.objects import UriError, resolve
from localml_launcher.package import install, project_folder
from localml_launcher.process import Runner

LAUNCH = "LOCALML_LAUNCH"


@dataclass(frozen=True)
class Launch:
    """A checked ``LOCALML_LAUNCH``."""

    trainer_uri: str
    module_name: str
    job_args: str = ""
    prepare_command: str = ""
    finish_command: str = ""
    output_uri: str = ""

    @property
    def arguments(self) -> list[str]:
        """``job_args`` as a list.

        Raises:
            LauncherError: a quote is not closed.
        """
        try:
            return shlex.split(self.job_args)
        except ValueError as error:
            raise LauncherError(f"job_args: {error}: {self.job_args}") from error


def read_launch(environ: Mapping[str, str]) -> Launch:
    """The job description from the environment. Members that are null count as left out.

    Raises:
        LauncherError: it is missing, is no JSON object of strings, or lacks a member.
    """
    try:
        given: Any = json.loads(environ[LAUNCH])
        members = {name: value for name, value in given.items() if value is not None}
    except KeyError as error:
        raise LauncherError(f"the environment variable {LAUNCH} is not set; there is nothing to run") from error
    except (ValueError, AttributeError) as error:
        raise LauncherError(f"{LAUNCH} is no JSON object: {error}") from error
    known = {field.name for field in fields(Launch)}
    for name, value in members.items():
        if name not in known:
            raise LauncherError(f"{LAUNCH}: unknown member '{name}'; known: {', '.join(sorted(known))}")
        if not isinstance(value, str):
            raise LauncherError(f"{LAUNCH}: '{name}' must be a string")
    for name in ("trainer_uri", "module_name"):
        if not members.get(name):
            raise LauncherError(f"{name}: missing or empty")
    return Launch(**members)


def main() -> int:
    """Run the job that the environment describes and return its exit status."""
    launch = read_launch(os.environ)
    arguments = launch.arguments
    env = {**os.environ, **framework_env(os.environ)}
    runner = Runner()
    with runner.forwarding(), tempfile.TemporaryDirectory(prefix="localml-", ignore_cleanup_errors=True) as scratch:
        site = Path(scratch, "site")
        _fetch(launch.trainer_uri, Path(scratch, "source"), site)
        env["PYTHONPATH"] = os.pathsep.join(part for part in (str(site), env.get("PYTHONPATH", "")) if part)
        if launch.output_uri:
            env["LOCALML_OUTPUT_URI"] = launch.output_uri
            _path("output_uri", launch.output_uri).mkdir(parents=True, exist_ok=True)
        return _run(launch, arguments, env, runner)


def _path(field: str, uri: str) -> Path:
    try:
        return resolve(uri)
    except UriError as error:
        raise LauncherError(f"{field}: {error}") from error


def _fetch(uri: str, source: Path, site: Path) -> None:
    archive = _path("trainer_uri", uri)
    if not archive.is_file():
        reason = "is a folder; pack it as a .tar.gz" if archive.is_dir() else "does not exist"
        raise LauncherError(f"trainer_uri: '{uri}' {reason}", EXIT_NO_INPUT)
    say(f"installing {uri}")
    source.mkdir()
    try:
        unpack(archive, source)
    except OSError as error:
        raise LauncherError(f"trainer_uri: '{uri}' cannot be read: {error}", EXIT_NO_INPUT) from error
    install(project_folder(source), site)


def _run(launch: Launch, arguments: list[str], env: dict[str, str], runner: Runner) -> int:
    if launch.prepare_command:
        say(f"preparing: {launch.prepare_command}")
        status = runner.run(launch.prepare_command, env)
        if status != 0:
            say(f"error: prepare_command failed with status {status}; the trainer was not started")
            return status
    if runner.stopped_by is not None:
        say("stopped before the trainer was started")
        return 128 + runner.stopped_by
    command = [sys.executable, "-m", launch.module_name, *arguments]
    say(f"running: {shlex.join(['python', *command[1:]])}")
    status = runner.run(command, env)
    if status != 0:
        say(f"{launch.module_name} ended with status {status}{_signal_note(status)}")
    return _finish(launch, status, env, runner)


def _signal_note(status: int) -> str:
    return f" (signal {status - 128})" if status > 128 else ""


def _finish(launch: Launch, status: int, env: dict[str, str], runner: Runner) -> int:
    if not launch.finish_command:
        return status
    say(f"finishing: {launch.finish_command}")
    finished = runner.run(launch.finish_command, {**env, "LOCALML_EXIT_CODE": str(status)})
    if finished != 0:
        say(f"warning: finish_command failed with status {finished}")
    return status or finished
