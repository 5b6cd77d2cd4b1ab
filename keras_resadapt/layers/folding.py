"""BatchNormalization folded into the convolution before it, in inference."""

from typing import Any

import keras
from keras import ops

from keras_resadapt.points.operating_point import OperatingPoint


def conv_norm(
    conv: keras.Layer,
    norm: keras.Layer,
    inputs: Any,
    point: OperatingPoint,
    training: bool | None,
) -> Any:
    """Returns `norm(conv(inputs))`, in inference as one convolution.

    Args:
        conv: A convolution without an activation.
        norm: The normalization after it.
        inputs: Tensor of shape (batch, height, width, channels).
        point: The operating point.
        training: Whether to normalize with the statistics of the batch.
    """
    if training or not norm.built or not hasattr(norm, "affine"):
        return point.call(norm, point.call(conv, inputs))
    scale, offset = point.affine(norm)
    return point.call(conv, inputs, scale=scale, offset=offset)


def fold_bias(bias, scale, offset):
    """Returns what is added to `scale * product`, the product without a bias.

    Args:
        bias: The bias of the layer, a vector; None for no bias.
        scale, offset: Vectors of the normalization after it; None for no
            normalization.
    """
    if bias is None:
        return offset
    return bias if scale is None else offset + ops.cast(bias, scale.dtype) * scale
