"""Files of frameworks that are no ONNX models: what they are, and the line that makes one of them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable

_SKLEARN = (
    "import joblib, numpy, skl2onnx; m = joblib.load({file!r}); "
    "n = getattr(m, 'n_features_in_', 0); x = numpy.zeros((1, n), 'f4') if n else numpy.array([['a text']]); "
    "open('model.onnx', 'wb').write(skl2onnx.to_onnx(m, x).SerializeToString())"
)
_TORCH = (
    "import torch; torch.onnx.export(torch.export.load({file!r}), f='model.onnx', dynamo=True, external_data=False)"
)
_PLAIN = re.compile(r"[\w.@+-]+")
_LINES = {
    ".joblib": ("scikit-learn", "skl2onnx", _SKLEARN),
    ".pkl": ("scikit-learn", "skl2onnx", _SKLEARN),
    ".pickle": ("scikit-learn", "skl2onnx", _SKLEARN),
    ".pt2": ("PyTorch", "torch onnx onnxscript", _TORCH),
}
"""Suffix -> framework, what has to be installed, and a Python program that writes ``model.onnx``."""
_WORDS = {
    ".pt": "holds PyTorch's weights; where the network is made: "
    "torch.onnx.export(net, (example,), 'model.onnx', dynamo=True, external_data=False)",
    ".safetensors": "holds weights alone; for a folder from Hugging Face: optimum-cli export onnx --model FOLDER onnx, "
    "then: localml serve onnx (pip install 'optimum-onnx[onnxruntime]')",
    ".keras": "is Keras' own; where it was trained: model.export('model.onnx', format='onnx')",
    ".tflite": "is TensorFlow Lite's; python -m tf2onnx.convert --tflite FILE --output model.onnx",
    ".pb": "is TensorFlow's; python -m tf2onnx.convert --saved-model FOLDER --output model.onnx",
    ".ubj": "is XGBoost's; where it was trained: onnxmltools.convert_xgboost(model, initial_types=[('x', "
    "FloatTensorType([None, FEATURES]))]), and save it with onnx.save",
    ".cbm": "is CatBoost's; where it was trained: model.save_model('model.onnx', format='onnx')",
    ".gguf": "is llama.cpp's, which has a server of its own: localml serve FOLDER --image YOUR/LLAMA-SERVER",
}
_SAME = {".pth": ".pt", ".ckpt": ".pt", ".bin": ".safetensors", ".h5": ".keras"}
_KERNEL = "or put a kernel.py beside it that loads it (a class with load and predict), and serve the folder"


def advice(names: Iterable[str]) -> str:
    """How the first of these files that a framework has written becomes a model that is served; empty without one."""
    for name in sorted(names):
        suffix = f".{name.rpartition('.')[2].lower()}"
        if suffix in _LINES:
            framework, needs, program = _LINES[suffix]
            text = program.format(file=name)
            quoted = f'"{text}"' if _PLAIN.fullmatch(name) else shlex.quote(text)
            line = f"python -c {quoted} && localml serve model.onnx"
            return f"{name} is {framework}'s own; write it as ONNX (pip install {needs}): {line} - {_KERNEL}"
        if (words := _WORDS.get(_SAME.get(suffix, suffix))) is not None:
            return f"{name} {words} - {_KERNEL}"
    return ""
