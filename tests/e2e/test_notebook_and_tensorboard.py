"""A real JupyterLab that computes, and a real TensorBoard over what a real training wrote."""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import aiohttp
import httpx
import pytest
from helpers.rig import wait_until
from helpers.tools import execute, points, printed

from localml.client import Client
from localml.config import load
from localml.control.watch.jupyter import Jupyter
from localml.core.catalog import cache_dir
from localml.engines.runtimes import open_images
from localml.platform import Platform
from localml.server import Server

REPO = Path(__file__).parents[2]
IMAGES = ("train-sklearn", "notebook", "tensorboard")
READY_S = 120.0

Start = Callable[[str], tuple[Server, Client]]
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module", params=["process", pytest.param("docker", marks=pytest.mark.docker)])
def served(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, Client]]:
    """A server with the runtimes built, once for each engine."""
    engine = request.param
    images = open_images(engine, cache_dir())
    for name in IMAGES:
        images.build(name, lambda _: None)
    data = tmp_path_factory.mktemp(engine)
    settings = {"engine": engine, "gpus": "simulated:1", "port": 0, "gateway_port": 0, "cpus": 8, "memory": 16 << 30}
    server = Server(Platform(load({}, data=data, **settings)))
    server.start()
    client = Client(server.url, server.platform.credentials.token)
    yield server, client
    for row in client.workloads(limit=100).workloads:
        if not row.ended:
            client.stop(row.id)
            client.wait(row.id, READY_S)
    client.close()
    server.close()


def test_a_notebook_computes_sees_the_buckets_and_keeps_its_files(served: tuple[Server, Client]) -> None:
    server, client = served
    client.put("fds://data/numbers.txt", b"1 2 3")
    made = client.tools.start_notebook(
        name="lab", token="open-sesame", resources={"gpu": 1, "memory": "2G", "cpu": 1}, idle_limit=3600
    )
    found = client.tools.wait_ready(made, READY_S)
    assert found.url is not None
    assert found.base_url is not None
    page = httpx.get(found.url, follow_redirects=True, timeout=30)
    assert (page.status_code, "jupyter-config-data" in page.text) == (200, True)
    assert httpx.get(f"{found.base_url}/api/contents", timeout=30).status_code == 403

    code = (
        "import os, sklearn, pandas\n"
        "text = open(os.environ['LOCALML_BUCKETS'] + '/data/numbers.txt').read()\n"
        "open('sum.txt', 'w').write(str(sum(map(int, text.split()))))\n"
        "print(open('sum.txt').read(), sklearn.__version__, os.environ['NVIDIA_VISIBLE_DEVICES'][:4])\n"
    )
    messages = asyncio.run(execute(found.base_url, "open-sesame", code))
    assert printed(messages) == "6 1.9.1 GPU-\n", messages
    admin = str(server.platform.identity.user("admin").id)
    assert (server.platform.data / "folders" / admin / "lab/sum.txt").read_text() == "6"

    def kernels() -> list[str]:
        return [kernel["state"] for kernel in (client.tools.notebook("lab").activity or {"kernels": []})["kernels"]]

    wait_until(lambda: kernels() == ["idle"], READY_S)  # Jupyter tells the page first, and itself a moment later
    activity = client.tools.notebook("lab").activity
    assert activity is not None
    assert activity["memory"] > 1 << 20
    assert activity["memory_limit"] == 2 << 30
    assert 0 <= activity["idle_for"] < 90
    assert "open-sesame" not in client.text("lab")
    client.stop("lab")
    assert client.wait("lab", READY_S).state == "stopped"

    # its folder outlasts it
    again = client.tools.wait_ready(client.tools.start_notebook(name="lab", token="t"), READY_S)
    contents = httpx.get(f"{again.base_url}/api/contents/sum.txt", headers={"Authorization": "token t"}, timeout=30)
    assert contents.json()["content"] == "6"
    client.stop("lab")


def test_a_kernel_that_is_asked_what_it_uses_goes_on_as_it_did(served: tuple[Server, Client]) -> None:
    server, client = served
    found = client.tools.wait_ready(client.tools.start_notebook(name="asked", token="t"), READY_S)
    assert found.base_url is not None
    base, jupyter = found.base_url, Jupyter(found.base_url, "t")
    folder = server.platform.data / "folders" / str(server.platform.identity.user("admin").id) / "asked"
    code = "import os, time\nopen('begun', 'w').close()\nwhile not os.path.exists('go'): time.sleep(0.05)"
    with ThreadPoolExecutor() as threads:
        computing = threads.submit(lambda: asyncio.run(execute(base, "t", code)))
        wait_until((folder / "begun").exists, READY_S)  # a kernel that starts is busy, too, and then idle once
        wait_until(lambda: [one.busy for one in jupyter.activity().kernels] == [True], READY_S)
        (kernel,) = jupyter.activity().kernels
        for _ in range(3):
            assert (jupyter.kernel_usage(kernel.id).memory or 0) > 1 << 20
            assert jupyter.activity().busy  # else it would be stopped as idle while it computes
        (folder / "go").touch()
        computing.result(READY_S)
    wait_until(lambda: not jupyter.activity().busy, READY_S)
    last = jupyter.activity().last
    jupyter.kernel_usage(kernel.id)
    assert jupyter.activity().last == last
    client.stop("asked")


def test_a_notebook_server_that_is_killed_comes_back_by_itself(served: tuple[Server, Client]) -> None:
    _, client = served
    found = client.tools.wait_ready(client.tools.start_notebook(name="crash", token="t"), READY_S)
    assert found.base_url is not None
    with pytest.raises((aiohttp.ClientError, ConnectionError)):
        asyncio.run(execute(found.base_url, "t", "import os, signal; os.kill(os.getppid(), signal.SIGKILL)"))
    wait_until(lambda: client.get("crash").attempt == 2, READY_S)
    back = client.tools.wait_ready(client.tools.notebook("crash"), READY_S)
    assert back.state == "running"
    assert "SIGKILL" in next(event.message for event in client.events("crash") if event.reason == "Retrying")
    client.stop("crash")


def test_a_tensorboard_shows_what_the_digits_run_wrote(served: tuple[Server, Client], tmp_path: Path) -> None:
    server, client = served
    package = tmp_path / "digits.tar.gz"
    subprocess.run([REPO / "scripts/examples/pack", REPO / "scripts/examples/digits", package], check=True)
    client.put("fds://code/digits.tar.gz", package.read_bytes())
    launch = {
        "trainer_uri": "fds://code/digits.tar.gz",
        "module_name": "trainer.task",
        "job_args": "--epochs 3 --output-uri fds://runs/digits",
    }
    runtime = server.platform.catalog.runtime("train-sklearn")
    job = client.run(
        list(runtime.command), image=f"{runtime.image}:latest", env={"LOCALML_LAUNCH": json.dumps(launch)}, wait=True
    )
    assert job.state == "succeeded", client.text(job.id)

    made = client.tools.start_tensorboard("fds://runs/digits", name="board", idle_limit=10)
    board = client.tools.wait_ready(made, READY_S)
    assert board.base_url is not None
    assert httpx.get(f"{board.base_url}/data/runs", timeout=30).status_code == 401
    with httpx.Client(base_url=board.base_url, headers={"Authorization": f"Bearer {board.token}"}, timeout=30) as http:
        shown = points(http, "events", "validation_accuracy", 3)
        assert http.get("/data/runs").json() == ["events"]
    written = json.loads((server.platform.buckets.root / "runs/digits/metrics.json").read_text())["epochs"]
    assert [step for _, step, _ in shown] == [1, 2, 3]
    for (_, _, value), epoch in zip(shown, written, strict=True):
        assert value == pytest.approx(epoch["validation_accuracy"], rel=1e-6)
    # nobody looks any longer
    ended = client.wait(board.id, READY_S)
    assert (ended.state, ended.message) == ("stopped", "idle for 10s: nobody looked at it")
