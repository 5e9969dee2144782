"""What older versions left goes, and nothing else: not what is current, in use, being made, or somebody else's."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import docker
import pytest
from helpers.docker_image import tiny_image
from helpers.engine_kits import wait_until
from requests.exceptions import RequestException

from localml.core.catalog import Catalog, load_catalog
from localml.engines.docker import docker_available
from localml.engines.runtimes.build import IMAGE_PYTHON, rootfs_file, rootfs_tag
from localml.engines.runtimes.environments import READY, locked
from localml.engines.runtimes.leftovers import leftover_files, leftover_images
from localml.engines.runtimes.wheels import wheels_folder

CATALOG = '[runtimes.base]\ndescription = "the base"\n'
OLD = "0123456789ab"


@pytest.fixture
def catalog(tmp_path: Path) -> Catalog:
    folder = tmp_path / "runtimes"
    (folder / "base").mkdir(parents=True)
    (folder / "base" / "requirements.txt").write_text("# nothing\n")
    (folder / "base" / "make-rootfs").write_text("#!/bin/sh\n")
    (folder / "catalog.toml").write_text(CATALOG)
    return load_catalog(folder / "catalog.toml")


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def environment(cache: Path, name: str) -> Path:
    folder = cache / "environments" / name
    (folder / "bin").mkdir(parents=True)
    (folder / "bin" / "tool").write_bytes(b"x" * 1000)
    (folder / READY).touch()
    return folder


def test_what_this_version_uses_and_what_is_not_ours_is_not_listed(cache: Path, catalog: Catalog) -> None:
    environment(cache, f"base-py311-{catalog.fingerprint('base')}")
    environment(cache, f"base-py314-{catalog.fingerprint('base')}")
    environment(cache, "somebodys-own")
    wheels_folder(catalog.folder / "base/requirements.txt", cache, IMAGE_PYTHON).mkdir(parents=True)
    (cache / "wheels" / "download-abc").mkdir()
    current = rootfs_file(cache, rootfs_tag(catalog))
    current.parent.mkdir()
    current.touch()
    (current.parent / "rootfs-of-mine.tar").touch()
    assert list(leftover_files(cache, catalog)) == []


def test_what_older_versions_used_is_listed_with_its_size_and_removed(cache: Path, catalog: Catalog) -> None:
    folder = environment(cache, f"base-py311-{OLD}")
    (folder / "bin" / "dangling").symlink_to("nowhere")
    wheels = cache / "wheels" / "gone-runtime-0123456789abcdef"
    wheels.mkdir(parents=True)
    (wheels / "some.whl").write_bytes(b"x" * 70)
    rootfs = rootfs_file(cache, OLD)
    rootfs.parent.mkdir()
    rootfs.write_bytes(b"x" * 3)
    found = list(leftover_files(cache, catalog))
    assert [(one.kind, one.name) for one in found] == [
        ("environment", folder.name),
        ("wheels", wheels.name),
        ("file system", rootfs.name),
    ]
    assert [one.size for one in found] == [1000 + len("nowhere"), 70, 3]
    assert [one.remove() for one in found] == ["", "", ""]
    assert not any(path.exists() for path in (folder, wheels, rootfs))
    assert list(leftover_files(cache, catalog)) == []


def test_without_a_cache_there_is_nothing(cache: Path, catalog: Catalog) -> None:
    assert list(leftover_files(cache, catalog)) == []


def test_an_environment_that_a_job_runs_in_stays(cache: Path, catalog: Catalog) -> None:
    folder = environment(cache, f"base-py311-{OLD}")
    (found,) = leftover_files(cache, catalog)
    command = [sys.executable, "-c", "print(flush=True); input()"]
    with subprocess.Popen(
        command, env={**os.environ, "VIRTUAL_ENV": str(folder)}, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as job:
        assert job.stdout is not None
        job.stdout.readline()
        assert found.remove() == f"process {job.pid} runs in it"
        assert (folder / READY).exists()
        job.communicate(b"\n")
    assert found.remove() == ""
    assert not folder.exists()


def test_an_environment_that_is_being_made_stays(cache: Path, catalog: Catalog) -> None:
    folder = environment(cache, f"base-py311-{OLD}")
    (found,) = leftover_files(cache, catalog)
    with locked(folder):
        assert found.remove() == "it is being made"
    assert found.remove() == ""


@pytest.fixture
def client() -> Iterator[docker.DockerClient]:
    if reason := docker_available():
        pytest.skip(reason)
    made = docker.from_env()
    yield made
    made.close()


def built(client: docker.DockerClient, text: str, **options: Any) -> str:
    """The id of a tiny image with a layer that no other has."""
    lines = f"FROM {tiny_image()}\n{text}\nLABEL localml.test={uuid.uuid4().hex}\n"
    return str(client.images.build(fileobj=io.BytesIO(lines.encode()), rm=True, **options)[0].id)


@pytest.mark.docker
def test_images_of_older_versions_go_but_not_those_in_use_or_with_a_name_of_ones_own(
    client: docker.DockerClient, catalog: Catalog
) -> None:
    name = f"localml/test-{uuid.uuid4().hex[:8]}"
    label = {"localml.runtime": "base"}
    made = [
        built(client, "", labels=label, tag=f"{name}:{OLD}"),
        built(client, "", labels=label, tag=f"{name}:in-use"),
        built(client, "", labels=label, tag=f"{name}:mine"),
        built(client, "LABEL localml.stage=build"),
        built(client, "", labels=label),  # somebody's image, made from ours, which has lost its name
    ]
    old, in_use, mine, steps, lost = made
    client.images.get(mine).tag("somebodys/own", "1")
    container = client.containers.create(in_use)
    try:
        found = {str(one.remove.args[1].id): one for one in leftover_images(client, catalog)}  # type: ignore[attr-defined]
        assert {mine, lost} & found.keys() == set()
        # only those of this test are removed: the machine may have others, which people want
        assert found[old].name == f"{name}:{OLD}"
        assert found[steps].name.startswith("steps of a build")
        assert found[old].size > 0
        assert [found[one].remove() for one in (old, steps)] == ["", ""]
        assert str(container.short_id) in found[in_use].remove()
        assert found[old].remove() == "", "it was gone already"
        left = {str(one.id) for one in client.images.list()}
        assert {one for one in made if one in left} == {in_use, mine, lost}
    finally:
        container.remove()
        for one in made:
            wait_until(lambda image=one: _gone(client, image), "the image's removal")


def _gone(client: docker.DockerClient, image: str) -> bool:
    try:
        client.images.remove(image, force=True)
    except docker.errors.ImageNotFound:
        return True
    return False


@pytest.mark.docker
def test_an_engine_that_goes_away_meanwhile_is_the_reason_why_an_image_stays(
    client: docker.DockerClient, catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = built(client, "LABEL localml.stage=build")
    try:
        (found,) = [one for one in leftover_images(client, catalog) if one.remove.args[1].id == image]  # type: ignore[attr-defined]
        monkeypatch.setattr(client.api, "delete", refuse)
        assert found.remove() == "the Docker engine does not answer: gone"
    finally:
        monkeypatch.undo()
        client.images.remove(image)


def refuse(*_: Any, **__: Any) -> Any:
    raise RequestException("gone")


@pytest.mark.docker
def test_images_that_this_version_uses_are_not_listed(client: docker.DockerClient) -> None:
    catalog = load_catalog()
    used = {f"{one.image}:{tag}" for one in catalog.runtimes() for tag in (catalog.fingerprint(one.name), "latest")}
    listed = {one.name for one in leftover_images(client, catalog)}
    assert not used & listed
