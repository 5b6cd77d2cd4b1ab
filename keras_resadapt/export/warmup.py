"""Warm-up requests, which TensorFlow Serving runs before it accepts requests.

Without them, the first request of every signature waits until TensorFlow has
optimized the graph.
"""

import os
from collections.abc import Iterator, Mapping, Sequence

import tensorflow as tf
from tensorflow_serving.apis import predict_pb2, prediction_log_pb2

from keras_resadapt.number_checks import check_integer

_FILE = os.path.join("assets.extra", "tf_serving_warmup_requests")
_ANY_SIDE = 64  # of images of any size, in pixels
_MAX_REQUESTS = 1000  # TensorFlow Serving rejects a model with more.


def write_warmup_requests(
    path: str | os.PathLike,
    model_name: str,
    signatures: Mapping[str, Sequence[tf.TensorSpec]],
    batch_sizes: Sequence[int] = (1,),
) -> None:
    """Adds warm-up requests to a SavedModel.

    Args:
        path: The folder of the SavedModel.
        model_name: The name under which the model is served.
        signatures: The inputs of each signature, by its name: `images`, which
            are float32 pixels or strings (encoded images), and for some
            signatures float32 `thresholds`.
        batch_sizes: Each signature gets one request per batch size. Empty for
            no requests.

    Raises:
        ValueError: If a batch size is not a positive integer, or there are
            more than 1000 requests, the limit of TensorFlow Serving.
    """
    batch_sizes = tuple(
        check_integer(size, "warmup_batch_sizes") for size in batch_sizes
    )
    if len(signatures) * len(batch_sizes) > _MAX_REQUESTS:
        raise ValueError(
            "`warmup_batch_sizes` must leave at most "
            f"{_MAX_REQUESTS} requests. Received: {len(batch_sizes)} sizes "
            f"for {len(signatures)} signatures"
        )
    if not batch_sizes:
        return
    file = os.path.join(path, _FILE)
    os.makedirs(os.path.dirname(file), exist_ok=True)
    with tf.io.TFRecordWriter(file) as writer:
        for name, specs in signatures.items():
            for rows in batch_sizes:
                request = predict_pb2.PredictRequest()
                request.model_spec.name = model_name
                request.model_spec.signature_name = name
                for spec in specs:
                    request.inputs[spec.name].CopyFrom(_any_input(spec, rows))
                log = prediction_log_pb2.PredictionLog(
                    predict_log=prediction_log_pb2.PredictLog(request=request)
                )
                writer.write(log.SerializeToString())


def _any_input(spec: tf.TensorSpec, rows: int):
    """Returns gray images, or thresholds, as a `TensorProto`."""
    if spec.name == "thresholds":
        # No image is that confident, so that every exit runs.
        return tf.make_tensor_proto(1.0, dtype=spec.dtype, shape=spec.shape)
    if spec.dtype == tf.string:
        gray = tf.fill((_ANY_SIDE, _ANY_SIDE, 3), tf.constant(128, tf.uint8))
        return tf.make_tensor_proto([tf.io.encode_jpeg(gray).numpy()] * rows)
    # A single value with a shape is repeated, which keeps the record short.
    shape = [rows, *(side or _ANY_SIDE for side in spec.shape[1:])]
    return tf.make_tensor_proto(0.0, dtype=spec.dtype, shape=shape)


def replay_warmup(path: str | os.PathLike) -> list[str]:
    """Runs the warm-up requests of a SavedModel, as a server would.

    Needs only TensorFlow and the SavedModel.

    Args:
        path: The folder of the SavedModel, a version folder of TensorFlow
            Serving.

    Returns:
        The name of the signature of each request, in order.

    Raises:
        FileNotFoundError: If there is no SavedModel or no request at `path`.
        ValueError: If a request names an unknown signature, or the batch
            dimension of an output differs from that of the images, which
            servers reject.
        tf.errors.OpError: If a signature fails.
    """
    requests = list(_read_requests(path))
    signatures = tf.saved_model.load(os.fspath(path)).signatures
    for request in requests:
        name = request.model_spec.signature_name
        if name not in signatures:
            raise ValueError(
                f"There is no signature {name!r} in {os.fspath(path)!r}, "
                f"which has {sorted(signatures)}."
            )
        inputs = {
            key: tf.constant(tf.make_ndarray(value))
            for key, value in request.inputs.items()
        }
        rows = inputs["images"].shape[0]
        for key, output in signatures[name](**inputs).items():
            if output.shape[0] != rows:
                raise ValueError(
                    f"Output {key!r} of signature {name!r} has "
                    f"{output.shape[0]} rows for {rows} in the request."
                )
    return [request.model_spec.signature_name for request in requests]


def _read_requests(path) -> Iterator[predict_pb2.PredictRequest]:
    file = os.path.join(path, _FILE)
    if not os.path.isfile(file):
        raise FileNotFoundError(
            f"There are no warm-up requests at {file!r}: export the model "
            "with `warmup_batch_sizes`."
        )
    for record in tf.data.TFRecordDataset(file).as_numpy_iterator():
        log = prediction_log_pb2.PredictionLog.FromString(record)
        yield log.predict_log.request
