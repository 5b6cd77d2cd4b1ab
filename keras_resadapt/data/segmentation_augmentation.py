"""Random changes of an image and its mask, as pure functions of uniform numbers."""

from collections.abc import Sequence

import tensorflow as tf

from keras_resadapt.data.augmentation import random_flip, resize
from keras_resadapt.layers.preprocessing import MEAN_COLOR

# Random numbers for one image: scale, vertical and horizontal position, brightness,
# contrast, saturation, flip.
UNIFORMS = 7


def random_scale_and_crop(
    image: tf.Tensor,
    mask: tf.Tensor,
    uniforms: tf.Tensor,
    size: tuple[int, int],
    scale_range: tuple[float, float],
    ignore_class: int,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Scales an image and its mask and takes a random window of both.

    Where the scaled image is smaller than the window, it is at a random place in the
    window. The pixels around it have the color `MEAN_COLOR` and the label
    `ignore_class`. The image is resized bilinearly and antialiased. The mask is resized
    with the nearest neighbor, so that labels are never interpolated.

    Args:
        image: uint8 or float32 (height, width, 3).
        mask: uint8 (height, width).
        uniforms: float32 (`UNIFORMS`,), numbers uniform in [0, 1).
        size: Height and width of the window in pixels.
        scale_range: Lowest and highest scale, positive. It is drawn uniformly.
        ignore_class: Label of the pixels outside the image.

    Returns:
        float32 (*size, 3) and uint8 (*size).
    """
    low, high = scale_range
    old = tf.shape(mask)
    scale = low + (high - low) * uniforms[0]
    new = tf.cast(tf.round(scale * tf.cast(old, tf.float32)), tf.int32)
    new = tf.maximum(new, 1)
    image = resize(image, new[0], new[1])
    mask = tf.image.resize(mask[..., tf.newaxis], new, method="nearest")
    room = new - size
    steps = tf.cast(tf.abs(room) + 1, tf.float32)
    offset = tf.cast(tf.floor(uniforms[1:3] * steps), tf.int32)
    offset = tf.minimum(offset, tf.abs(room))  # rounding of numbers just below 1
    corner = tf.where(room > 0, offset, 0)
    length = tf.minimum(new, size)
    before = tf.where(room < 0, offset, 0)
    after = size - length - before

    paddings = tf.concat([tf.stack([before, after], axis=1), [[0, 0]]], axis=0)
    inside = tf.pad(tf.fill(tf.concat([length, [1]], 0), True), paddings)

    def window(values, fill):
        begin, extent = tf.concat([corner, [0]], 0), tf.concat([length, [-1]], 0)
        cropped = tf.slice(values, begin, extent)
        return tf.where(inside, tf.pad(cropped, paddings), fill)

    image = window(image, tf.constant(MEAN_COLOR))
    mask = window(mask, tf.constant(ignore_class, mask.dtype))[..., 0]
    return tf.ensure_shape(image, (*size, 3)), tf.ensure_shape(mask, size)


def random_flip_pair(
    image: tf.Tensor, mask: tf.Tensor, uniforms: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """Mirrors an image and its mask left to right in half of the cases."""
    return (
        random_flip(image, uniforms),
        random_flip(mask[..., tf.newaxis], uniforms)[..., 0],
    )


def random_colors(
    image: tf.Tensor, uniforms: tf.Tensor, strengths: Sequence[float] | float
) -> tf.Tensor:
    """Changes brightness, contrast and saturation of an image.

    Each of the three is multiplied by a number drawn uniformly from
    [1 - strength, 1 + strength].

    Args:
        image: uint8 or float32 (height, width, 3), values in [0, 255].
        uniforms: float32 (`UNIFORMS`,), numbers uniform in [0, 1).
        strengths: A number in [0, 1), or one for each of the three.

    Returns:
        float32 (height, width, 3), values in [0, 255].
    """
    factors = 1 + tf.constant(strengths) * (2 * uniforms[3:6] - 1)
    image = tf.cast(image, tf.float32) * factors[0]
    mean = tf.reduce_mean(tf.image.rgb_to_grayscale(image))
    image = mean + (image - mean) * factors[1]
    gray = tf.image.rgb_to_grayscale(image)
    image = gray + (image - gray) * factors[2]
    return tf.clip_by_value(image, 0.0, 255.0)
