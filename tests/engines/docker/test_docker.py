"""What is special to containers: limits, images, ports, mounts, and objects of others."""

from __future__ import annotations

import threading
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import docker
import pytest
import requests
from docker.errors import APIError
from helpers.docker_image import TAG, clean_engine, tiny_image
from helpers.engine_kits import DEADLINE, wait_until
from helpers.ports import free_port
from hypothesis import given
from hypothesis import strategies as st

from localml.engines.base import (
    Bind,
    EngineError,
    EngineUnreachable,
    GpuGrant,
    ImageMissing,
    Phase,
    PortTaken,
    PublishedPort,
    ReplicaPlan,
)
from localml.engines.docker import DockerEngine, docker_available
from localml.engines.docker.containers import container_name, observed
from localml.engines.docker.daemon import engine_errors, open_client, readable

SLEEP = ("sleep", "600")


@pytest.fixture(scope="module")
def engine() -> Iterator[DockerEngine]:
    with clean_engine() as made:
        yield made


@pytest.fixture(scope="module")
def api(engine: DockerEngine) -> Iterator[docker.APIClient]:
    client = open_client()
    yield client
    client.close()


@pytest.fixture
def image(engine: DockerEngine) -> str:
    return engine.resolve_image(tiny_image())


def output(engine: DockerEngine, name: str) -> str:
    return b"".join(chunk.data for chunk in engine.logs(name, {}, follow=True)).decode()


@given(st.text(max_size=40))
def test_every_plan_name_has_a_name_that_docker_allows(name: str) -> None:
    made = container_name(name)
    assert len(made) > 1
    assert made[0].isascii()
    assert made[0].isalnum()
    assert all(letter.isascii() and (letter.isalnum() or letter in "_.-") for letter in made)


def test_names_that_differ_only_where_docker_does_not_allow_it_stay_apart() -> None:
    assert len({container_name(name) for name in ("a~b", "a_b", "a/b", "lml-a_b")}) == 4


def test_the_runtimes_layers_are_left_out_of_messages() -> None:
    said = "failed to create shim task: OCI runtime create failed: unable to start container process: no"
    assert readable(said) == "no"


def _refused(status: int) -> APIError:
    response = requests.Response()
    response.status_code = status
    return APIError("refused", response=response, explanation="the reason")


@pytest.mark.parametrize(
    ("status", "asking", "meaning"),
    [
        (500, False, EngineUnreachable),
        (503, False, EngineUnreachable),
        (501, False, EngineError),
        (404, False, EngineError),
        (409, False, EngineError),
        (404, True, EngineUnreachable),
        (403, True, EngineUnreachable),
    ],
)
def test_a_failing_daemon_is_told_from_one_that_refuses(status: int, asking: bool, meaning: type[Exception]) -> None:
    with pytest.raises(meaning, match="the reason"), engine_errors(asking=asking):
        raise _refused(status)


def _inspection(status: str, code: int, *, started: bool = True) -> dict[str, Any]:
    times = {"StartedAt": "2026-01-01T00:00:00Z" if started else "0001-01-01T00:00:00Z", "FinishedAt": ""}
    state = {"Status": status, "ExitCode": code, **times}
    return {"Id": "1", "Name": "/a-name", "Config": {"Labels": {}}, "State": state}


@pytest.mark.parametrize("status", ["removing", "dead"])
def test_what_a_forced_removal_killed_has_not_ended_by_itself(status: str) -> None:
    for killed in (_inspection(status, 137), _inspection(status, 0, started=False)):
        seen = observed(killed)
        assert (seen.phase, seen.exit_code, seen.error) == (Phase.EXITED, None, "somebody removed the container")
    for code in (0, 3, 143):  # it had ended before
        seen = observed(_inspection(status, code))
        assert (seen.phase, seen.exit_code, seen.error) == (Phase.EXITED, code, "")
    assert observed(_inspection("exited", 137)).exit_code == 137


def test_a_state_that_is_not_known_is_no_end() -> None:
    assert observed(_inspection("hibernating", 0)).phase is Phase.RUNNING


def test_a_daemon_that_does_not_answer_says_nothing_about_containers(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/no.sock")
    engine = DockerEngine("nobody")
    for ask in (
        lambda: engine.inspect("a-name"),
        engine.list,
        engine.nodes,
        engine.networks,
        lambda: engine.start(ReplicaPlan("a-name", "image")),
        lambda: engine.stop("a-name", 1),
        lambda: engine.remove("a-name"),
        lambda: engine.stats("a-name"),
        lambda: engine.exec("a-name", ("true",)),
        lambda: engine.resolve_image("image"),
        lambda: list(engine.logs("a-name", {}, follow=True)),
    ):
        with pytest.raises(EngineUnreachable):
            ask()
    reason = docker_available()
    assert reason is not None
    assert "No such file" in reason


def test_watching_a_daemon_that_is_away_ends_when_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/no.sock")
    stop = threading.Event()
    watcher = threading.Thread(target=lambda: list(DockerEngine("nobody").watch(stop)))
    watcher.start()
    stop.set()
    watcher.join(DEADLINE)
    assert not watcher.is_alive()


@pytest.mark.docker
def test_limits_are_set_in_the_kernel(engine: DockerEngine, image: str) -> None:
    script = (
        "cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/memory.max 2>/dev/null;"
        "cat /sys/fs/cgroup/pids/pids.max /sys/fs/cgroup/pids.max 2>/dev/null;"
        "cat /sys/fs/cgroup/cpu/cpu.cfs_quota_us 2>/dev/null || cut -d' ' -f1 /sys/fs/cgroup/cpu.max;"
        "df -k /dev/shm | tail -1 | awk '{print $2}'; grep NoNewPrivs /proc/self/status; id -u; pwd; hostname"
    )
    plan = ReplicaPlan(
        "limited",
        image,
        ("/bin/sh", "-c", script),
        cpu=0.5,
        memory=48 << 20,
        shm=8 << 20,
        pids=33,
        user="1234:1234",
        workdir="/tmp",
        hostname="worker-0",
    )
    engine.start(plan)
    expected = [str(48 << 20), "33", "50000", str(8 << 10), "NoNewPrivs:\t1", "1234", "/tmp", "worker-0"]
    assert output(engine, "limited").splitlines() == expected


@pytest.mark.docker
def test_more_cores_than_there_are_means_all_of_them(engine: DockerEngine, api: docker.APIClient, image: str) -> None:
    engine.start(ReplicaPlan("greedy", image, ("true",), cpu=4096))
    config = api.inspect_container("greedy")["HostConfig"]
    assert config["NanoCpus"] == int(engine.nodes()[0].cpu) * 10**9


@pytest.mark.docker
def test_a_replica_that_takes_too_much_memory_is_told_from_other_ends(engine: DockerEngine, image: str) -> None:
    # it ends a moment after the kernel's kill: Docker 20.10 forgets a kill that it hears of after the end
    script = "head -c 200m /dev/zero | tail; end=$?; sleep 1; exit $end"
    engine.start(ReplicaPlan("hungry", image, ("/bin/sh", "-c", script), memory=16 << 20))
    seen = wait_until(lambda: (now := engine.inspect("hungry")).phase is Phase.EXITED and now, "its end")
    assert seen.oom_killed
    assert seen.exit_code == 137


@pytest.mark.docker
def test_without_a_command_the_image_runs_its_own(engine: DockerEngine, image: str) -> None:
    engine.start(ReplicaPlan("its-own", image))
    assert output(engine, "its-own") == "the image itself\n"


@pytest.mark.docker
def test_a_gpu_variable_baked_into_the_image_or_given_by_a_user_has_no_effect(engine: DockerEngine, image: str) -> None:
    command = ("/bin/sh", "-c", "echo $NVIDIA_VISIBLE_DEVICES")
    engine.start(ReplicaPlan("no-gpu", image, command, env={"NVIDIA_VISIBLE_DEVICES": "all"}))
    assert output(engine, "no-gpu") == "void\n"
    engine.start(ReplicaPlan("pretend-gpu", image, command, gpus=(GpuGrant("GPU-sim", 0, simulated=True),)))
    assert output(engine, "pretend-gpu") == "GPU-sim\n"


@pytest.mark.docker
def test_folders_are_seen_where_they_were_asked_for(engine: DockerEngine, image: str, tmp_path: Path) -> None:
    writable, fixed = tmp_path / "with:colon", tmp_path / "fixed"
    writable.mkdir()
    fixed.mkdir()
    (fixed / "in").write_text("given")
    binds = (Bind(str(writable), "/data/out"), Bind(str(fixed), "/data/in", read_only=True))
    script = "cp /data/in/in /data/out/copy; touch /data/in/new 2>/dev/null || echo refused"
    engine.start(ReplicaPlan("binds", image, ("/bin/sh", "-c", script), binds=binds))
    assert output(engine, "binds") == "refused\n"
    assert (writable / "copy").read_text() == "given"


@pytest.mark.docker
def test_a_folder_that_is_missing_is_an_error_and_leaves_nothing(
    engine: DockerEngine, image: str, tmp_path: Path
) -> None:
    missing = tmp_path / "missing"
    with pytest.raises(EngineError, match="missing"):
        engine.start(ReplicaPlan("no-bind", image, SLEEP, binds=(Bind(str(missing), "/data"),)))
    assert engine.inspect("no-bind").phase is Phase.GONE
    assert not missing.exists()


@pytest.mark.docker
def test_ports_are_published_on_the_bind_address_and_a_taken_one_is_told(engine: DockerEngine, image: str) -> None:
    port = free_port()
    published = (PublishedPort("http", 8000, port),)
    serve = ("/bin/sh", "-c", "echo pong > /tmp/index.html; exec httpd -f -p 8000 -h /tmp")
    engine.start(ReplicaPlan("server", image, serve, ports=published))

    def answer() -> bytes:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/index.html", timeout=5) as response:
                return bytes(response.read())
        except OSError:
            return b""

    assert wait_until(answer, "the server's answer") == b"pong\n"
    with pytest.raises(PortTaken, match=str(port)):
        engine.start(ReplicaPlan("second", image, SLEEP, ports=published))
    assert engine.inspect("second").phase is Phase.GONE
    engine.remove("server")


@pytest.mark.docker
def test_published_ports_answer_on_no_other_address(engine: DockerEngine, api: docker.APIClient, image: str) -> None:
    engine.start(ReplicaPlan("local-only", image, SLEEP, ports=(PublishedPort("p", 80, free_port()),)))
    bindings = api.inspect_container("local-only")["NetworkSettings"]["Ports"]["80/tcp"]
    assert {binding["HostIp"] for binding in bindings} == {"127.0.0.1"}
    engine.remove("local-only")


@pytest.mark.docker
def test_a_missing_image_is_named_with_what_was_tried(engine: DockerEngine) -> None:
    said: list[str] = []
    with pytest.raises(ImageMissing, match=r"nosuch\.invalid/image:1 .*pulling it failed"):
        engine.resolve_image("nosuch.invalid/image:1", said.append)
    with pytest.raises(ImageMissing, match=r"is not on this machine$"):
        engine.resolve_image("nosuch.invalid/image:1", pull=False)
    with pytest.raises(ImageMissing, match="Not A Name"):
        engine.resolve_image("Not A Name")
    with pytest.raises(ImageMissing, match="by its id"):
        engine.resolve_image("sha256:" + "0" * 64)
    with pytest.raises(ImageMissing, match="never-built"):
        engine.start(ReplicaPlan("no-image", "localml-test/never-built"))
    assert engine.inspect("no-image").phase is Phase.GONE


@pytest.mark.docker
def test_an_image_is_pinned_by_its_id(engine: DockerEngine, api: docker.APIClient) -> None:
    assert engine.resolve_image(TAG) == api.inspect_image(TAG)["Id"]


@pytest.mark.docker
def test_containers_of_others_are_neither_taken_nor_touched(
    engine: DockerEngine, api: docker.APIClient, image: str
) -> None:
    name = f"foreign-{engine._install}"
    foreign = api.create_container(image, list(SLEEP), name=name)["Id"]
    try:
        with pytest.raises(EngineError, match="did not make"):
            engine.start(ReplicaPlan(name, image, SLEEP))
        engine.stop(name, 0)
        engine.remove(name)
        assert name not in engine.list()
        assert api.inspect_container(foreign)["State"]["Status"] == "created"
    finally:
        api.remove_container(foreign, force=True)


@pytest.mark.docker
def test_of_a_container_created_before_a_crash_there_is_one_that_runs(
    engine: DockerEngine, api: docker.APIClient, image: str
) -> None:
    labels = {"localml.install": engine._install, "localml.name": "half-made"}
    half = api.create_container(image, entrypoint=list(SLEEP), name="half-made", labels=labels)["Id"]
    assert engine.list()["half-made"].phase is Phase.CREATED
    seen = engine.start(ReplicaPlan("half-made", image, SLEEP))
    assert seen.phase is Phase.RUNNING
    assert engine.list()["half-made"].phase is Phase.RUNNING
    assert half not in {one["Id"] for one in api.containers(all=True)}
    engine.remove("half-made")


@pytest.mark.docker
def test_what_an_earlier_server_created_is_made_anew_as_the_plan_says_now(
    engine: DockerEngine, image: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the two a bucket may have become another one, or a folder have been swapped for a link."""
    for name, word in (("before", "of another"), ("now", "its own")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "word").write_text(word)
    command = ("/bin/sh", "-c", "cat /given/word")
    earlier = DockerEngine(engine._install)
    before = ReplicaPlan("begun", image, command, binds=(Bind(str(tmp_path / "before"), "/given"),))
    monkeypatch.setattr(earlier._starter, "_launch", lambda plan, container: earlier.inspect(plan.name))  # it dies here
    earlier.start(before)
    assert engine.list()["begun"].phase is Phase.CREATED
    engine.start(replace(before, binds=(Bind(str(tmp_path / "now"), "/given"),)))
    assert output(engine, "begun") == "its own"
    engine.remove("begun")


@pytest.mark.docker
def test_names_that_docker_does_not_allow_work_all_the_same(engine: DockerEngine, image: str) -> None:
    engine.start(ReplicaPlan("~role/0", image, ("/bin/sh", "-c", "echo here")))
    assert output(engine, "~role/0") == "here\n"
    assert engine.inspect("~role/0").name == "~role/0"
    assert "~role/0" in engine.list()
    engine.remove("~role/0")
    assert engine.inspect("~role/0").phase is Phase.GONE


@pytest.mark.docker
def test_use_includes_the_network_and_is_answered_at_once(engine: DockerEngine, image: str) -> None:
    engine.start(ReplicaPlan("used", image, ("/bin/sh", "-c", "while :; do :; done"), cpu=0.2))
    first = wait_until(lambda: engine.stats("used"), "use")
    second = wait_until(
        lambda: (use := engine.stats("used")) and use.cpu_seconds > first.cpu_seconds and use, "more CPU time"
    )
    assert second.at > first.at
    assert second.network_rx is not None
    assert second.pids is not None
    assert second.pids >= 1
    engine.remove("used")


@pytest.mark.docker
def test_a_command_inside_that_takes_too_long_is_an_error(engine: DockerEngine, image: str) -> None:
    engine.start(ReplicaPlan("patient", image, SLEEP))
    with pytest.raises(EngineError, match=r"did not end within 0\.2 s"):
        engine.exec("patient", ("sleep", "60"), timeout=0.2)
    engine.remove("patient")


@pytest.mark.docker
def test_many_threads_may_ask_at_once(engine: DockerEngine, image: str) -> None:
    engine.start(ReplicaPlan("asked", image, SLEEP))
    with ThreadPoolExecutor(40) as pool:
        seen = list(pool.map(lambda _: engine.inspect("asked").phase, range(200)))
    assert set(seen) == {Phase.RUNNING}
    engine.remove("asked")
