"""What a job of one user gets at of this machine and of a colleague, while it tries to get at more."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from helpers.docker_image import tiny_image
from helpers.native import Http, sh

from localml.config import Config
from localml.control.jobs import pins as pins_module
from localml.control.jobs.mounts import Mounts
from localml.control.jobs.pins import LATE_S, Pins
from localml.control.jobs.snapshot import WorkloadRow
from localml.core.buckets.records import BucketRecords
from localml.core.clock import ManualClock
from localml.core.errors import LocalmlError
from localml.core.people.identity import Caller
from localml.core.people.rights import MemberRole
from localml.core.work.specs import Mount, WorkloadSpec, single
from localml.engines.base import Engine, EngineError, EngineUnreachable, ReplicaPlan
from localml.objects import Buckets
from localml.platform import Platform
from localml.server import Server
from localml.store.database import Database
from localml.store.schema import prepare

EVA = Caller(2, "eva", False, "own", "", {"own": MemberRole.OWNER})
ROW = cast(WorkloadRow, SimpleNamespace(id=1, owner="eva", owner_id=2, workspace="own", kind="job"))
TRIES = 24
WAIT = "busybox usleep 20000"
SWAPPER = f"cd /race; while :; do {WAIT}; mv d e; ln -s / d; {WAIT}; rm d; mv e d; done"
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can hold folders by mounting them")


class Place:
    """Buckets of a user, and what decides about mounts."""

    def __init__(self, data: Path) -> None:
        from helpers.people import add_workspaces

        self.data = data
        self.db = Database(prepare(data))
        add_workspaces(self.db, "own")
        self.tree = Buckets(data / "buckets")
        self.records = BucketRecords(self.db, ManualClock())
        self.mounts = Mounts(data, self.tree, self.records)
        self.records.create("race", EVA, "own")
        with self.tree.open("s3://race/d/mine", "wb") as file:
            file.write(b"mine")

    def swap(self, target: str = "/") -> None:
        """What another job of the user does at the worst moment."""
        folder = self.tree.root / "race"
        (folder / "d").rename(folder / "before")
        (folder / "d").symlink_to(target)

    def plan(self, spec: WorkloadSpec) -> ReplicaPlan:
        grants = self.mounts.decide(spec, EVA, "own")
        return ReplicaPlan("one", "image", binds=self.mounts.binds(spec, grants, ROW, None))

    def pins(self, later: float = 0) -> Pins:
        """A server's, so many seconds from now."""
        engine = cast(Engine, SimpleNamespace(hidden_mounts=lambda: ""))
        return Pins(self.data, engine, lambda: time.time() + later)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    made = Place(tmp_path)
    yield made
    made.db.close()


def mounting(source: str) -> WorkloadSpec:
    return single(["run"], mounts=(Mount(source=source, target="/mnt"),))


@as_root
def test_a_folder_that_became_a_link_after_the_look_at_it_is_not_mounted(place: Place) -> None:
    plan = place.plan(mounting("fds://race/d"))
    place.swap()
    with pytest.raises(EngineError, match="what was to be mounted there is gone"), place.pins()(plan):
        pass
    assert not any((place.data / "pins").iterdir()) if (place.data / "pins").exists() else True


@as_root
def test_what_was_checked_is_what_the_engine_is_given_whatever_takes_its_name(place: Place) -> None:
    plan = place.plan(mounting("fds://race/d"))
    with place.pins()(plan) as pinned:
        place.swap()
        given = Path(pinned.binds[0].source)
        assert os.listdir(given) == ["mine"]
        assert (place.tree.root / "race" / "d" / "etc").is_dir()  # the name leads to the host by now
    assert not given.exists()
    assert (place.tree.root / "race" / "before" / "mine").read_bytes() == b"mine"


@as_root
def test_what_a_killed_server_held_stays_for_late_starts_then_is_let_go_of_and_never_emptied(place: Place) -> None:
    plan = place.plan(mounting("fds://race/d"))
    abandoned = place.pins()(plan)
    given = Path(abandoned.__enter__().binds[0].source)
    place.pins()  # the next server's; the engine carries the start out only now
    assert os.listdir(given) == ["mine"]
    place.pins(later=LATE_S + 1)
    assert not given.exists()
    assert (place.tree.root / "race" / "d" / "mine").read_bytes() == b"mine"
    with suppress(FileNotFoundError):
        abandoned.__exit__(None, None, None)


@as_root
@pytest.mark.parametrize(
    ("error", "stays"),
    [(EngineUnreachable("no answer"), True), (MemoryError(), True), (EngineError("no such image"), False)],
)
def test_what_a_start_was_given_stays_unless_the_engine_said_how_it_ended(
    place: Place, error: Exception, stays: bool
) -> None:
    pins = place.pins()
    given = []

    def fail() -> None:
        with pins(place.plan(mounting("fds://race/d"))) as plan:
            given.append(Path(plan.binds[0].source))
            raise error

    with pytest.raises(type(error)):
        fail()
    assert given[0].exists() is stays
    with place.pins(later=LATE_S + 1)(place.plan(mounting("fds://race/d"))):  # any later start of the same server
        assert not given[0].exists()


@as_root
def test_nothing_stays_mounted_in_a_data_directory_that_no_server_uses(place: Place) -> None:
    pins = place.pins()
    with pytest.raises(EngineUnreachable), pins(place.plan(mounting("fds://race/d"))):
        raise EngineUnreachable("no answer")
    pins.close()
    assert not any((place.data / "pins").iterdir())
    assert str(place.data / "pins") not in Path("/proc/self/mountinfo").read_text()


@as_root
def test_a_start_that_comes_too_late_finds_nothing_and_never_an_empty_folder(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[bool] = []
    with place.pins()(place.plan(mounting("fds://race/d"))) as plan:
        given = Path(plan.binds[0].source)
        real = pins_module._libc

        def unmount(where: bytes, flags: int) -> int:
            seen.append(given.exists())
            return int(real.umount2(where, flags))

        monkeypatch.setattr(pins_module, "_libc", SimpleNamespace(umount2=unmount))
    assert seen
    assert not any(seen)
    assert not any((place.data / "pins").iterdir())


def test_where_a_folder_cannot_be_held_only_the_whole_bucket_is_mounted(place: Place) -> None:
    remote = Pins(place.data, cast(Engine, SimpleNamespace(hidden_mounts=lambda: "the daemon is elsewhere")))
    said = "cannot be mounted safely here, because "
    with pytest.raises(EngineError, match=said), remote(place.plan(mounting("fds://race/d"))):
        pass
    with remote(place.plan(mounting("fds://race"))) as plan:
        assert plan.binds[0].source == str(place.tree.root / "race")


def test_a_new_folder_of_a_mount_is_made_in_its_bucket_and_nowhere_else(place: Place, tmp_path: Path) -> None:
    spec = mounting("fds://race/d/new/folder")
    grants = place.mounts.decide(spec, EVA, "own")
    place.swap(str(tmp_path))
    with pytest.raises(EngineError, match="mounts: "):
        place.mounts.binds(spec, grants, ROW, None)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("source", ["/race/d", "fds://race/d"])
def test_a_mount_of_a_bucket_that_was_deleted_while_queued_is_no_other_folder(place: Place, source: str) -> None:
    spec = mounting(source)
    grants = place.mounts.decide(spec, EVA, "own")
    place.tree.delete("s3://race", recursive=True)
    place.records.delete("race")
    with pytest.raises(EngineError, match="was deleted after the submission"):
        place.mounts.binds(spec, grants, ROW, None)
    place.records.create("race", Caller(3, "kim", False, "own", ""), "own")  # another one of that name
    with pytest.raises(EngineError, match="was deleted after the submission"):
        place.mounts.binds(spec, grants, ROW, None)


def test_what_an_earlier_version_took_in_is_decided_with_its_owners_rights_before_it_starts(place: Place) -> None:
    later = Mounts(place.data, place.tree, place.records, lambda number: EVA)
    found = later.decide_late(ROW, mounting("/race/d"))
    assert [(one.kind, one.path, one.write) for one in found.mounts] == [("bucket", "d", True)]
    with pytest.raises(EngineError, match="only administrators may mount"):
        later.decide_late(ROW, mounting("/etc"))


def test_a_link_into_another_bucket_shows_nothing_of_it(place: Place) -> None:
    place.tree.make_folder("s3://secret")
    (place.tree.root / "secret" / "key").write_bytes(b"hidden")
    (place.tree.root / "race" / "way").symlink_to("../secret")
    for act in (lambda: place.tree.open("s3://race/way/key"), lambda: place.plan(mounting("fds://race/way"))):
        with pytest.raises((LocalmlError, EngineError), match="leads out of its bucket"):
            act()
    assert [one.name for one in place.tree.list("s3://race", recursive=True)] == ["d", "mine"]


class Live:
    """A server with Docker, and a user of it."""

    def __init__(self, folder: Path) -> None:
        config = Config(folder, cache=folder.parent / "cache", engine="docker", gpus="none", cpus=64, port=0)
        self.platform = Platform(config)
        self.server = Server(self.platform)
        self.server.start()
        self.users = {name: self._user(name) for name in ("eva", "kim")}

    def _user(self, name: str) -> Http:
        caller = self.platform.identity.create_user(name, "secret")
        token = self.platform.identity.create_token(caller)
        return Http(self.server.url, {"Authorization": f"Bearer {token}"})

    def run(self, user: str, script: str, *mounts: dict[str, Any], wait: bool = True) -> Any:
        spec = {**sh(script, image=tiny_image()), "mounts": list(mounts), "stop_grace": 0}
        made = self.users[user]("POST", "/workloads", {"spec": spec})
        if made.status != 201:
            return {"state": "refused", "message": made.json["error"]["message"]}
        number = made.json["id"]
        return self.users[user]("GET", f"/workloads/{number}/wait?timeout=60").json if wait else number

    def output(self, user: str, number: int) -> str:
        return self.users[user]("GET", f"/workloads/{number}/logs").data.decode()

    def close(self) -> None:
        for name in self.platform.engine.list():
            self.platform.engine.remove(name)
        self.server.close()


@pytest.fixture
def live(tmp_path: Path) -> Iterator[Live]:
    made = Live(tmp_path / "data")
    yield made
    made.close()


@pytest.mark.docker
def test_a_job_that_swaps_a_folder_for_a_link_to_the_host_never_has_the_host_mounted(live: Live) -> None:
    live.users["eva"]("PUT", "/objects/content?uri=fds://race/d/mine", b"mine")
    live.run("eva", SWAPPER, {"source": "fds://race", "target": "/race"}, wait=False)
    mounted = 0
    for _ in range(TRIES):
        made = live.run("eva", "ls -A /mnt", {"source": "fds://race/d", "target": "/mnt"})
        if made["state"] != "succeeded":
            assert made["message"], "a start that was refused says why"
            continue
        mounted += 1
        assert set(live.output("eva", made["id"]).split()) <= {"mine", "d", "e"}  # of the bucket; no etc, no proc
    assert mounted, "there was something to be had"


@pytest.mark.docker
def test_a_job_sees_the_buckets_of_its_owner_and_can_make_none_beside_them(live: Live) -> None:
    for user in ("eva", "kim"):
        live.users[user]("PUT", f"/objects/content?uri=fds://of-{user}/x", b"1")
    live.users["kim"]("POST", "/buckets", {"name": "shown", "everyone": "viewer"})
    script = (
        "ls /buckets; exec 2>&1; echo 2 > /buckets/of-eva/y; n=new; ! mkdir /buckets/$n && ! touch /buckets/shown/x"
    )
    made = live.run("eva", script)
    assert made["state"] == "succeeded", made
    said = live.output("eva", made["id"])
    assert said.split()[:3] == ["hdfs", "of-eva", "shown"]
    assert said.count("Read-only file system") == 2
    assert live.users["eva"]("GET", "/objects/info?uri=fds://of-eva/y").status == 200
    seen = live.run("eva", "ls /buckets/of-kim")
    assert seen["state"] == "failed"
