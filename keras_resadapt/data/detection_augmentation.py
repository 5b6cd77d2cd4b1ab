"""Resizing, cropping and flipping of images together with their objects."""

from typing import NamedTuple

import tensorflow as tf

from keras_resadapt.data.augmentation import resize
from keras_resadapt.layers.preprocessing import MEAN_COLOR


class Placement(NamedTuple):
    """How an image is placed at the top left of a canvas.

    The image is resized, a window of it is taken, and the window is flipped.

    Attributes:
        resized: int32 (2,), height and width of the whole resized image.
        corner: int32 (2,), row and column of the window in the resized image.
        size: int32 (2,), height and width of the window, at most those of the canvas.
        flip: bool scalar, whether to mirror the window left to right.
    """

    resized: tf.Tensor
    corner: tf.Tensor
    size: tf.Tensor
    flip: tf.Tensor


def resized_size(
    shape: tf.Tensor, resolution: int, max_size: tuple[int, int]
) -> tf.Tensor:
    """Returns the size of an image whose short side becomes `resolution`.

    Both sides have the same scale. An image that would be larger than `max_size` gets
    a smaller scale. No side becomes shorter than one pixel.

    Args:
        shape: int32 (2,), height and width of the image.
        resolution: The new short side in pixels.
        max_size: Largest height and width in pixels.

    Returns:
        int32 (2,).
    """
    sides = tf.cast(shape, tf.float32)
    scale = tf.minimum(
        resolution / tf.reduce_min(sides),
        tf.reduce_min(tf.constant(max_size, tf.float32) / sides),
    )
    return tf.maximum(tf.cast(tf.round(scale * sides), tf.int32), 1)


def whole_image(resized: tf.Tensor) -> Placement:
    """Returns the placement of a whole resized image.

    Args:
        resized: int32 (2,), height and width.
    """
    return Placement(resized, tf.zeros_like(resized), resized, tf.constant(False))


def random_placement(
    resized: tf.Tensor,
    canvas: tuple[int, int],
    scale_range: tuple[float, float],
    flip: bool,
    uniforms: tf.Tensor,
) -> Placement:
    """Returns a random scale, a random window that fits the canvas, and a random flip.

    Args:
        resized: int32 (2,), height and width at the scale 1.
        canvas: Height and width of the canvas in pixels.
        scale_range: Lowest and highest scale. It is drawn uniformly.
        flip: Whether to mirror in half of the cases.
        uniforms: float32 (`segmentation_augmentation.UNIFORMS`,), numbers uniform in
            [0, 1). The first three and the last are used.
    """
    low, high = scale_range
    scale = low + (high - low) * uniforms[0]
    new = tf.cast(tf.round(scale * tf.cast(resized, tf.float32)), tf.int32)
    new = tf.maximum(new, 1)
    size = tf.minimum(new, canvas)
    room = new - size
    corner = tf.floor(uniforms[1:3] * tf.cast(room + 1, tf.float32))
    # Numbers just below 1 are rounded up.
    corner = tf.minimum(tf.cast(corner, tf.int32), room)
    mirror = uniforms[-1] < 0.5 if flip else tf.constant(False)
    return Placement(new, corner, size, mirror)


def place_image(
    image: tf.Tensor, placement: Placement, canvas: tuple[int, int]
) -> tf.Tensor:
    """Places an image on a canvas of the color `MEAN_COLOR`.

    Args:
        image: uint8 or float32 (height, width, 3).
        placement: Where it is placed.
        canvas: Height and width of the canvas.

    Returns:
        float32 (*canvas, 3). The image is resized bilinearly and antialiased.
    """
    image = resize(image, placement.resized[0], placement.resized[1])
    image = _window((image - MEAN_COLOR)[tf.newaxis], placement, canvas)[0] + MEAN_COLOR
    return tf.ensure_shape(image, (*canvas, 3))


def place_masks(
    masks: tf.Tensor, placement: Placement, canvas: tuple[int, int]
) -> tf.Tensor:
    """Places masks on a canvas of zeros, as `place_image` places their image.

    Args:
        masks: uint8 (objects, height, width).
        placement, canvas: As for `place_image`.

    Returns:
        uint8 (objects, *canvas), resized with the nearest neighbor.
    """
    resized = tf.image.resize(
        masks[..., tf.newaxis], placement.resized, method="nearest"
    )
    placed = _window(resized, placement, canvas)[..., 0]
    return tf.ensure_shape(placed, (None, *canvas))


def place_boxes(boxes: tf.Tensor, shape: tf.Tensor, placement: Placement) -> tf.Tensor:
    """Returns boxes in pixels of the canvas, clipped to the window.

    Args:
        boxes: float32 (objects, 4), x1, y1, x2, y2 in pixels of the image.
        shape: int32 (2,), height and width of the image.
        placement: As for `place_image`.
    """

    def x_and_y(rows_and_columns):
        pair = tf.cast(rows_and_columns, tf.float32)[::-1]
        return tf.concat([pair, pair], axis=0)

    boxes = boxes * (x_and_y(placement.resized) / x_and_y(shape))
    size = x_and_y(placement.size)
    boxes = tf.clip_by_value(boxes - x_and_y(placement.corner), 0.0, size)
    x1, y1, x2, y2 = tf.unstack(boxes, axis=1)
    mirrored = tf.stack([size[0] - x2, y1, size[0] - x1, y2], axis=1)
    return tf.where(placement.flip, mirrored, boxes)


def _window(values: tf.Tensor, placement: Placement, canvas) -> tf.Tensor:
    """Returns the window of (batch, height, width, channels), with zeros beside it."""
    _, (top, left), (height, width), flip = (
        tf.unstack(part) if part.shape.rank else part for part in placement
    )
    window = values[:, top : top + height, left : left + width]
    window = tf.cond(flip, lambda: tf.reverse(window, axis=[2]), lambda: window)
    after = [[0, 0], [0, canvas[0] - height], [0, canvas[1] - width], [0, 0]]
    return tf.pad(window, after)
