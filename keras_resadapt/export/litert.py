"""Writes a classifier as one LiteRT file with a signature a point."""

import dataclasses
import os
import tempfile
import uuid
from collections.abc import Callable, Iterable
from typing import Any

import keras
import tensorflow as tf

from keras_resadapt.backend import require_tensorflow
from keras_resadapt.export.checks import check_model, check_path, check_points
from keras_resadapt.inference.running.stages import cascade_stages
from keras_resadapt.models.cascade import Cascade
from keras_resadapt.models.network import Network
from keras_resadapt.points.noting import NotingPoint
from keras_resadapt.points.operating_point import OperatingPoint
from keras_resadapt.quantization import Int8, check_calibrated, unpack


def export_litert(
    model: Network,
    path: str | os.PathLike,
    points: Iterable[OperatingPoint] | None = None,
    *,
    share_kernels: bool = False,
) -> dict:
    """Exports a classifier for LiteRT (TensorFlow Lite), to one file.

    Each operating point is a signature, under the point's name: from float32
    `images` of shape (batch, resolution, resolution, 3), in the range that
    the model's preprocessing expects, to float32 `logits` of shape (batch,
    classes).

    A network quantized with `Int8` computes in 8-bit integers, with the
    ranges that it was trained with. All points share the integer weights, for
    BatchNormalization changes their scales only; but for a convolution with a
    scale (gamma) below 0 at some points and not at others, which is stored
    twice. Channels whose scale is next to nothing get one that integers can
    hold. In a float network, BatchNormalization is folded into the
    convolutions, and each point stores its own; `share_kernels` keeps it
    apart. One quantized with `LearnedQuantization` is exported as a float one
    whose weights have few values.

    The signatures of a `Cascade` go on where the one before stopped:
    `"exit0"` takes `images`, the others `feature_000`, `feature_001`, ...,
    which the exit before returned beside its `logits`.
    `inference.LiteRTNetwork` runs them until one is sure.

    Args:
        model: A classifier of this package, on the TensorFlow backend.
        path: The new file. It appears complete or not at all.
        points: What to export; by default `model.operating_points`. Exits
            need all those before them.
        share_kernels: In a float network, store each convolution once, and
            run the normalization after it on its own: smaller and slower.

    Returns:
        A dict: the `signatures`, and the `bytes` of the file.

    Raises:
        RuntimeError: On another backend than TensorFlow.
        TypeError: If `model` is not a classifier of this package.
        FileExistsError: If there is something at `path`.
        ValueError: Activation ranges that were never calibrated, numbers that
            LiteRT does not have (a network in mixed precision, other integers
            than of 8 bits, one scale for all channels), exits without those
            before them, or an argument out of its range.
    """
    require_tensorflow("export_litert")
    check_model(model)
    path = check_path(path)
    points = check_points(points, model)
    scheme = model.scheme
    if scheme is not None:
        check_calibrated(model, points)
    is_int8 = isinstance(scheme, Int8)
    _check_numbers(model, scheme)
    if getattr(scheme, "packed", False):
        model = unpack(model)  # the converter knows no shifts of bits
    share_kernels = share_kernels and not is_int8
    if isinstance(model, Cascade):
        exits = [point.exit for point in points]
        if exits != list(range(len(points))):
            raise ValueError(
                "The exits of a cascade go on from those before them: "
                f"`points` must begin with exit 0. Received: exits {exits}"
            )
        functions = _stages(model, len(points), share_kernels)
    else:
        functions = {point.name: _pass(model, point, share_kernels) for point in points}
    os.makedirs(os.path.dirname(path), exist_ok=True)
    unfinished = f"{path}.{uuid.uuid4().hex}"
    content = _convert(functions, is_int8)
    if is_int8 and scheme.first and scheme.last:
        _check_integers(content)
    try:
        with open(unfinished, "wb") as file:
            file.write(content)
        os.rename(unfinished, path)
    finally:
        if os.path.exists(unfinished):
            os.remove(unfinished)
    return {"signatures": list(functions), "bytes": len(content)}


def _convert(functions: dict[str, Callable], is_int8: bool) -> bytes:
    """The LiteRT file of some traced functions, by the signature's name."""
    archive = keras.export.ExportArchive()
    for name, function in functions.items():
        archive.add_endpoint(name, function)
    with tempfile.TemporaryDirectory() as folder:
        archive.write_out(folder, verbose=False)
        converter = tf.lite.TFLiteConverter.from_saved_model(
            folder, signature_keys=list(functions)
        )
        if is_int8:
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
        return converter.convert()


def _traced(function, specs) -> Callable:
    function = tf.function(function, input_signature=specs, autograph=False)
    function.get_concrete_function()
    return function


def _images_of(size) -> tf.TensorSpec:
    return tf.TensorSpec((None, size, size, 3), tf.float32, name="images")


def _pass(model, point, share_kernels) -> Callable:
    axes = dataclasses.asdict(point)

    def run(images):
        at = _ExportPoint(**axes, one=_one(images, share_kernels))
        return {"logits": model.logits(images, at)}

    return _traced(run, [_images_of(model.resolution_of(point))])


def _one(tensor, share_kernels) -> list:
    """A 1 that the converter cannot know, in a list; without need, none."""
    if not share_kernels:
        return []
    return [tf.cast(tf.shape(tensor)[0] > 0, tf.float32)]


@dataclasses.dataclass(frozen=True)
class _ExportPoint(OperatingPoint):
    """An operating point at which normalizations can be converted.

    The converter folds a constant one into the convolution before it. Where
    there is a `one`, it is multiplied by that and stays behind. Folded into
    integers, it becomes their scale, which must not be next to nothing.
    """

    one: list = dataclasses.field(default_factory=list)

    def call(self, layer, inputs, scale=None, offset=None, **kwargs) -> Any:
        if scale is None:
            return super().call(layer, inputs, **kwargs)
        if self.one:
            outputs = super().call(layer, inputs, **kwargs)
            return outputs * (scale * self.one[0]) + offset * self.one[0]
        if hasattr(layer.weight_quantizer, "magnitude"):
            scale = _not_next_to_nothing(scale, layer.weight_quantizer)
        return super().call(layer, inputs, scale=scale, offset=offset, **kwargs)


def _not_next_to_nothing(scale, quantizer):
    """The scale with at least a thousandth of what the largest channel has
    once its weights are multiplied by it, which int32 offsets can do with."""
    magnitude = quantizer.magnitude(scale.shape[-1])
    product = tf.abs(scale) * magnitude
    least = tf.maximum(1e-3 * tf.reduce_max(product), 1e-4)
    sign = tf.where(scale < 0, -1.0, 1.0)
    return tf.where(product < least, sign * least / magnitude, scale)


# === Checks ===


def _check_numbers(model, scheme) -> None:
    if model.compute_dtype != "float32":
        raise ValueError(
            "LiteRT files are made of float32 networks: build the same one "
            "under the policy 'float32' and `set_weights`. Received: a "
            f"network of policy {model.dtype_policy.name!r}"
        )
    if isinstance(scheme, Int8) and (
        (scheme.weight_bits, scheme.activation_bits) != (8, 8) or not scheme.per_channel
    ):
        raise ValueError(
            "LiteRT's integers have 8 bits, and a scale an output channel. "
            f"Received: quantization={scheme}"
        )


def _check_integers(content: bytes) -> None:
    """Raises a `RuntimeError` for a convolution that was left in float."""
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
                    "The converter left a convolution in float, in "
                    f"{graph.name.decode()!r}: {image.name.decode()}. Look "
                    "for weights or statistics that are not finite."
                )


# === Cascades ===


@dataclasses.dataclass(frozen=True)
class _StagesPoint(NotingPoint, _ExportPoint):
    """One that also notes which quantizer a feature came from."""


def _stages(model, num_exits, share_kernels) -> dict[str, Callable]:
    """Traced functions, one an exit, each from the features of the last."""
    point = _StagesPoint()
    stages = cascade_stages(model, (1.0,) * model.num_exits, point)
    specs, quantizers = [_images_of(model.resolution)], [None]
    functions = {}
    for exit, stage in enumerate(stages[:num_exits]):
        run, quantizers = _stage(stage, point, quantizers, share_kernels)
        function = _traced(run, specs)
        outputs = function.get_concrete_function().structured_outputs
        specs = [
            tf.TensorSpec((None, *x.shape[1:]), x.dtype, name=name)
            for name, x in outputs.items()
            if name != "logits"
        ]
        functions[OperatingPoint(exit=exit).name] = function
    return functions


def _stage(stage, point, quantizers, share_kernels) -> tuple[Callable, list]:
    """The signature of an exit, and, once it is traced, the quantizers of its
    features.

    Args:
        stage: From `cascade_stages`.
        point: The `_StagesPoint`.
        quantizers: Of the tensors that the stage takes; None for none.
        share_kernels: As for `export_litert`.
    """
    of_features = []

    def run(*tensors):
        point.one[:] = _one(tensors[0], share_kernels)
        # Rounded already; but the converter has to see to what.
        tensors = [
            x if quantizer is None else point.call(quantizer, x)
            for x, quantizer in zip(tensors, quantizers, strict=True)
        ]
        logits, *features = stage(*tensors)
        of_features[:] = [point.origin(x) for x in features]
        # An output must not be an input itself.
        named = {f"feature_{i:03d}": tf.identity(x) for i, x in enumerate(features)}
        return {"logits": logits, **named}

    return run, of_features
