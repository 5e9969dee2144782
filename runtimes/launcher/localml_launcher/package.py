"""Installing a trainer package into a folder of its own, leaving the image's environment as it is."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

from localml_launcher.console import EXIT_DATA, LauncherError, say

PIP_LINES = 15
"""So many of pip's last lines are shown when an installation fails."""


def project_folder(unpacked: Path) -> Path:
    """The folder with ``setup.py`` or ``pyproject.toml``: the archive's root or its only folder.

    Raises:
        LauncherError: there is none; the message says what was found instead.
    """
    entries = sorted(entry for entry in unpacked.iterdir() if not entry.name.startswith("."))
    candidates = [unpacked, *(entry for entry in entries if entry.is_dir())]
    found = [folder for folder in candidates if _is_project(folder)]
    if found and (found[0] == unpacked or len(found) == 1):
        return found[0]
    names = ", ".join(entry.name for entry in entries[:10]) or "nothing"
    raise LauncherError(
        f"the package has no setup.py or pyproject.toml, neither at its top nor in its only folder; it holds: {names}",
        EXIT_DATA,
    )


def _is_project(folder: Path) -> bool:
    return (folder / "setup.py").is_file() or (folder / "pyproject.toml").is_file()


def install(project: Path, site: Path) -> None:
    """Install the project into ``site`` with pip, offline and without its dependencies.

    Dependencies come with the image; those that it lacks are named in the log, and the program is tried anyway.

    Raises:
        LauncherError: pip refused; the message holds its last lines.
    """
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    command += ["--disable-pip-version-check", "--no-warn-script-location", "--root-user-action=ignore"]
    command += ["--no-compile", "--target", str(site), str(project)]
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    if done.returncode != 0:
        last = "\n".join(done.stdout.strip().splitlines()[-PIP_LINES:])
        raise LauncherError(f"{last}\npip could not install the package{_missing_backend(project)}", EXIT_DATA)
    for complaint in unmet(site):
        say(f"warning: {complaint}")


def _missing_backend(project: Path) -> str:
    """The commonest cause, said in words: the package is built with a tool that the image lacks."""
    file = project / "pyproject.toml"
    if not file.is_file():
        return ""
    try:
        wanted = tomllib.loads(file.read_text(encoding="utf-8")).get("build-system", {}).get("requires", [])
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        return f": its pyproject.toml cannot be read ({error})"
    missing = [text for text in wanted if _complaint(text)]
    return f": it is built with {', '.join(missing)}, which this image does not have" if missing else ""


def unmet(site: Path) -> list[str]:
    """One sentence for each dependency that the packages in ``site`` declare and that cannot be had here."""
    return list(_complaints(site))


def _complaints(site: Path) -> Iterator[str]:
    for package in importlib.metadata.distributions(path=[str(site)]):
        for text in package.requires or []:
            reason = _complaint(text)
            if reason:
                yield f"{package.name} needs '{text}', but {reason}; nothing is downloaded inside a job"


def _complaint(text: str) -> str:
    """Why a requirement is not met in this environment; empty if it is, or does not apply here."""
    # pip is what installs here, and it always carries the reference implementation of requirements.
    from pip._vendor.packaging.requirements import InvalidRequirement, Requirement

    try:
        wanted = Requirement(text)
    except InvalidRequirement:
        return "that cannot be understood"
    if wanted.marker and not wanted.marker.evaluate({"extra": ""}):
        return ""
    try:
        have = importlib.metadata.version(wanted.name)
    except importlib.metadata.PackageNotFoundError:
        return "this image does not have it"
    if not wanted.specifier.contains(have, prereleases=True):
        return f"this image has {have}"
    return ""
