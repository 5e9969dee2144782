"""The catalogue: what a user may ask for, and what it gives."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest

from localml.core.catalog import Catalog, cache_dir, load_catalog, runtimes_dir
from localml.core.errors import Code, LocalmlError

TINY = """
[runtimes.base]
description = "the base"
launcher = "trainer"
copies = ["launcher"]

[runtimes.child]
parent = "base"
description = "made from it"

[frameworks.thing]
"2.0" = "child"
"1.0" = "base"
"""


def write(folder: Path, text: str = TINY) -> Path:
    for name in ("base", "child", "launcher"):
        (folder / name).mkdir(parents=True, exist_ok=True)
        (folder / name / "file").write_text(f"content of {name}")
    path = folder / "catalog.toml"
    path.write_text(text)
    return path


@pytest.fixture
def tiny(tmp_path: Path) -> Catalog:
    return load_catalog(write(tmp_path))


def test_a_framework_and_version_give_the_image_and_the_command_of_a_job() -> None:
    runtime = load_catalog().find("scikitlearn", "1.9.1")
    assert runtime.image == "localml/train-sklearn"
    assert runtime.command == ("python", "-m", "localml_launcher", "trainer")


def test_every_listed_framework_version_can_be_found() -> None:
    catalog = load_catalog()
    for framework, versions in catalog.frameworks().items():
        for version in versions:
            assert catalog.find(framework, version) in catalog.runtimes()


def test_the_listed_versions_are_those_that_the_runtimes_really_pin() -> None:
    catalog = load_catalog()
    packages = {"scikitlearn": "scikit-learn", "torch": "torch"}
    for framework, package in packages.items():
        for version in catalog.frameworks()[framework]:
            assert pins(catalog.find(framework, version).name)[package].partition("+")[0] == version


def test_what_a_runtime_is_said_to_contain_is_what_its_requirements_pin() -> None:
    catalog = load_catalog()
    for runtime in catalog.runtimes():
        pinned = {name: version for one in catalog.lineage(runtime.name) for name, version in pins(one.name).items()}
        for package, version in (item.split() for item in runtime.contains):
            if package != "python":
                assert pinned[package] == version


def pins(name: str) -> dict[str, str]:
    text = (runtimes_dir() / name / "requirements.txt").read_text()
    return dict(re.findall(r"^([\w.-]+)={2,3}(\S+)$", text, re.MULTILINE))


def test_every_requirement_is_pinned() -> None:
    for runtime in load_catalog().runtimes():
        lines = (runtimes_dir() / runtime.name / "requirements.txt").read_text().splitlines()
        wanted = [line for line in lines if line and not line.startswith("#")]
        assert len(pins(runtime.name)) == len(wanted)


def test_a_framework_on_gpus_that_exist_is_the_same_but_for_cuda() -> None:
    catalog = load_catalog()
    usual, gpu = (catalog.find("torch", gpu=gpu) for gpu in (False, True))
    assert (usual.name, gpu.name, gpu.command) == ("train-pytorch", "train-pytorch-gpu", usual.command)
    for_cuda = {name for name in pins(gpu.name) if name.startswith(("nvidia-", "cuda-")) or name == "triton"}
    assert len(for_cuda) > 10
    assert pins(gpu.name) | {"torch": "2.13.0+cpu"} == pins(usual.name) | {
        name: pins(gpu.name)[name] for name in for_cuda
    }
    assert catalog.find("scikitlearn", gpu=True).name == "train-sklearn"


def test_no_index_gives_a_cuda_build_to_a_runtime_without_cuda() -> None:
    """The version says which build it is: "2.13.0+cpu" is no other, and "===2.13.0" is not that one."""
    lines = {
        one.name: (runtimes_dir() / one.name / "requirements.txt").read_text() for one in load_catalog().runtimes()
    }
    wanted = {name: line for name, text in lines.items() for line in text.splitlines() if line.startswith("torch=")}
    assert wanted == {"train-pytorch": "torch==2.13.0+cpu", "train-pytorch-gpu": "torch===2.13.0"}


def test_a_notebook_with_pytorch_is_the_usual_one_over_another_parent() -> None:
    catalog = load_catalog()
    assert [one.name for one in catalog.lineage("notebook-pytorch")] == ["base", "train-pytorch", "notebook-pytorch"]
    assert pins("notebook-pytorch") == pins("notebook")


def test_the_first_version_is_taken_when_none_is_named(tiny: Catalog) -> None:
    assert tiny.find("thing").name == "child"
    assert tiny.find("thing", "").name == "child"
    assert tiny.find("thing", "1.0").name == "base"


def test_an_unknown_framework_is_refused_with_the_known_ones(tiny: Catalog) -> None:
    with pytest.raises(LocalmlError, match="known are thing") as caught:
        tiny.find("caffe", "1.0")
    assert (caught.value.code, caught.value.field) == (Code.INVALID, "framework")
    assert caught.value.details["known"] == ["thing"]


def test_an_unknown_version_is_refused_with_the_known_ones(tiny: Catalog) -> None:
    with pytest.raises(LocalmlError, match=re.escape("known are 2.0, 1.0")) as caught:
        tiny.find("thing", "3.0")
    assert (caught.value.code, caught.value.field) == (Code.INVALID, "framework_version")


def test_only_frameworks_whose_runtime_is_there_are_listed_when_asked_so(tiny: Catalog) -> None:
    assert tiny.frameworks() == {"thing": ["2.0", "1.0"]}
    assert tiny.frameworks(built={"base"}) == {"thing": ["1.0"]}
    assert tiny.frameworks(built=()) == {}


def test_an_image_reference_is_recognised_with_or_without_tag(tiny: Catalog) -> None:
    for reference in ("localml/child", "localml/child:latest", "localml/child@sha256:00"):
        runtime = tiny.of_image(reference)
        assert runtime is not None
        assert runtime.name == "child"
    for reference in ("child", "busybox", "other/child", "localml/unknown"):
        assert tiny.of_image(reference) is None


def test_the_fingerprint_changes_with_every_file_that_an_image_is_made_from(tmp_path: Path) -> None:
    catalog = load_catalog(write(tmp_path))
    before = (catalog.fingerprint("base"), catalog.fingerprint("child"))
    (tmp_path / "launcher" / "file").write_text("changed")
    after = (catalog.fingerprint("base"), catalog.fingerprint("child"))
    assert before[0] != after[0]
    assert before[1] != after[1], "a child changes with its parent"
    (tmp_path / "child" / "file").write_text("changed")
    assert catalog.fingerprint("base") == after[0], "a parent does not change with its child"
    assert catalog.fingerprint("child") != after[1]


def test_files_at_rest_are_read_once_for_the_fingerprint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    catalog = load_catalog(write(tmp_path))
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 60)  # so long after they were written
    before = catalog.fingerprint("child")
    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", lambda path: pytest.fail(f"{path} is read again"))
        assert catalog.fingerprint("child") == before
    (tmp_path / "launcher" / "file").write_text("changed")
    assert catalog.fingerprint("child") != before


def test_the_fingerprint_ignores_what_running_and_building_leave_behind(tmp_path: Path) -> None:
    catalog = load_catalog(write(tmp_path))
    before = catalog.fingerprint("base")
    for folder in ("__pycache__", "build", "x.egg-info"):
        (tmp_path / "launcher" / folder).mkdir()
        (tmp_path / "launcher" / folder / "left").write_text("over")
    assert catalog.fingerprint("base") == before


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (TINY + '"9" = "nowhere"\n', "there is no runtime 'nowhere'"),
        (TINY.replace('parent = "base"', 'parent = "child"'), "must be listed before it"),
        (TINY.replace('parent = "base"', 'parent = "gone"'), "must be listed before it"),
        (TINY.replace('copies = ["launcher"]', 'copies = ["gone"]'), "the folder 'gone' is missing"),
        (TINY + "[frameworks.empty]\n", "has no versions"),
        (TINY.replace("launcher =", "launchr ="), "launchr"),
        ("[runtimes", "catalog.toml"),
    ],
)
def test_a_wrong_catalogue_is_refused_with_the_reason(tmp_path: Path, text: str, problem: str) -> None:
    with pytest.raises(LocalmlError, match=re.escape(problem)):
        load_catalog(write(tmp_path, text))


def test_an_unknown_runtime_is_not_found(tiny: Catalog) -> None:
    with pytest.raises(LocalmlError) as caught:
        tiny.runtime("nothing")
    assert caught.value.code is Code.NOT_FOUND


def test_the_cache_can_be_put_elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LOCALML_CACHE", str(tmp_path))
    assert cache_dir() == tmp_path
    monkeypatch.delenv("LOCALML_CACHE")
    assert cache_dir() == runtimes_dir().parent / ".cache"
