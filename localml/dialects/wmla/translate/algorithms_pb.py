"""What an algorithm is given to work on, as bytes in the schema ``schemas/task_attr.proto``.

Protocol Buffers are written here with a page of code: their library is ten times as large as what is needed of it.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable

from localml.dialects.wmla.schemas.algorithms import DebugRequest
from localml.dialects.wmla.schemas.searches import AlgoDefBase
from localml.dialects.wmla.schemas.searches_space import Experiment, FixedParam, HyperParam

_VARINT, _FIXED64, _BYTES = 0, 1, 2


def task_attr(asked: DebugRequest) -> bytes:
    """A search that is only looked at, as a ``TaskAttr``."""
    return b"".join(
        (
            _text(1, asked.hpoName or ""),
            _bytes(2, _algo_def(asked.algoDef)),
            *(_bytes(3, _hyper_param(one)) for one in asked.hyperParams or ()),
            *(_bytes(4, _experiment(one)) for one in asked.experiments or ()),
        )
    )


def _algo_def(algo: AlgoDefBase) -> bytes:
    return b"".join(
        (
            _text(1, algo.algorithm),
            _integer(2, algo.maxRunTime),
            _integer(3, algo.maxJobNum),
            _integer(4, algo.maxParalleJob),
            _text(5, algo.objectiveMetric or ""),
            _text(6, algo.objective or ""),
            *(_bytes(7, _text(1, one.name) + _text(2, one.value)) for one in algo.algoParams),
        )
    )


def _hyper_param(one: HyperParam) -> bytes:
    doubles, integers = one.discreteDbVal or [], one.discreteIntVal or []
    return b"".join(
        (
            _text(1, one.name) + _text(2, one.type.capitalize()) + _text(3, one.dataType.upper()),
            *(_double(field, one) for field, one in ((4, one.minDbVal), (5, one.maxDbVal)) if one is not None),
            *(_integer(field, one) for field, one in ((6, one.minIntVal), (7, one.maxIntVal)) if one is not None),
            _bytes(8, struct.pack(f"<{len(doubles)}d", *doubles)) if doubles else b"",
            _bytes(9, b"".join(map(_varint, integers))) if integers else b"",
            *(_bytes(10, text.encode()) for text in one.discreateStrVal or ()),
            _text(11, "" if one.fixedVal is None else str(one.fixedVal)),
            _text(12, "" if one.step is None else repr(one.step)),
            _text(13, "" if one.power is None else repr(one.power)),
        )
    )


def _experiment(one: Experiment) -> bytes:
    return _integer(1, one.id) + b"".join(_bytes(2, _fixed(param)) for param in one.hyperParams)


def _fixed(one: FixedParam) -> bytes:
    return _text(1, one.name) + _text(2, "Fix") + _text(3, one.dataType.upper()) + _text(11, str(one.fixedVal))


def _text(field: int, text: str) -> bytes:
    return _bytes(field, text.encode()) if text else b""


def _bytes(field: int, data: bytes) -> bytes:
    return _varint(field << 3 | _BYTES) + _varint(len(data)) + data


def _integer(field: int, number: int) -> bytes:
    return _varint(field << 3 | _VARINT) + _varint(number)


def _double(field: int, number: float) -> bytes:
    return _varint(field << 3 | _FIXED64) + struct.pack("<d", number)


def _varint(number: int) -> bytes:
    """Seven bits to a byte, the lowest first; negative ones as their two's complement of 64 bits."""
    left = number & ((1 << 64) - 1)
    return bytes(_sevens(left))


def _sevens(left: int) -> Iterable[int]:
    while left > 0x7F:
        yield left & 0x7F | 0x80
        left >>= 7
    yield left
