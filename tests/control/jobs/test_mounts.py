"""What a mount's source stands for, and who may mount what."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
from helpers.people import add_workspaces

from localml.control.jobs.mounts import Mounts
from localml.control.jobs.snapshot import WorkloadRow
from localml.core.buckets.records import BucketRecords
from localml.core.clock import ManualClock
from localml.core.errors import Code, LocalmlError
from localml.core.people.identity import Caller
from localml.core.people.rights import MemberRole
from localml.core.work.grants import Source
from localml.core.work.specs import Mount, Role, WorkloadSpec, single
from localml.engines.base import Bind
from localml.objects import Buckets
from localml.store.database import Database
from localml.store.schema import prepare

USER = Caller(2, "eva", False, "p", "default", {"p": MemberRole.OWNER})
ADMIN = Caller(1, "admin", True, "q", "default", {"q": MemberRole.OWNER})
ROW = cast(WorkloadRow, SimpleNamespace(id=1, owner="eva", owner_id=2, workspace="p", kind="job"))


@pytest.fixture
def mounts(tmp_path: Path) -> Iterator[Mounts]:
    db = Database(prepare(tmp_path))
    add_workspaces(db, "p", "q")
    records, tree = BucketRecords(db, ManualClock()), Buckets(tmp_path / "buckets")
    for name, owner, everyone in (
        ("sets", USER, None),
        ("theirs", ADMIN, None),
        ("shown", ADMIN, MemberRole.VIEWER),
        ("open", ADMIN, MemberRole.MEMBER),
    ):
        records.create(name, owner, owner.workspace, everyone=everyone)
        tree.make_folder(f"s3://{name}")
    yield Mounts(tmp_path, tree, records)
    db.close()


def spec(source: str, *, read_only: bool = False) -> WorkloadSpec:
    return single(["run"], mounts=(Mount(source=source, target="/data", read_only=read_only),))


def bind(mounts: Mounts, text: str, caller: Caller = USER) -> Bind:
    wanted = spec(text)
    return mounts.binds(wanted, mounts.decide(wanted, caller, caller.workspace), ROW, None)[0]


def test_sources_are_folders_of_the_tree_of_the_user_and_of_the_machine(mounts: Mounts, tmp_path: Path) -> None:
    assert bind(mounts, "fds://sets/one").source == str(tmp_path / "buckets/sets/one")
    assert bind(mounts, "/sets/one").source == str(tmp_path / "buckets/sets/one")
    assert bind(mounts, "workspace:lab").source == str(tmp_path / "folders/2/lab")
    assert bind(mounts, str(tmp_path), ADMIN).source == str(tmp_path)


def test_only_administrators_mount_folders_of_the_machine(mounts: Mounts, tmp_path: Path) -> None:
    found = mounts.decide(spec(str(tmp_path)), ADMIN, "q").mounts[0]
    assert (found.kind, found.path) == (Source.MACHINE, str(tmp_path))
    for source in (str(tmp_path), "/theirs/x", "/nowhere/x"):
        with pytest.raises(LocalmlError, match="mounts: only administrators may mount /") as refused:
            mounts.decide(spec(source), USER, "p")
        assert (refused.value.code, refused.value.field) == (Code.FORBIDDEN, "mounts")


def test_a_bucket_is_mounted_for_writing_only_where_its_user_writes(mounts: Mounts) -> None:
    found = {source: bind(mounts, source).read_only for source in ("s3://sets/a", "s3://open/a", "s3://shown/a")}
    assert found == {"s3://sets/a": False, "s3://open/a": False, "s3://shown/a": True}
    with pytest.raises(
        LocalmlError, match="mounts: a bucket 'theirs' exists; it is not open to you: choose another name"
    ):
        mounts.decide(spec("s3://theirs/a"), USER, "p")


def test_a_workload_sees_the_buckets_of_its_workspaces_those_of_everyone_and_those_it_names(mounts: Mounts) -> None:
    def seen(wanted: WorkloadSpec, caller: Caller) -> dict[str, bool]:
        found = mounts.buckets(mounts.decide(wanted, caller, "p"))
        return {one.target.removeprefix("/buckets/"): one.read_only for one in found}

    alone = WorkloadSpec(roles=(Role(command=("run",)),))
    assert seen(alone, USER) == {"open": False, "sets": False, "shown": True}
    named = alone.model_copy(update={"objects": ("s3://theirs/x", "s3://sets/x")})
    assert seen(named, USER) == seen(alone, USER)
    assert seen(named, ADMIN) == {"open": False, "sets": False, "shown": False, "theirs": False}


def test_a_bucket_that_a_job_is_to_write_is_made_in_the_jobs_workspace(mounts: Mounts) -> None:
    told = WorkloadSpec(
        roles=(
            Role(command=("run", "--out=s3://more/x fds://theirs/y"), env={"LOCALML_OUTPUT_URI": "fds://results/run"}),
        )
    )
    found = {one.target: one.read_only for one in mounts.buckets(mounts.decide(told, USER, "p"))}
    assert (found["/buckets/results"], found["/buckets/more"]) == (False, False)
    assert "/buckets/theirs" not in found


@pytest.mark.parametrize(
    "words",
    [
        "cp a /buckets/new/a",
        "cp a $LOCALML_BUCKETS/new",
        'cp a "${LOCALML_BUCKETS}/new/b"',
        "cat ${LOCALML_BUCKETS:-/buckets}/new",
    ],
)
def test_a_bucket_that_a_command_names_by_its_place_is_made_and_seen(words: str, mounts: Mounts) -> None:
    told = WorkloadSpec(roles=(Role(command=("sh", "-c", f"{words}; ls /data/buckets/other /buckets/theirs")),))
    found = {one.target: one.read_only for one in mounts.buckets(mounts.decide(told, USER, "p"))}
    assert found["/buckets/new"] is False
    assert not {"/buckets/other", "/buckets/theirs"} & set(found)


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
        mounts.decide(spec(text), ADMIN, "q")
    assert refused.value.code is Code.INVALID
    assert said in refused.value.message
