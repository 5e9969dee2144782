"""Models with the shapes of public ones: text pipelines, classifiers of scikit-learn, detectors, recognisers, networks
with state, quantized ones, weights in a file of their own. Weights are random, sizes small; graphs and types are real.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

Array = np.ndarray[Any, Any]
Shape = Sequence[str | int]
F, I64, STRING, BOOL = TensorProto.FLOAT, TensorProto.INT64, TensorProto.STRING, TensorProto.BOOL
_ML = ("ai.onnx.ml", 3)
_MS = ("com.microsoft", 1)
WORDS = ["free", "prize", "meeting", "Überraschung", "lunch", "win", "THE", "now"]


@dataclass(frozen=True)
class Public:
    """A model and requests for it. ``labels`` are the classes of outputs that are maps."""

    graph: onnx.GraphProto
    requests: Callable[[np.random.Generator], list[dict[str, Array]]]
    labels: tuple[str | int, ...] = ()
    domains: tuple[tuple[str, int], ...] = ()
    external: bool = False

    def save(self, folder: Path) -> Path:
        """Write it as ``model.onnx``; the weights beside it where it is such a model."""
        folder.mkdir(parents=True, exist_ok=True)
        sets = [helper.make_opsetid(domain, version) for domain, version in (("", 17), *self.domains)]
        model = helper.make_model(self.graph, opset_imports=sets, ir_version=9)
        where: dict[str, Any] = {"save_as_external_data": True, "location": "weights.bin", "size_threshold": 0}
        onnx.save(model, folder / "model.onnx", **(where if self.external else {}))
        return folder / "model.onnx"


def _value(name: str, kind: int, shape: Shape | None) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def _maps(name: str, key: int) -> onnx.ValueInfoProto:
    """An output that is a sequence of maps to numbers."""
    value = helper.make_tensor_type_proto(F, None)
    return helper.make_value_info(name, helper.make_sequence_type_proto(helper.make_map_type_proto(key, value)))


def _weights(seed: int, **shapes: tuple[int, ...]) -> list[onnx.TensorProto]:
    random = np.random.default_rng(seed)
    return [numpy_helper.from_array(random.normal(0, 0.5, one).astype("f4"), name) for name, one in shapes.items()]


def _const(name: str, value: Any, kind: str = "i8") -> onnx.TensorProto:
    return numpy_helper.from_array(np.array(value, kind), name)


def _graph(
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[onnx.ValueInfoProto],
    outputs: Sequence[onnx.ValueInfoProto],
    weights: Sequence[onnx.TensorProto] = (),
) -> onnx.GraphProto:
    return helper.make_graph(list(nodes), "public", list(inputs), list(outputs), list(weights))


def _node(kind: str, inputs: str, outputs: str, **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(kind, inputs.split(), outputs.split(), **attributes)


def _floats(**shapes: tuple[int, ...]) -> Callable[[np.random.Generator], list[dict[str, Array]]]:
    return lambda random: [{name: random.normal(0, 2, one).astype("f4") for name, one in shapes.items()}]


def _classes(labels: Sequence[str | int]) -> dict[str, Any]:
    key = "classlabels_strings" if isinstance(labels[0], str) else "classlabels_int64s"
    return {key: list(labels)}


def _of_classifier(labels: Sequence[str | int]) -> dict[str, Any]:
    """As ``LinearClassifier`` calls them."""
    found = _classes(labels)
    return found if "classlabels_strings" in found else {"classlabels_ints": list(labels)}


def _linear(labels: Sequence[str | int], features: int, source: str) -> list[onnx.NodeProto]:
    random = np.random.default_rng(features)
    return [
        _node(
            "LinearClassifier",
            source,
            "label scores",
            domain=_ML[0],
            coefficients=random.normal(0, 1, len(labels) * features).tolist(),
            intercepts=random.normal(0, 1, len(labels)).tolist(),
            post_transform="SOFTMAX",
            **_of_classifier(labels),
        ),
        _node("ZipMap", "scores", "output_probability", domain=_ML[0], **_classes(labels)),
        _node("Identity", "label", "output_label"),
    ]


def logistic_regression() -> Public:
    """skl2onnx's default export of ``LogisticRegression``: a label and a map of probabilities."""
    nodes = [_node("Scaler", "float_input", "s", domain=_ML[0], offset=[0.5] * 4, scale=[2.0] * 4)]
    outputs = [_value("output_label", I64, ["n"]), _maps("output_probability", I64)]
    graph = _graph([*nodes, *_linear([0, 1, 10], 4, "s")], [_value("float_input", F, [None, 4])], outputs)
    return Public(graph, lambda random: _rows(random, 4), (0, 1, 10), (_ML,))


def _rows(random: np.random.Generator, width: int) -> list[dict[str, Array]]:
    return [{"float_input": random.normal(0, 1, (count, width)).astype("f4")} for count in (1, 3, 0)]


def random_forest() -> Public:
    """``RandomForestClassifier`` with names of classes."""
    labels = ["versicolor", "setosa", "virginica"]
    tree = {
        "nodes_treeids": [0] * 3,
        "nodes_nodeids": [0, 1, 2],
        "nodes_featureids": [1, 0, 0],
        "nodes_values": [0.25, 0.0, 0.0],
        "nodes_hitrates": [1.0] * 3,
        "nodes_modes": ["BRANCH_LEQ", "LEAF", "LEAF"],
        "nodes_truenodeids": [1, 0, 0],
        "nodes_falsenodeids": [2, 0, 0],
        "nodes_missing_value_tracks_true": [0] * 3,
        "class_treeids": [0] * 6,
        "class_nodeids": [1, 1, 1, 2, 2, 2],
        "class_ids": [0, 1, 2] * 2,
        "class_weights": [0.1, 0.7, 0.2, 0.3, 0.3, 0.4],
        "classlabels_strings": labels,
        "post_transform": "NONE",
    }
    nodes = [
        _node("TreeEnsembleClassifier", "float_input", "output_label scores", domain=_ML[0], **tree),
        _node("ZipMap", "scores", "output_probability", domain=_ML[0], classlabels_strings=labels),
    ]
    outputs = [_value("output_label", STRING, ["n"]), _maps("output_probability", STRING)]
    graph = _graph(nodes, [_value("float_input", F, [None, 2])], outputs)
    return Public(graph, lambda random: _rows(random, 2), tuple(sorted(labels)), (_ML,))


def text_classifier() -> Public:
    """``TfidfVectorizer`` and a classifier: text is split, made lower case by the rules of en_US, counted, judged."""
    vocabulary = sorted(word.lower() for word in WORDS if word != "THE")
    vectorizer = {
        "max_gram_length": 1,
        "max_skip_count": 0,
        "min_gram_length": 1,
        "mode": "TFIDF",
        "ngram_counts": [0],
        "ngram_indexes": list(range(len(vocabulary))),
        "pool_strings": vocabulary,
        "weights": [0.5 + number for number in range(len(vocabulary))],
    }
    nodes = [
        _node("Tokenizer", "text", "t", domain=_MS[0], mark=0, mincharnum=1, pad_value="#", tokenexp=r"\w+"),
        _node("Squeeze", "t zero", "flat"),
        _node("StringNormalizer", "flat", "low", case_change_action="LOWER", is_case_sensitive=0, stopwords=["the"]),
        _node("TfIdfVectorizer", "low", "counts", **vectorizer),
        _node("Reshape", "counts row", "wide"),
        _node("Normalizer", "wide", "features", domain=_ML[0], norm="L2"),
    ]
    outputs = [_value("output_label", STRING, ["n"]), _maps("output_probability", STRING)]
    graph = _graph(
        [*nodes, *_linear(["ham", "spam"], len(vocabulary), "features")],
        [_value("text", STRING, [1])],
        outputs,
        [_const("zero", [0]), _const("row", [1, -1])],
    )

    def requests(random: np.random.Generator) -> list[dict[str, Array]]:
        texts = [" ".join(random.choice(WORDS, 5)) for _ in range(4)]
        return [{"text": np.array([one], object)} for one in texts]

    return Public(graph, requests, ("ham", "spam"), (_ML, _MS))


def linear_regressor() -> Public:
    """A pipeline of scaling and ``LinearRegression`` over columns of different types."""
    nodes = [
        _node("Cast", "count", "c", to=F),
        _node("Concat", "size c", "all", axis=1),
        _node("Scaler", "all", "s", domain=_ML[0], offset=[0.1, 0.2], scale=[3.0, 0.5]),
        _node("LinearRegressor", "s", "variable", domain=_ML[0], coefficients=[0.3, -0.7], intercepts=[0.11]),
    ]
    inputs = [_value("size", F, ["n", 1]), _value("count", I64, ["n", 1])]
    graph = _graph(nodes, inputs, [_value("variable", F, ["n", 1])])

    def requests(random: np.random.Generator) -> list[dict[str, Array]]:
        return [{"size": random.random((n, 1)).astype("f4"), "count": random.integers(0, 9, (n, 1))} for n in (1, 5)]

    return Public(graph, requests, (), (_ML,))


def text_detector() -> Public:
    """An OCR's detector: any height and width, a map of the same size, halved and doubled on the way."""
    nodes = [
        _node("Conv", "x w1", "c", pads=[1, 1, 1, 1]),
        _node("Relu", "c", "r"),
        _node("MaxPool", "r", "p", kernel_shape=[2, 2], strides=[2, 2]),
        _node("ConvTranspose", "p w2", "u", strides=[2, 2]),
        _node("Sigmoid", "u", "heat"),
    ]
    image = [_value("x", F, ["DynamicDimension.0", 3, "DynamicDimension.1", "DynamicDimension.2"])]
    heat = [_value("heat", F, ["DynamicDimension.3", 1, "DynamicDimension.4", "DynamicDimension.5"])]
    graph = _graph(nodes, image, heat, _weights(5, w1=(4, 3, 3, 3), w2=(4, 1, 2, 2)))

    def requests(random: np.random.Generator) -> list[dict[str, Array]]:
        sizes = [(1, 3, 32, 64), (2, 3, 34, 18), (1, 3, 640, 96)]
        return [{"x": random.random(size).astype("f4")} for size in sizes]

    return Public(graph, requests)


def text_recogniser() -> Public:
    """An OCR's recogniser: lines of one height and any width, read both ways by an LSTM, classes per column."""
    nodes = [
        _node("Conv", "x w", "c", kernel_shape=[8, 1]),
        _node("Squeeze", "c two", "q"),
        _node("Transpose", "q", "seq", perm=[2, 0, 1]),
        _node("LSTM", "seq lw lr", "y", hidden_size=6, direction="bidirectional"),
        _node("Transpose", "y", "b", perm=[2, 0, 1, 3]),
        _node("Reshape", "b shape", "f"),
        _node("MatMul", "f out", "o"),
        _node("Softmax", "o", "softmax", axis=-1),
    ]
    weights = [
        *_weights(6, w=(5, 1, 8, 1), lw=(2, 24, 5), lr=(2, 24, 6), out=(12, 11)),
        _const("two", [2]),
        _const("shape", [0, 0, 12]),
    ]
    graph = _graph(nodes, [_value("x", F, ["n", 1, 8, "w"])], [_value("softmax", F, ["n", "w", 11])], weights)

    def requests(random: np.random.Generator) -> list[dict[str, Array]]:
        return [{"x": random.random((n, 1, 8, width)).astype("f4")} for n, width in ((1, 40), (3, 7))]

    return Public(graph, requests)


def lstm_with_state() -> Public:
    """A language model's step: its state goes in and comes out."""
    nodes = [
        _node("LSTM", "x w r b none h c", "y hn cn", hidden_size=4),
        _node("Squeeze", "y one", "flat"),
        _node("MatMul", "flat out", "logits"),
    ]
    nodes[0].input[4] = ""
    state: Shape = [1, "batch", 4]
    graph = _graph(
        nodes,
        [_value("x", F, ["steps", "batch", 3]), _value("h", F, state), _value("c", F, state)],
        [_value("logits", F, ["steps", "batch", 5]), _value("hn", F, state), _value("cn", F, state)],
        [*_weights(7, w=(1, 16, 3), r=(1, 16, 4), b=(1, 32), out=(4, 5)), _const("one", [1])],
    )
    return Public(graph, _floats(x=(6, 2, 3), h=(1, 2, 4), c=(1, 2, 4)))


def voice_activity() -> Public:
    """A detector of speech: a chunk of sound, a state, and a sampling rate without dimensions that chooses a branch."""
    branches = {
        f"{which}_branch": _graph([_node("Mul", f"x {which}", f"s_{which}")], [], [_value(f"s_{which}", F, None)])
        for which in ("then", "else")
    }
    nodes = [
        _node("Equal", "sr rate", "is16"),
        helper.make_node("If", ["is16"], ["scaled"], **branches),
        _node("Unsqueeze", "scaled zero", "seq"),
        _node("GRU", "seq w r none none state", "y stateN", hidden_size=4),
        _node("Squeeze", "y both", "flat"),
        _node("MatMul", "flat out", "o"),
        _node("Sigmoid", "o", "output"),
    ]
    nodes[3].input[3] = nodes[3].input[4] = ""
    graph = _graph(
        nodes,
        [_value("x", F, ["batch", 8]), _value("state", F, [1, "batch", 4]), _value("sr", I64, [])],
        [_value("output", F, ["batch", 1]), _value("stateN", F, [1, "batch", 4])],
        [
            *_weights(8, w=(1, 12, 8), r=(1, 12, 4), out=(4, 1), then=(1,), **{"else": (1,)}),
            _const("rate", 16000),
            _const("zero", [0]),
            _const("both", [0, 1]),
        ],
    )

    def requests(random: np.random.Generator) -> list[dict[str, Array]]:
        return [
            {
                "x": random.normal(0, 1, (2, 8)).astype("f4"),
                "state": random.normal(0, 1, (1, 2, 4)).astype("f4"),
                "sr": np.array(rate, "i8"),
            }
            for rate in (16000, 8000)
        ]

    return Public(graph, requests)


def int8_static() -> Public:
    """INT8 after calibration: quantized convolution and matrix product between QuantizeLinear and DequantizeLinear."""
    random = np.random.default_rng(9)
    nodes = [
        _node("QuantizeLinear", "x sx zx", "q"),
        _node("QLinearConv", "q sx zx w sw zw sy zy", "c", pads=[1, 1, 1, 1]),
        _node("Flatten", "c", "f"),
        _node("QLinearMatMul", "f sy zy m sw zw sy zy", "o"),
        _node("DequantizeLinear", "o sy zy", "y"),
    ]
    weights = [
        _const("sx", 0.02, "f4"),
        _const("zx", 128, "u1"),
        _const("sy", 0.1, "f4"),
        _const("zy", 120, "u1"),
        _const("sw", 0.01, "f4"),
        _const("zw", 0, "i1"),
        _const("w", random.integers(-127, 127, (3, 2, 3, 3)), "i1"),
        _const("m", random.integers(-127, 127, (48, 5)), "i1"),
    ]
    graph = _graph(nodes, [_value("x", F, ["n", 2, 4, 4])], [_value("y", F, ["n", 5])], weights)
    return Public(graph, _floats(x=(3, 2, 4, 4)))


def int8_dynamic() -> Public:
    """INT8 without calibration, as language models are: scales are found in each run."""
    nodes = [
        _node("DynamicQuantizeLinear", "x", "q s z"),
        _node("MatMulInteger", "q w z", "i"),
        _node("Cast", "i", "f", to=F),
        _node("Mul", "f s", "y"),
    ]
    weights = [_const("w", np.random.default_rng(10).integers(-127, 127, (6, 7)), "i1")]
    graph = _graph(nodes, [_value("x", F, ["n", 6])], [_value("y", F, ["n", 7])], weights)
    return Public(graph, _floats(x=(4, 6)))


def external_weights() -> Public:
    """Weights in a file of their own, as large models have them."""
    nodes = [_node("Gemm", "x w b", "h"), _node("Gelu", "h", "y", domain=_MS[0])]
    weights = _weights(11, w=(16, 8), b=(8,))
    graph = _graph(nodes, [_value("x", F, ["n", 16])], [_value("y", F, ["n", 8])], weights)
    return Public(graph, _floats(x=(3, 16)), (), (_MS,), external=True)


def sentence_encoder() -> Public:
    """BERT's shape: ids and a mask, attention, normalization, the mean over what is not masked."""
    nodes = [
        _node("Gather", "table input_ids", "e"),
        _node("Transpose", "e", "k", perm=[0, 2, 1]),
        _node("MatMul", "e k", "raw"),
        _node("Cast", "attention_mask", "m", to=F),
        _node("Unsqueeze", "m one", "m1"),
        _node("Sub", "unit m1", "off"),
        _node("Mul", "off far", "bias"),
        _node("Add", "raw bias", "masked"),
        _node("Softmax", "masked", "a", axis=-1),
        _node("MatMul", "a e", "ctx"),
        _node("LayerNormalization", "ctx gain shift", "last_hidden_state"),
        _node("ReduceMean", "last_hidden_state", "sentence", axes=[1], keepdims=0),
    ]
    ids: Shape = ["batch_size", "sequence_length"]
    graph = _graph(
        nodes,
        [_value("input_ids", I64, ids), _value("attention_mask", I64, ids)],
        [_value("last_hidden_state", F, [*ids, 8]), _value("sentence", F, ["batch_size", 8])],
        [
            *_weights(12, table=(30, 8), gain=(8,), shift=(8,)),
            _const("one", [1]),
            _const("unit", 1, "f4"),
            _const("far", -1e4, "f4"),
        ],
    )

    def requests(random: np.random.Generator) -> list[dict[str, Array]]:
        sizes = ((1, 3), (2, 9))
        return [
            {"input_ids": random.integers(0, 30, one), "attention_mask": random.integers(0, 2, one)} for one in sizes
        ]

    return Public(graph, requests)


def decoder_with_cache() -> Public:
    """A decoder's step: keys of the past of any length, none at first, and one more comes out."""
    nodes = [
        _node("Gather", "table input_ids", "e"),
        _node("Concat", "past e", "present", axis=1),
        _node("Transpose", "present", "k", perm=[0, 2, 1]),
        _node("MatMul", "e k", "raw"),
        _node("Softmax", "raw", "a", axis=-1),
        _node("MatMul", "a present", "ctx"),
        _node("MatMul", "ctx head", "logits"),
    ]
    graph = _graph(
        nodes,
        [_value("input_ids", I64, ["batch", "steps"]), _value("past", F, ["batch", "past", 8])],
        [_value("logits", F, ["batch", "steps", 30]), _value("present", F, ["batch", "all", 8])],
        _weights(13, table=(30, 8), head=(8, 30)),
    )

    def requests(random: np.random.Generator) -> list[dict[str, Array]]:
        return [
            {"input_ids": random.integers(0, 30, (1, 2)), "past": random.normal(0, 1, (1, past, 8)).astype("f4")}
            for past in (0, 5)
        ]

    return Public(graph, requests)


def object_detector() -> Public:
    """Boxes and scores; how many are left after suppression depends on what is in the picture, and may be none."""
    nodes = [_node("NonMaxSuppression", "boxes scores most iou least", "selected")]
    graph = _graph(
        nodes,
        [_value("boxes", F, ["n", "k", 4]), _value("scores", F, ["n", "classes", "k"])],
        [_value("selected", I64, ["found", 3])],
        [_const("most", [5]), _const("iou", [0.5], "f4"), _const("least", [0.6], "f4")],
    )

    def requests(random: np.random.Generator) -> list[dict[str, Array]]:
        boxes = random.random((1, 9, 4)).astype("f4")
        return [{"boxes": boxes, "scores": (random.random((1, 2, 9)) * top).astype("f4")} for top in (1.0, 0.5)]

    return Public(graph, requests)


def half_precision() -> Public:
    """FP16 from end to end."""
    weights = [numpy_helper.from_array(one.astype("f2"), name) for name, one in {"w": np.linspace(-1, 1, 24)}.items()]
    nodes = [_node("Reshape", "w shape", "m"), _node("MatMul", "x m", "y")]
    half = TensorProto.FLOAT16
    graph = _graph(
        nodes, [_value("x", half, ["n", 6])], [_value("y", half, ["n", 4])], [*weights, _const("shape", [6, 4])]
    )
    return Public(graph, lambda random: [{"x": random.normal(0, 1, (3, 6)).astype("f2")}])


def beam_search() -> Public:
    """A loop inside the model, a truth value that ends it, and words in place of numbers at the end."""
    inner = _graph(
        [
            _node("Add", "before unit", "after"),
            _node("Less", "after most", "goes_on"),
            _node("Identity", "after", "step"),
        ],
        [_value("i", I64, []), _value("alive", BOOL, []), _value("before", I64, [])],
        [_value("goes_on", BOOL, []), _value("after", I64, []), _value("step", I64, [])],
    )
    nodes = [
        helper.make_node("Loop", ["count", "alive0", "start"], ["last", "ids"], body=inner),
        _node(
            "LabelEncoder",
            "ids",
            "words",
            domain=_ML[0],
            keys_int64s=[1, 2, 3],
            values_strings=["one", "two", "drei ü"],
            default_string="?",
        ),
    ]
    graph = _graph(
        nodes,
        [_value("start", I64, []), _value("alive0", BOOL, [])],
        [_value("words", STRING, ["steps"]), _value("last", I64, [])],
        [_const("count", 7), _const("unit", 1), _const("most", 4)],
    )

    def requests(random: np.random.Generator) -> list[dict[str, Array]]:
        return [{"start": np.array(one, "i8"), "alive0": np.array(alive)} for one, alive in ((0, True), (9, False))]

    return Public(graph, requests, (), (_ML,))


ALL: dict[str, Callable[[], Public]] = {
    one.__name__: one
    for one in (
        logistic_regression,
        random_forest,
        text_classifier,
        linear_regressor,
        text_detector,
        text_recogniser,
        lstm_with_state,
        voice_activity,
        int8_static,
        int8_dynamic,
        external_weights,
        sentence_encoder,
        decoder_with_cache,
        object_detector,
        half_precision,
        beam_search,
    )
}
