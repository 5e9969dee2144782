"""Models as clients send them, and what becomes of a task's options: the workload."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers.people import tree_of
from helpers.wmla import packed

from localml.core.errors import LocalmlError
from localml.core.people.identity import Caller
from localml.core.work.specs import WorkloadSpec
from localml.dialects.kit.multipart import FilePart
from localml.dialects.wmla.schemas.execs import TaskData
from localml.dialects.wmla.translate.args import parse_args
from localml.dialects.wmla.translate.ids import app_id, new_exec_id, number_of, submission_id
from localml.dialects.wmla.translate.model_upload import Model, keep_model
from localml.dialects.wmla.translate.places import places_of
from localml.dialects.wmla.translate.tasks import Task, task_spec, with_hardware
from localml.platform import Platform

PROGRAM = "print('hello')\n"
FILES = {"main.py": PROGRAM, "net/layers.py": ""}
START = "--exec-start PyTorch --model-main main.py"


@pytest.fixture
def me(platform: Platform) -> Caller:
    return platform.identity.user("admin")


@pytest.fixture
def keep(platform: Platform, me: Caller, tmp_path: Path) -> Callable[..., Model]:
    def act(content: bytes, args: str, filename: str | None = None) -> Model:
        path = tmp_path / "sent"
        path.write_bytes(content)
        return keep_model(
            platform, me.workspace, FilePart("file", filename, None, path, len(content)), parse_args(args)
        )

    return act


@pytest.mark.parametrize("gz", [False, True])
@pytest.mark.parametrize("name", [None, "m.modelDir.tar", "tmp3a1"])
def test_a_folder_is_known_by_its_bytes_whatever_it_is_called(
    keep: Callable[..., Model], gz: bool, name: str | None
) -> None:
    found = keep(packed(FILES, "m", gz=gz), f"{START} --model-dir m", name)
    assert (found.folder, found.main) == ("m", "main.py")
    assert keep(packed(FILES, gz=gz), START, name).folder == ""


@pytest.mark.parametrize(
    ("files", "args", "folder", "main"),
    [
        (FILES, "--model-main m/main.py", "m", "main.py"),
        (FILES, "--model-main /home/me/m/main.py --model-dir /home/me/m", "m", "main.py"),
        (FILES, "--model-main ./net/layers.py", "m", "net/layers.py"),
        (FILES, "--model-dir other --model-main main.py", "m", "main.py"),
        ({"train.py": "", "README": ""}, "", "m", "train.py"),
        (FILES, "--user-cmd -- bash run.sh", "m", None),
    ],
)
def test_the_program_is_found_in_its_folder(
    keep: Callable[..., Model], files: dict[str, str], args: str, folder: str, main: str | None
) -> None:
    found = keep(packed(files, "m"), f"--exec-start PyTorch {args}")
    assert (found.folder, found.main) == (folder, main)


def test_one_file_is_a_folder_with_that_file_alone(keep: Callable[..., Model], platform: Platform, me: Caller) -> None:
    found = keep(PROGRAM.encode(), "--exec-start PyTorch --model-main /home/me/main.py", "x.py")
    assert found.main == "main.py"
    assert keep(PROGRAM.encode(), "--exec-start PyTorch", "C:\\models\\main.py") == found
    with tarfile.open(platform.code.archives.use(me.workspace, found.code).path) as archive:
        assert archive.getnames() == ["main.py"]
        assert archive.extractfile("main.py").read().decode() == PROGRAM  # type: ignore[union-attr]
    assert keep(PROGRAM.encode(), "--exec-start PyTorch").main == "model.py"


def _escaping() -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as archive:
        member = tarfile.TarInfo("../../evil.py")
        archive.addfile(member, io.BytesIO())
    return made.getvalue()


@pytest.mark.parametrize(
    ("content", "args", "words"),
    [
        (b"", START, "file: is empty"),
        (_escaping(), START, "has '..' in its name"),
        (packed({"/etc/x": ""}), START, "has an absolute name"),
        (packed(FILES, "m", gz=True)[:80], START, "is truncated or corrupt"),
        (packed({}), START, "holds no files"),
        (packed(FILES, "m"), "--exec-start PyTorch --model-main other.py", "there is no 'other.py' in the model"),
        (packed({"a.py": "", "b.py": ""}), "--exec-start PyTorch", "--model-main is required"),
    ],
)
def test_what_no_model_can_be_is_refused(keep: Callable[..., Model], content: bytes, args: str, words: str) -> None:
    with pytest.raises(LocalmlError) as found:
        keep(content, args)
    assert words in found.value.message


def test_what_is_called_a_tar_is_one(keep: Callable[..., Model]) -> None:
    for name in ("m.modelDir.tar", "M.TAR.GZ"):
        with pytest.raises(LocalmlError, match=f"file: '{name}' is no tar, gzipped or not"):
            keep(b"cut off, or saved from a page", START, name)


@pytest.fixture
def spec(platform: Platform, me: Caller) -> Callable[..., WorkloadSpec]:
    def act(args: str, sources: Any = (), hardware: Any = None) -> WorkloadSpec:
        given = with_hardware(parse_args(f"{START} {args}"), hardware or {})
        view = platform.buckets_for(me)
        data = TaskData.model_validate({"dataSource": list(sources)})
        places = places_of(view, me, "exec-1", given.datastore, data.sources)
        return task_spec(platform, Task(given, Model("sha256:" + "0" * 64, "m", "main.py"), places))

    return act


def test_a_task_is_told_where_everything_is(spec: Callable[..., WorkloadSpec], platform: Platform, me: Caller) -> None:
    tree_of(platform).make_folder("s3://mnist/train")
    found = spec("--cs-datastore-meta type=fs,data_path=/mnist/train/ --epochs 3 --msd-env A=%{index}")
    (role,) = found.roles
    assert role.command[4:] == (
        *("wmla-admin", "wmla-admin/admin/batchworkdir/exec-1", "mnist/train", ""),
        *("python", "-u", "main.py", "--epochs", "3"),
    )
    assert role.env["USER"] == "admin"
    assert role.env["DLI_EXECID"] == role.env["TRAINING_ID"] == "exec-1"
    assert role.env["A"] == "%%{index}"
    assert (role.workdir, role.image, role.ports) == ("m", "localml/train-pytorch:latest", ())
    assert found.objects == ("s3://wmla-admin/admin/batchworkdir/exec-1", "s3://mnist/train")
    assert platform.buckets_for(me).find("s3://wmla-admin") is None  # it is made with the result folder


@pytest.mark.parametrize(
    ("source", "data", "files"),
    [
        ({"type": "fs", "location": {"paths": "mnist/train"}}, "mnist/train", ""),
        ({"type": "fs", "location": {"volume": "mnist", "paths": "train"}}, "mnist/train", ""),
        ({"type": "fs", "location": {"volume": "mnist"}}, "mnist", ""),
        ({"type": "fs"}, "", ""),
        ({"type": "connection", "location": {"bucket": "mnist", "paths": "train/a.csv"}}, "mnist/train", ""),
        (
            {"type": "connection", "asset": {"asset_id": "mnist"}, "location": {"paths": "train/a.csv, b.csv"}},
            "mnist",
            "mnist/train/a.csv,mnist/b.csv",
        ),
        ({"type": "data_asset", "asset": {"asset_id": "b.csv", "project_id": "mnist"}}, "mnist", ""),
        ({"type": "data_asset", "asset": {"asset_id": "mnist"}}, "mnist", ""),
    ],
)
def test_data_sources_are_places_in_the_buckets(
    spec: Callable[..., WorkloadSpec], platform: Platform, source: dict[str, Any], data: str, files: str
) -> None:
    for name in ("train/a.csv", "b.csv"):
        with tree_of(platform).open(f"s3://mnist/{name}", "wb") as file:
            file.write(b"1")
    found = spec("--cs-datastore-meta type=fs,data_path=nowhere", [source])
    assert found.roles[0].command[6:8] == (data, files)


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ({"type": "fs", "location": {"paths": "a,b"}}, "is one folder for fs, not 2"),
        ({"type": "fs", "location": {"paths": "nowhere"}}, "'nowhere' does not exist in the buckets"),
        ({"type": "fs", "location": {"paths": "mnist/../x"}}, "'..'"),
        ({"type": "connection", "location": {"paths": "a"}}, "is required for a connection: the bucket"),
        ({"type": "connection", "location": {"bucket": "mnist"}}, "is required for a connection"),
        ({"type": "data_asset"}, "asset_id: is required for a data asset"),
    ],
)
def test_data_that_is_not_there_is_refused(
    spec: Callable[..., WorkloadSpec], source: dict[str, Any], words: str
) -> None:
    with pytest.raises(LocalmlError) as found:
        spec("", [source])
    assert words in found.value.message


@pytest.mark.parametrize(
    ("args", "cpu", "gpu", "memory"),
    [
        ("", None, 0, None),
        ("--workerDeviceNum 2", None, 2, None),  # this machine has GPUs
        ("--workerDeviceType cpu --workerDeviceNum 2", 2, 0, None),
        ("--workerDeviceType gpu", None, 1, None),
        ("--workerDeviceType cpu", None, 0, None),
        ("--workerDeviceType gpu --workerDeviceNum 0.5 --workerCPULimit 3", 3, 0.5, None),
        ("--gpuPerWorker 1 --workerMemory 2g", None, 1, 2 << 30),
        ("--workerMemory 2g --workerMemoryLimit 4g --driverMemory 8g", None, 0, 4 << 30),
        ("--driverDeviceType gpu --driverDeviceNum 2 --driverMemory 1g", None, 2, 1 << 30),
        ("--workerDeviceType cpu --workerDeviceNum 1 --driverDeviceType gpu", 1, 0, None),
    ],
)
def test_devices_and_memory_are_each_workers(
    spec: Callable[..., WorkloadSpec], args: str, cpu: float | None, gpu: float, memory: int | None
) -> None:
    found = spec(args).roles[0].resources
    assert (found.cpu, found.gpu, found.memory) == (cpu, gpu, memory)


def test_several_workers_are_one_gang_that_find_each_other(spec: Callable[..., WorkloadSpec]) -> None:
    (role,) = spec("--numWorker 3 --workerDeviceNum 2").roles
    assert role.count == 3
    assert role.env["NODE_RANK"] == role.env["RANK"] == "%{index}"
    assert (role.env["WMLA_NWORKER"], role.env["WMLA_WORKER_NDEVICE"], role.env["WORLD_SIZE"]) == ("3", "2", "3")
    assert [port.label for port in role.ports] == ["cluster"]
    (role,) = spec("--exec-start distPyTorch").roles
    assert role.env["WMLA_WORKERS"] == "%{addresses:worker:cluster}"


def test_hardware_takes_the_place_of_options(spec: Callable[..., WorkloadSpec]) -> None:
    nodes = {"num_nodes": 4, "mem": {"size": "16g"}, "gpu": {"num_gpu": 1}, "cpu": {"units": "0.25"}}
    (role,) = spec("--numWorker 2", hardware={"nodes": nodes}).roles
    found = role.resources
    assert (role.count, found.memory, found.gpu, found.cpu) == (4, 16 << 30, 1, 0.25)
    for wrong in ({"num_nodes": 0}, {"num_nodes": 1.5}, {"mem": 3}, {"gpu": {"num_gpu": "x"}}, {"mem": {"size": "x"}}):
        with pytest.raises(LocalmlError, match="hardwareSpec"):
            spec("", hardware={"nodes": wrong})


@pytest.mark.parametrize("args", ["--gpuPerWorker 1.5", "--workerMemory 1", "--workerCPULimit 5000"])
def test_amounts_that_nothing_can_have_are_refused(spec: Callable[..., WorkloadSpec], args: str) -> None:
    with pytest.raises(LocalmlError, match="args"):
        spec(args)


def test_a_framework_is_found_in_any_case_and_one_that_is_not_there_is_named(spec: Callable[..., WorkloadSpec]) -> None:
    assert spec("--exec-start SCIKIT-learn").roles[0].image == "localml/train-sklearn:latest"
    with pytest.raises(LocalmlError, match=r"there is no framework 'caffe'.*PyTorch"):
        spec("--exec-start caffe")
    assert spec("--exec-start caffe --msd-image-name mine:1").roles[0].image == "mine:1"


def test_ids_are_stable_and_lead_back(platform: Platform) -> None:
    assert app_id(platform, 7) == app_id(platform, 7) != app_id(platform, 8)
    assert number_of(platform, app_id(platform, 7)) == number_of(platform, submission_id(platform, 7)) == 7
    for other in (new_exec_id(), "app-1", "driver-", "", app_id(platform, 7)[:-1]):
        assert number_of(platform, other) is None
