"""Export of a network as one LiteRT file with one signature per point."""

import os
import tempfile
from collections.abc import Iterable, Mapping

import tensorflow as tf

from keras_resadapt.backend import require_tensorflow
from keras_resadapt.checks import check_network, check_points
from keras_resadapt.export.checks import check_path
from keras_resadapt.export.litert_signatures import litert_signatures
from keras_resadapt.export.signature import Signature, write_signatures
from keras_resadapt.files import atomic_path
from keras_resadapt.models.cascade import Cascade
from keras_resadapt.models.network import Network
from keras_resadapt.points.operating_point import OperatingPoint
from keras_resadapt.quantization import Int8, check_calibrated, unpack


def export_litert(
    model: Network,
    path: str | os.PathLike,
    points: Iterable[OperatingPoint] | None = None,
    *,
    share_kernels: bool = False,
) -> dict:
    """Exports a network for LiteRT (TensorFlow Lite), as one file.

    Each operating point is a signature with the point's name. It takes float32
    `images` of shape (batch, resolution, resolution, 3), in the value range of
    the model's preprocessing, and returns float32 `logits`: the outputs of the
    network's head, of shape (batch, classes) for classification. For segmentation,
    they have shape (batch, height, width, classes) at the decoder's size, a quarter
    of the resolution rounded up; resize them bilinearly
    (`model.task.align(logits, size)`) before taking the most probable classes.

    A network quantized with `Int8` computes in 8-bit integers, with the ranges
    of its training. All points share the integer weights, because
    BatchNormalization changes only their scales. One exception is stored
    twice: a convolution with a scale (gamma) below 0 at some points and above
    0 at others. Scales close to zero are raised to a value that integers can
    represent. In a float network, BatchNormalization is folded into the
    convolutions, so that each point stores its own kernels; `share_kernels`
    prevents this. A network quantized with `LearnedQuantization` is exported
    as a float network with its quantized weights.

    Each signature of a `Cascade` continues from the previous exit: `"exit0"`
    takes `images`; every other exit takes `feature_000`, `feature_001`, ...,
    which the previous exit returned with its `logits`.
    `inference.LiteRTNetwork` runs them up to the first confident exit.

    Args:
        model: A network of this package, on the TensorFlow backend.
        path: The new file. It appears completely or not at all.
        points: The operating points to export; by default
            `model.operating_points`. An exit requires all earlier exits.
        share_kernels: For a float network: store each convolution once and
            run normalization as a separate operation. The file is smaller and
            the latency is higher.

    Returns:
        A dict with the list of `signatures` and the size of the file in
        `bytes`.

    Raises:
        RuntimeError: On any backend other than TensorFlow.
        TypeError: If `model` is not a network of this package.
        FileExistsError: If something exists at `path`.
        ValueError: If the network is for detection, activation ranges were never
            calibrated, LiteRT does not support the number format (mixed precision,
            integers other than 8 bits, one scale for all channels), earlier exits
            are missing, or an argument is outside its range.
    """
    require_tensorflow("export_litert")
    check_network(model)
    path = check_path(path)
    points = check_points(points, model, unique=True)
    if model.task.padded:
        raise ValueError(
            "`model` must be a network for classification, segmentation or features: "
            "LiteRT has no operations for the non-maximum suppression and the ROI "
            "align of detection. Use `export_saved_model`. Received: a network with "
            f"the task {type(model.task).__name__}"
        )
    scheme = model.scheme
    _check_numbers(model, scheme)
    _check_exits(model, points)
    if scheme is not None:
        check_calibrated(model, points)
    if getattr(scheme, "packed", False):
        model = unpack(model)  # the converter does not support bit shifts

    os.makedirs(os.path.dirname(path), exist_ok=True)
    is_int8 = isinstance(scheme, Int8)
    signatures = litert_signatures(model, points, share_kernels and not is_int8)
    content = _convert(signatures, is_int8)
    if is_int8 and scheme.first and scheme.last:  # type: ignore[attr-defined]
        _check_integers(content)
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        file.write(content)
    return {"signatures": list(signatures), "bytes": len(content)}


def _convert(signatures: Mapping[str, Signature], is_int8: bool) -> bytes:
    """Returns the content of a LiteRT file with some signatures."""
    with tempfile.TemporaryDirectory() as folder:
        write_signatures(signatures, folder)
        converter = tf.lite.TFLiteConverter.from_saved_model(
            folder, signature_keys=list(signatures)
        )
        if is_int8:
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
        return converter.convert()


# === Validation ===


def _check_numbers(model, scheme) -> None:
    if model.compute_dtype != "float32":
        raise ValueError(
            "`model` must be a float32 network: build it again under the policy "
            "'float32' and call `set_weights`. Received: a network with the "
            f"policy {model.dtype_policy.name!r}"
        )
    if isinstance(scheme, Int8) and (
        (scheme.weight_bits, scheme.activation_bits) != (8, 8) or not scheme.per_channel
    ):
        raise ValueError(
            "LiteRT's integers have 8 bits, and one scale per output channel. "
            f"Received: a network with quantization={scheme}"
        )


def _check_exits(model, points) -> None:
    if not isinstance(model, Cascade):
        return
    exits = [point.exit for point in points]
    if exits != list(range(len(points))):
        raise ValueError(
            "`points` must begin with exit 0 and omit no exit, because each exit "
            f"continues from the previous one. Received: exits {exits}"
        )


def _check_integers(content: bytes) -> None:
    """Raises a `RuntimeError` if a convolution does not use integers."""
    # Private, because TensorFlow has no public reader of the operators in a
    # LiteRT file, and ai-edge-litert, which has one, is optional.
    from tensorflow.lite.python import schema_py_generated as schema

    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(content, 0))
    convolutions = {
        schema.BuiltinOperator.CONV_2D,
        schema.BuiltinOperator.DEPTHWISE_CONV_2D,
        schema.BuiltinOperator.FULLY_CONNECTED,
    }
    for graph in model.subgraphs:
        for operator in graph.operators:
            code = model.operatorCodes[operator.opcodeIndex].builtinCode
            if code not in convolutions:
                continue
            image, kernel = (graph.tensors[i] for i in operator.inputs[:2])
            if not image.type == kernel.type == schema.TensorType.INT8:
                raise RuntimeError(
                    "The converter did not quantize the convolution "
                    f"{image.name.decode()!r} in {graph.name.decode()!r}. Check "
                    "that all weights and statistics are finite."
                )
