"""Which of a driver's answers and events mean that a GPU is broken, and what they mean in words."""

from __future__ import annotations

from typing import Any

APPLICATION_XIDS = frozenset({13, 31, 43, 45, 68, 109})
"""XIDs that a faulty program causes on a sound GPU (out-of-bounds access, kernel killed, clean-up); not a fault."""

XIDS = {
    48: "double-bit ECC error",
    62: "internal micro-controller halt",
    63: "memory page retirement or row remapping",
    64: "memory page retirement or row remapping failed",
    74: "NVLink error",
    79: "the GPU has fallen off the bus",
    92: "high rate of single-bit ECC errors",
    94: "contained ECC error",
    95: "uncontained ECC error",
    110: "security fault",
    119: "GSP firmware does not answer",
    120: "GSP firmware error",
    122: "SPI access error",
    140: "unrecovered ECC error",
    143: "GPU initialisation failed",
}

_RECOVERED_XIDS = frozenset({63, 92})  # the driver has dealt with it; work may go on until the next reset


def xid_fault(number: int) -> str | None:
    """Why a GPU with this XID error may get no more work, or None if the GPU itself is sound."""
    if number in APPLICATION_XIDS or number in _RECOVERED_XIDS:
        return None
    return f"XID {number}: {XIDS.get(number, 'critical error')}"


def query_fault(nvml: Any, error: Any) -> str | None:
    """Why a GPU that answers a query with this NVML error is broken, or None if only that query is impossible."""
    return {
        nvml.NVML_ERROR_GPU_IS_LOST: "lost: the GPU has fallen off the bus or is no longer reachable",
        nvml.NVML_ERROR_GPU_NOT_FOUND: "lost: the driver no longer finds the GPU",
        nvml.NVML_ERROR_RESET_REQUIRED: "must be reset before it can be used again",
        nvml.NVML_ERROR_UNKNOWN: "the driver answers with an unknown error",
    }.get(error.value)


def memory_fault(
    remapped: tuple[int, int, int, int] | None, retired_pending: int | None, ecc_uncorrected: int | None
) -> str | None:
    """Why a GPU's memory cannot be trusted, or None.

    GPUs since Ampere replace bad rows, older ones retire pages; where either is known it decides, because an
    uncorrected error that was dealt with stays in the counter until the next reset.

    Args:
        remapped: corrected, uncorrected, pending and failed row remappings, if the GPU has them.
        retired_pending: 1 when pages wait to be retired, if the GPU has that.
        ecc_uncorrected: uncorrected errors since the driver was loaded, if the GPU has ECC.
    """
    if remapped is not None:
        _, _, pending, failed = remapped
        if failed:
            return "ECC: a bad memory row could not be replaced"
        return "ECC: a bad memory row is replaced at the next reset of the GPU" if pending else None
    if retired_pending is not None:
        return "ECC: bad memory pages are retired at the next reset of the GPU" if retired_pending else None
    return f"ECC: {ecc_uncorrected} uncorrected errors" if ecc_uncorrected else None
