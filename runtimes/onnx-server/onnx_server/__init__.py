"""An inference server for ONNX models and Python kernels, speaking the Open Inference Protocol v2 over HTTP.

One process speaks HTTP and forms batches; each served version of the model runs in a worker process of its own, so that
a crash of the model takes no connection with it and an unloaded version gives all its memory back. The package stands
alone: it knows nothing of localml.
"""

__version__ = "1.0.0"
