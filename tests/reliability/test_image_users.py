"""Images whose programs run as a user of their own: what they are given to write, they can write."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers.docker_image import tiny_image
from helpers.private_daemon import remove_all
from helpers.server_process import Api, servers

from localml.engines.docker.daemon import open_client

pytestmark = [pytest.mark.docker, pytest.mark.slow, pytest.mark.timeout(300)]

WRITES = """
set -e; id -u
for place in /buckets/b /given /inside /own; do
  echo mine > $place/new; mkdir -p $place/folder; echo mine > $place/folder/new
done
echo more >> /buckets/b/there; cat /buckets/b/there
"""


@pytest.fixture
def image() -> Iterator[str]:
    """The tiny image with a user of its own."""
    client = open_client()
    made = client.create_container(tiny_image(), command="true")["Id"]
    tag = f"localml-test/user-{uuid.uuid4().hex[:8]}"
    try:
        client.commit(made, repository=tag, tag="1", changes=["USER 1000"])
        yield f"{tag}:1"
    finally:
        client.remove_container(made, force=True)
        client.remove_image(f"{tag}:1", force=True)
        client.close()


def _run(api: Api, image: str, script: str, name: str) -> dict[str, Any]:
    mounts = [
        {"source": "s3://b", "target": "/given"},
        {"source": "s3://b/in/side", "target": "/inside"},
        {"source": "workspace:own", "target": "/own"},
    ]
    role = {"image": image, "command": ["sh", "-c", script]}
    number = api.submit(name, {"roles": [role], "mounts": mounts})
    over: dict[str, Any] = api.wait_over(number)
    return over | {"out": api.log(number, stream="stdout").decode(), "err": api.log(number, stream="stderr").decode()}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root runs what belongs to others")
def test_a_user_of_an_image_writes_its_mounts_and_others_use_what_it_left(image: str, tmp_path: Path) -> None:
    with servers(tmp_path / "data", engine="docker", gpus="none") as found:
        api = found.start().api
        bucket = tmp_path / "data" / "buckets" / "b"
        try:
            first = _run(api, tiny_image(), "echo there > /buckets/b/there", "root")  # as root, as ever
            assert first["state"] == "succeeded", first["err"]
            assert bucket.stat().st_gid == 0, "what nobody needs is shared with nobody"
            done = _run(api, image, WRITES, "user")
            assert done["state"] == "succeeded", done["err"]
            assert done["out"] == "1000\nthere\nmore\n"
            again = _run(api, tiny_image(), "cat /buckets/b/folder/new; rm -r /buckets/b/folder", "after")
            assert (again["state"], again["out"]) == ("succeeded", "mine\n")
            later = _run(api, tiny_image(), "umask; mkdir -p /buckets/b/a/b; echo root > /buckets/b/a/b/f", "later")
            assert (later["state"], later["out"]) == ("succeeded", "0022\n")
            more = "cd /buckets/b/a/b; echo user >> f; cat f; mkdir c; rm f"
            goes_on = _run(api, image, more, "goes-on")
            assert (goes_on["state"], goes_on["out"]) == ("succeeded", "root\nuser\n"), goes_on["err"]
        finally:
            remove_all(api.get("/status")["install"])
    assert not bucket.stat().st_mode & 0o002, "and not with everybody"
