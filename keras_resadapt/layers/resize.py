"""Bilinear resizing as two small matrix products.

Every backend compiles matrix products, which is not true of the backends' own
resizing.
"""

import functools
import numbers
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_resadapt.layers.arguments import as_pair


@functools.cache
def _bilinear_matrix(size: int, new_size: int) -> np.ndarray:
    """Returns the weights of antialiased bilinear resizing.

    A triangle filter around the centre of every output pixel, stretched by the
    scale when the image shrinks, with each row normalized to a sum of one. The
    shape is (new_size, size).
    """
    scale = size / new_size
    centre = (np.arange(new_size)[:, None] + 0.5) * scale
    distance = np.abs(np.arange(size)[None] + 0.5 - centre) / max(scale, 1.0)
    weights = np.maximum(0.0, 1.0 - distance)
    return weights / weights.sum(axis=1, keepdims=True)


def resize_bilinear(images: Any, new_size: int | tuple[int, int]) -> Any:
    """Resizes images bilinearly, antialiased when they shrink.

    It computes the same function as `tf.image.resize(..., antialias=True)` and
    as the bilinear resizing of Pillow.

    Args:
        images: Float tensor of shape (batch, height, width, channels), of
            known height and width.
        new_size: New height and width in pixels; one integer means both.

    Returns:
        A tensor of shape (batch, new_height, new_width, channels).

    Raises:
        ValueError: If `new_size` is not positive, or the height or the width
            of the images is unknown.
    """
    new_size = as_pair("new_size", new_size)
    size = tuple(images.shape[1:3])
    if None in size:
        raise ValueError(
            "`images` must have a known height and width. Received: images of "
            f"shape {tuple(images.shape)}"
        )
    return _resize(images, new_size, _bilinear_matrix)


@functools.cache
def _corner_matrix(size: int, new_size: int) -> np.ndarray:
    """Returns the weights of linear interpolation that keeps the end points.

    The centres of the first and of the last pixel stay where they are. The
    shape is (new_size, size).
    """
    position = np.arange(new_size) * ((size - 1) / max(new_size - 1, 1))
    distance = np.abs(np.arange(size)[None] - position[:, None])
    return np.maximum(0.0, 1.0 - distance)


def resize_to_corners(features: Any, new_size: Any) -> Any:
    """Interpolates bilinearly so that corners stay corners, not antialiased.

    It computes PyTorch's `interpolate(mode="bilinear", align_corners=True)`,
    which RANet uses in both directions.

    Args:
        features: Float tensor of shape (batch, height, width, channels). On
            TensorFlow, height and width may be unknown.
        new_size: New height and width in pixels. On TensorFlow, they may be
            scalar tensors.

    Returns:
        A tensor of shape (batch, new_height, new_width, channels) and of the
        dtype of `features`.
    """
    size, new_size = tuple(features.shape[1:3]), tuple(new_size)
    known = all(isinstance(s, numbers.Integral) for s in new_size)
    if known and size == new_size:
        return features
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        # Several times as fast as the matrices. The newer `tf.image.resize`
        # has no `align_corners`.
        resized = tf.raw_ops.ResizeBilinear(
            images=features, size=new_size, align_corners=True
        )
        return tf.cast(resized, features.dtype)
    return _resize(features, new_size, _corner_matrix)


def spatial_size(features) -> tuple:
    """Returns height and width, tensors where they are unknown."""
    return tuple(ops.shape(features)[1:3])


def _resize(images, new_size, matrix):
    """Multiplies rows and columns by `matrix(size, new_size)`."""
    height, width = images.shape[1:3]
    channels = images.shape[3]
    new_height, new_width = new_size
    # Not `einsum`, which transposes.
    if new_height != height:
        rows = ops.convert_to_tensor(matrix(height, new_height), dtype=images.dtype)
        images = ops.reshape(images, (-1, height, width * channels))
        images = ops.matmul(rows, images)
    if new_width != width:
        columns = ops.convert_to_tensor(matrix(width, new_width), dtype=images.dtype)
        images = ops.reshape(images, (-1, width, channels))
        images = ops.matmul(columns, images)
    return ops.reshape(images, (-1, new_height, new_width, channels))
