"""The options of a task (``--exec-start PyTorch --model-main main.py --batch-size 200``), split as a shell would.

The service's options are those of :data:`OPTIONS`; everything else is the program's own, in its order, and so is all
that follows ``--``. With ``--user-cmd`` what follows ``--`` is the whole command.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from localml.core.errors import LocalmlError, invalid
from localml.core.limits import MOST_ARGUMENTS, MOST_REPLICAS, need_at_most
from localml.core.numerals import whole
from localml.core.quantities import parse_memory
from localml.core.work.specs import ENV_NAME

FIELD = "args"
_CONTINUED = re.compile(r"\\\r?\n")
_PLAIN_NUMBER = re.compile(r"\s*[0-9]+\s*")
_SECRET = re.compile(r"(--(?:cs-url-bearer|jwt-token)(?:=|\s+))(?:'[^']*'|\"[^\"]*\"|\S+)")
_NEGATIVE = re.compile(r"-[0-9.]")
_AMOUNT = re.compile(r"[0-9]{1,9}(?:\.[0-9]{1,9})?")

Read = Callable[[str, str], Any]
"""Takes an option's value; of it and the option's name it makes what is kept, or raises ``ValueError``."""


def _text(name: str, text: str) -> str:
    if not text:
        raise ValueError(f"{name} needs a value")
    return text


def _number(name: str, text: str) -> int:
    found = whole(text.strip())
    if found is None:
        raise ValueError(f"{name} must be a whole number, not {text[:40]!r}")
    return found


def _amount(name: str, text: str) -> float:
    if not _AMOUNT.fullmatch(text.strip()):
        raise ValueError(f"{name} must be a number, not {text[:40]!r}")
    return float(text)


def memory_bytes(name: str, text: str) -> int:
    """Bytes; a number without a unit is one of MiB, as the vendor's schedulers read it.

    Raises:
        LocalmlError: ``INVALID`` when the text is no amount.
    """
    return parse_memory(f"{text.strip()}M" if _PLAIN_NUMBER.fullmatch(text) else text, name)


def _memory(name: str, text: str) -> int:
    try:
        return memory_bytes(name, text)
    except LocalmlError as error:
        raise ValueError(error.message) from None


def _device(name: str, text: str) -> str:
    if text.lower() not in ("cpu", "gpu"):
        raise ValueError(f"{name} must be cpu or gpu, not {text[:40]!r}")
    return text.lower()


def _pair(name: str, text: str) -> dict[str, str]:
    variable, mark, value = text.partition("=")
    if not mark or not ENV_NAME.fullmatch(variable):
        raise ValueError(f"{name} must be NAME=VALUE, not {text[:40]!r}")
    return {variable: value}


def _meta(name: str, text: str) -> dict[str, str]:
    pairs = [part.partition("=") for part in text.split(",") if part.strip()]
    if not all(mark and key.strip() for key, mark, _ in pairs):
        raise ValueError(f"{name} must be pairs such as type=fs,data_path=mnist, not {text[:80]!r}")
    return {key.strip(): value.strip() for key, _, value in pairs}


OPTIONS: dict[str, tuple[str, Read]] = {
    "--exec-start": ("framework", _text),
    "--model-main": ("main", _text),
    "--model-dir": ("folder", _text),
    "--appName": ("app_name", _text),
    "--consumer": ("consumer", _text),
    "--numWorker": ("workers", _number),
    "--workerDeviceType": ("worker.kind", _device),
    "--workerDeviceNum": ("worker.devices", _amount),
    "--gpuPerWorker": ("worker.gpus", _amount),
    "--workerGPULimit": ("worker.gpus", _amount),
    "--workerMemory": ("worker.memory", _memory),
    "--workerMemoryLimit": ("worker.memory_limit", _memory),
    "--workerCPULimit": ("worker.cpu", _amount),
    "--driverDeviceType": ("driver.kind", _device),
    "--driverDeviceNum": ("driver.devices", _amount),
    "--driverGPULimit": ("driver.gpus", _amount),
    "--driverMemory": ("driver.memory", _memory),
    "--driverMemoryLimit": ("driver.memory_limit", _memory),
    "--driverCPULimit": ("driver.cpu", _amount),
    "--cs-datastore-meta": ("datastore", _meta),
    "--msd-env": ("env", _pair),
    "--msd-image-name": ("image", _text),
}
"""Option -> which member of :class:`TaskArgs` takes it, and what reads its value."""
USER_COMMAND = "--user-cmd"
"""The one option without a value."""

WITHOUT_EFFECT = frozenset(
    {
        *("--ig", "--submit-user", "--numDriver", "--numPs", "--debug-level", "--lsf-gpu-syntax"),
        *("--conda-env-name", "--conda-home", "--conda-env-yaml", "--conda-package"),
        *("--cs-rmq-meta", "--cs-url-meta", "--cs-url-bearer", "--jwt-token"),
        *("--sc-runasuser", "--sc-runasgroup", "--sc-fsgroup"),
        *("--msd-attr", "--msd-label", "--msd-image-pull-secret", "--msd-image-pull-policy", "--msd-pack-id"),
        *("--msd-task0-node-selector", "--msd-task12n-node-selector", "--msd-pending-timeout", "--msd-priority"),
        *("--msd-podaffinity-rule", "--msd-podaffinity-topology-key"),
    }
)
"""Options of the service, each with a value, that mean nothing on one machine; an event names those that came."""

REFUSED = {
    "--pbmodel-name": "there are no prebuilt models here; send the model's files and name its program in --model-main",
    "--data-source": "is for the vendor's command line, which sends it as data.dataSource",
    "--pbmodel-cmd": "there are no prebuilt models here; send the model's files and name its program in --model-main",
}


@dataclass(frozen=True, slots=True)
class Needs:
    """What a driver or each worker asks for; None: nothing said. ``kind`` is ``cpu`` or ``gpu``, of ``devices``;
    memory in bytes, ``cpu`` in cores."""

    kind: str | None = None
    devices: float | None = None
    gpus: float | None = None
    memory: int | None = None
    memory_limit: int | None = None
    cpu: float | None = None


@dataclass(frozen=True, slots=True)
class TaskArgs:
    """The options of a task, taken apart.

    Attributes:
        framework: as it was given.
        main: the program's file, as it was given.
        folder: the model's folder in what is sent.
        command: the whole command, of ``--user-cmd``; empty otherwise.
        datastore: of ``--cs-datastore-meta``, such as ``type`` and ``data_path``.
        program: the program's own arguments, in their order.
        unknown: names of options among them that are none of the service's.
        without_effect: names of options of the service that change nothing here.
    """

    framework: str = ""
    main: str | None = None
    folder: str | None = None
    command: tuple[str, ...] = ()
    app_name: str | None = None
    consumer: str | None = None
    image: str | None = None
    workers: int = 1
    worker: Needs = Needs()
    driver: Needs = Needs()
    datastore: dict[str, str] = field(default_factory=dict)
    env: dict[str, str] = field(default_factory=dict)
    program: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()
    without_effect: tuple[str, ...] = ()


def parse_args(text: str, field: str = FIELD) -> TaskArgs:
    """Take the options of a task apart.

    Args:
        field: the request member that an error names.

    Raises:
        LocalmlError: ``INVALID``: quotes that are not closed, no ``--exec-start``, an option without its value or with
            one that is none.
    """
    words = split_words(text, field)
    reader = _Reader(field)
    reader.read(words)
    return reader.finished()


def split_words(text: str, field: str = FIELD) -> list[str]:
    """The words of a text as a shell splits them; a backslash at a line's end goes on with the next line.

    Raises:
        LocalmlError: ``INVALID`` for a quote that is not closed, a NUL, or more than a command may have.
    """
    need_at_most(field, len(text.encode("utf-8", "replace")), MOST_ARGUMENTS, "bytes")
    if "\0" in text:
        raise invalid(field, "holds a NUL character")
    try:
        return shlex.split(_CONTINUED.sub(" ", text))
    except ValueError as error:
        raise invalid(field, f"cannot be split into words: {str(error).lower()}") from None


def without_secrets(text: str) -> str:
    """Options as they may be shown: tokens, which are of no use here, are left out."""
    return _SECRET.sub(r"\1***", text)


class _Reader:
    """Reads words once, from left to right; of an option that comes twice the last one counts."""

    def __init__(self, field: str) -> None:
        self._field = field
        self._values: dict[str, Any] = {"datastore": {}, "env": {}}
        self._whole_command = False
        self._program: list[str] = []
        self._unknown: dict[str, None] = {}
        self._without: dict[str, None] = {}

    def read(self, words: list[str]) -> None:
        waiting = iter(words)
        for word in waiting:
            if word == "--":
                self._rest(tuple(waiting))
                return
            self._word(word, waiting)

    def _word(self, word: str, waiting: Iterator[str]) -> None:
        name, mark, value = word.partition("=")
        if name in REFUSED:
            raise invalid(self._field, f"{name}: {REFUSED[name]}")
        if name == USER_COMMAND:
            self._whole_command = True
        elif name in OPTIONS or name in WITHOUT_EFFECT:
            self._option(name, value if mark else self._next(name, waiting))
        else:
            self._program.append(word)
            if name.startswith("-") and not _NEGATIVE.match(name):
                self._unknown[name] = None

    def _next(self, name: str, waiting: Iterator[str]) -> str:
        value = next(waiting, None)
        if value is None or value.partition("=")[0] in {USER_COMMAND, *OPTIONS}:
            raise invalid(self._field, f"{name} needs a value")
        return value

    def _option(self, name: str, value: str) -> None:
        if name in WITHOUT_EFFECT:
            self._without[name] = None
            return
        member, read = OPTIONS[name]
        try:
            found = read(name, value)
        except ValueError as error:
            raise invalid(self._field, str(error)) from None
        if isinstance(found, dict):
            self._values[member].update(found)
        else:
            self._values[member] = found

    def _rest(self, words: tuple[str, ...]) -> None:
        if self._whole_command:
            self._values["command"] = words
        else:
            self._program += words

    def finished(self) -> TaskArgs:
        values, workers = self._values, self._values.get("workers", 1)
        if not values.get("framework"):
            raise invalid(self._field, "--exec-start FRAMEWORK is required")
        if self._whole_command and not values.get("command"):
            raise invalid(self._field, f"{USER_COMMAND} needs its command after '--'")
        if workers < 1:
            raise invalid(self._field, "--numWorker must be at least 1")
        need_at_most(self._field, workers, MOST_REPLICAS, "workers")
        return TaskArgs(
            **{name: value for name, value in values.items() if "." not in name},
            worker=self._needs("worker."),
            driver=self._needs("driver."),
            program=tuple(self._program),
            unknown=tuple(self._unknown),
            without_effect=tuple(self._without),
        )

    def _needs(self, prefix: str) -> Needs:
        return Needs(
            **{name.removeprefix(prefix): one for name, one in self._values.items() if name.startswith(prefix)}
        )
