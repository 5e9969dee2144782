"""The model that comes with a task, one file or a tar of a folder, as an archive of code that the task runs.

What a tar is its bytes tell: clients send it with or without a name and a type, gzipped or not, with the folder at its
top or only what is in it.
"""

from __future__ import annotations

import hashlib
import os
import posixpath
import tarfile
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from localml.core.errors import LocalmlError, invalid
from localml.core.limits import MOST_CODE
from localml.dialects.kit.multipart import FilePart, FormRules
from localml.dialects.wmla.translate.args import TaskArgs
from localml.dialects.wmla.translate.forms import MOST_TEXT
from localml.objects import Limits, list_archive
from localml.objects.archive_readers import sniff
from localml.objects.files import explained
from localml.platform import Platform

FIELD = "file"
RULES = FormRules(files=frozenset({FIELD}), max_field=MOST_TEXT, max_file=MOST_CODE)
"""Of forms that bring a model."""
MOST_BODY = MOST_CODE + MOST_TEXT + (1 << 20)
"""Bytes of such a form: a model, and the fields beside it."""
_LIMITS = Limits(size=MOST_CODE)
_BLOCK = 1 << 20
_MODEL = "model.py"
_TARS = (".tar", ".tar.gz", ".tgz")


@dataclass(frozen=True, slots=True)
class Model:
    """A model that is kept.

    Attributes:
        code: the archive, as a workload's spec names it.
        folder: below its top, where the program starts; empty for the top itself.
        main: the program's file, relative to the folder; None for a task with a command of its own.
    """

    code: str
    folder: str = ""
    main: str | None = None


def keep_model(platform: Platform, workspace: str, part: FilePart, args: TaskArgs) -> Model:
    """Keep what came for the workloads of a workspace, and find out where its program is.

    Raises:
        LocalmlError: ``INVALID`` or ``TOO_LARGE`` naming ``file``: an archive that is not safe to unpack, or one
            without the program that ``--model-main`` names.
    """
    if not part.size:
        raise invalid(FIELD, "is empty")
    with part.open() as file:
        is_folder = sniff(file).startswith("tar")
    if is_folder:
        folder, main = _located(_checked_names(part.path), args)
        return Model(_kept(platform, workspace, part.path), folder, main)
    if part.filename is not None and part.filename.lower().endswith(_TARS):
        raise invalid(FIELD, f"{part.filename!r} is no tar, gzipped or not")
    name = _file_name(part, args)
    place, writer = platform.uploads.create(FIELD)
    writer.close()
    try:
        _pack(part, name, place)
        return Model(_kept(platform, workspace, place), "", None if args.command else name)
    finally:
        with suppress(FileNotFoundError):
            place.unlink()


def _checked_names(path: Path) -> frozenset[str]:
    try:
        return list_archive(path, _LIMITS)[1]
    except LocalmlError as error:
        words = f"{FIELD}: {error.message.removeprefix('archive: ')}"
        raise LocalmlError(error.code, words, field=FIELD, details=error.details) from error


def _located(names: Collection[str], args: TaskArgs) -> tuple[str, str | None]:
    """The model's folder below the archive's top, and its program."""
    if not names:
        raise invalid(FIELD, "holds no files")
    folder = _folder(names, args)
    inside = {name.removeprefix(f"{folder}/") for name in names if not folder or name.startswith(f"{folder}/")}
    return folder, None if args.command else _program(inside, folder, args)


def _folder(names: Collection[str], args: TaskArgs) -> str:
    wanted = PurePosixPath(args.folder).name if args.folder else ""
    tops = {name.partition("/")[0] for name in names}
    if wanted and any(name.startswith(f"{wanted}/") for name in names):
        return wanted
    (top,) = tops if len(tops) == 1 else ("",)
    return top if top and top not in names else ""


def _program(inside: Collection[str], folder: str, args: TaskArgs) -> str:
    if args.main is None:
        scripts = [name for name in inside if name.endswith(".py") and "/" not in name]
        if len(scripts) != 1:
            raise invalid("args", "--model-main is required, unless the model has one *.py file at its top")
        return scripts[0]
    plain = posixpath.normpath(args.main)
    for name in (plain, plain.removeprefix(f"{folder}/"), PurePosixPath(plain).name):
        if name in inside:
            return name
    shown = ", ".join(sorted(inside)[:10])
    raise invalid("args", f"--model-main: there is no {args.main!r} in the model, which has {shown}")


def _file_name(part: FilePart, args: TaskArgs) -> str:
    """What the one file is called: as ``--model-main`` says, else as it was sent."""
    for given in (args.main, part.filename):
        name = PurePosixPath((given or "").replace("\\", "/")).name
        if name and name not in (".", "..") and len(name.encode()) <= 255 and "\0" not in name:
            return name
    return _MODEL


def _pack(part: FilePart, name: str, place: Path) -> None:
    """A tar of the file, the same for the same content and name."""
    member = tarfile.TarInfo(name)
    member.size, member.mode = part.size, 0o755
    with explained("the model", FIELD), part.open() as content, tarfile.open(place, "w") as archive:
        archive.addfile(member, content)


def _kept(platform: Platform, workspace: str, path: Path) -> str:
    found = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            found.update(block)
        code = f"sha256:{found.hexdigest()}"
        if platform.code.archives.find(workspace, code) is not None:
            platform.code.archives.use(workspace, code)
            return code
        os.fsync(file.fileno())  # what has its name is taken for whole
    platform.code.archives.keep(path, workspace, code)
    return code
