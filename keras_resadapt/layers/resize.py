"""Bilinear resizing as two small matrix products.

Every backend compiles them, which is not so of their own resizing.
"""

import functools

import keras
import numpy as np
from keras import ops


@functools.cache
def _bilinear_matrix(size: int, new_size: int) -> np.ndarray:
    """Weights of shape (new_size, size) of antialiased bilinear resizing.

    A triangle filter around every output pixel's centre, stretched by the
    scale when the image shrinks, each row normalized to sum to one.
    """
    scale = size / new_size
    centre = (np.arange(new_size)[:, None] + 0.5) * scale
    distance = np.abs(np.arange(size)[None] + 0.5 - centre) / max(scale, 1.0)
    weights = np.maximum(0.0, 1.0 - distance)
    weights /= weights.sum(axis=1, keepdims=True)
    return weights.astype("float32")


def resize_bilinear(images, new_size: int):
    """Resizes square images, antialiased when they shrink.

    The same function as `tf.image.resize(..., antialias=True)` and as the
    bilinear resizing of Pillow, as two small matrix products, which every
    backend compiles (TensorFlow's own antialiased resizing does not).

    Args:
        images: Float tensor of shape (batch, size, size, channels).
        new_size: Height and width of the result, in pixels.

    Returns:
        A tensor of shape (batch, new_size, new_size, channels).
    """
    size = images.shape[1]
    if size == new_size:
        return images
    weights = _bilinear_matrix(size, new_size)
    return _resize(images, weights, weights)


@functools.cache
def _corner_matrix(size: int, new_size: int) -> np.ndarray:
    """Weights of shape (new_size, size) of linear interpolation between the
    centres of the pixels in the corners."""
    position = np.arange(new_size) * ((size - 1) / max(new_size - 1, 1))
    distance = np.abs(np.arange(size)[None] - position[:, None])
    return np.maximum(0.0, 1.0 - distance).astype("float32")


def resize_to_corners(features, new_size: tuple[int, int]):
    """Bilinear interpolation in which corners stay corners, not antialiased.

    PyTorch's `interpolate(mode="bilinear", align_corners=True)`, which RANet
    uses in both directions.

    Args:
        features: Float tensor of shape (batch, height, width, channels).
        new_size: New height and width; on TensorFlow, also scalar tensors.
    """
    size, new_size = tuple(features.shape[1:3]), tuple(new_size)
    known = all(isinstance(s, int) for s in new_size)
    if known and size == new_size:
        return features
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        # Several times as fast as the matrices. The newer
        # `tf.image.resize` cannot keep the corners.
        resized = tf.raw_ops.ResizeBilinear(
            images=features, size=new_size, align_corners=True
        )
        return tf.cast(resized, features.dtype)
    return _resize(
        features,
        _corner_matrix(size[0], new_size[0]),
        _corner_matrix(size[1], new_size[1]),
    )


def _resize(images, row_weights: np.ndarray, column_weights: np.ndarray):
    rows, columns = (
        ops.convert_to_tensor(weights, dtype=images.dtype)
        for weights in (row_weights, column_weights)
    )
    _, height, width, channels = images.shape
    # Not `einsum`, which transposes.
    images = ops.reshape(images, (-1, height, width * channels))
    images = ops.matmul(rows, images)
    images = ops.reshape(images, (-1, width, channels))
    images = ops.matmul(columns, images)
    return ops.reshape(images, (-1, len(row_weights), len(column_weights), channels))
