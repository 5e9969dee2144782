"""Algorithms as the document has them, and installing one from a form."""

from __future__ import annotations

from typing import Any

from flask import Request

from localml.core.errors import Code, LocalmlError, invalid
from localml.core.people.identity import Caller
from localml.core.studies.installed import MOST_BYTES, Installation
from localml.core.studies.tables import Algorithm
from localml.dialects.kit.errors import renamed
from localml.dialects.kit.multipart import FORM, FilePart, Form, FormRules, read_form
from localml.dialects.kit.times import iso_time
from localml.dialects.wmla.schemas.algorithms import AlgorithmType, InstallRequest
from localml.dialects.wmla.translate.forms import need_text
from localml.dialects.wmla.translate.literals import parse_object
from localml.dialects.wmla.translate.model_upload import FIELD
from localml.dialects.wmla.translate.searches import BUILT_IN, built_in_name
from localml.dialects.wmla.translate.searches_start import DATA
from localml.platform import Platform

RULES = FormRules(files=frozenset({FIELD}), max_file=MOST_BYTES)
MOST_BODY = MOST_BYTES + (1 << 20)
"""Bytes of a form that brings an algorithm."""


def listed(platform: Platform, kind: AlgorithmType | None) -> list[dict[str, Any]]:
    """Algorithms of a kind, or all: the built-in ones first, then those that were installed, the oldest first."""
    built_in = [_built_in(name) for name in BUILT_IN] if kind is not AlgorithmType.USER_PLUGIN else []
    installed = platform.algorithms.page() if kind is not AlgorithmType.BUILD_IN else []
    return built_in + [_installed(platform, row) for row in installed]


def shown(platform: Platform, name: str) -> dict[str, Any]:
    """One algorithm, a built-in one in any case.

    Raises:
        LocalmlError: ``NOT_FOUND``.
    """
    if (built_in := built_in_name(name)) is not None:
        return _built_in(built_in)
    return _installed(platform, platform.algorithms.get(name))


def need_installed(name: str) -> None:
    """Refuse what is not anybody's to delete.

    Raises:
        LocalmlError: ``FORBIDDEN`` for a built-in algorithm.
    """
    if built_in_name(name) is not None:
        raise LocalmlError(Code.FORBIDDEN, f"'{name}' is a built-in algorithm, which cannot be deleted")


def _built_in(name: str) -> dict[str, Any]:
    return {"name": name, "type": AlgorithmType.BUILD_IN, "remoteExec": False}


def _installed(platform: Platform, row: Algorithm) -> dict[str, Any]:
    settings = row.settings or {}
    found = {
        "name": row.name,
        "path": str(platform.algorithms.folder(row)),
        "condaHome": settings.get("condaHome"),
        "condaEnv": settings.get("condaEnv"),
        "creator": row.owner,
        "createtime": iso_time(row.created_at),
        "type": AlgorithmType.USER_PLUGIN,
        "remoteExec": bool(settings.get("remoteExec")),
        "logLevel": row.log_level,
    }
    return {name: value for name, value in found.items() if value is not None}


def install(platform: Platform, who: Caller, request: Request) -> str:
    """Install what a form brings, or a folder of the server that it names; its name.

    Raises:
        LocalmlError: what :meth:`localml.core.studies.installed.Algorithms.install` says, and ``INVALID`` for a form
            that is none.
    """
    if request.mimetype != FORM and "data" in request.form:
        return _install(platform, who, request.form["data"], None)
    with read_form(RULES) as form:
        return _install(platform, who, need_text(form, DATA), _file(form))


def _file(form: Form) -> FilePart | None:
    """What was uploaded; an empty file is none."""
    part = form.file(FIELD) if form.files.get(FIELD) else None
    return part if part is not None and part.size else None


def _install(platform: Platform, who: Caller, text: str, file: FilePart | None) -> str:
    asked = InstallRequest.model_validate(parse_object(text, DATA))
    if built_in_name(asked.name) is not None:
        raise LocalmlError(Code.CONFLICT, f"name: '{asked.name}' is a built-in algorithm", field="name")
    if file is None and not asked.path:
        raise invalid("path", "is required where no file comes: upload the algorithm's folder as a tar, or name it")
    settings = {name: getattr(asked, name) for name in ("condaHome", "condaEnv", "remoteExec")}
    new = Installation(
        name=asked.name,
        caller=who,
        archive=None if file is None else file.path,
        path=asked.path,
        log_level=asked.logLevel,
        settings=settings,
    )
    with renamed(archive=FIELD):
        return platform.algorithms.install(new).name
