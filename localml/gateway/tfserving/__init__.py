"""TensorFlow Serving's predict API over gRPC, on the gateway's own port.

A client that begins to speak HTTP/2 is joined to a gRPC server in this process (:mod:`.door`), which is imported and
started for the first of them. A request is put into the words of the Open Inference Protocol (:mod:`.tensors`) and goes
through the gateway as any other (:mod:`.service`), so that variants, retries, waking and counts are the same.

The messages are those of ``ovmsclient``, Intel's client for TensorFlow Serving's protocol: ``tensorflow-serving-api``
has the same ones, but requires TensorFlow. Both packages are the extra ``localml[grpc]``.
"""
