"""What becomes of a training job's request: the workload, the refusals, the answers."""

from __future__ import annotations

import io
import json
import tarfile
from typing import Any

import pytest
from flask import Flask
from helpers.cloudml import SignedClient, into

from localml.core.errors import Code
from localml.core.people.rights import MemberRole
from localml.core.work.specs import Mount, WorkloadSpec, single
from localml.core.work.states import Desired, State
from localml.core.work.tables import Workload
from localml.core.work.workloads import Query, Submission
from localml.dialects.cloudml.errors import ERRORS
from localml.dialects.cloudml.translate.training import STATE_WORDS, state_word
from localml.platform import Platform

NEWEST = Query(dialect="cloudml", limit=1)
TRAINER = "fds://cloud-ml-test/linear/trainer-1.0.0.tar.gz"
SDK_WORDS = {
    *("validated", "enqueuing", "enqueued", "pending", "creating", "processing", "running", "completed"),
    *("deleting", "error", "erasing", "failed", "modelserved"),
}


def body(**more: Any) -> dict[str, Any]:
    return {"job_name": "job", "module_name": "trainer.task", "trainer_uri": TRAINER, **more}


@pytest.fixture
def submitted(client: SignedClient, platform: Platform):  # type: ignore[no-untyped-def]
    def submit(**more: Any) -> WorkloadSpec:
        answer = client.post("/train", body(**more))
        assert answer.status == 200, answer.data
        found = platform.workloads.page(NEWEST)
        return platform.workloads.get(found.items[0].id or 0).spec

    return submit


@pytest.mark.parametrize(
    ("real", "members", "image"),
    [
        (True, {"gpu_limit": 1}, "train-pytorch-gpu"),
        (True, {}, "train-pytorch"),
        (False, {"gpu_limit": 1}, "train-pytorch"),
        (True, {"gpu_limit": 1, "framework": "scikitlearn"}, "train-sklearn"),
        (True, {"gpu_limit": 1, "docker_image": "mine:1", "docker_command": "true"}, "mine:1"),
    ],
)
def test_pytorch_for_cuda_is_what_jobs_get_with_gpus_that_exist(
    submitted: Any, monkeypatch: pytest.MonkeyPatch, real: bool, members: dict[str, Any], image: str
) -> None:
    monkeypatch.setattr(Platform, "real_gpus", real)
    (role,) = submitted(**{"framework": "torch", **members}).roles
    assert role.image == (image if ":" in image else f"localml/{image}:latest")


def test_every_state_and_every_failure_has_a_word() -> None:
    assert set(STATE_WORDS) == set(State)
    assert set(STATE_WORDS.values()) | {"deleting"} <= SDK_WORDS
    assert set(ERRORS) == set(Code)
    assert {status for status, _ in ERRORS.values()} == {401, 403, 404, 405, 413, 429, 503}


def test_clients_that_wait_see_the_end_of_every_job() -> None:
    ends = {STATE_WORDS[state] for state in (State.SUCCEEDED, State.FAILED, State.STOPPED)}
    assert ends <= {"completed", "modelserved", "failed"}


def test_a_job_that_was_asked_to_stop_is_deleting_until_it_is_over() -> None:
    row = Workload(state=State.RUNNING, desired=Desired.STOP, ended_at=None)
    assert state_word(row) == "deleting"
    row.state, row.ended_at = State.STOPPED, 1.0
    assert state_word(row) == "failed"


@pytest.mark.parametrize(
    ("counts", "roles"),
    [
        ({}, {"master": 1}),
        ({"worker_count": 1}, {"master": 1}),
        ({"worker_count": 3}, {"master": 1, "worker": 2}),
        ({"ps_count": 2, "worker_count": "3"}, {"master": 1, "worker": 2, "ps": 2}),
        ({"ps_count": 1}, {"master": 1, "ps": 1}),
        ({"cluster_spec": {"ps": {"count": "1"}, "worker": {"count": 2}}}, {"ps": 1, "worker": 2}),
    ],
)
def test_counts_become_roles_of_which_only_parameter_servers_serve(submitted, counts, roles) -> None:  # type: ignore[no-untyped-def]
    spec = submitted(**counts)
    assert {role.name: role.count for role in spec.roles} == roles
    assert {role.name for role in spec.roles if role.service} == roles.keys() & {"ps"}
    assert all([(port.container, port.publish) for port in role.ports] == [(2222, False)] for role in spec.roles)


def test_the_launcher_is_told_what_to_run(submitted) -> None:  # type: ignore[no-untyped-def]
    commands = {"prepare_command": "echo a", "finish_command": "echo b"}
    role = submitted(job_args="--x 1", framework="python", data_output_path="fds://out/x", **commands).roles[0]
    assert role.image == "localml/base:latest"
    assert role.command == ("python", "-m", "localml_launcher", "trainer")
    launch = {"trainer_uri": TRAINER, "module_name": "trainer.task", "job_args": "--x 1", **commands}
    assert json.loads(role.env["LOCALML_LAUNCH"]) == launch
    assert role.env["DATA_OUTPUT_PATH"] == "fds://out/x"


def test_without_a_framework_scikit_learn_runs(client: SignedClient, submitted) -> None:  # type: ignore[no-untyped-def]
    assert submitted().roles[0].image == "localml/train-sklearn:latest"
    shown = client.get("/train/job").json
    frameworks = client.get("/framework").json
    assert shown["software"] == "scikitlearn"
    assert shown["version"] == frameworks["scikitlearn"][0]
    assert shown["framework"] is None


def test_an_image_of_the_users_own_runs_the_users_command(submitted) -> None:  # type: ignore[no-untyped-def]
    role = submitted(docker_image="me/mine:1", docker_command="run me", trainer_uri="fds://no/where").roles[0]
    assert (role.image, role.command, role.env) == ("me/mine:1", ("sh", "-c", "run me"), {})


@pytest.mark.parametrize(("cpu", "cores"), [(0.5, 0.5), ("0.5", 0.5), (2, 2.0), ("1", 1.0), (0, None)])
def test_amounts_are_taken_as_number_or_text_and_answered_as_given(  # type: ignore[no-untyped-def]
    client: SignedClient, submitted, cpu, cores
) -> None:
    resources = submitted(cpu_limit=cpu, memory_limit="1.5G", gpu_limit="1").roles[0].resources
    assert (resources.cpu, resources.memory, resources.gpu) == (cores, 3 << 29, 1)
    shown = client.get("/train/job").json
    assert (shown["cpu_limit"], shown["memory_limit"], shown["gpu_limit"]) == (cpu, "1.5G", 1)
    assert type(shown["cpu_limit"]) is type(cpu)


def test_each_task_type_of_a_cluster_may_have_amounts_and_arguments_of_its_own(submitted) -> None:  # type: ignore[no-untyped-def]
    cluster = {"ps": {"count": 1, "cpu_limit": "1"}, "worker": {"count": 2, "gpu_limit": 1, "task_args": "--w"}}
    ps, worker = submitted(cluster_spec=cluster, cpu_limit="0.5", job_args="--all").roles
    assert (ps.resources.cpu, ps.resources.gpu) == (1.0, 0)
    assert (worker.resources.cpu, worker.resources.gpu) == (0.5, 1)
    assert json.loads(ps.env["LOCALML_LAUNCH"])["job_args"] == "--all"
    assert json.loads(worker.env["LOCALML_LAUNCH"])["job_args"] == "--all --w"


@pytest.mark.parametrize(("path", "source"), [("fds://data/set", "fds://data/set"), ("models", "workspace:models")])
def test_volumes_are_folders_of_the_bucket_tree_or_kept_ones(submitted, path: str, source: str) -> None:  # type: ignore[no-untyped-def]
    spec = submitted(volume_type="fds", volume_path=path, mount_path="/data", mount_read_only=True)
    assert spec.mounts == (Mount(source=source, target="/data", read_only=True),)


def test_what_the_client_sends_beyond_the_schema_is_answered_and_secrets_are_not_kept(client: SignedClient) -> None:
    more = {"enable_rank": 0, "save_mode": False, "fds_endpoint": "cnbj", "tensorboard_logdir": "fds://b/l"}
    hdfs = {"hdfs_krb_account": "me", "hdfs_krb_password": "hunter2", "hdfs_krb_keytab": "k"}
    answer = client.post("/train", body(**more, **hdfs, state="nonsense", mount_read_only=False))
    assert answer.status == 200
    assert more.items() <= answer.json.items()
    assert answer.json["hdfs_krb_account"] == "me"
    assert answer.json["state"] == "pending"
    assert answer.json["mount_read_only"] == "False"
    assert "hunter2" not in answer.data.decode() + client.get("/train").data.decode()


def test_no_secret_reaches_the_disk(client: SignedClient, platform: Platform) -> None:
    answer = client.post("/train", body(hdfs_krb_password="hunter2-on-disk", job_args="on-disk-for-sure"))
    assert answer.status == 200
    kept = b"".join(file.read_bytes() for file in platform.data.rglob("*") if file.is_file())
    assert b"on-disk-for-sure" in kept
    assert b"hunter2-on-disk" not in kept


INVALID = [
    ("body", b"", "is empty"),
    ("body", b"{", "is not JSON"),
    ("body", b"[1]", ""),
    ("body", b'"{}"', "not a text"),
    ("body", b'{"job_name": NaN}', "NaN"),
    ("body", b'{"cpu_limit": 1e999}', "too large"),
    ("body", b'{"job_name": "\\ud800"}', "Unicode"),
    ("body", b"[" * 10_000, "nested"),
    ("body", b"[" * 100_000, "at most 20000 values, not 100001"),
    ("job_name", {}, "is required"),
    ("job_name", body(job_name=5), "string"),
    ("job_name", body(job_name=""), "at least 1"),
    ("job_name", body(job_name="-a"), "lower-case"),
    ("job_name", body(job_name="Upper"), "lower-case"),
    ("job_name", body(job_name="a\n"), "lower-case"),
    ("job_name", body(job_name="a" * 129), "128"),
    ("module_name", {"job_name": "a", "trainer_uri": TRAINER}, "is required"),
    ("trainer_uri", {"job_name": "a", "module_name": "m"}, "is required"),
    ("trainer_uri", body(trainer_uri="ftp://x/y"), "must be fds://"),
    ("trainer_uri", body(trainer_uri="fds://b/../x"), "'..'"),
    ("trainer_uri", body(trainer_uri="fds://cloud-ml-test/none.tar.gz"), "does not exist"),
    ("trainer_uri", body(trainer_uri="fds://cloud-ml-test/linear/"), "folder"),
    ("trainer_uri", body(trainer_uri="file:///etc/passwd"), "administrators"),
    ("cpu_limit", body(cpu_limit=-1), "number of cores"),
    ("cpu_limit", body(cpu_limit="0,5"), "number of cores"),
    ("cpu_limit", body(cpu_limit=True), "number of cores"),
    ("cpu_limit", body(cpu_limit=10**400), "number of cores"),
    ("memory_limit", body(memory_limit=100), "units K, M and G"),
    ("memory_limit", body(memory_limit="100"), "units K, M and G"),
    ("memory_limit", body(memory_limit="100MB"), "units K, M and G"),
    ("memory_limit", body(memory_limit="1K"), "at least 4M"),
    ("gpu_limit", body(gpu_limit=0.5), "whole number"),
    ("gpu_limit", body(gpu_limit=-1), "whole number"),
    ("gpu_limit", body(gpu_limit=True), "whole number"),
    ("ps_count", body(ps_count=0), "greater than or equal to 1"),
    ("worker_count", body(worker_count="x"), "whole number"),
    ("worker_count", body(worker_count=1001), "1000"),
    ("cluster_spec", body(cluster_spec={"ps": {"count": 1}}, ps_count=1), "does not go with"),
    ("framework", body(framework="fortran"), "known are"),
    ("framework_version", body(framework="python", framework_version="0"), "known are"),
    ("docker_command", body(docker_command="x"), "needs docker_image"),
    ("prepare_command", body(docker_image="i", docker_command="x", prepare_command="y"), "docker_command"),
    ("mount_path", body(volume_path="fds://a/b"), "is required"),
    ("volume_path", body(mount_path="/a"), "is required"),
    ("mount_path", body(volume_path="fds://a/b", mount_path="a"), "absolute"),
    ("volume_path", body(volume_path=".hidden", mount_path="/a"), "workspace"),
    ("volume_path", body(volume_path="/nowhere/at/all", mount_path="/a"), "does not exist"),
    ("volume_path", body(volume_path="file:///etc", mount_path="/a"), "administrators"),
    ("mount_read_only", body(mount_read_only="perhaps"), "boolean"),
]


@pytest.mark.parametrize(("field", "sent", "reason"), INVALID)
def test_what_is_wrong_is_named_and_nothing_is_kept(client: SignedClient, field: str, sent: Any, reason: str) -> None:
    answer = client.post("/train", sent)
    message = answer.json["message"]
    assert (answer.status, answer.json["error"]) == (403, True), answer.data
    assert message.startswith(f"Invalid argument: {field}")
    assert message.endswith(".")
    assert reason in message
    assert client.get("/train").json == {"data": []}


def _archive(kind: str) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        member = tarfile.TarInfo("../escape" if kind == "escape" else "device")
        if kind == "device":
            member.type = tarfile.CHRTYPE
        tar.addfile(member)
    return packed.getvalue()


@pytest.mark.parametrize("kind", ["escape", "device", "text"])
def test_a_package_that_is_not_safe_is_refused_at_once(client: SignedClient, platform: Platform, kind: str) -> None:
    with platform.buckets.open(f"fds://cloud-ml-test/{kind}.tar.gz", "wb") as file:
        file.write(b"no archive at all" if kind == "text" else _archive(kind))
    answer = client.post("/train", body(trainer_uri=f"fds://cloud-ml-test/{kind}.tar.gz"))
    assert answer.status == 403
    assert answer.json["message"].startswith("Invalid argument: trainer_uri: ")


@pytest.mark.parametrize(
    ("field", "more", "numbers"),
    [
        ("gpu_limit", {"gpu_limit": 3}, ("3", "2")),
        ("gpu_limit", {"gpu_limit": 1_000_000}, ("1e+06", "2")),
        ("gpu_limit", {"gpu_limit": 1, "worker_count": 3}, ("3", "2")),
        ("cpu_limit", {"cpu_limit": "5000"}, ("5000",)),
        ("memory_limit", {"memory_limit": "17G"}, ()),
    ],
)
def test_more_than_the_machine_has_is_413_with_the_numbers(
    client: SignedClient, field: str, more: dict[str, Any], numbers: tuple[str, ...]
) -> None:
    answer = client.post("/train", body(**more))
    assert (answer.status, answer.json["error"]) == (413, True), answer.data
    assert answer.json["message"].startswith(field)
    assert all(number in answer.json["message"] for number in numbers)


@pytest.mark.parametrize("more", [{"cpu_limit": 9}, {"cpu_limit": "3", "ps_count": 1, "worker_count": 2}])
def test_more_cores_than_there_are_is_no_refusal(
    platform: Platform, client: SignedClient, more: dict[str, Any]
) -> None:
    assert client.post("/train", body(job_name="wide", **more)).status == 200
    full = platform.workloads.page(Query(contains="wide")).items[0]
    assert full.cpu == 9


def test_more_than_the_quota_is_413_and_shows_in_the_quota(platform: Platform, app: Flask) -> None:
    user = platform.identity.create_user("limited", "secret", org="limited")
    client = SignedClient(*platform.identity.create_key(user), into(app))
    platform.pools.set_limits("cloudml/train/limited", gpu=1, max_workloads=5)
    assert client.post("/train", body(gpu_limit=1, memory_limit="3000M", cpu_limit="1.5")).status == 200
    answer = client.post("/train", body(job_name="second", gpu_limit=1))
    assert answer.status == 413
    assert answer.json["message"].startswith("gpu_limit: pool 'cloudml/train/limited' has 1 in all, 1 in use")
    (record,) = client.get("/quota").json
    assert (record["train_gpu_quota"], record["train_gpu_used"], record["model_gpu_quota"]) == ("1", "1", "2")
    assert (record["train_memory_quota"], record["train_memory_used"]) == ("16G 0M 0.0K", "2G 952M 0.0K")
    assert (record["train_cpu_used"], record["dev_cpu_used"], record["total_cpu_used"]) == ("1.5", "0.0", "1.5")
    assert (record["train_count_quota"], record["train_count_used"]) == ("5", "1")


def test_a_name_in_use_is_refused_and_free_again_after_deletion(client: SignedClient) -> None:
    assert client.post("/train", body()).status == 200
    again = client.post("/train", body())
    assert (again.status, again.json["message"]) == (
        403,
        "Invalid argument: job_name: 'job' is already used by a job.",
    )
    assert client.delete("/train/job").status == 200
    assert client.post("/train", body()).status == 200


def test_organisations_see_their_own_jobs_only(client: SignedClient, stranger: SignedClient) -> None:
    assert client.post("/train", body()).status == 200
    assert stranger.get("/train").json == {"data": []}
    assert stranger.get("/train/job").status == 404
    assert stranger.delete("/train/job").status == 404
    assert stranger.get("/train/job?org_id=default").status == 403
    assert stranger.get("/train?org_id=-1").status == 403
    assert stranger.get("/quota?org_id=default").status == 403
    assert stranger.post("/train", body()).json["org_id"] == "elsewhere"
    assert [one["org_id"] for one in stranger.get("/train").json["data"]] == ["elsewhere"]


def test_a_shared_workspace_is_an_organisation_of_its_members(stranger: SignedClient, platform: Platform) -> None:
    admin = platform.identity.user("admin")
    team = platform.workspaces.create(admin, "cloudml-team").id
    work = Submission("shared", single(["true"]), admin, "cloudml", workspace=team)
    platform.workloads.submit(work)
    assert stranger.get(f"/train?org_id={team}").status == 403
    for role, status in ((MemberRole.VIEWER, 403), (MemberRole.MEMBER, 403), (MemberRole.EDITOR, 200)):
        platform.workspaces.set_member(team, "eve", role)
        assert stranger.get(f"/train?org_id={team}").status == 200
        assert stranger.delete(f"/train/shared?org_id={team}").status == status
    own = platform.identity.user("eve").workspace
    assert stranger.get(f"/train?org_id={own}").status == 403  # nobody's own is one


def test_the_administrator_may_act_for_all_organisations(client: SignedClient, stranger: SignedClient) -> None:
    stranger.post("/train", body(job_name="theirs"))
    client.post("/train", body(job_name="both"))
    stranger.post("/train", body(job_name="both"))
    assert len(client.get("/train?org_id=-1").json["data"]) == 3
    assert len(client.get("/train?org_id=elsewhere").json["data"]) == 2
    assert client.get("/train/theirs").status == 404
    assert client.get("/train/theirs?org_id=-1").json["org_id"] == "elsewhere"
    ambiguous = client.delete("/train/both?org_id=-1")
    assert (ambiguous.status, ambiguous.json["message"]) == (403, "Need org_id parameter")
    assert client.delete("/train/both?org_id=elsewhere").status == 200
    assert client.delete("/train/both?org_id=-1&is_cluster_name=True").status == 200
    assert {one["org_id"] for one in client.get("/quota?org_id=-1").json} >= {"default", "elsewhere"}


def test_a_caller_without_organisation_is_asked_for_one(platform: Platform, app: Flask) -> None:
    user = platform.identity.create_user("nobody", "secret", org="")
    client = SignedClient(*platform.identity.create_key(user), into(app))
    for method, path, words in (
        ("GET", "/train", "Need org_id parameter."),
        ("POST", "/train", "Need org_id parameter."),
        ("DELETE", "/train/job", "Need org_id parameter"),
        ("GET", "/quota", "Need org_id parameter."),
    ):
        answer = client.call(method, path, body() if method == "POST" else None)
        assert (answer.status, answer.json["message"]) == (403, words)


def test_the_published_clients_quota_request_is_answered_in_its_envelope(client: SignedClient) -> None:
    answer = client.post("/quota", {"org_mail": "me@example.com"})
    (record,) = answer.json["data"]
    assert record["org_mail"] == "me@example.com"
    for name in ("org_id", "total_memory_quota", "total_cpu_used", "train_count_used", "tensorboard_quota"):
        assert isinstance(record[name], str)
    assert client.post("/quota", [1]).status == 200


def test_events_are_there_under_both_names_and_keep_their_ids(client: SignedClient) -> None:
    client.post("/train", body())
    first, second = client.get("/train/job/events").json, client.get("/train/job/events").json
    assert first == second
    assert first["events"] == first["data"]
    assert first["recommend"] == []
    assert [event["reason"] for event in first["data"]] == ["Submitted"]


@pytest.mark.parametrize(
    ("method", "path", "words", "allowed"),
    [
        ("PUT", "/train", "Support POST/GET only", {"GET", "POST"}),
        ("POST", "/train/job", "Support GET/DELETE only", {"GET", "DELETE"}),
        ("OPTIONS", "/train/job/logs", "Support GET only", {"GET"}),
        ("DELETE", "/framework", "Support POST/GET only", {"GET", "POST"}),
    ],
)
def test_wrong_methods_are_told_the_right_ones(
    client: SignedClient, method: str, path: str, words: str, allowed: set[str]
) -> None:
    answer = client.send(method, "/cloud_ml/v1" + path, {}, b"")
    assert (answer.status, answer.json) == (405, {"error": True, "message": words})
    assert set(answer.headers["Allow"].split(", ")) == allowed


@pytest.mark.parametrize("path", ["/nothing", "/train/", "/train/job/else", "/cloud_ml", "/models"])
def test_unknown_addresses_are_404_in_the_vendors_shape(client: SignedClient, path: str) -> None:
    answer = client.get(path)
    assert (answer.status, answer.json["error"]) == (404, True)


def test_a_body_over_the_limit_is_413(client: SignedClient) -> None:
    answer = client.post("/train", b" " * ((1 << 20) + 1))
    assert (answer.status, answer.json["error"]) == (413, True)
