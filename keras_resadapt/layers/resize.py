"""Bilinear resizing as two matrix products."""

import functools

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
    weights = ops.convert_to_tensor(
        _bilinear_matrix(size, new_size), dtype=images.dtype
    )
    images = ops.einsum("oh,bhwc->bowc", weights, images)
    return ops.einsum("ow,bhwc->bhoc", weights, images)
