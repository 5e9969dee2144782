"""Images where there are no containers: what a name stands for, and what is made when it is first used."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from helpers.rig import wait_until

from localml.config import load
from localml.core.catalog import HOST, load_catalog, runtimes_dir
from localml.core.errors import LocalmlError
from localml.engines.base import ImageMissing
from localml.engines.runtimes import provision as module
from localml.engines.runtimes.environments import READY
from localml.engines.runtimes.provision import Provision

CATALOG = """
[runtimes.base]
description = "the base"

[runtimes.tiny]
parent = "base"
description = "nothing but Python"

[runtimes.broken]
parent = "base"
description = "asks for what is not there"

[images]
"vendor/tiny*" = "tiny"
"""


@pytest.fixture
def runtimes(tmp_path: Path) -> Path:
    folder = tmp_path / "runtimes"
    for name, text in (("base", "# nothing\n"), ("tiny", "# nothing\n"), ("broken", "--no-index\nabsent-package==1\n")):
        (folder / name).mkdir(parents=True)
        (folder / name / "requirements.txt").write_text(text)
    (folder / "catalog.toml").write_text(CATALOG)
    return folder


def provision(tmp_path: Path, **images: str) -> Provision:
    return Provision(tmp_path / "cache", tmp_path / "runtimes", images)


@pytest.mark.usefixtures("runtimes")
def test_a_runtime_is_made_when_it_is_first_used_and_says_how_long_it_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "TELL_S", 0.01)
    said: list[str] = []
    images = provision(tmp_path)
    assert images.resolve("localml/tiny:latest", said.append) == "localml/tiny"
    assert said[0] == "building tiny, 0 s"
    assert len(said) > 1
    env = images.env_for("localml/tiny")
    assert (Path(env["VIRTUAL_ENV"]) / READY).is_file()
    said.clear()
    assert images.resolve("localml/tiny", said.append) == "localml/tiny"
    assert said == []


@pytest.mark.usefixtures("runtimes")
def test_vendors_public_images_stand_for_runtimes(tmp_path: Path) -> None:
    said: list[str] = []
    assert provision(tmp_path).resolve("vendor/tiny:2", said.append) == "localml/tiny"
    assert said[0] == "building tiny for vendor/tiny:2, 0 s"
    said.clear()
    assert provision(tmp_path).resolve("vendor/tiny:2", said.append) == "localml/tiny"
    assert said == []  # nothing is built any more


@pytest.mark.usefixtures("runtimes")
def test_the_settings_go_before_the_catalogue_and_the_first_that_matches_counts(tmp_path: Path) -> None:
    images = provision(tmp_path, **{"*/special": "base", "vendor/*": HOST, "localml/*": "base"})
    assert images.resolve("vendor/tiny:2") == HOST
    assert images.resolve("vendor/special") == "localml/base"
    assert images.resolve("localml/tiny") == "localml/base"
    assert "launcher" in images.env_for(HOST)["PYTHONPATH"]


@pytest.mark.usefixtures("runtimes")
@pytest.mark.parametrize("image", ["openpai/pai.run.tensorflow", "localml/unknown:latest", "none", "mlbench/pytorch:1"])
def test_what_stands_for_nothing_is_missing_and_says_how_to_map_it(tmp_path: Path, image: str) -> None:
    images = provision(tmp_path)
    with pytest.raises(ImageMissing) as missing:
        images.resolve(image)
    words = str(missing.value)
    assert image in words
    assert f'[images] "{image.split(":")[0]}*" = "train-' in words
    assert images.missing(image) == words
    assert images.missing("localml/tiny") == images.missing(HOST) == ""
    pattern = words.split('LOCALML_IMAGES="')[1].split('"')[0]
    mapped = load({"LOCALML_IMAGES": pattern.split("=")[0] + "=base"}, data=tmp_path).images
    assert Provision(tmp_path / "cache", tmp_path / "runtimes", mapped).resolve(image) == "localml/base"


@pytest.mark.usefixtures("runtimes")
def test_of_a_runtime_s_mistyped_name_the_nearest_is_said(tmp_path: Path) -> None:
    images = provision(tmp_path)
    assert images.missing("localml/tinny:latest") == (
        "image localml/tinny:latest: there is no such runtime; did you mean localml/tiny?"
    )


@pytest.mark.usefixtures("runtimes")
def test_one_that_cannot_be_made_is_missing_and_tried_again_by_the_next(tmp_path: Path) -> None:
    images = provision(tmp_path)
    for _ in range(2):
        with pytest.raises(ImageMissing, match=r"(?s)the runtime 'broken' could not be built.*absent-package"):
            images.resolve("localml/broken")
    with pytest.raises(ImageMissing, match="localml images build broken"):
        images.env_for("localml/broken")


@pytest.mark.usefixtures("runtimes")
def test_who_is_not_wanted_any_more_waits_no_longer_and_the_others_have_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "TELL_S", 0.01)
    images, go, calls = provision(tmp_path), threading.Event(), []

    def ensure(name: str, progress: object) -> Path:
        calls.append(name)
        assert go.wait(30)
        folder = images._environments._place(images._catalog.runtime(name))
        folder.mkdir(parents=True)
        (folder / READY).touch()
        return folder

    monkeypatch.setattr(images._environments, "ensure", ensure)

    class Unwanted(Exception):
        pass

    def refuse(words: str) -> None:
        raise Unwanted

    other: list[str] = []
    thread = threading.Thread(target=lambda: other.append(images.resolve("localml/tiny")))
    thread.start()
    wait_until(lambda: bool(calls), 10)
    with pytest.raises(Unwanted):
        images.resolve("localml/tiny", refuse)
    go.set()
    thread.join(10)
    assert (other, calls) == (["localml/tiny"], ["tiny"])


@pytest.mark.usefixtures("runtimes")
def test_a_map_to_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LocalmlError, match="'a' = 'nope': must be one of host, base, tiny, broken"):
        provision(tmp_path, a="nope")
    with pytest.raises(LocalmlError, match="LOCALML_IMAGES"):
        load({"LOCALML_IMAGES": "a"}, data=tmp_path)
    assert load({"LOCALML_IMAGES": "*/x*=base, y = host"}, data=tmp_path).images == {"*/x*": "base", "y": "host"}


def test_a_runtime_s_bare_name_is_told_from_other_images(tmp_path: Path, runtimes: Path) -> None:
    assert "did you mean localml/tiny? Or choose" in provision(tmp_path).missing("tiny:latest")
    assert "did you mean" not in provision(tmp_path).missing("other/tiny")


def test_the_catalogue_maps_what_others_publish_to_what_has_the_same_framework() -> None:
    catalog = load_catalog(runtimes_dir() / "catalog.toml")
    known = {
        "python:3.11-slim": "base",
        "python": "base",
        "python:2.7": "",
        "mirror.example/library/python:3.11": "base",
        "localhost/pytorch/pytorch": "train-pytorch",
        "mirror.example:5000/pytorch/pytorch@sha256:12": "train-pytorch",
        "mirror.example/others/python:3.11": "",
        "others/pytorch/pytorch": "",
        "pytorch/pytorch:2.3.0-cuda12.1-cudnn8-runtime": "train-pytorch",
        "openpai/standard:python_3.6-pytorch_1.2.0-gpu": "train-pytorch",
        "openpai/standard:python_3.6-tensorflow_1.15.0-gpu": "",
        "openpai/pai.run.tensorflow": "",
        "mlbench/pytorch-cifar10-resnet20-all-reduce:latest": "",
    }
    assert {image: catalog.stands_for(image, {}) for image in known} == known
