"""The vendor's published client against a live server."""

from __future__ import annotations

import importlib.util
import io
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from datetime import datetime
from types import ModuleType
from typing import Any

import pytest
from helpers.mlbench import IMAGE, Dashboard

from localml.client import Client

pytestmark = pytest.mark.vendor
PACKAGE = "mlbench-core==3.0.0"


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The module ``mlbench_core.api``, installed into a folder that is thrown away.

    Its package would import PyTorch and much else. The module alone needs requests, and the Kubernetes client only to
    find a dashboard whose address it is not told.
    """
    pytest.importorskip("requests")
    folder = tmp_path_factory.mktemp("vendor")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(folder), PACKAGE]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100)
    if done.returncode != 0:
        pytest.skip(f"vendor: pip cannot install {PACKAGE}: {done.stderr.strip().splitlines()[-1:]}")
    kubernetes = ModuleType("kubernetes")
    kubernetes.client = ModuleType("kubernetes.client")  # type: ignore[attr-defined]
    kubernetes.client.ApiClient = object  # type: ignore[attr-defined]
    kubernetes.config = ModuleType("kubernetes.config")  # type: ignore[attr-defined]
    with pytest.MonkeyPatch.context() as patched:
        patched.setitem(sys.modules, "kubernetes", kubernetes)
        spec = importlib.util.spec_from_file_location("published_api", folder / "mlbench_core" / "api.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        yield module


@pytest.fixture
def client(published: Any, dashboard: Dashboard) -> Iterator[Any]:
    with Client(dashboard.url, dashboard.token) as own:
        url = own.env("mlbench")["url"]
    with published.ApiClient(url=url.removeprefix("http://")) as one:
        yield one


def test_without_the_address_that_env_prints_it_gets_nowhere(published: Any, dashboard: Dashboard) -> None:
    with published.ApiClient(url=dashboard.url.removeprefix("http://")) as one:
        assert one.get_runs().result().status_code == 401
        assert create(one).status_code == 401
    assert dashboard.get("runs/") == []


def create(client: Any, **options: Any) -> Any:
    given = {"custom_image_name": IMAGE, "custom_image_command": "python main.py --rank {rank}", "backend": "GLOO"}
    return client.create_run("My Run", 2, num_cpus=0.5, **(given | options)).result()


def test_it_starts_shows_lists_and_deletes_runs(client: Any, dashboard: Dashboard) -> None:
    answer = create(client, run_all_nodes=True, gpu_enabled=True, light_target=True)
    assert answer.status_code <= 201
    run = answer.json()
    assert (run["name"], run["state"], run["num_workers"]) == ("My Run", "STARTED", 2)
    assert client.get_run(run["id"]).result().json()["id"] == run["id"]
    assert [one["id"] for one in client.get_runs().result().json()] == [run["id"]]
    assert create(client).status_code == 409
    dashboard.pods()
    assert [pod["phase"] for pod in client.get_worker_pods().result().json()] == ["Running", "Running"]
    assert client.delete_run(run["id"]).result().status_code == 204
    assert client.get_runs().result().json() == []


def test_all_images_that_it_offers_are_known(published: Any, client: Any, dashboard: Dashboard) -> None:
    for name, (image, _, gpus) in published.MLBENCH_IMAGES.items():
        answer = client.create_run(name, 1, num_cpus=0.5, image=name, backend="NCCL", gpu_enabled=True).result()
        assert answer.status_code == 200, answer.text
        assert answer.json()["image"] == image
        spec = dashboard.platform.workloads.get(answer.json()["id"]).spec
        assert spec.roles[0].resources.gpu == gpus
        dashboard.clean()


def test_it_posts_and_reads_metrics(client: Any, dashboard: Dashboard) -> None:
    run = create(client).json()["id"]
    pod = dashboard.pods()[0]
    for hour in range(4):
        done = client.post_metric(run, "loss @ 0", 4 - hour, date=datetime(2020, 1, 1, hour), metadata="{epoch: 1}")
        assert done.result().status_code == 201
    assert client.post_metric(run, "now", 0.5, cumulative=True, metadata={"a": 1, "b": 2}).result().status_code == 201

    def losses(**query: Any) -> list[str]:
        return [point["value"] for point in client.get_run_metrics(run, **query).result().json()["loss @ 0"]]

    assert losses() == ["4", "3", "2", "1"]
    assert losses(since=datetime(2020, 1, 1, 1)) == ["2", "1"]
    assert losses(summarize=2) == ["3.5", "1.5"]
    assert losses(last_n=1, metric_filter="loss @ 0") == ["1"]
    assert client.get_pod_metrics(pod).result().status_code == 200
    assert client.get_all_metrics().result().status_code == 200
    download = client.download_run_metrics(run).result()
    with zipfile.ZipFile(io.BytesIO(download.content)) as archive:
        assert "result_loss @ 0.json" in archive.namelist()
