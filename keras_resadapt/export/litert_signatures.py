"""The signatures of a LiteRT file, written for the LiteRT converter."""

import dataclasses
from collections.abc import Callable, Sequence

import tensorflow as tf

from keras_resadapt.export.signature import Signature, images_spec, signature_of
from keras_resadapt.inference.running.stages import cascade_stages
from keras_resadapt.models.cascade import Cascade
from keras_resadapt.models.network import Network
from keras_resadapt.points import ConvertiblePoint, NotingPoint, OperatingPoint


def litert_signatures(
    model: Network, points: Sequence[OperatingPoint], share_kernels: bool
) -> dict[str, Signature]:
    """Returns one traced function per operating point, by its name.

    Args:
        model: A network of this package.
        points: Operating points; for a cascade the first exits, in order.
        share_kernels: Whether normalizations stay apart from convolutions.
    """
    if isinstance(model, Cascade):
        return _exit_signatures(model, len(points), share_kernels)
    return {
        point.name: _point_signature(model, point, share_kernels) for point in points
    }


# === Switchable networks ===


def _point_signature(model, point, share_kernels) -> Signature:
    def run(images):
        one = _unknown_one(images, share_kernels)
        at = point.interpreted_by(ConvertiblePoint, one=one)
        return {"logits": model.logits(images, at)}

    return signature_of(run, [images_spec(model.resolution_of(point))])


def _unknown_one(tensor, share_kernels) -> list:
    """Returns a list of a 1 that the converter cannot fold, or an empty list."""
    if not share_kernels:
        return []
    return [tf.cast(tf.shape(tensor)[0] > 0, tf.float32)]


# === Cascades ===


@dataclasses.dataclass(frozen=True)
class _StagesPoint(NotingPoint, ConvertiblePoint):
    """An `ConvertiblePoint` that also records the quantizer of each feature."""


def _exit_signatures(model, num_exits, share_kernels) -> dict[str, Signature]:
    """Returns one signature per exit, which takes the previous exit's features."""
    point = _StagesPoint()
    stages = cascade_stages(model, (1.0,) * model.num_exits, point)
    specs, quantizers = [images_spec(model.resolution)], [None]
    signatures = {}
    for exit, stage in enumerate(stages[:num_exits]):
        run, quantizers = _exit_function(stage, point, quantizers, share_kernels)
        signature = signature_of(run, specs)
        outputs = signature.function.get_concrete_function().structured_outputs
        specs = [
            tf.TensorSpec((None, *x.shape[1:]), x.dtype, name=name)
            for name, x in outputs.items()
            if name != "logits"
        ]
        signatures[OperatingPoint(exit=exit).name] = signature
    return signatures


def _exit_function(stage, point, quantizers, share_kernels) -> tuple[Callable, list]:
    """Returns the function of an exit and the quantizers of its features.

    Args:
        stage: A function of `cascade_stages`.
        point: The `_StagesPoint`.
        quantizers: The quantizer of each input of the stage, or None.
        share_kernels: As for `litert_signatures`.

    Returns:
        The function, and a list that holds the quantizers of the features once
        the function is traced.
    """
    of_features = []

    def run(*tensors):
        point.one[:] = _unknown_one(tensors[0], share_kernels)
        # The features are quantized already. Repeating it shows the converter
        # their ranges, which it cannot see across signatures.
        tensors = [
            x if quantizer is None else point.call(quantizer, x)
            for x, quantizer in zip(tensors, quantizers, strict=True)
        ]
        logits, *features = stage(*tensors)
        of_features[:] = [point.origin(x) for x in features]
        # The converter does not accept an input as an output.
        named = {f"feature_{i:03d}": tf.identity(x) for i, x in enumerate(features)}
        return {"logits": logits, **named}

    return run, of_features
