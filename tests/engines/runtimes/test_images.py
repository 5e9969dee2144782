"""Building the images: with a recorded engine what is asked of Docker, with a real one what comes out."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tarfile
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from docker.errors import APIError, ImageNotFound
from helpers.docker_image import tiny_image
from helpers.engine_kits import wait_until
from urllib3.exceptions import ProtocolError

from localml.core.catalog import cache_dir, runtimes_dir
from localml.core.errors import LocalmlError
from localml.engines.base import EngineError, EngineUnreachable
from localml.engines.runtimes.build import PYTHON_IMAGE, ImageBuilder, connect
from localml.engines.runtimes.kernel_server import PROBE

CATALOG = """
[runtimes.base]
description = "the base"
copies = ["launcher"]
default = true

[runtimes.child]
parent = "base"
description = "made from it"
"""
UID = 54321


class RecordedEngine:
    """Stands for Docker: knows which images there are, and what it was asked to build."""

    def __init__(self) -> None:
        self.sizes: dict[str, int] = {PYTHON_IMAGE: 1}
        self.builds: list[dict[str, Any]] = []
        self.contexts: list[set[str]] = []
        self.answers: list[dict[str, str]] = [{"stream": "Step 1\n"}]
        self.api = self
        self.images = self

    def get(self, reference: str) -> Any:
        if reference not in self.sizes:
            raise ImageNotFound(reference)
        return type("Image", (), {"attrs": {"Size": self.sizes[reference]}})

    def build(self, **options: Any) -> Iterator[dict[str, str]]:
        self.builds.append(options)
        root = Path(options["path"])
        self.contexts.append({path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()})
        if not any("error" in answer for answer in self.answers):
            self.sizes[options["tag"]] = 7
        return iter(self.answers)

    def tag(self, reference: str, repository: str, tag: str) -> None:
        self.sizes[f"{repository}:{tag}"] = self.sizes[reference]

    def info(self) -> dict[str, str]:
        return {}

    def pull(self, name: str, **options: Any) -> Iterator[dict[str, str]]:
        return iter([{"error": "no route to the registry"}])


@pytest.fixture
def engine() -> RecordedEngine:
    return RecordedEngine()


@pytest.fixture
def runtimes(tmp_path: Path) -> Path:
    folder = tmp_path / "runtimes"
    for name in ("base", "child", "launcher"):
        (folder / name).mkdir(parents=True)
        (folder / name / "Dockerfile").write_text("ARG PARENT\nFROM ${PARENT}\n")
        (folder / name / "requirements.txt").write_text("# nothing\n")
    (folder / "catalog.toml").write_text(CATALOG)
    return folder


@pytest.fixture
def builder(engine: RecordedEngine, tmp_path: Path, runtimes: Path, monkeypatch: pytest.MonkeyPatch) -> ImageBuilder:
    wheels = tmp_path / "cache" / "one"
    wheels.mkdir(parents=True)
    (wheels / "some.whl").write_text("wheel")
    monkeypatch.setattr("localml.engines.runtimes.build.download_wheels", lambda *_: wheels)
    return ImageBuilder(engine, tmp_path / "cache", runtimes)  # type: ignore[arg-type]


def test_parents_are_built_first_and_children_start_from_their_exact_tag(
    builder: ImageBuilder, engine: RecordedEngine
) -> None:
    status = builder.build("child", lambda line: None)
    base, child = engine.builds
    assert base["tag"].startswith("localml/base:")
    assert base["buildargs"] == {"PARENT": PYTHON_IMAGE}
    assert child["buildargs"] == {"PARENT": base["tag"]}
    assert child["labels"]["localml.runtime"] == "child"
    assert (status.reference, status.built, status.size) == (child["tag"], True, 7)
    assert {"localml/base:latest", "localml/child:latest"} <= engine.sizes.keys()


def test_the_context_holds_the_wheels_and_the_copied_folders_and_the_build_has_no_network(
    builder: ImageBuilder, engine: RecordedEngine
) -> None:
    builder.build("base", lambda line: None)
    assert {"Dockerfile", "requirements.txt", "wheels/some.whl", "launcher/Dockerfile"} <= engine.contexts[0]
    assert engine.builds[0]["network_mode"] == "none"


def test_an_unchanged_image_is_found_and_a_changed_one_built_anew(
    builder: ImageBuilder, engine: RecordedEngine, runtimes: Path
) -> None:
    first = builder.build("child", lambda line: None)
    builder.build("child", lambda line: None)
    assert len(engine.builds) == 2, "nothing was built again"
    (runtimes / "child" / "Dockerfile").write_text("ARG PARENT\nFROM ${PARENT}\nRUN true\n")
    assert [status.built for status in builder.status()] == [True, False]
    second = builder.build("child", lambda line: None)
    assert len(engine.builds) == 3, "only the child was built again"
    assert first.tag != second.tag


def test_what_killed_builds_left_goes_with_the_next(builder: ImageBuilder, tmp_path: Path) -> None:
    old, new = tmp_path / "cache" / "context-old", tmp_path / "cache" / "context-new"
    for folder in (old, new):
        (folder / "wheels").mkdir(parents=True)
    os.utime(old, (0, 0))
    builder.build("base", lambda line: None)
    assert (old.exists(), new.exists()) == (False, True), "the new one may be of a build that goes on"


STAGES = """ARG PARENT
FROM ${{PARENT}} AS build
LABEL localml.stage=build
COPY requirements.txt /build/{name}

FROM ${{PARENT}}
COPY --from=build /build /build
{fault}
"""


@pytest.mark.docker
def test_what_a_build_made_on_its_way_is_gone_when_it_is_done(
    tmp_path: Path, runtimes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"test-{uuid.uuid4().hex[:8]}"
    shutil.move(runtimes / "base", runtimes / name)
    (runtimes / "catalog.toml").write_text(f'[runtimes.{name}]\ndescription = "of a test"\n')
    monkeypatch.setattr("localml.engines.runtimes.build.download_wheels", lambda *_: runtimes / "launcher")
    monkeypatch.setattr("localml.engines.runtimes.build.PYTHON_IMAGE", tiny_image())
    client = connect()

    def stages() -> int:
        """Of this test: others may build at the same time."""
        listed = client.images.list(filters={"label": "localml.stage", "dangling": True})
        return sum(any(f" ---> {str(one.id).removeprefix('sha256:')[:12]}" in line for line in lines) for one in listed)

    def build(fault: str = "") -> str:
        (runtimes / name / "Dockerfile").write_text(STAGES.format(name=name, fault=fault))
        return ImageBuilder(client, tmp_path / "cache", runtimes).build(name, lines.append).reference

    lines = list[str]()
    with pytest.raises(EngineError, match="could not be built"):
        build("RUN false")
    assert stages() == 1, "the next try goes on from it"
    made = build()
    try:
        assert any("Using cache" in line for line in lines)
        assert stages() == 0
        assert client.images.get(made).tags
    finally:
        for tag in client.images.get(made).tags:
            client.images.remove(tag, force=True)
        client.close()


def test_a_failed_step_is_told_with_the_last_lines(builder: ImageBuilder, engine: RecordedEngine) -> None:
    engine.answers = [{"stream": "Step 3/4 : RUN pip\n"}, {"stream": "No matching wheel\n"}, {"error": "returned 1"}]
    with pytest.raises(EngineError, match=r"(?s)No matching wheel.*localml/base:\w+ could not be built: returned 1"):
        builder.build("base", lambda line: None)
    assert "localml/base:latest" not in engine.sizes


def test_without_a_registry_the_script_makes_the_base_and_its_failure_is_told(
    builder: ImageBuilder, engine: RecordedEngine, runtimes: Path
) -> None:
    engine.sizes.clear()
    script = runtimes / "base" / "make-rootfs"
    script.write_text("#!/bin/sh\necho no mirror today\nexit 4\n")
    script.chmod(0o755)
    lines: list[str] = []
    with pytest.raises(EngineError, match=r"(?s)exit status 4.*no mirror today"):
        builder.build("base", lines.append)
    assert any("no route to the registry" in line for line in lines)


def test_an_engine_that_does_not_answer_is_told_apart_from_one_that_refuses(
    builder: ImageBuilder, engine: RecordedEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(reference: str) -> Any:
        raise APIError("no space left")

    monkeypatch.setattr(engine, "get", refuse)
    with pytest.raises(EngineError):
        builder.status()

    def die(**options: Any) -> Iterator[dict[str, str]]:
        yield {"stream": "Step 1"}
        raise ProtocolError("Connection broken")

    engine.sizes[PYTHON_IMAGE] = 1
    monkeypatch.undo()
    monkeypatch.setattr("localml.engines.runtimes.build.download_wheels", lambda *_: tmp_path / "cache" / "one")
    monkeypatch.setattr(engine, "build", die)
    with pytest.raises(EngineUnreachable, match="Connection broken"):
        builder.build("base", lambda line: None)
    monkeypatch.setenv("DOCKER_HOST", "unix:///nonexistent.sock")
    with pytest.raises(EngineUnreachable):
        ImageBuilder(connect(), cache_dir(), runtimes_dir()).status()


def test_an_unknown_runtime_is_refused(builder: ImageBuilder) -> None:
    with pytest.raises(LocalmlError, match="runtime 'nothing' does not exist"):
        builder.build("nothing", lambda line: None)


def test_the_example_packs_to_the_same_bytes_every_time(tmp_path: Path) -> None:
    copy = tmp_path / "digits"
    shutil.copytree(example(), copy)
    (copy / "trainer" / "__pycache__").mkdir(exist_ok=True)
    (copy / "trainer" / "__pycache__" / "left.pyc").write_text("over")
    packed = [pack(folder, tmp_path / f"{number}.tar.gz") for number, folder in enumerate((example(), copy))]
    assert packed[0].read_bytes() == packed[1].read_bytes()
    with tarfile.open(packed[0]) as tar:
        assert {"digits/setup.py", "digits/trainer/task.py"} <= set(tar.getnames())


def example() -> Path:
    return runtimes_dir().parent / "scripts" / "examples" / "digits"


def pack(folder: Path, out: Path) -> Path:
    subprocess.run([str(example().parent / "pack"), str(folder), str(out)], check=True)
    return out


@pytest.fixture(scope="module")
def real() -> Iterator[Any]:
    try:
        client = connect()
        client.ping()
    except EngineUnreachable as error:
        pytest.skip(str(error))
    yield client
    client.close()


@pytest.fixture(scope="module")
def sklearn_image(real: Any) -> str:
    return ImageBuilder(real, cache_dir(), runtimes_dir()).build("train-sklearn", lambda line: None).reference


def in_container(client: Any, image: str, *command: str, **options: Any) -> str:
    output: bytes = client.containers.run(
        image, list(command), remove=True, user=f"{UID}:{UID}", network_mode="none", stderr=True, **options
    )
    return output.decode()


@pytest.mark.docker
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_base_image_gives_a_user_without_a_name_python_and_a_home(real: Any, sklearn_image: str) -> None:
    base = ImageBuilder(real, cache_dir(), runtimes_dir()).build("base", lambda line: None).reference
    program = (
        "import getpass, pathlib, sys; pathlib.Path.home().joinpath('x').touch(); print(getpass.getuser(), sys.version)"
    )
    for python in ("python", "python3"):
        assert in_container(real, base, python, "-c", program).startswith("localml 3.11.")
    assert "usage: python -m localml_launcher" in in_container(
        real, base, "sh", "-c", "python -m localml_launcher || true"
    )


@pytest.mark.docker
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_digits_example_trains_in_a_real_container(real: Any, sklearn_image: str, tmp_path: Path) -> None:
    buckets = tmp_path / "buckets"
    (buckets / "out").mkdir(parents=True)
    if os.getuid() == 0:
        os.chown(buckets / "out", UID, UID)
    else:
        (buckets / "out").chmod(0o777)
    pack(example(), buckets / "code" / "digits.tar.gz")
    launch = {
        "trainer_uri": "fds://code/digits.tar.gz",
        "module_name": "trainer.task",
        "job_args": "--epochs 20 --output-uri fds://out/model",
    }
    output = in_container(
        real,
        sklearn_image,
        *("python", "-m", "localml_launcher", "trainer"),
        environment={"LOCALML_LAUNCH": json.dumps(launch), "LOCALML_BUCKETS": "/buckets"},
        volumes={str(buckets): {"bind": "/buckets", "mode": "rw"}},
    )
    assert output.count("epoch=") == 20
    accuracy = float(output.rpartition("accuracy=")[2])
    assert accuracy > 0.95
    folder = buckets / "out" / "model"
    assert json.loads((folder / "metrics.json").read_text())["accuracy"] == pytest.approx(accuracy, abs=1e-4)
    assert {path.stat().st_uid for path in folder.rglob("*")} == {UID}
    checked = json.loads(in_container(real, sklearn_image, "python", "-c", CHECK, volumes=read_only(folder)))
    assert checked["inputs"] == [["x", 1, [None, 64]]]
    assert [name for name, _, _ in checked["outputs"]] == ["label", "probabilities"]
    assert checked["accuracy"] == pytest.approx(accuracy, abs=1e-4)
    assert checked["tags"] == ["loss", "train_accuracy", "validation_accuracy", "validation_loss"]


def read_only(folder: Path) -> dict[str, dict[str, str]]:
    return {str(folder): {"bind": "/model", "mode": "ro"}}


# onnx's own reference evaluator and event parser read what the example wrote, in the image that wrote it.
CHECK = """
import glob, json, struct
import numpy, onnx
from onnx.reference import ReferenceEvaluator
from tensorboardX.proto.event_pb2 import Event

model = onnx.load("/model/model.onnx")
onnx.checker.check_model(model, full_check=True)
test = numpy.load("/model/test.npz")
label, probabilities = ReferenceEvaluator(model).run(None, {"x": test["x"]})
assert numpy.allclose(probabilities.sum(axis=1), 1, atol=1e-4)

def shape(value):
    tensor = value.type.tensor_type
    return [value.name, tensor.elem_type, [d.dim_value or None for d in tensor.shape.dim]]

def events(data):
    while data:
        (length,) = struct.unpack("<Q", data[:8])
        yield Event.FromString(data[12 : 12 + length])
        data = data[16 + length :]

tags = set()
for name in glob.glob("/model/events/*"):
    with open(name, "rb") as file:
        tags |= {value.tag for event in events(file.read()) for value in event.summary.value}
print(json.dumps({
    "inputs": [shape(value) for value in model.graph.input],
    "outputs": [shape(value) for value in model.graph.output],
    "accuracy": float((label == test["y"]).mean()),
    "tags": sorted(tags),
}))
"""


@pytest.mark.docker
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_python_of_an_image_is_found_out_and_nothing_is_left(real: Any, sklearn_image: str) -> None:
    builder = ImageBuilder(real, cache_dir(), runtimes_dir())
    before = {one.id for one in real.containers.list(all=True, ignore_removed=True)}
    assert builder.python(sklearn_image, lambda line: None) == (3, 11)
    with pytest.raises(EngineError, match="tiny:1 has no program python3"):
        builder.python(tiny_image(), lambda line: None)
    with pytest.raises(EngineError, match="no-such-image is not on this machine and pulling it failed"):
        builder.python("localhost:1/no-such-image", lambda line: None)

    def left() -> list[str]:
        mine = [one for one in real.containers.list(all=True, ignore_removed=True) if one.id not in before]
        return [one.id for one in mine if PROBE in one.attrs["Args"]]

    wait_until(lambda: not left(), "the end of all probes, also those that other tests began meanwhile")
