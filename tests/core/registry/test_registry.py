"""The registry: a version is a frozen copy that is there completely or not at all."""

from __future__ import annotations

import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from helpers.models import times
from helpers.people import add_workspaces
from helpers.rig import ME

from localml.core.clock import ManualClock
from localml.core.errors import Code, LocalmlError
from localml.core.registry.advice import advice
from localml.core.registry.registry import FOLDER, NewVersion, Registry
from localml.core.serving.endpoints import Endpoints, NewEndpoint
from localml.core.serving.variants import NewVariant
from localml.objects import Buckets
from localml.store.database import Database
from localml.store.schema import prepare


class Place:
    """A registry over real folders."""

    def __init__(self, data: Path) -> None:
        self.data = data
        self.db = Database(prepare(data))
        self.buckets = Buckets(data / "buckets")
        add_workspaces(self.db, "p", "q")
        self.registry = Registry(self.db, ManualClock(), data, lambda _, uri, folder: self.buckets.get(uri, folder))
        self.endpoints = Endpoints(self.db, ManualClock())

    def put(self, uri: str, content: bytes) -> None:
        with self.buckets.open(uri, "wb") as file:
            file.write(content)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    found = Place(tmp_path)
    yield found
    found.db.close()


def test_a_file_becomes_a_version_that_no_longer_depends_on_its_source(place: Place) -> None:
    place.put("s3://b/net.onnx", times(2.0))
    made = place.registry.register(NewVersion("net", "s3://b/net.onnx", ME))
    place.put("s3://b/net.onnx", times(3.0))
    place.buckets.delete("s3://b/net.onnx")
    assert made.label == "net:1"
    assert made.version.inputs == [{"name": "x", "datatype": "FP32", "shape": [-1, 2]}]
    assert (made.version.format, made.version.runtime) == ("onnx", "onnx-server")
    assert (place.registry.folder(made.version) / "1" / "model.onnx").read_bytes() == times(2.0)
    assert made.version.size == len(times(2.0))


def test_versions_count_up_and_equal_files_have_equal_checksums(place: Place) -> None:
    place.put("s3://b/m/model.onnx", times(2.0))
    place.put("s3://b/m/labels.txt", b"cat\n")
    first, second = (place.registry.register(NewVersion("net", "s3://b/m/", ME)) for _ in range(2))
    place.put("s3://b/m/labels.txt", b"dog\n")
    third = place.registry.register(NewVersion("net", "s3://b/m/", ME))
    assert [one.version.number for one in (first, second, third)] == [1, 2, 3]
    assert first.version.checksum == second.version.checksum != third.version.checksum
    assert place.registry.find("net").version.number == 3
    assert place.registry.find("net:2").version.id == second.version.id
    assert [version.number for version in place.registry.models()[0][1]] == [3, 2, 1]


@pytest.mark.parametrize(
    ("files", "format"),
    [
        ({"kernel.py": b"class Kernel: ..."}, "python"),
        ({"model.json": b'{"kernel_path": "k.py"}', "k.py": b""}, "wmla-kernel"),
    ],
)
def test_python_kernels_are_recognised(place: Place, files: dict[str, bytes], format: str) -> None:
    for name, content in files.items():
        place.put(f"s3://b/k/{name}", content)
    made = place.registry.register(NewVersion("k", "s3://b/k/", ME))
    assert made.version.format == format
    assert made.version.inputs is None
    place.registry.learn(made.version.id or 0, [{"name": "a"}], [])
    assert place.registry.find("k").version.inputs == [{"name": "a"}]


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [("net.onnx", b"no model", "not an ONNX model"), ("readme.txt", b"x", "holds no model")],
)
def test_what_cannot_be_served_leaves_nothing_behind(place: Place, name: str, content: bytes, words: str) -> None:
    place.put(f"s3://b/{name}", content)
    with pytest.raises(LocalmlError, match=words) as failure:
        place.registry.register(NewVersion("net", f"s3://b/{name}", ME))
    assert failure.value.code is Code.INVALID
    assert place.registry.models() == []
    assert list((place.data / FOLDER).iterdir()) == []


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("iris.joblib", "pip install skl2onnx.*skl2onnx.to_onnx.*&& localml serve model.onnx.*kernel.py"),
        ("iris.pkl", "scikit-learn.*skl2onnx"),
        ("net.pt2", "torch.export.load.*net.pt2.*f='model.onnx'.*&& localml serve model.onnx"),
        ("net.pth", "torch.onnx.export.*external_data=False"),
        ("net.safetensors", r"optimum-cli export onnx --model FOLDER onnx.*pip install 'optimum-onnx\[onnxruntime\]'"),
        ("net.pb", "tf2onnx.convert --saved-model FOLDER"),
        ("trees.ubj", "onnxmltools.convert_xgboost"),
        ("trees.cbm", "save_model.*format='onnx'"),
        ("net.keras", "model.export"),
    ],
)
def test_a_frameworks_own_file_is_refused_with_the_line_that_makes_it_servable(
    place: Place, name: str, words: str
) -> None:
    place.put(f"s3://b/{name}", b"\x80\x04weights")
    with pytest.raises(LocalmlError, match=words) as failure:
        place.registry.register(NewVersion("net", f"s3://b/{name}", ME))
    assert failure.value.message.startswith(f"source: {name} ")


def test_the_line_is_one_that_a_shell_takes(place: Place) -> None:
    name = 'it\'s a "model".joblib'
    command = advice([name]).partition("): ")[2].partition(" && ")[0]
    python, flag, program = shlex.split(command)
    assert (python, flag) == ("python", "-c")
    compile(program, "line", "exec")
    assert repr(name) in program


MODULES = """
import sys, types
class Texts: pass
class Numbers: n_features_in_ = 4
class Model:
    def SerializeToString(self): return b"made"
asked = []
load = lambda name: (Texts if name == "texts.joblib" else Numbers)()
sys.modules["joblib"] = types.SimpleNamespace(load=load)
sys.modules["skl2onnx"] = types.SimpleNamespace(to_onnx=lambda m, x: asked.append(x) or Model())
exec(sys.argv[1])
print(asked[0].dtype.kind, asked[0].shape)
"""


@pytest.mark.parametrize(("name", "given"), [("texts.joblib", "U (1, 1)"), ("numbers.joblib", "f (1, 4)")])
def test_the_line_is_for_models_of_numbers_and_of_texts(tmp_path: Path, name: str, given: str) -> None:
    """A pipeline that begins with a vectorizer of texts does not know of features: it takes one column of texts."""
    program = shlex.split(advice([name]).partition("): ")[2].partition(" && ")[0])[2]
    run = subprocess.run([sys.executable, "-c", MODULES, program], cwd=tmp_path, capture_output=True, text=True)
    assert (run.stdout.strip(), run.stderr) == (given, "")
    assert (tmp_path / "model.onnx").read_bytes() == b"made"


def test_weights_beside_the_model_belong_to_it(place: Place, tmp_path: Path) -> None:
    weights = [onnx.numpy_helper.from_array(np.ones(1000, np.float32), "factor")]
    values = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1000]) for name in ("x", "y")]
    node = onnx.helper.make_node("Mul", ["x", "factor"], ["y"])
    model = onnx.helper.make_model(onnx.helper.make_graph([node], "g", values[:1], values[1:], weights))
    onnx.save(model, tmp_path / "net.onnx", save_as_external_data=True, location="weights.bin")
    place.put("s3://b/m/net.onnx", (tmp_path / "net.onnx").read_bytes())
    with pytest.raises(LocalmlError, match=r"weights in the file 'weights\.bin', which is missing"):
        place.registry.register(NewVersion("net", "s3://b/m/net.onnx", ME))
    content = (tmp_path / "weights.bin").read_bytes()
    place.put("s3://b/m/weights.bin", content[:-1])
    with pytest.raises(LocalmlError, match=f"{len(content)} bytes of weights in 'weights.bin', which has"):
        place.registry.register(NewVersion("net", "s3://b/m/", ME))
    place.put("s3://b/m/weights.bin", content)
    made = place.registry.register(NewVersion("net", "s3://b/m/", ME))
    assert (place.registry.folder(made.version) / "1" / "weights.bin").read_bytes() == content


@pytest.mark.parametrize("outside", ["../secret", "/etc/passwd"])
def test_weights_outside_the_folder_are_refused(place: Place, outside: str) -> None:
    tensor = onnx.numpy_helper.from_array(np.ones(1, np.float32), "factor")
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=outside)
    values = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1]) for name in ("x", "y")]
    node = onnx.helper.make_node("Mul", ["x", "factor"], ["y"])
    model = onnx.helper.make_model(onnx.helper.make_graph([node], "g", values[:1], values[1:], [tensor]))
    place.put("s3://b/net.onnx", model.SerializeToString())
    with pytest.raises(LocalmlError, match="which is missing"):
        place.registry.register(NewVersion("net", "s3://b/net.onnx", ME))


@pytest.mark.parametrize(
    ("files", "format", "words"),
    [
        ({"model.json": b'{"kernel_path": "k.py"}'}, "", "names the kernel 'k.py', which is missing"),
        ({"model.json": b'{"kernel_path": "../k.py"}'}, "", "names the kernel '../k.py', which is missing"),
        ({"kernel.py": b""}, "wmla-kernel", "must hold model.json, which names the kernel's file"),
    ],
)
def test_a_kernel_that_is_not_there_is_told(place: Place, files: dict[str, bytes], format: str, words: str) -> None:
    for name, content in files.items():
        place.put(f"s3://b/k/{name}", content)
    with pytest.raises(LocalmlError, match=words):
        place.registry.register(NewVersion("k", "s3://b/k/", ME, format=format))


def test_a_source_that_is_not_there_is_named(place: Place) -> None:
    with pytest.raises(LocalmlError, match="s3://b/none"):
        place.registry.register(NewVersion("net", "s3://b/none", ME))


def test_leftovers_of_a_crash_are_removed_or_replaced(place: Place) -> None:
    place.put("s3://b/net.onnx", times(2.0))
    place.registry.register(NewVersion("net", "s3://b/net.onnx", ME))
    orphan = place.data / FOLDER / "1" / "v2" / "2"  # moved there, but the record never got to the disk
    orphan.mkdir(parents=True)
    (orphan / "junk").touch()
    (place.data / FOLDER / ".part-1234").mkdir()
    place.registry.sweep()
    made = place.registry.register(NewVersion("net", "s3://b/net.onnx", ME))
    assert sorted(one.name for one in (place.registry.folder(made.version) / "2").iterdir()) == ["model.onnx"]
    assert sorted(one.name for one in (place.data / FOLDER).iterdir()) == ["1"]


def test_a_version_whose_removal_was_cut_off_leaves_nothing_behind(place: Place) -> None:
    place.put("s3://b/net.onnx", times(2.0))
    made = place.registry.register(NewVersion("net", "s3://b/net.onnx", ME))
    place.registry.delete(made, ME)
    folder = place.registry.folder(made.version)
    folder.mkdir(parents=True)  # the record got to the disk, then the server was killed
    (folder / "model.onnx").touch()
    place.registry.sweep()
    assert not folder.exists()


def test_a_version_that_is_served_cannot_be_deleted(place: Place) -> None:
    place.put("s3://b/net.onnx", times(2.0))
    made = place.registry.register(NewVersion("net", "s3://b/net.onnx", ME))
    place.endpoints.create(NewEndpoint("net", (NewVariant(model_version_id=made.version.id),), ME))
    with pytest.raises(LocalmlError) as failure:
        place.registry.delete(made, ME)
    assert failure.value.code is Code.WRONG_STATE


def test_the_last_version_takes_the_model_with_it(place: Place) -> None:
    place.put("s3://b/net.onnx", times(2.0))
    made = place.registry.register(NewVersion("net", "s3://b/net.onnx", ME))
    place.registry.delete(made, ME)
    assert place.registry.models() == []
    assert not place.registry.folder(made.version).exists()
    with pytest.raises(LocalmlError, match="'net' does not exist"):
        place.registry.find("net")
    again = place.registry.register(NewVersion("net", "s3://b/net.onnx", ME))
    assert again.label == "net:1"


def test_models_of_projects_are_apart(place: Place) -> None:
    place.put("s3://b/net.onnx", times(2.0))
    other = replace(ME, name="you", workspace="q")
    for who in (ME, other):
        place.registry.register(NewVersion("net", "s3://b/net.onnx", who))
    assert place.registry.find("net", "q").model.owner == "you"
    with pytest.raises(LocalmlError) as failure:
        place.registry.find("net")
    assert failure.value.code is Code.CONFLICT


def test_a_user_has_only_so_many_models_but_more_versions(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("localml.core.registry.registry.MOST_MODELS", 1)
    place.put("s3://b/net.onnx", times(2.0))
    for number in (1, 2):
        assert place.registry.register(NewVersion("net", "s3://b/net.onnx", ME)).label == f"net:{number}"
    with pytest.raises(LocalmlError, match="models: at most 1 models of one user, not 2"):
        place.registry.register(NewVersion("other", "s3://b/net.onnx", ME))
    assert [model.name for model, _ in place.registry.models()] == ["net"]
    assert len(list((place.data / FOLDER).iterdir())) == 1
