"""Models and their versions."""

from __future__ import annotations

from typing import Any

from sqlalchemy import JSON, Column, Index, text
from sqlmodel import Field, SQLModel

from localml.core.rows import owner_column


class Model(SQLModel, table=True):
    """A name under which versions of weights are registered."""

    __table_args__ = (
        Index("uq_model_live_name", "workspace", "name", unique=True, sqlite_where=text("deleted_at IS NULL")),
    )

    id: int | None = Field(default=None, primary_key=True)
    workspace: str
    owner: str
    owner_id: int = owner_column()
    name: str
    description: str = ""
    created_at: float
    updated_at: float
    deleted_at: float | None = None


class ModelVersion(SQLModel, table=True):
    """Weights as they were registered; their files are copied below the data directory and never change."""

    __tablename__ = "model_version"
    __table_args__ = (Index("uq_model_version_number", "model_id", "number", unique=True),)

    id: int | None = Field(default=None, primary_key=True)
    model_id: int = Field(foreign_key="model.id")
    number: int
    owner: str
    owner_id: int = owner_column()
    source: str  # the URI as given
    format: str  # onnx | python | wmla-kernel
    runtime: str  # of the catalogue
    path: str  # of the folder with the version's folder, below the data directory
    size: int  # bytes of all files
    checksum: str  # SHA-256 over names and contents
    inputs: Any = Field(default=None, sa_column=Column(JSON))  # [{"name", "datatype", "shape"}]; NULL: not known yet
    outputs: Any = Field(default=None, sa_column=Column(JSON))
    workload_id: int | None = Field(default=None, foreign_key="workload.id", index=True)  # which wrote it
    created_at: float
    deleted_at: float | None = None
