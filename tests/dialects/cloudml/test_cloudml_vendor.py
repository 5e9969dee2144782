"""The vendor's published client: its signer against ours, and its printing of our answers."""

from __future__ import annotations

import base64
import importlib
import subprocess
import sys
import warnings
from collections.abc import Iterator
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from helpers.cloudml import SignedClient, signed

pytestmark = pytest.mark.vendor
MODEL = "fds://cloud-ml-test/linear/model"
TRAINER = "fds://cloud-ml-test/linear/trainer-1.0.0.tar.gz"
PACKAGES = ("cloud-ml-common==0.0.2", "cloud-ml-sdk==0.3.71", "netaddr", "prettytable", "wcwidth")


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The published packages, installed into a folder that is thrown away."""
    pytest.importorskip("requests")
    folder = tmp_path_factory.mktemp("vendor")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(folder), *PACKAGES]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100)
    if done.returncode != 0:
        pytest.skip(f"vendor: pip cannot install {PACKAGES}: {done.stderr.strip().splitlines()[-1:]}")
    with pytest.MonkeyPatch.context() as patched:
        patched.syspath_prepend(str(folder))
        # the packages are of 2017; Python 3.9 dropped the old name
        patched.setattr(base64, "encodestring", base64.encodebytes, raising=False)
        yield


@pytest.fixture(scope="module")
def signer(published: None) -> Any:
    return importlib.import_module("cloud_ml_common.auth.signature").Signer


class Dict2(dict[str, Any]):
    """A dictionary as Python 2 had it, for which the client was written."""

    def has_key(self, key: str) -> bool:
        return key in self


@pytest.fixture
def printing(published: None, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The module that prints answers, without the object store's client that it imports."""
    for name in ("fds", "fds.galaxy_fds_client_exception"):
        module = ModuleType(name)
        for needed in ("GalaxyFDSClient", "FDSClientConfiguration", "GalaxyFDSClientException"):
            setattr(module, needed, Exception)
        monkeypatch.setitem(sys.modules, name, module)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # escapes of 2017
        return importlib.import_module("cloud_ml_sdk.command.util")


@pytest.mark.parametrize("path", ["/cloud_ml/v1/train", "/cloud_ml//v1/train", "/cloud_ml/v1/train/a%20b"])
@pytest.mark.parametrize("body", ["", '{"job_name": "x"}'])
def test_its_headers_are_those_of_our_test_client(signer: Any, path: str, body: str) -> None:
    request = SimpleNamespace(
        url=f"http://host:1{path}?org_id=1", body=body, headers={"X-Xiaomi-Timestamp": "1474203860"}
    )
    assert signer("ak", "sk")(request).headers == signed("ak", "sk", path, body.encode(), "1474203860")


def test_its_requests_are_accepted(signer: Any, client: SignedClient) -> None:
    for path in ("/cloud_ml/v1/train", "/cloud_ml//v1/quota"):
        request = signer(client.access, client.secret)(SimpleNamespace(url=f"http://h{path}", body=None, headers={}))
        assert client.send("GET", path, request.headers, b"").status == 200


@pytest.mark.parametrize(
    ("printer", "path", "body"),
    [
        ("print_train_job_info", "/train", {"job_name": "j", "module_name": "t.task", "trainer_uri": TRAINER}),
        ("print_model_service_info", "/model", {"model_name": "m", "model_version": "v1", "model_uri": MODEL}),
        ("print_dev_env_info", "/dev", {"dev_name": "lab", "password": "secret"}),
        ("print_tensorboard_info", "/tensorboard", {"tensorboard_name": "board", "logdir": "fds://runs/x"}),
    ],
)
def test_it_prints_what_was_made(
    printing: Any,
    client: SignedClient,
    capsys: pytest.CaptureFixture[str],
    printer: str,
    path: str,
    body: dict[str, Any],
) -> None:
    made = client.post(path, body)
    assert made.status == 200, made.data
    getattr(printing, printer)(Dict2(made.json))
    assert str(next(iter(body.values()))) in capsys.readouterr().out
