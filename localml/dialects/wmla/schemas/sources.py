"""Where a training's data is, as requests say it."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

_MOST_SOURCES = 100


class _Part(BaseModel):
    """Members that are not known are ignored, as the vendor's service ignores those of other versions."""

    model_config = ConfigDict(extra="ignore")


class TaskDataSourceAsset(_Part):
    """What a connection or an asset is called."""

    asset_id: str | None = None
    project_id: str | None = None
    catalog_id: str | None = None


class TaskDataSourceLocation(_Part):
    """Paths in a volume or a bucket, separated by commas."""

    paths: str | None = None
    volume: str | None = None
    bucket: str | None = None


class TaskDataSource(_Part):
    """A folder or files that a training reads; without a type they are of the file system."""

    type: Literal["fs", "connection", "data_asset"] | None = None
    asset: TaskDataSourceAsset | None = None
    location: TaskDataSourceLocation | None = None


class WithSources(BaseModel):
    """What may name data sources."""

    dataSource: list[TaskDataSource] | None = Field(default=None, max_length=_MOST_SOURCES)

    @property
    def sources(self) -> list[TaskDataSource]:
        """None are as good as an empty list of them."""
        return self.dataSource or []
