"""The registry of models: a name has versions, a version is a frozen copy of files.

Files are copied below ``<data>/models`` when a version is registered, so what is served next year is what was
registered today, whatever happens to the source. A version's folder appears complete, in the transaction that records
it.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import func
from sqlmodel import Session, col, select
from sqlmodel.sql.expression import SelectOfScalar

from localml.core.clock import Clock
from localml.core.errors import Code, LocalmlError, invalid, not_found
from localml.core.events.records import record_event
from localml.core.limits import MOST_MODELS
from localml.core.people import memberships
from localml.core.people.identity import Caller
from localml.core.ports import Store
from localml.core.registry.files import Described, describe
from localml.core.registry.tables import Model, ModelVersion
from localml.core.rows import need_few
from localml.core.serving.tables import Variant
from localml.core.subjects import Noun, Subject
from localml.core.work.specs import NAME

FOLDER = "models"
_PART = ".part-"
_BLOCK = 1 << 20

Fetch = Callable[[Caller, str, Path], object]
"""Copies an object, or a folder's content, to a folder of this machine (URI, folder)."""


@dataclass(frozen=True, slots=True)
class NewVersion:
    """What is registered.

    Attributes:
        source: object URI of a file or folder.
        format: what it is; found out when empty (see :func:`localml.core.registry.files.describe`).
        workload_id: the workload that wrote it.
        reuse: take the newest version with the same files, if there is one, and register nothing.
        allowed: asked before a version is added to a model that there is; raises for who may not.
        fill: puts the files into a new folder, in place of copying them from ``source``, which then only says whence
            they come.
    """

    name: str
    source: str
    caller: Caller
    format: str = ""
    description: str = ""
    workspace: str | None = None
    workload_id: int | None = None
    reuse: bool = False
    allowed: Callable[[Model], None] = lambda _: None
    fill: Callable[[Path], object] | None = None


@dataclass(frozen=True, slots=True)
class Registered:
    """A version with its model; ``made`` is False for one that was there already."""

    model: Model
    version: ModelVersion
    made: bool = True

    @property
    def label(self) -> str:
        """``name:number``."""
        return f"{self.model.name}:{self.version.number}"


class Registry:
    """The service over models and their versions.

    Args:
        data: the data directory.
        fetch: copies from the object tree what a caller may read.
    """

    def __init__(self, store: Store, clock: Clock, data: Path, fetch: Fetch) -> None:
        self._store = store
        self._clock = clock
        self._data = data
        self._fetch = fetch

    def register(self, new: NewVersion) -> Registered:
        """Copy the files and record a new version; the model is made if it is new. It is on disk when this returns.

        Raises:
            LocalmlError: ``INVALID`` (name, or files that are no model), ``NOT_FOUND`` (source), ``STORAGE``.
        """
        if not NAME.fullmatch(new.name):
            raise invalid("name", f"{new.name!r} must be 1 to 128 letters, digits, '.', '_', '~' or '-'")
        part = self._data / FOLDER / f"{_PART}{secrets.token_hex(8)}"
        part.mkdir(parents=True)
        try:
            if new.fill is not None:
                new.fill(part)
            else:
                self._fetch(new.caller, new.source, part)
            described = describe(part, new.format)
            _let_read(part)
            checksum, size = digest(part)
            return self._store.write(lambda session: self._record(session, new, part, described, checksum, size))
        except OSError as error:
            raise LocalmlError(Code.STORAGE, f"source: {new.source} could not be copied: {error}") from error
        finally:
            shutil.rmtree(part, ignore_errors=True)

    def _record(
        self, session: Session, new: NewVersion, part: Path, described: Described, checksum: str, size: int
    ) -> Registered:
        now = self._clock.now()
        if new.reuse and (same := self._same(session, new, described, checksum)) is not None:
            return same
        model = self._model_row(session, new, now)
        last = session.exec(select(func.max(ModelVersion.number)).where(ModelVersion.model_id == model.id)).one()
        number = (last or 0) + 1
        path = f"{FOLDER}/{model.id}/v{number}"
        self._place(part, self._data / path, number)
        version = ModelVersion(
            model_id=model.id or 0,
            number=number,
            owner=new.caller.name,
            owner_id=new.caller.id,
            source=new.source,
            format=described.format,
            runtime=described.runtime,
            path=path,
            size=size,
            checksum=checksum,
            inputs=described.inputs,
            outputs=described.outputs,
            workload_id=new.workload_id,
            created_at=now,
        )
        session.add(version)
        session.flush()
        words = f"{model.name}:{number} was registered by {new.caller.name} from {new.source}"
        about = Subject(Noun.MODEL, model.id or 0) if new.workload_id is None else Subject.workload(new.workload_id)
        record_event(session, about, "ModelRegistered", words, now=now)
        return Registered(model, version)

    @staticmethod
    def _same(session: Session, new: NewVersion, described: Described, checksum: str) -> Registered | None:
        query = (
            select(Model, ModelVersion)
            .where(ModelVersion.model_id == Model.id)
            .where(Model.workspace == (new.workspace or new.caller.workspace), Model.name == new.name)
            .where(ModelVersion.checksum == checksum, ModelVersion.format == described.format)
            .where(col(ModelVersion.deleted_at).is_(None))
            .order_by(col(ModelVersion.number).desc())
        )
        found = session.exec(query).first()
        return Registered(*found, made=False) if found is not None else None

    def _model_row(self, session: Session, new: NewVersion, now: float) -> Model:
        workspace = new.workspace or new.caller.workspace
        memberships.need_live(session, workspace)
        model = session.exec(_live([workspace]).where(Model.name == new.name)).first()
        if model is None:
            mine = Model.owner_id == new.caller.id, col(Model.deleted_at).is_(None)
            need_few(session, Model, "models", *mine, most=MOST_MODELS)
            model = Model(
                workspace=workspace,
                owner=new.caller.name,
                owner_id=new.caller.id,
                name=new.name,
                created_at=now,
                updated_at=now,
            )
        else:
            new.allowed(model)
        model.description = new.description or model.description
        model.updated_at = now
        session.add(model)
        session.flush()
        return model

    @staticmethod
    def _place(part: Path, folder: Path, number: int) -> None:
        """Move the files in. A folder that is there already was left by a crash before its record was on disk."""
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        os.rename(part, folder / str(number))
        for one in (folder, folder.parent):
            one.chmod(0o755)
            _sync_folder(one)

    def models(self, workspaces: Collection[str] | None = None) -> list[tuple[Model, list[ModelVersion]]]:
        """All models (of these workspaces) by name, each with its versions, the newest first."""
        with self._store.read() as session:
            models = list(session.exec(_live(workspaces).order_by(col(Model.name), col(Model.id))))
            rows = session.exec(
                select(ModelVersion)
                .where(col(ModelVersion.model_id).in_([one.id for one in models]))
                .where(col(ModelVersion.deleted_at).is_(None))
                .order_by(col(ModelVersion.number).desc())
            )
            found: dict[int, list[ModelVersion]] = {}
            for row in rows:
                found.setdefault(row.model_id, []).append(row)
        return [(model, found.get(model.id or 0, [])) for model in models]

    def find(
        self,
        reference: str,
        workspaces: Collection[str] | None = None,
        *,
        prefer: str | None = None,
        only: Callable[[Model], bool] = lambda _: True,
    ) -> Registered:
        """A version by ``name`` (the newest), ``name:number``, or ``name:latest``.

        Args:
            workspaces: None looks in all workspaces.
            prefer: a workspace whose model goes before those of others.
            only: says of a model whether it is there at all for whoever asks.

        Raises:
            LocalmlError: ``NOT_FOUND``; ``CONFLICT`` when models of several workspaces have the name.
        """
        name, colon, wanted = reference.partition(":")
        models = [one for one in self.models(workspaces) if one[0].name == name and only(one[0])]
        models = [one for one in models if one[0].workspace == prefer] or models
        if not models:
            raise not_found("model", name)
        if len(models) > 1:
            words = ", ".join(model.workspace for model, _ in models)
            raise LocalmlError(Code.CONFLICT, f"model '{name}' is in several workspaces: {words}")
        model, versions = models[0]
        for version in versions:
            if not colon or wanted == "latest" or wanted == str(version.number):
                return Registered(model, version)
        if not versions:
            raise not_found("model version", f"{name}:{wanted or 'latest'}")
        numbers = ", ".join(str(one.number) for one in versions)
        raise LocalmlError(Code.NOT_FOUND, f"model '{name}' has no version '{wanted}'; it has {numbers}")

    def version(self, version_id: int) -> Registered:
        """A version by its id, deleted ones included; ``NOT_FOUND`` if there is none."""
        with self._store.read() as session:
            version = session.get(ModelVersion, version_id)
            model = session.get(Model, version.model_id) if version is not None else None
        if version is None or model is None:
            raise not_found("model version", version_id)
        return Registered(model, version)

    def folder(self, version: ModelVersion) -> Path:
        """The folder that holds the version's folder (``1/``, ``2/`` ...), as model servers want it."""
        return self._data / version.path

    def learn(self, version_id: int, inputs: list[dict[str, object]], outputs: list[dict[str, object]]) -> None:
        """Fill in inputs and outputs that only the serving process knows."""

        def act(session: Session) -> None:
            row = session.get(ModelVersion, version_id)
            if row is not None and row.inputs is None:
                row.inputs, row.outputs = inputs, outputs
                session.add(row)

        self._store.write(act)

    def delete(self, registered: Registered, caller: Caller) -> None:
        """Delete one version with its files; the model goes with its last one.

        Raises:
            LocalmlError: ``WRONG_STATE`` while an endpoint serves it.
        """
        version_id, now = registered.version.id, self._clock.now()

        def act(session: Session) -> None:
            used = session.exec(
                select(Variant.id).where(Variant.model_version_id == version_id, col(Variant.ended_at).is_(None))
            ).first()
            if used is not None:
                raise LocalmlError(Code.WRONG_STATE, f"{registered.label} is served by an endpoint; stop that first")
            row = session.get(ModelVersion, version_id)
            if row is None or row.deleted_at is not None:
                return
            row.deleted_at = now
            session.add(row)
            session.flush()
            rest = select(ModelVersion.id).where(
                ModelVersion.model_id == row.model_id, col(ModelVersion.deleted_at).is_(None)
            )
            model = session.get(Model, row.model_id)
            if model is not None and session.exec(rest).first() is None:
                model.deleted_at = now
                session.add(model)
            words = f"{registered.label} was deleted by {caller.name}"
            record_event(session, Subject(Noun.MODEL, row.model_id), "ModelDeleted", words, now=now)

        self._store.write(act)
        shutil.rmtree(self.folder(registered.version), ignore_errors=True)

    def sweep(self) -> None:
        """Remove what a crash left half-copied or half-removed; for the start, before anything is registered."""
        folder = self._data / FOLDER
        gone = select(ModelVersion.path).where(col(ModelVersion.deleted_at).is_not(None))
        with self._store.read() as session:
            for path in session.exec(gone):
                shutil.rmtree(self._data / path, ignore_errors=True)
        if folder.is_dir():
            for one in folder.iterdir():
                if one.name.startswith(_PART):
                    shutil.rmtree(one, ignore_errors=True)


def _live(workspaces: Collection[str] | None) -> SelectOfScalar[Model]:
    query = select(Model).where(col(Model.deleted_at).is_(None))
    return query if workspaces is None else query.where(col(Model.workspace).in_(list(workspaces)))


def digest(folder: Path) -> tuple[str, int]:
    """SHA-256 over names and contents of all files in order of name, and their bytes. Brings the files to the disk."""
    found, size = hashlib.sha256(), 0
    for path in sorted(one for one in folder.rglob("*") if one.is_file()):
        found.update(f"{path.relative_to(folder).as_posix()}\0{path.stat().st_size}\0".encode())
        with path.open("rb") as file:
            while block := file.read(_BLOCK):
                found.update(block)
                size += len(block)
            os.fsync(file.fileno())
    return found.hexdigest(), size


def _let_read(folder: Path) -> None:
    """Make files readable for the account that serves them; nobody else gets to the data directory."""
    for above, _, files in os.walk(folder):
        os.chmod(above, 0o755)
        for name in files:
            path = os.path.join(above, name)
            if not os.path.islink(path):
                os.chmod(path, 0o644)


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
