"""What runs can run: the vendor's published benchmarks, localml's own, and images of the user's."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

from localml.core.errors import invalid
from localml.dialects.mlbench.schemas import RunCreate

CUSTOM_IMAGE, CUSTOM_BACKEND, MPI = "custom_image", "custom_backend", "mpi"
BACKENDS = ("gloo", "nccl", MPI)
OWN_IMAGE = "localml/base:latest"
OWN_MPI_IMAGE = "localml/mpi:latest"
"""``mpiexec``, what its launcher needs, and mpi4py; ``localml/train-pytorch`` has them, too."""
OWN_COMMAND = "python benchmark.py"
_BACKEND = re.compile(r"[A-Za-z0-9._+-]{1,100}")
_COMMAND = "/conda/bin/python /codes/main.py --run_id {run_id} --rank {rank} --hosts {hosts} --backend {backend}"

IMAGES: dict[str, bool] = {
    "mlbench/pytorch-cifar10-resnet20-all-reduce:latest": True,
    "mlbench/pytorch-cifar10-resnet20-ddp:latest": True,
    "mlbench/pytorch-epsilon-logistic-regression-all-reduce:latest": True,
    "mlbench/pytorch-wikitext2-lstm-all-reduce:latest": True,
    "mlbench/pytorch-wmt16-gnmt-all-reduce:latest": True,
    "mlbench/pytorch-wmt17-transformer-all-reduce:latest": True,
    "mlbench/tensorflow-cifar10-resnet:latest": False,
    "mlbench/pytorch-backend-benchmark:latest": True,
}
"""The vendor's benchmark images -> whether they use GPUs. All are started by the same command."""


@dataclass(frozen=True, slots=True)
class Program:
    """What the workers run: ``words`` with ``{rank}`` and the like in them; ``everywhere`` or on the first alone.

    With ``mpi`` the first worker starts them everywhere, by ``mpiexec``.
    """

    image: str
    command: str
    words: tuple[str, ...]
    backend: str
    gpu: bool
    everywhere: bool
    mpi: bool = False


def program_of(run: RunCreate) -> Program:
    """What a request asks to be run.

    Raises:
        LocalmlError: ``INVALID`` naming the member at fault.
    """
    backend = _backend(run)
    mpi = (run.backend or "").lower() == MPI
    image, command, gpu = run.image_name, _COMMAND, run.gpu_enabled
    if image is None:
        text = (Path(__file__).parents[1] / "benchmark.py").read_text(encoding="utf-8")
        own = OWN_MPI_IMAGE if mpi else OWN_IMAGE
        return Program(own, OWN_COMMAND, ("python", "-c", text), backend, gpu, everywhere=True, mpi=mpi)
    if image == CUSTOM_IMAGE:
        if not run.custom_image_name or not run.custom_image_command:
            missing = "custom_image_command" if run.custom_image_name else "custom_image_name"
            raise invalid(missing, f"is required with image_name {CUSTOM_IMAGE}")
        image, command = run.custom_image_name, run.custom_image_command
    elif image in IMAGES:
        gpu = gpu and IMAGES[image]
    else:
        raise invalid("image_name", f"must be {CUSTOM_IMAGE} or one of {', '.join(IMAGES)}, not {image[:200]!r}")
    if re.search(r"[\s\x00-\x1f]", image):
        raise invalid("custom_image_name", f"{image[:200]!r} is no name of an image")
    return Program(image, command, _words(command), backend, gpu, everywhere=run.run_all_nodes or mpi, mpi=mpi)


def _backend(run: RunCreate) -> str:
    given = run.backend or BACKENDS[0]
    if given == CUSTOM_BACKEND:
        if run.custom_backend is None or not _BACKEND.fullmatch(run.custom_backend):
            raise invalid("custom_backend", f"is required with backend {CUSTOM_BACKEND}, as a word without blanks")
        return run.custom_backend
    if given.lower() not in BACKENDS:
        raise invalid("backend", f"must be MPI, GLOO, NCCL or {CUSTOM_BACKEND}, not {given[:100]!r}")
    return given.lower()


def _words(command: str) -> tuple[str, ...]:
    """The words of a command. No shell reads them; quotes keep a word together."""
    if "\0" in command:
        raise invalid("custom_image_command", "holds a NUL character")
    try:
        words = tuple(shlex.split(command))
    except ValueError as error:
        raise invalid("custom_image_command", f"cannot be parted into words: {error}") from error
    if not words:
        raise invalid("custom_image_command", "must not be blank")
    return words
