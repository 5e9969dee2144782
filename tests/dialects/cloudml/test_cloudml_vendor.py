"""The vendor's own signer against ours."""

from __future__ import annotations

import base64
import importlib
import subprocess
import sys
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from helpers.cloudml import SignedClient, signed

pytestmark = pytest.mark.vendor
PACKAGE = "cloud-ml-common==0.0.2"


@pytest.fixture(scope="module")
def signer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The class of the published package, installed into a folder that is thrown away."""
    pytest.importorskip("requests")
    folder = tmp_path_factory.mktemp("vendor")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(folder), PACKAGE]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100)
    if done.returncode != 0:
        pytest.skip(f"vendor: pip cannot install {PACKAGE}: {done.stderr.strip().splitlines()[-1:]}")
    with pytest.MonkeyPatch.context() as patched:
        patched.syspath_prepend(str(folder))
        # the package is of 2017; Python 3.9 dropped the old name
        patched.setattr(base64, "encodestring", base64.encodebytes, raising=False)
        yield importlib.import_module("cloud_ml_common.auth.signature").Signer


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
