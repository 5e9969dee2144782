"""What one request may ask for in all: a little more than each limit is refused, with what was given, what is allowed
and the member's name, and nothing of it is made; and the work for what is admitted is counted."""

from __future__ import annotations

import hashlib
import io
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers.counts import count
from helpers.rig import Rig
from helpers.two_users import Operation, Try, World

from localml.core import limits
from localml.core.errors import Code, LocalmlError
from localml.core.series.samples import Samples
from localml.core.subjects import Subject
from localml.core.work.specs import Role, WorkloadSpec
from localml.core.work.totals import need_within
from localml.engines.docker.engine import DockerEngine
from localml.objects.archive_rules import Limits, Tree
from localml.objects.archives import inspect_archive, unpack

pytestmark = pytest.mark.slow  # thousands of rows, and archives of thousands of members: it begins early

NATIVE, PAI, TRAIN = "/localml/v1/workloads", "/api/v1/jobs", "/cloud_ml/v1/train"
LONG_WORD = "x" * limits.MOST_STRING


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    one = World(tmp_path_factory.mktemp("data"))
    yield one
    one.close()


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    one = Rig(tmp_path)
    yield one
    one.close()


def of(role: Any = (), **members: Any) -> dict[str, Any]:
    """A submission to our own API."""
    return {"name": "large", "spec": {"roles": [{"command": ["true"], **dict(role)}], **members}}


def pai(*roles: dict[str, Any], **members: Any) -> dict[str, Any]:
    task = {"taskNumber": 1, "cpuNumber": 1, "memoryMB": 100, "gpuNumber": 0, "command": "true"}
    return {"jobName": "large", "taskRoles": [{"name": f"r{n}"} | task | one for n, one in enumerate(roles)], **members}


def train(**members: Any) -> dict[str, Any]:
    image = {"docker_image": "i", "docker_command": "true"}
    return {"job_name": "large", "module_name": "m", "trainer_uri": "fds://b/x"} | image | members


ROLES = [{"name": f"r{n}", "command": ["true"], "count": 1000} for n in range(10)]
REFUSED: list[tuple[str, str, dict[str, Any], str, int, int]] = [
    ("native", NATIVE, {"name": "large", "spec": {"roles": ROLES}}, "count", 10_000, limits.MOST_REPLICAS),
    ("native", NATIVE, {"name": "large", "spec": {"roles": ROLES * 100}}, "spec.roles", 1000, limits.MOST_ROLES),
    ("native", NATIVE, of(depends_on=list(range(1, 1502))), "spec.depends_on", 1501, limits.MOST_DEPENDENCIES),
    ("native", NATIVE, of(objects=["fds://b/x"] * 1001), "spec.objects", 1001, limits.MOST_OBJECTS),
    ("native", NATIVE, of(mounts=[{"source": "a", "target": "/a"}] * 101), "spec.mounts", 101, limits.MOST_MOUNTS),
    ("native", NATIVE, of(objects=["fds://b/" + "x" * 5000]), "objects", 5008, limits.MOST_PATH),
    ("native", NATIVE, of({"command": [LONG_WORD]}), "command", len(LONG_WORD) + 1, limits.MOST_STRING),
    ("native", NATIVE, of({"env": {"A": LONG_WORD}}), "env", len(LONG_WORD) + 3, limits.MOST_STRING),
    ("native", NATIVE, of({"env": {f"A{n}": "" for n in range(1001)}}), "env", 1001, limits.MOST_VARIABLES),
    (
        *("native", NATIVE, of({"ports": [{"label": f"p{n}"} for n in range(10)], "count": 500}), "ports"),
        *(5000, limits.MOST_PORTS),
    ),
    ("native", NATIVE, of(time_limit=1e300), "time_limit", 1e300, limits.MOST_SECONDS),
    ("native", NATIVE, of(retries={"max_backoff": 1e300}), "retries.max_backoff", 1e300, limits.MOST_SECONDS),
    ("native", NATIVE, of({"resources": {"pids": 1 << 60}}), "pids", 1 << 60, limits.MOST_PIDS),
    ("native", NATIVE, of({"resources": {"shm": 1 << 60}}), "shm", 1 << 60, limits.MOST_BYTES),
    ("native", NATIVE, {**of(), "pool": "/".join("a" * 17)}, "pool", 17, limits.MOST_POOL_LEVELS),
    ("native", NATIVE, {**of(), "pool": "a" * 2000}, "pool", 2000, limits.MOST_POOL_PATH),
    (
        "openpai",
        PAI,
        pai({"taskNumber": 600}, {"taskNumber": 500}),
        "taskNumber",
        1100,
        limits.MOST_REPLICAS,
    ),
    (
        *(
            "openpai",
            PAI,
            pai({"taskNumber": 100, "portList": [{"label": "a", "portNumber": 99}]}),
            "portList",
        ),
        *(10_100, limits.MOST_PORTS),
    ),
    ("openpai", PAI, pai({"command": LONG_WORD}), "command", len(LONG_WORD) + 1, limits.MOST_STRING),
    ("openpai", PAI, pai({}, jobEnvs={"A": LONG_WORD}), "jobEnvs", len(LONG_WORD) + 3, limits.MOST_STRING),
    (
        "cloudml",
        TRAIN,
        train(worker_count=700, ps_count=700),
        "worker_count",
        1400,
        limits.MOST_REPLICAS,
    ),
    (
        *("cloudml", TRAIN, train(cluster_spec={f"w{n}": {"count": 600} for n in range(2)})),
        *("cluster_spec", 1200, limits.MOST_REPLICAS),
    ),
    (
        *("cloudml", TRAIN, train(docker_command=LONG_WORD), "docker_command"),
        *(len(LONG_WORD) + 1, limits.MOST_STRING),
    ),
]
"""API, path, body, the member that is named, how much of it there is, how much may be."""


@pytest.mark.parametrize("case", REFUSED, ids=lambda case: f"{case[0]}-{case[3]}")
def test_more_than_a_total_is_refused_with_both_numbers(world: World, case: tuple[Any, ...]) -> None:
    dialect, path, body, field, given, allowed = case
    answer = world.send(world.admin, Operation(dialect, "POST", path, ""), Try("", body=body), {})
    count("requests tried")
    words = answer.data.decode()
    assert 400 <= answer.status < 500, (answer.status, words[:300])
    assert all(str(one) in words for one in (field, given, allowed)), words[:500]
    with world.platform.db.read_raw() as connection:
        assert connection.execute("SELECT count(*) FROM workload WHERE name = 'large'").fetchone() == (0,)
        assert connection.execute("SELECT count(*) FROM pool WHERE length(name) > 30").fetchone() == (0,)


def test_lists_of_addresses_count_as_long_as_they_will_be() -> None:
    many = "%{addresses:w:http}" * 20
    role = Role(name="w", command=("true",), env={"A": many}, count=1000, ports=({"label": "http"},))
    with pytest.raises(LocalmlError, match=f"env: at most {limits.MOST_STRING} bytes"):
        need_within(WorkloadSpec(roles=(role,)))


def test_a_gang_has_no_more_members_than_its_network_has_addresses() -> None:
    gang = DockerEngine.capabilities.gang
    need_within(WorkloadSpec(roles=(Role(count=gang),)), gang=gang)
    with pytest.raises(LocalmlError, match=f"count: at most {gang} replicas"):
        need_within(WorkloadSpec(roles=(Role(count=gang + 1),)), gang=gang)


def test_what_is_just_within_all_totals_is_admitted(world: World) -> None:
    role = {"command": ["true", "x" * 100_000], "env": {f"A{n}": "" for n in range(1000)}, "count": 1000}
    body = {**of(role, depends_on=[]), "name": "just-within", "pool": "/".join("a" * 16)}
    answer = world.send(world.admin, Operation("native", "POST", NATIVE, ""), Try("", body=body), {})
    assert answer.status == 201, answer.data[:300]


def test_versions_of_an_endpoint_share_one_total_of_replicas(world: World) -> None:
    made = {"name": "shared", "image": "i", "scaling": {"minimum": 1, "maximum": 600}}
    world.do(world.admin, "POST", "/localml/v1/endpoints", made)
    variants = [{"image": f"i{n}", "weight": 50} for n in range(2)]
    op = Operation("native", "PUT", "/localml/v1/endpoints/shared/variants", "")
    answer = world.send(world.admin, op, Try("", body={"variants": variants}), {})
    assert (answer.status, answer.json["error"]["field"]) == (400, "variants")
    assert "at most 1000 replicas of all versions together, not 1200" in answer.json["error"]["message"]


def test_many_new_series_are_made_in_one_transaction(rig: Rig) -> None:
    job, samples = Subject.workload(rig.submit("a")), Samples(rig.db)
    write, commits = rig.db.write, []
    rig.db.write = lambda act: (commits.append(act), write(act))[1]  # type: ignore[method-assign]
    samples.add_many(job, [(f"s{n}", 1.0, float(n)) for n in range(5_000)])
    samples.flush()
    assert len(commits) == 2
    assert len(samples.read(job)) == 5_000


def test_a_subject_has_no_more_series_than_are_allowed(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("localml.core.series.samples.MOST_SERIES", 10)
    job, other, samples = Subject.workload(rig.submit("a")), Subject.workload(rig.submit("b")), Samples(rig.db)
    samples.add_many(job, [(f"s{n}", 1.0, 1.0) for n in range(8)])
    with pytest.raises(LocalmlError, match=f"name: at most 10 series of workload {job.id}, not 11"):
        samples.add_many(job, [(f"t{n}", 1.0, 1.0) for n in range(3)])
    samples.add_many(job, [("s0", 1.0, 2.0), ("t0", 1.0, 1.0)])
    samples.add_many(job, [(f"cpu{n}", 1.0, 1.0) for n in range(20)], replica="w-0", measured=True)
    samples.add_many(other, [(f"s{n}", 1.0, 1.0) for n in range(10)])
    assert [len(samples.read(one)) for one in (job, other)] == [29, 10]


def test_nobody_fills_the_queue_alone(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("localml.core.work.room.MOST_WAITING", 6)
    monkeypatch.setattr("localml.core.work.room.MOST_WAITING_OF_ONE", 4)
    for n in range(4):
        rig.submit(f"a{n}")
    with pytest.raises(LocalmlError, match="queue: at most 4 workloads of one user that are not over, not 5") as found:
        rig.submit("a4")
    assert found.value.details["retry_after"] > 0
    rig.settle()
    rig.clock.advance(5)
    rig.settle()
    rig.submit("a4")


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/localml/v1/users/bob/tokens", {}),
        ("/localml/v1/users/bob/keys", {}),
        ("/localml/v1/workspaces", {"name": "w{n}"}),
        ("/localml/v1/buckets", {"name": "bucket-{n}"}),
        ("/localml/v1/endpoints", {"name": "e{n}", "image": "i"}),
        ("/localml/v1/notebooks", {"name": "n{n}"}),
    ],
)
def test_a_user_has_no_more_of_anything_than_is_allowed(
    world: World, monkeypatch: pytest.MonkeyPatch, path: str, body: dict[str, str]
) -> None:
    monkeypatch.setattr("localml.core.rows.MOST_OF_ONE", 3)
    op, statuses = Operation("native", "POST", path, ""), []
    for n in range(5):
        made = {name: text.format(n=n) for name, text in body.items()}
        answer = world.send(world.bob, op, Try("", body=made), {})
        statuses.append(answer.status)
    assert statuses[-1] == 400, (statuses, answer.data)
    assert "at most 3" in answer.json["error"]["message"]


def test_a_pool_is_not_made_for_each_word(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("localml.core.capacity.pools.MOST_POOLS", len(world.platform.pools.list()) + 4)
    op = Operation("native", "POST", NATIVE, "")
    answers = [
        world.send(world.bob, op, Try("", body={**of(), "name": f"p{n}", "pool": f"p/{n}"}), {}) for n in range(5)
    ]
    assert [one.status for one in answers] == [201, 201, 201, 400, 400]
    assert "pools in all" in answers[-1].json["error"]["message"]
    again = world.send(world.bob, op, Try("", body={**of(), "name": "again", "pool": "p/0"}), {})
    assert again.status == 201


@pytest.mark.parametrize("levels", [limits.MOST_LEVELS, limits.MOST_LEVELS + 1, 900, 100_000])
def test_bodies_are_no_deeper_than_what_reads_them_can_go(world: World, levels: int) -> None:
    text = '{"job_name": "deep", "zz": ' + "[" * (levels - 1) + "]" * (levels - 1) + "}"
    answer = world.send(world.admin, Operation("cloudml", "POST", TRAIN, ""), Try("", body=text), {})
    words = ("values",) if levels > limits.MOST_VALUES else ("nested", "levels")
    assert any(word in answer.data.decode() for word in words) == (levels > limits.MOST_LEVELS)
    assert answer.status == 403, "which is what the vendor says of a bad request"


def tar_of(path: Path, members: int) -> Path:
    """An archive of empty files, of which seven bytes of gzip hold one."""
    with tarfile.open(path, "w:gz") as archive:
        for number in range(members):
            archive.addfile(tarfile.TarInfo(str(number)))
    return path


def zip_of(path: Path, members: int) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for number in range(members):
            archive.writestr(str(number), b"")
    return path


def test_a_small_archive_of_many_files_is_given_up_early(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, looked_at, made = tar_of(tmp_path / "a.tar.gz", 3_000), [0], []
    add = Tree.add

    def counted(tree: Tree, *given: Any) -> Any:
        looked_at[0] += 1
        return add(tree, *given)

    monkeypatch.setattr(Tree, "add", counted)
    monkeypatch.setattr("localml.objects.archives.tempfile.mkdtemp", lambda **_: made.append(1))
    assert source.stat().st_size < 8 * 3_000
    with pytest.raises(LocalmlError, match=r"member '1000' is one too many: 1001 in \d+ bytes of the archive") as found:
        unpack(source, tmp_path / "out", Limits(files_from=1_000))
    assert (found.value.code, looked_at, made) == (Code.TOO_LARGE, [1_001], [])


def test_a_zip_of_too_many_files_is_refused_by_its_table_of_contents(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = zip_of(tmp_path / "a.zip", 1_001)
    monkeypatch.setattr("zipfile.ZipInfo", lambda *_: pytest.fail("an entry was looked at"))
    with pytest.raises(LocalmlError, match="holds 1001 members, at most 1000 are unpacked"):
        inspect_archive(source, Limits(files=1_000))


def test_archives_of_many_small_files_are_good() -> None:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w:gz") as archive:
        for number in range(12_000):
            data = hashlib.sha256(str(number).encode()).digest()
            member = tarfile.TarInfo(f"{number}")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    assert inspect_archive(content).files == 12_000
