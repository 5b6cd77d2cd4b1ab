"""ROI align (He et al., Mask R-CNN, 2017), on one level or on a pyramid."""

from collections.abc import Sequence
from typing import Any

from keras import ops

# Level 4 has the boxes of this size in pixels (Lin et al., 2017, equation 1).
_CANONICAL_LEVEL = 4
_CANONICAL_SIZE = 224


def roi_align(
    features: Any,
    boxes: Any,
    images: Any,
    size: int,
    scale: float,
    samples: int = 2,
    aligned: bool = False,
) -> Any:
    """Returns features of a fixed size for each box.

    A box is divided into `size` x `size` cells. Each cell is the mean over `samples`
    x `samples` points of bilinearly interpolated features. Points up to one pixel
    outside the features take those of the edge, and points farther outside are 0.

    Args:
        features: Tensor of shape (batch, height, width, channels).
        boxes: Boxes of shape (boxes, 4), in pixels of the image.
        images: Index of the image of each box, of shape (boxes,).
        size: Height and width of the result.
        scale: Feature pixels per image pixel.
        samples: Number of points per cell along height and width.
        aligned: Whether pixel centers have half coordinates. Boxes have a height
            and a width of at least one feature pixel if not.

    Returns:
        A tensor of shape (boxes, size, size, channels) and the dtype of `features`.
    """
    import tensorflow as tf

    dtype = features.dtype
    start, length = _in_features(tf.stop_gradient(boxes), scale, aligned)

    @tf.custom_gradient
    def align(x):
        height, width = ops.shape(x)[1:3]
        # In pixels of the padded features
        step = length / (size * samples)
        first = start + 0.5 * step + 1.0
        last = start + length - 0.5 * step + 1.0
        ends = tf.concat([first, last], axis=1)
        limits = tf.cast(tf.stack([height, width] * 2), tf.float32) + 1.0
        crops = tf.image.crop_and_resize(
            pad_edges(x), ends / limits, images, (size * samples,) * 2
        )
        y = tf.nn.avg_pool2d(crops, samples, samples, "VALID")

        def gradient(upstream):
            matrix = _sampling_matrix(
                start, length, images, ops.shape(x), size, samples
            )
            flat = tf.reshape(upstream, (-1, ops.shape(x)[-1]))
            # Not the gradient of `crop_and_resize`: on a CPU, its threads add to
            # the same pixels at the same time, and lose some of the summands.
            flat = tf.sparse.sparse_dense_matmul(matrix, flat, adjoint_a=True)
            return tf.reshape(flat, tf.shape(x))

        return y, gradient

    return tf.cast(align(tf.cast(features, tf.float32)), dtype)


def _in_features(boxes, scale, aligned):
    """Returns the corners (y, x) and the sizes of boxes in feature pixels."""
    boxes = ops.cast(boxes, "float32") * scale
    start, end = boxes[:, 1::-1], boxes[:, :1:-1]
    length = end - start
    if aligned:
        return start - 0.5, length
    return start, ops.maximum(length, 1.0)


def pad_edges(x: Any) -> Any:
    """Repeats the pixels of the edges once.

    Args:
        x: Tensor of shape (batch, height, width, channels).
    """
    x = ops.concatenate([x[:, :1], x, x[:, -1:]], axis=1)
    return ops.concatenate([x[:, :, :1], x, x[:, :, -1:]], axis=2)


def _sampling_matrix(start, length, images, shape, size, samples):
    """Returns ROI align as a sparse matrix.

    Its shape is (boxes * size * size, batch * height * width).
    """
    import tensorflow as tf

    # Integers, or scalar tensors of int32
    batch, height, width = (tf.cast(n, tf.int64) for n in shape[:3])
    y, y_weights = _taps(start[:, 0], length[:, 0], height, size, samples)
    x, x_weights = _taps(start[:, 1], length[:, 1], width, size, samples)
    pixels = tf.cast(images, tf.int64)[:, None, None] * height + y
    columns = pixels[:, :, None, :, None] * width + x[:, None, :, None, :]
    values = y_weights[:, :, None, :, None] * x_weights[:, None, :, None, :]
    shape = tf.shape(columns, tf.int64)
    rows = tf.range(shape[0] * size * size)
    rows = tf.broadcast_to(tf.reshape(rows, (-1, size, size, 1, 1)), shape)
    indices = tf.stack([tf.reshape(rows, [-1]), tf.reshape(columns, [-1])], axis=1)
    dense_shape = tf.stack([shape[0] * size * size, batch * height * width])
    return tf.SparseTensor(indices, tf.reshape(values, [-1]), dense_shape)


def _taps(start, length, pixels, size, samples):
    """Returns the pixels and the weights of each cell along one axis.

    Both have the shape (boxes, size, 2 * samples).
    """
    import tensorflow as tf

    places = (tf.range(size * samples, dtype=tf.float32) + 0.5) / (size * samples)
    points = start[:, None] + places * length[:, None]
    end = tf.cast(pixels, tf.float32)
    inside = tf.cast((points >= -1) & (points <= end), tf.float32) / samples
    points = tf.clip_by_value(points, 0.0, end - 1)
    low = tf.floor(points)
    share = points - low
    indices = tf.stack([low, tf.minimum(low + 1, end - 1)], axis=-1)
    weights = tf.stack([1 - share, share], axis=-1) * inside[..., None]
    shape = (-1, size, 2 * samples)
    return tf.reshape(tf.cast(indices, tf.int64), shape), tf.reshape(weights, shape)


def levels_of(boxes: Any, strides: Sequence[int]) -> Any:
    """Returns the level of the pyramid that has the features of each box.

    Boxes of twice the size are one level coarser (Lin et al., Feature Pyramid
    Networks, 2017, equation 1).

    Args:
        boxes: Boxes of shape (..., 4).
        strides: Stride of each level, from fine to coarse, powers of 2.

    Returns:
        Indices into `strides`, of shape (...).
    """
    sides = boxes[..., 2:] - boxes[..., :2]
    size = ops.sqrt(sides[..., 0] * sides[..., 1])
    level = ops.log2(size / _CANONICAL_SIZE) + _CANONICAL_LEVEL
    first = strides[0].bit_length() - 1
    level = ops.floor(level + 1e-6) - first
    # Not finite for a box without area
    level = ops.where(size > 0, level, 0.0)
    return ops.cast(ops.clip(level, 0, len(strides) - 1), "int32")


def pyramid_roi_align(
    features: Sequence, boxes: Any, strides: Sequence[int], size: int
) -> Any:
    """Returns features of a fixed size for each box, from the level of its size.

    Args:
        features: Features of each level, of shape (batch, height, width, channels).
        boxes: Boxes of shape (batch, boxes, 4), in pixels of the images.
        strides: Stride of each level, from fine to coarse.
        size: Height and width of the result.

    Returns:
        A tensor of shape (batch * boxes, size, size, channels).
    """
    import tensorflow as tf

    batch, count = ops.shape(boxes)[:2]
    images = tf.repeat(tf.range(batch), count)
    boxes = tf.reshape(boxes, (-1, 4))
    levels = levels_of(boxes, strides)
    places, parts = [], []
    for level, (x, stride) in enumerate(zip(features, strides, strict=True)):
        place = tf.cast(tf.where(levels == level)[:, 0], tf.int32)
        own = tf.gather(boxes, place), tf.gather(images, place)
        places.append(place)
        parts.append(roi_align(x, *own, size, 1 / stride))
    shape = (batch * count, size, size, features[0].shape[-1])
    return tf.reshape(tf.dynamic_stitch(places, parts), shape)
