"""An inference server for ONNX models and Python kernels, speaking the Open Inference Protocol v2 over HTTP.

One process speaks HTTP and forms batches; each served version of the model runs in a worker process of its own, so that
a crash of the model takes no connection with it and an unloaded version gives all its memory back. The package stands
alone: it knows nothing of localml.
"""

import os
import sys

# Where packages are found that the image has not (see start.py); last, so that a kernel gets its image's own.
sys.path += [path for path in os.environ.get("ONNX_SERVER_LAST_PATH", "").split(os.pathsep) if path]

__version__ = "1.0.0"
