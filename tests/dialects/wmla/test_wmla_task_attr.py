"""``task_attr.pb``: what is answered is what the published schema says, read with Google's own library."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.descriptor_pb2 import DescriptorProto, FieldDescriptorProto
from google.protobuf.message import Message
from hypothesis import given
from hypothesis import strategies as st

import localml.dialects.wmla.schemas
from localml.dialects.wmla.schemas.algorithms import DebugRequest
from localml.dialects.wmla.translate.algorithms_pb import task_attr

PROTO = Path(localml.dialects.wmla.schemas.__file__).parent / "task_attr.proto"
_FIELD = re.compile(r"\s*(optional |repeated )?(map<string, string>|\w+) (\w+) = (\d+);")


def _message(name: str, body: str) -> DescriptorProto:
    """One message of the schema, as the compiler would describe it."""
    found = DescriptorProto(name=name)
    for label, kind, field, number in _FIELD.findall(body):
        repeated = label == "repeated " or kind.startswith("map")
        made = found.field.add(name=field, number=int(number), label=3 if repeated else 1)
        if kind.startswith("map"):
            entry = found.nested_type.add(name="AlgoParamsEntry")
            entry.options.map_entry = True
            for place, one in enumerate(("key", "value"), 1):
                entry.field.add(name=one, number=place, label=1, type=FieldDescriptorProto.TYPE_STRING)
            made.type, made.type_name = FieldDescriptorProto.TYPE_MESSAGE, f".localml.wmla.{name}.AlgoParamsEntry"
        elif kind in ("string", "int64", "double"):
            made.type = getattr(FieldDescriptorProto, f"TYPE_{kind.upper()}")
        else:
            made.type, made.type_name = FieldDescriptorProto.TYPE_MESSAGE, f".localml.wmla.{kind}"
        if label == "optional ":
            made.proto3_optional, made.oneof_index = True, len(found.oneof_decl)
            found.oneof_decl.add(name=f"_{field}")
    return found


@pytest.fixture(scope="module")
def schema() -> type[Message]:
    text = re.sub(r"//.*", "", PROTO.read_text())
    file = descriptor_pb2.FileDescriptorProto(name="task_attr.proto", package="localml.wmla", syntax="proto3")
    file.message_type.extend(_message(*found) for found in re.findall(r"message (\w+) \{(.*?)\n\}", text, re.DOTALL))
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("localml.wmla.TaskAttr"))


def read(schema: type[Message], body: dict[str, Any]) -> Any:
    found = schema()
    found.ParseFromString(task_attr(DebugRequest.model_validate(body)))
    return found


SEARCH: dict[str, Any] = {
    "hpoName": "debug1",
    "modelSpec": {"args": "--exec-start PyTorch"},
    "algoDef": {
        "algorithm": "MyPlugin",
        "objectiveMetric": "loss",
        "objective": "Maximize",
        "maxParalleJobNum": 300,
        "algoParams": [{"name": "random_seed", "value": "2"}, {"name": "mode", "value": ""}],
    },
    "hyperParams": [
        {"name": "lr", "type": "Range", "dataType": "double", "minDbVal": 0, "maxDbVal": 0.1, "step": "0.002"},
        {"name": "n", "type": "Range", "dataType": "int", "minIntVal": -300, "maxIntVal": 0, "power": 2},
        {"name": "d", "type": "Discrete", "dataType": "double", "discreteDbVal": [0.5, 1e300]},
        {"name": "i", "type": "Discrete", "dataType": "int", "discreteIntVal": [-1, 0, 2**53]},
        {"name": "s", "type": "Discrete", "dataType": "str", "discreteStrVal": ["ä", ""]},
        {"name": "f", "type": "Fix", "dataType": "double", "fixedVal": "0.5"},
    ],
}


def test_a_search_is_what_the_schema_says(schema: type[Message]) -> None:
    found = read(schema, SEARCH)
    algo = found.algo_def
    assert (found.hpo_name, algo.algorithm, algo.objective_metric, algo.objective) == (
        "debug1",
        "MyPlugin",
        "loss",
        "maximize",
    )
    assert (algo.max_run_time, algo.max_job_num, algo.max_paralle_job) == (-1, -1, 300)
    assert dict(algo.algo_params) == {"random_seed": "2", "mode": ""}
    lr, n, d, i, s, f = found.hyper_params
    assert (lr.name, lr.type, lr.data_type, lr.min_db_val, lr.max_db_val, lr.step) == (
        "lr",
        "Range",
        "DOUBLE",
        0.0,
        0.1,
        "0.002",
    )
    assert lr.HasField("min_db_val")
    assert not lr.HasField("min_int_val")
    assert (n.data_type, n.min_int_val, n.max_int_val, n.power) == ("INT", -300, 0, "2.0")
    assert list(d.discrete_db_val) == [0.5, 1e300]
    assert list(i.discrete_int_val) == [-1, 0, 2**53]
    assert (s.data_type, list(s.discreate_str_val)) == ("STR", ["ä", ""])
    assert (f.type, f.fixed_val) == ("Fix", "0.5")


def test_experiments_of_the_old_form(schema: type[Message]) -> None:
    fixed = [{"name": "lr", "dataType": "double", "fixedVal": "0.1"}, {"name": "o", "dataType": "str", "fixedVal": "x"}]
    found = read(
        schema,
        {
            "modelName": "m1",
            "hpoName": "h1",
            "resDef": {"framework": "PyTorch", "maxiteration": 100, "batchsize": 32},
            "algoDef": {"algorithm": "ExperimentGridSearch", "objective": "Minimize", "maxParalleJobNum": 1},
            "experiments": [{"id": 1, "fixedHyperParams": fixed}],
        },
    )
    assert [one.id for one in found.experiments] == [1]
    values = [(one.name, one.type, one.data_type, one.fixed_val) for one in found.experiments[0].hyper_params]
    assert values == [("lr", "Fix", "DOUBLE", "0.1"), ("o", "Fix", "STR", "x")]


@given(texts=st.lists(st.text(max_size=300), min_size=1), integers=st.lists(st.integers(-(2**53), 2**53), min_size=1))
def test_any_choices_come_through(schema: type[Message], texts: list[str], integers: list[int]) -> None:
    texts = [text.encode("utf-8", "replace").decode() for text in texts]
    params = [
        {"name": "s", "type": "Discrete", "dataType": "str", "discreateStrVal": texts},
        {"name": "i", "type": "Discrete", "dataType": "int", "discreteIntVal": integers},
    ]
    found = read(schema, SEARCH | {"hyperParams": params})
    assert list(found.hyper_params[0].discreate_str_val) == texts
    assert list(found.hyper_params[1].discrete_int_val) == integers
