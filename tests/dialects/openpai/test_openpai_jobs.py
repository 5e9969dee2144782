"""What becomes of a job config: the workload, the refusals, the answers."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from helpers.openpai import PaiClient, role
from helpers.rig import wait_until
from sqlmodel import Session

from localml.core.errors import Code
from localml.core.sql import update_rows
from localml.core.work.states import Desired, State
from localml.core.work.tables import Attempt
from localml.core.work.workloads import Query
from localml.dialects.openpai.errors import KINDS
from localml.dialects.openpai.translate.answers import EXECUTION_WORDS, STATE_WORDS, SUB_STATE_WORDS
from localml.engines.fake.engine import FakeEngine
from localml.platform import Platform

FS = "hdfs://localml:9000"


def config(**more: Any) -> dict[str, Any]:
    return {"jobName": "job", "image": "i", "taskRoles": [role()], **more}


def one_role(**more: Any) -> dict[str, Any]:
    return config(taskRoles=[role(**more)])


def port(**more: Any) -> dict[str, Any]:
    return one_role(portList=[{"label": "a", "beginAt": 0, "portNumber": 1, **more}])


def test_every_state_and_every_failure_has_a_word() -> None:
    assert set(STATE_WORDS) == set(SUB_STATE_WORDS) == set(State)
    assert set(STATE_WORDS.values()) <= {"WAITING", "RUNNING", "STOPPED", "SUCCEEDED", "FAILED", "UNKNOWN"}
    assert set(EXECUTION_WORDS) == set(Desired)
    assert set(KINDS) == set(Code)


INSIDE: list[dict[str, Any]] = [
    config(jobName="~._-0Z"),
    config(jobName="x" * 128),
    config(retryCount=0),
    config(retryCount=1000),
    config(retryCount=-1),
    config(retryCount=-2),
    config(retryCount="2"),
    config(jobEnvs={"_A.b": "x"}),
    config(gpuType="Simulated"),
    config(killAllOnCompletedTaskNumber=0),
    config(dataDir="", codeDir=None, authFile="", virtualCluster="", outputDir=""),
    config(somethingElse={"kept": [1]}),
    one_role(name="A~._0"),
    one_role(name="x" * 64),
    one_role(count=8),
    one_role(memoryMB=100),
    one_role(memoryMB=100, shmMB=100),
    one_role(shmMB=1),
    one_role(cpuNumber=8),
    one_role(cpuNumber=9),  # than there are: it has the machine to itself
    one_role(gpuNumber=2),
    one_role(minFailedTaskCount=None, minSucceededTaskCount=None),
    one_role(minFailedTaskCount=1, minSucceededTaskCount=1),
    one_role(portList=None),
    port(label="a~._0"),
    port(label="x" * 56, portNumber=100),
    port(beginAt=65535),
    port(beginAt=65436, portNumber=100),
    config(taskRoles=[role("A"), role("a")]),
]
OUTSIDE: list[tuple[dict[str, Any] | bytes, str]] = [
    ({}, "jobName: is required"),
    ({"jobName": "job", "image": "i"}, "taskRoles: is required"),
    (config(jobName=""), "jobName"),
    (config(jobName="a b"), "jobName"),
    (config(jobName="a/b"), "jobName"),
    (config(jobName=".."), "jobName"),
    (config(jobName="-a"), "jobName"),
    (config(jobName="x" * 129), "jobName"),
    (config(jobName=3), "jobName"),
    (config(image=["i"]), "image"),
    (config(retryCount=1001), "retryCount"),
    (config(retryCount=True), "retryCount"),
    (config(retryCount=0.5), "retryCount"),
    (config(killAllOnCompletedTaskNumber=-1), "killAllOnCompletedTaskNumber"),
    (config(jobEnvs={"A B": "x"}), "jobEnvs"),
    (config(jobEnvs={"A": {}}), "jobEnvs"),
    (config(taskRoles=[]), "taskRoles"),
    (config(taskRoles="["), "taskRoles"),
    (config(taskRoles=[role(), role()]), "names must differ"),
    (one_role(name=""), "taskRoles.0.name"),
    (one_role(name="a-b"), "taskRoles.0.name"),
    (one_role(name="x" * 65), "taskRoles.0.name"),
    (one_role(count=0), "taskNumber"),
    (one_role(count=1001), "taskNumber"),
    (one_role(cpuNumber=0), "cpuNumber"),
    (one_role(cpuNumber=10**10), "cpuNumber"),
    (one_role(memoryMB=99), "memoryMB"),
    (one_role(memoryMB=100, shmMB=101), "shmMB (101) must not be more than memoryMB (100)"),
    (one_role(shmMB=0), "shmMB"),
    (one_role(gpuNumber=-1), "gpuNumber"),
    (one_role(command=""), "command"),
    (one_role(command=None), "command"),
    (one_role(minFailedTaskCount=0), "minFailedTaskCount"),
    (one_role(minSucceededTaskCount=0), "minSucceededTaskCount"),
    (port(label=""), "label"),
    (port(label="a-b"), "label"),
    (port(label="x" * 57), "label"),
    (port(beginAt=-1), "beginAt"),
    (port(beginAt=65536), "beginAt"),
    (port(beginAt=65535, portNumber=2), "65535"),
    (port(portNumber=0), "portNumber"),
    (port(portNumber=101), "portNumber"),
    (one_role(portList=[{"label": "a"}, {"label": "a"}]), "labels must differ"),
    (b"{", "body: is not JSON"),
    (b"", "body"),
    (b"[1]", ""),
    (b'{"jobName": "a", "taskRoles": [{"name": 1e999}]}', "too large a number"),
    (config(retryCount=-3), "retryCount"),
    ({"jobName": "b", "a": "1", "a[b]": "2"}, "is given as a value and as an object"),
    ({"jobName": "b", "a" + "[x]" * 20: "1"}, "nested too deeply"),
]
"""What breaks the schema."""
REFUSED: list[tuple[dict[str, Any], str]] = [
    (one_role(cpuNumber=5000), "cpuNumber: 5000 CPU cores were asked for"),
    (config(gpuType="H100", taskRoles=[role(gpuNumber=1)]), "H100"),
    (config(dataDir="hdfs://h/../x"), "dataDir: must not hold '..'"),
    (config(outputDir="ftp://h/x"), "outputDir"),
    (config(dataDir="file:///etc"), "dataDir"),
    (config(codeDir=f"{FS}/nothing"), "codeDir: hdfs://localml:9000/nothing does not exist"),
    (config(authFile=f"{FS}/nothing"), "authFile"),
    (one_role(memoryMB=16385), "memoryMB"),
    (one_role(gpuNumber=3), "gpuNumber: 3 GPUs were asked for, this machine has 2"),
    (one_role(gpuNumber=2000), "gpuNumber: 2000 GPUs"),
    (one_role(gpuNumber=1, count=3), "gpuNumber: 3 GPUs were asked for, this machine has 2"),
    (one_role(portList=[{"label": "a", "beginAt": 80, "portNumber": 2}, {"label": "b", "beginAt": 81}]), "port 81"),
    (one_role(count=90, portList=[{"label": "a", "portNumber": 100}]), "4096 ports"),
]
"""What keeps to the schema and can't be done."""


@pytest.mark.parametrize("body", INSIDE, ids=range(len(INSIDE)))
def test_configs_just_inside_the_rules_are_taken_and_given_back_as_they_were(
    client: PaiClient, body: dict[str, Any]
) -> None:
    """But for numbers that came as texts."""
    answer = client.post("/jobs", body)
    assert answer.status == 201, answer.data
    assert client.get(f"/jobs/{body['jobName']}/config").json == numbered(body)


def numbered(value: Any) -> Any:
    if isinstance(value, list):
        return [numbered(one) for one in value]
    if not isinstance(value, dict):
        return value
    found = {name: numbered(one) for name, one in value.items()}
    thresholds = {name: None for name, one in found.items() if name.startswith("min") and one in ("", "null")}
    counts = {name: int(one) for name, one in found.items() if name.endswith("Count") and str(one).isdigit()}
    return found | thresholds | counts


@pytest.mark.parametrize(
    ("body", "reason", "failure"),
    [(*one, (500, "ParameterValidationError", "Could not validate request data.\n")) for one in OUTSIDE]
    + [(*one, (400, "JobUpdateError", "job update error: ")) for one in REFUSED],
    ids=[f"{n} {reason[:30]}" for n, (_, reason) in enumerate([*OUTSIDE, *REFUSED])],
)
def test_configs_just_outside_the_rules_are_refused_with_the_reason(
    client: PaiClient, platform: Platform, body: Any, reason: str, failure: tuple[int, str, str]
) -> None:
    answer = client.post("/jobs", body)
    assert (answer.status, answer.json["error"]) == failure[:2]
    assert answer.json["message"].startswith(failure[2])
    assert reason in answer.json["message"]
    assert client.get("/jobs").json == []
    assert not platform.buckets.exists(f"{FS}/Output/job")


def test_a_member_that_is_missing_is_named(client: PaiClient) -> None:
    for name in ("name", "taskNumber", "cpuNumber", "memoryMB", "gpuNumber", "command"):
        broken = {key: value for key, value in role().items() if key != name}
        answer = client.post("/jobs", config(taskRoles=[broken]))
        assert answer.json["message"] == f"Could not validate request data.\ntaskRoles.0.{name}: is required"


def test_more_than_a_virtual_cluster_has_is_refused_with_the_numbers(client: PaiClient) -> None:
    answer = client.post("/jobs", config(virtualCluster="vc1", taskRoles=[role(gpuNumber=2)]))
    assert answer.status == 400
    assert "gpuNumber: 2 were asked for, pool 'openpai/vc1' has 1 in all" in answer.json["message"]


def test_a_whole_config_comes_as_a_form(client: PaiClient) -> None:
    client.form = True
    fields = {"jobName": "form", "image": "i", "retryCount": "1", "jobEnvs[A]": "b"}
    for name, value in role("w", "true", 2, minFailedTaskCount="null").items():
        fields[f"taskRoles[0][{name}]"] = value
    fields |= {"taskRoles[0][portList][0][label]": "p", "taskRoles[0][portList][0][beginAt]": "0"}
    assert client.post("/jobs", fields).status == 201
    kept = client.get("/jobs/form/config").json
    assert kept["taskRoles"][0]["portList"] == [{"label": "p", "beginAt": 0}]
    assert client.status("form")["taskRoles"]["w"]["taskStatuses"][1]["taskIndex"] == 1
    assert client.put("/jobs/form/executionType", {"value": "STOP"}).status == 200


def test_a_job_waits_with_all_its_members_filled(client: PaiClient, platform: Platform) -> None:
    job = client.submit("job~1", role("w", count=2, gpuNumber=1), role("ps"), retryCount=3)
    expected = {
        "name": "job~1",
        "username": "admin",
        "state": "WAITING",
        "subState": "FRAMEWORK_WAITING",
        "executionType": "START",
        "retries": 0,
        "virtualCluster": "default",
        "createdTime": str(int(platform.clock.now() * 1000)),
        "completedTime": None,
        "appProgress": None,
        "appTrackingUrl": "http://localhost/api/v1/jobs/job~1",
        "appLaunchedTime": None,
        "appCompletedTime": None,
        "appExitCode": None,
        "appExitDiagnostics": None,
    }
    assert expected.items() <= job.items()
    nested = job["jobStatus"]
    assert nested["createdTime"] == int(platform.clock.now() * 1000)
    same = ("username", "state", "subState", "executionType", "retries", "virtualCluster", "appId", "appTrackingUrl")
    assert {name: nested[name] for name in same} == {name: job[name] for name in same}
    assert {name: len(one["taskStatuses"]) for name, one in job["taskRoles"].items()} == {"w": 2, "ps": 1}
    assert job["taskRoles"]["w"]["taskStatuses"][1] == {
        "taskIndex": 1,
        "taskState": "WAITING",
        **dict.fromkeys(("containerId", "containerIp", "containerPorts", "containerGpus", "containerLog")),
        "containerExitCode": None,
    }
    (listed,) = client.get("/jobs").json
    assert listed.items() <= job.items()


def test_shared_memory_is_as_large_as_asked_for_and_else_as_anybodys(client: PaiClient, platform: Platform) -> None:
    client.submit("j", role("asks", shmMB=65), role("silent", memoryMB=301), role("small"))
    number = platform.workloads.page(Query(dialect="openpai", limit=1)).items[0].id
    roles = platform.workloads.get(number).spec.roles
    assert {one.name: one.resources.shm for one in roles} == {"asks": 65 << 20, "silent": None, "small": None}
    said = {one.name: one.env["PAI_CURRENT_TASK_ROLE_SHM_MB"] for one in roles}
    assert said == {"asks": "65", "silent": "150", "small": "64"}


def test_a_job_goes_through_its_states(client: PaiClient, platform: Platform, engine: FakeEngine) -> None:
    loop = platform.reconciler
    seen = []
    client.submit("life", role("w", count=2, gpuNumber=1), jobEnvs={"FAKE_SECONDS": "5", "FAKE_OUTPUT": "hi"})

    def settle(state: str) -> dict[str, Any]:
        def there() -> bool:
            loop.tick()
            found = client.status("life")["state"]
            if found not in seen[-1:]:
                seen.append(found)
            return bool(found == state)

        wait_until(there)
        return client.status("life")

    running = settle("RUNNING")
    tasks = running["taskRoles"]["w"]["taskStatuses"]
    assert sum(one["containerGpus"] for one in tasks) == 0b11
    assert {tuple(one["containerPorts"]) for one in tasks} == {("http", "ssh")}
    assert all(one["containerIp"] == "127.0.0.1" for one in tasks)
    assert running["appProgress"] == "0"
    assert running["appLaunchedTime"] == running["createdTime"]
    number = platform.workloads.page(Query(dialect="openpai", limit=1)).items[0].id
    assert tasks[1]["containerLog"] == f"http://localhost/localml/v1/workloads/{number}/logs?role=w&index=1"
    cluster = client.get("/virtual-clusters/default").json
    assert cluster["usedCapacity"] == 100
    assert cluster["resourcesUsed"] == {"memory": 200, "vCores": 2, "GPUs": 2}
    assert (cluster["numActiveJobs"], cluster["numPendingJobs"], cluster["numJobs"]) == (1, 0, 1)
    client.submit("next", role(gpuNumber=1))
    assert client.get("/virtual-clusters").json["default"]["numPendingJobs"] == 1
    platform.clock.advance(6)  # type: ignore[attr-defined]
    engine.tick()
    loop.hint(tasks[0]["containerId"])
    loop.hint(tasks[1]["containerId"])
    ended = settle("SUCCEEDED")
    assert seen[-2:] == ["RUNNING", "SUCCEEDED"]
    assert (ended["appExitCode"], ended["appProgress"]) == (0, "1")
    assert int(ended["appCompletedTime"]) >= int(ended["appLaunchedTime"]) + 5000
    assert ended["appExitDiagnostics"]


def test_a_task_has_an_exit_code_once_it_is_over(client: PaiClient, platform: Platform) -> None:
    """Between its program's exit and the end of its output it is still running, as everywhere."""
    client.submit("over", role("w"))
    wait_until(lambda: (platform.reconciler.tick(), client.status("over")["state"])[1] == "RUNNING")
    number = platform.workloads.page(Query(dialect="openpai", limit=1)).items[0].id

    def exits(session: Session) -> None:
        update_rows(session, Attempt, {"exited_at": platform.clock.now(), "exit_code": 3}, workload_id=number)

    platform.db.write(exits)
    (task,) = client.status("over")["taskRoles"]["w"]["taskStatuses"]
    assert (task["taskState"], task["containerExitCode"]) == ("RUNNING", None)


def test_virtual_clusters_show_their_share_of_the_machine(client: PaiClient) -> None:
    clusters = client.get("/virtual-clusters").json
    assert set(clusters) == {"default", "vc1", "vc2"}
    assert (clusters["vc1"]["capacity"], clusters["vc1"]["maxCapacity"]) == (50, 50)  # one GPU of two, 16 of 32 cores
    assert clusters["default"]["capacity"] == 100
    assert clusters["vc1"] == client.get("/virtual-clusters/vc1").json


@pytest.mark.parametrize("path", ["/nothing", "/nothing/", "/jobs/a/b/c", "/user/x", "/virtual-clusters/a/b"])
def test_an_unknown_url_is_answered_in_the_vendors_shape(client: PaiClient, path: str) -> None:
    answer = client.get(path)
    assert (answer.status, set(answer.json)) == (404, {"error", "message"})


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("DELETE", "/jobs/x", "GET"),
        ("PUT", "/jobs", "GET, POST"),
        ("GET", "/token", "POST"),
        ("POST", "/user", "DELETE, PUT"),
    ],
)
def test_a_wrong_method_is_told_the_right_ones(client: PaiClient, method: str, path: str, allowed: str) -> None:
    answer = client.call(method, path, {})
    assert (answer.status, set(answer.json), answer.headers["Allow"]) == (405, {"error", "message"}, allowed)


@pytest.mark.parametrize("body", [{"value": "start"}, {"value": 1}, {}, b"{", b""])
def test_a_command_that_is_none_is_refused(client: PaiClient, body: Any) -> None:
    client.submit("job", role())
    answer = client.put("/jobs/job/executionType", body)
    assert (answer.status, answer.json["error"]) == (500, "ParameterValidationError")


def test_without_an_ssh_service_the_job_is_known_and_not_reached(
    client: PaiClient, platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(platform, "ssh", None, raising=False)
    client.submit("job", role())
    answer = client.get("/jobs/job/ssh")
    assert (answer.status, answer.json["error"]) == (500, "InternalServerError")
    assert "ssh" in answer.json["message"]


def test_the_private_key_is_for_the_owner(
    client: PaiClient, nobody: PaiClient, platform: Platform, new_user: Any
) -> None:
    bob, carl = new_user("bob"), new_user("carl")
    bob.submit("job", role())

    class Ssh:
        def private_key(self, workload_id: int, user: Any) -> bytes:
            return b"key of %d" % workload_id

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(platform, "ssh", Ssh(), raising=False)
        assert nobody.get("/jobs/job/ssh/privateKey").status == 401
        assert carl.get("/jobs/job/ssh/privateKey").status == 401
        assert bob.get("/jobs/job/ssh/privateKey").data.startswith(b"key of ")


def test_code_may_be_large_but_not_larger(client: PaiClient, platform: Platform) -> None:
    uri = f"{FS}/code/big"
    platform.buckets.open(uri, "wb").close()
    path = platform.buckets.path(uri)
    with path.open("r+b") as file:
        file.truncate(200 << 20)
    assert client.post("/jobs", config(codeDir=f"{FS}/code")).status == 201
    with path.open("r+b") as file:
        file.truncate((200 << 20) + 1)
    answer = client.post("/jobs", config(jobName="big", codeDir=f"{FS}/code"))
    assert answer.status == 400
    assert "200 MB is the most" in answer.json["message"]


@pytest.mark.parametrize("text", ["", "one\ntwo", "a\nb\nc\nd", "a\n\nc", "x" * 5000, "\udcff\nb\nc"])
def test_an_auth_file_has_three_lines(client: PaiClient, platform: Platform, text: str) -> None:
    with platform.buckets.open(f"{FS}/auth", "wb") as file:
        file.write(text.encode("utf-8", "surrogateescape"))
    answer = client.post("/jobs", config(authFile=f"{FS}/auth"))
    assert answer.status == 400
    assert (
        "authFile: hdfs://localml:9000/auth must hold a registry, a user name and a password" in answer.json["message"]
    )


def test_what_an_auth_file_holds_is_not_kept(client: PaiClient, platform: Platform, tmp_path: Any) -> None:
    with platform.buckets.open(f"{FS}/auth", "wb") as file:
        file.write(b"registry.local:5000\nme\nvery-secret-word\n")
    client.submit("private", role(), authFile="$PAI_DEFAULT_FS_URI/auth", image="registry.local:5000/i")
    row = platform.workloads.page(Query(dialect="openpai", limit=1)).items[0]
    assert platform.workloads.get(row.id or 0).spec.roles[0].registry_auth == f"{FS}/auth"
    platform.backup(tmp_path / "copy.db")
    assert b"very-secret-word" not in (tmp_path / "copy.db").read_bytes()


def test_one_of_many_equal_submissions_wins(client: PaiClient, app: Any) -> None:
    statuses: list[int] = []
    threads = [
        threading.Thread(target=lambda: statuses.append(client.post("/jobs", config()).status)) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(statuses) == [201] + [400] * 7
