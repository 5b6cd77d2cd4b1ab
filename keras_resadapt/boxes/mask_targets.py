"""The masks that a mask head is trained to return."""

from typing import Any

from keras import ops

from keras_resadapt.boxes.roi_align import pad_edges


def mask_targets(
    masks: Any,
    boxes: Any,
    matched: Any,
    extent: tuple[Any, Any],
    size: int = 28,
    sizes: Any = None,
) -> Any:
    """Returns the part of an object's mask inside each box, at a fixed size.

    It is ROI align of the mask with as many points per cell as the cell has
    pixels, rounded up.

    Args:
        masks: 0 and 1, of shape (batch, objects, height, width).
        boxes: Boxes of shape (batch, boxes, 4), in pixels of the images.
        matched: Index of the object of each box, of shape (batch, boxes).
        extent: Height and width in pixels of the images that the masks cover,
            padding included. It can differ from the size of the masks.
        size: Height and width of the result.
        sizes: Height and width of each image without its padding, of shape
            (batch, 2); None for no padding. As at the edge of the masks, points up to
            one pixel outside an image take the value of its edge.

    Returns:
        float32 values in [0, 1] of shape (batch, boxes, size, size).
    """
    import tensorflow as tf

    batch, objects, height, width = ops.shape(masks)
    count = ops.shape(boxes)[1]
    masks = tf.cast(tf.cast(masks, tf.bool), tf.uint8)  # 255 is inside, too
    pixels = tf.cast(tf.stack([height, width]), tf.float32)
    scale = pixels / tf.cast(tf.stack(extent), tf.float32)
    if sizes is not None:
        ends = tf.math.ceil(tf.cast(sizes, tf.float32) * scale - 1e-3)
        masks = _repeat_ends(masks, tf.cast(ends, tf.int32))
    masks = pad_edges(tf.reshape(masks, (-1, height, width, 1)))
    boxes = tf.reshape(tf.cast(boxes, tf.float32), (-1, 2, 2))[:, :, ::-1] * scale
    start = boxes[:, 0]
    length = tf.maximum(boxes[:, 1] - start, 1.0)
    # The limit is for boxes that are far larger than the image.
    points = tf.minimum(tf.math.ceil(length / size), tf.math.ceil(2 * pixels / size))
    step = length / (size * points)
    ends = [start + 0.5 * step + 1, start + length - 0.5 * step + 1]
    ends = tf.concat(ends, axis=1) / tf.concat([pixels + 1] * 2, axis=0)
    places = tf.range(batch)[:, None] * objects + tf.cast(matched, tf.int32)

    def align(inputs):
        ends, place, points = inputs
        crop_size = size * points
        crop = tf.image.crop_and_resize(masks, ends[None], place[None], crop_size)
        cells = tf.reshape(crop, (size, points[0], size, points[1]))
        return tf.reduce_mean(cells, axis=(1, 3))

    targets = tf.map_fn(
        align,
        (ends, tf.reshape(places, [-1]), tf.cast(points, tf.int32)),
        fn_output_signature=tf.TensorSpec((size, size)),
    )
    return tf.stop_gradient(tf.reshape(targets, (batch, count, size, size)))


def _repeat_ends(masks, ends):
    """Repeats the last row and the last column of each image, before its padding.

    Args:
        masks: Tensor of shape (batch, objects, height, width).
        ends: Height and width of each image, integers of shape (batch, 2).
    """
    rows, columns = (
        ops.arange(ops.shape(masks)[2 + axis], dtype="int32") == ends[:, axis, None]
        for axis in (0, 1)
    )
    masks = ops.where(rows[:, None, :, None], ops.roll(masks, 1, axis=2), masks)
    return ops.where(columns[:, None, None], ops.roll(masks, 1, axis=3), masks)
