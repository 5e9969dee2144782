"""Folders of code, as archives by content: whoever may submit in a workspace sends them there, and may run them."""

from __future__ import annotations

import hashlib
import os
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

from flask import request
from flask_openapi.blueprint import APIBlueprint

from localml.core.errors import Code, LocalmlError, invalid, not_found
from localml.core.limits import MOST_CODE
from localml.core.people.rights import ThingKind
from localml.core.work.code import CodeArchive
from localml.dialects.kit import caller
from localml.dialects.kit.bodies import body_limit
from localml.dialects.kit.seats import slow
from localml.dialects.native.auth import workspace_for
from localml.dialects.native.schemas import code as schemas
from localml.objects import Limits, inspect_archive
from localml.platform import Platform

_BLOCK = 1 << 20
_LIMITS = Limits(size=MOST_CODE)


def add(api: APIBlueprint, platform: Platform) -> None:
    """Add the routes of this module."""

    def workspace(query: schemas.CodeQuery) -> str:
        return workspace_for(platform, caller(), query.workspace, ThingKind.WORKLOAD)

    @api.get("/code/<code>", responses={"200": schemas.CodeOut})
    def find_code(path: schemas.CodePath, query: schemas.CodeQuery) -> Any:
        """Whether the workspace has an archive of this content, so that it need not be sent. It stays for a while."""
        place = workspace(query)
        if platform.code.archives.find(place, path.code) is None:
            raise not_found("code", path.code)
        return _shown(path.code, platform.code.archives.use(place, path.code))

    @api.put("/code/<code>", responses={"201": schemas.CodeOut})
    @body_limit(MOST_CODE)
    @slow
    def put_code(path: schemas.CodePath, query: schemas.CodeQuery) -> Any:
        """Keep the body, a tar (plain or compressed) of this content. It is held against all rules of unpacking first;
        one that nothing needs goes after a while."""
        place = workspace(query)
        platform.code.archives.path(place, path.code)
        file, writer = platform.uploads.create("code")
        try:
            with writer:
                _need_content(path.code, _take_in(writer))
                os.fsync(writer.fileno())  # once it has its name, nobody sends it again
            _need_archive(file)
            return _shown(path.code, platform.code.archives.keep(file, place, path.code)), 201
        finally:
            with suppress(FileNotFoundError):
                file.unlink()

    @api.put("/folders/<name>/code", responses={"200": schemas.FolderOut})
    @slow
    def put_into_folder(path: schemas.FolderPath, body: schemas.CodeIn) -> Any:
        """Put what is in an archive into a folder that is kept for the caller, and that a notebook works in."""
        place = workspace(schemas.CodeQuery(workspace=body.workspace))
        platform.put_code(place, body.code, caller().id, path.name, replace=body.replace)
        return {"folder": path.name, "code": body.code}


def _take_in(writer: BinaryIO) -> str:
    """Copy the request's body; answers the SHA-256 of it."""
    found = hashlib.sha256()
    while block := request.stream.read(_BLOCK):
        try:
            writer.write(block)
        except OSError as error:
            raise LocalmlError(Code.STORAGE, f"code: cannot be stored: {error.strerror}", field="code") from error
        found.update(block)
    return found.hexdigest()


def _need_content(code: str, digest: str) -> None:
    if code != f"sha256:{digest}":
        raise invalid("code", f"the body is sha256:{digest}, not {code}")


def _need_archive(file: Path) -> None:
    try:
        found = inspect_archive(file, _LIMITS)
    except LocalmlError as error:
        words = f"code: {error.message.removeprefix('archive: ')}"
        raise LocalmlError(error.code, words, field="code", details=error.details) from error
    if not found.kind.startswith("tar"):
        raise invalid("code", f"is a {found.kind}, not a tar")


def _shown(code: str, found: CodeArchive) -> dict[str, Any]:
    return {"code": code, "size": found.size, "used_at": found.used_at}
