"""Why something ended: one closed list, each with its default retry rule and a sentence that helps."""

from __future__ import annotations

import signal as signals
from dataclasses import dataclass
from enum import StrEnum


class Cause(StrEnum):
    """Why an attempt, and with it a workload, ended."""

    COMPLETED = "completed"
    EXIT_CODE = "exit_code"
    SIGNAL = "signal"
    OOM = "oom_killed"
    CUDA_OOM = "cuda_out_of_memory"
    GPU_LOST = "gpu_lost"
    TIME_LIMIT = "time_limit"
    IMAGE_MISSING = "image_missing"
    START_FAILED = "start_failed"
    DISK_FULL = "disk_full"
    ENGINE_LOST = "engine_lost"
    DEPENDENCY = "dependency_failed"
    STOPPED = "stopped"
    SUPERSEDED = "superseded"  # another replica's end decided the workload
    DEFECT = "defect"  # localml itself cannot go on with it


class RetryRule(StrEnum):
    """Default treatment of a cause when the spec's retry policy does not say more.

    ``policy``: counts against the user's retries. ``always``: not the program's fault, tried again without
    counting, at most :data:`FREE_RETRIES` times after short runs. ``never``: trying again cannot help.
    """

    POLICY = "policy"
    ALWAYS = "always"
    NEVER = "never"


FREE_RETRIES = 3
OOM_WORDS = "killed by the kernel: over the memory limit"


@dataclass(frozen=True, slots=True)
class CauseFacts:
    """A cause's retry rule and the sentence shown to the user."""

    retry: RetryRule
    help: str


CAUSES: dict[Cause, CauseFacts] = {
    Cause.COMPLETED: CauseFacts(RetryRule.NEVER, "The program ended with exit code 0."),
    Cause.EXIT_CODE: CauseFacts(
        RetryRule.POLICY, "The program ended with an error; its last lines of stderr say more (localml logs)."
    ),
    Cause.SIGNAL: CauseFacts(RetryRule.POLICY, "The program was ended by a signal that localml did not send."),
    Cause.OOM: CauseFacts(
        RetryRule.POLICY,
        "The kernel killed the program because it went over its memory limit; ask for more with --memory.",
    ),
    Cause.CUDA_OOM: CauseFacts(
        RetryRule.POLICY,
        "The GPU's memory was full; use a smaller batch, or a GPU that nobody shares.",
    ),
    Cause.GPU_LOST: CauseFacts(
        RetryRule.ALWAYS,
        "The GPU fell off the bus or reported errors; it is fenced and another one is tried.",
    ),
    Cause.TIME_LIMIT: CauseFacts(RetryRule.NEVER, "The time limit of the job was reached."),
    Cause.IMAGE_MISSING: CauseFacts(
        RetryRule.NEVER,
        "Nothing here has that image, as the message says; 'localml images list' shows the runtimes of this machine.",
    ),
    Cause.START_FAILED: CauseFacts(
        RetryRule.NEVER, "The container could not be started; the message is the engine's own."
    ),
    Cause.DISK_FULL: CauseFacts(
        RetryRule.POLICY, "The disk is full; 'localml prune' frees what ended workloads left behind."
    ),
    Cause.ENGINE_LOST: CauseFacts(
        RetryRule.ALWAYS,
        "The engine or its machine was restarted, or somebody removed the container; this takes none of the job's own "
        "retries.",
    ),
    Cause.DEPENDENCY: CauseFacts(RetryRule.NEVER, "A workload that this one depends on did not succeed."),
    Cause.STOPPED: CauseFacts(RetryRule.NEVER, "Stopped on request."),
    Cause.SUPERSEDED: CauseFacts(RetryRule.NEVER, "Ended because the workload was already decided."),
    Cause.DEFECT: CauseFacts(
        RetryRule.NEVER, "A defect of localml, not of the program; the server's log says more (localml status)."
    ),
}

_DISK_FULL = (b"No space left on device", b"ENOSPC", b"disk full")
_CUDA_OOM = (b"CUDA out of memory", b"CUDA_ERROR_OUT_OF_MEMORY", b"cudaErrorMemoryAllocation")
_SHM = "shared memory (/dev/shm) was probably full; ask for more with --shm (OpenPAI: shmMB)"
_SHM_FULL = (
    b"killed by signal: Bus error",
    b"insufficient shared memory",
    b"out of shared memory",
    b"torch_shm_manager",
    b"unable to write to file </torch_",
)
_HINTS: dict[int, str] = {
    signals.SIGBUS: _SHM,
    signals.SIGILL: "an instruction that this machine's CPU does not have, in a library built for another one",
}
_GPU_LOST = (
    b"GPU is lost",
    b"GPU has fallen off the bus",
    b"uncorrectable ECC error",
    b"CUDA_ERROR_ECC_UNCORRECTABLE",
)


def classify(
    exit_code: int | None, signal: int | None, *, oom_killed: bool = False, log_tail: bytes = b""
) -> tuple[Cause, str]:
    """The cause of a container's end, from what the engine reports and the last kilobytes of its output.

    Args:
        exit_code: the status, or None when the program was ended by a signal.
        signal: the signal number, if the engine could tell; 128+n exit codes are read as signal n.
        oom_killed: whether the engine says that the memory limit killed it.
        log_tail: the last bytes of stderr.

    Returns:
        The cause and one sentence with the particulars.
    """
    if exit_code == 0 and not oom_killed and signal is None:
        return Cause.COMPLETED, "exit code 0"
    if signal is None and exit_code is not None and 128 < exit_code < 128 + 65:
        signal = exit_code - 128
    if oom_killed:
        return Cause.OOM, OOM_WORDS
    status = f"signal {_signal_name(signal)}" if signal else f"exit code {exit_code}"
    plain = Cause.SIGNAL if signal else Cause.EXIT_CODE
    for marks, cause, hint in (
        (_SHM_FULL, plain, f"{_SHM}; "),  # before the full disk, as which it is told, too
        (_CUDA_OOM, Cause.CUDA_OOM, ""),
        (_GPU_LOST, Cause.GPU_LOST, ""),
        (_DISK_FULL, Cause.DISK_FULL, ""),
    ):
        if any(mark in log_tail for mark in marks):
            return cause, f"{status}; {hint}the log says: {_quote(log_tail, marks)}"
    why = _HINTS.get(signal or 0)
    return plain, f"{status}: {why}" if why else status


def _signal_name(number: int) -> str:
    try:
        return signals.Signals(number).name
    except ValueError:
        return str(number)


def _quote(tail: bytes, marks: tuple[bytes, ...]) -> str:
    for line in reversed(tail.splitlines()):
        if any(mark in line for mark in marks):
            return shortened(line.decode(errors="replace").strip(), 400)
    return ""


def shortened(line: str, most: int = 1000) -> str:
    """A line of output that is quoted, cut in its middle: what failed stands at its beginning, and why at its end."""
    if len(line) <= most:
        return line
    return f"{line[: most // 3]} ... {line[-(most - most // 3) :]}"
