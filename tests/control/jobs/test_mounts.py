"""What a mount's source stands for, and who may mount what."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from localml.control.jobs.mounts import Mounts
from localml.control.jobs.snapshot import WorkloadRow
from localml.core.errors import Code, LocalmlError
from localml.core.people.identity import Caller
from localml.core.work.specs import Mount, WorkloadSpec, single
from localml.objects import Buckets

USER, ADMIN = Caller(2, "eva", False, "p", "default"), Caller(1, "admin", True, "p", "default")


@pytest.fixture
def mounts(tmp_path: Path) -> Mounts:
    (tmp_path / "buckets" / "sets").mkdir(parents=True)
    return Mounts(tmp_path, Buckets(tmp_path / "buckets"))


def spec(source: str) -> WorkloadSpec:
    return single(["run"], mounts=(Mount(source=source, target="/data"),))


def source(mounts: Mounts, text: str) -> Path:
    row = cast(WorkloadRow, SimpleNamespace(owner_id=USER.id))
    return mounts.source(Mount(source=text, target="/data"), row)


def test_sources_are_folders_of_the_tree_of_the_user_and_of_the_machine(mounts: Mounts, tmp_path: Path) -> None:
    assert source(mounts, "fds://sets/one") == tmp_path / "buckets/sets/one"
    assert source(mounts, "/sets/one") == tmp_path / "buckets/sets/one"
    assert source(mounts, "workspace:lab") == tmp_path / "folders/2/lab"
    assert source(mounts, str(tmp_path)) == tmp_path


def test_only_administrators_mount_folders_of_the_machine(mounts: Mounts, tmp_path: Path) -> None:
    mounts.check(spec(str(tmp_path)), ADMIN)
    with pytest.raises(LocalmlError, match="mounts: only administrators may mount /") as refused:
        mounts.check(spec(str(tmp_path)), USER)
    assert (refused.value.code, refused.value.field) == (Code.FORBIDDEN, "mounts")
    for free in ("fds://sets/one", "/sets/one", "workspace:lab"):
        mounts.check(spec(free), USER)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("/no/such/folder", "/no/such/folder does not exist on this machine"),
        ("workspace:", "workspace name ''"),
        ("workspace:../admin", "workspace name '../admin'"),
        ("workspace:.ssh", "workspace name '.ssh'"),
        ("fds://sets/../../secret", "mounts: must not hold '..'"),
    ],
)
def test_what_names_no_folder_is_refused(mounts: Mounts, text: str, said: str) -> None:
    with pytest.raises(LocalmlError) as refused:
        mounts.check(spec(text), ADMIN)
    assert refused.value.code is Code.INVALID
    assert said in refused.value.message
