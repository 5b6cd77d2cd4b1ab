"""Masks of objects as COCO stores them: compressed run lengths."""

import numpy as np
import tensorflow as tf


def decode_masks(counts: tf.Tensor, size: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Decodes the compressed run lengths of masks.

    The format is that of `pycocotools.mask.decode`, which returns uninitialized memory
    for run lengths that do not add up to the size of the image.

    Args:
        counts: String tensor (objects,), the `"counts"` of the masks.
        size: int32 (2,), height and width of the image.

    Returns:
        uint8 tensor (objects, height, width) of zeros and ones, and a bool tensor
        (objects,): whether the run lengths are valid and have the size of the image. A
        mask without valid run lengths is empty.
    """
    runs, pixels = _run_lengths(counts), tf.reduce_prod(size)
    fits = _fit(runs, pixels)
    empty = pixels * tf.one_hot(0, tf.shape(runs)[1], dtype=tf.int32)
    runs = tf.where(fits[:, tf.newaxis], runs, empty)
    masks = tf.numpy_function(_fill, [runs, size], tf.uint8, stateful=False)
    return tf.ensure_shape(masks, (None, None, None)), fits


def run_lengths_fit(counts: tf.Tensor, size: tf.Tensor) -> tf.Tensor:
    """Returns which run lengths are valid and have the size of the image.

    pycocotools never returns from the evaluation of others.

    Args:
        counts, size: As for `decode_masks`.

    Returns:
        A bool tensor (objects,).
    """
    return _fit(_run_lengths(counts), tf.reduce_prod(size))


def _fit(runs: tf.Tensor, pixels: tf.Tensor) -> tf.Tensor:
    # 64 bits, because invalid run lengths can be large
    total = tf.reduce_sum(tf.cast(runs, tf.int64), axis=1)
    return tf.reduce_all(runs >= 0, axis=1) & tf.equal(total, tf.cast(pixels, tf.int64))


def encode_masks(masks: tf.Tensor) -> tf.Tensor:
    """Encodes masks as compressed run lengths, with `pycocotools`.

    Args:
        masks: uint8 tensor (objects, height, width) of zeros and ones.

    Returns:
        String tensor (objects,).
    """
    counts = tf.numpy_function(_encode, [masks], tf.string, stateful=False)
    return tf.ensure_shape(counts, (None,))


def _fill(runs: np.ndarray, size: np.ndarray) -> np.ndarray:
    # No graph operation repeats values in less than ten times the time.
    values = np.zeros(runs.shape, np.uint8)
    values[:, 1::2] = 1
    masks = np.repeat(values.ravel(), runs.ravel())
    masks = masks.reshape(len(runs), size[1], size[0])  # runs go down the columns
    return np.ascontiguousarray(masks.transpose(0, 2, 1))


def _encode(masks: np.ndarray) -> np.ndarray:
    from pycocotools import mask

    if not len(masks):
        return np.zeros(0, object)
    encoded = mask.encode(np.asfortranarray(masks.transpose(1, 2, 0)))
    return np.array([one["counts"] for one in encoded], object)


def _run_lengths(counts: tf.Tensor) -> tf.Tensor:
    """Returns int32 (objects, runs), padded with zeros.

    A number is written in characters of 6 bits, starting at "0": 5 bits of the number,
    the lowest first, and a bit for "more follows". The highest bit is the sign. From
    the fourth number on, the difference to the number two places before is stored.
    """
    number = tf.size(counts)
    # At least one column, also without objects
    length = tf.maximum(tf.reduce_max(tf.strings.length(counts)), 1)
    length = tf.where(number > 0, length, 1)
    characters = tf.io.decode_raw(counts, tf.uint8, fixed_length=length)
    characters = tf.cast(characters, tf.int32)
    places = tf.where(characters > 0)
    code = tf.gather_nd(characters, places) - ord("0")
    digit, last = code & 31, tf.equal(code & 32, 0)
    first = tf.concat([tf.fill(tf.minimum(tf.shape(code), 1), True), last[:-1]], 0)
    value_of = tf.cumsum(tf.cast(first, tf.int32)) - 1
    starts = tf.cast(tf.where(first)[:, 0], tf.int32)
    shift = 5 * (tf.range(tf.size(code)) - tf.gather(starts, value_of))
    shift = tf.minimum(shift, 26)  # of valid masks; longer numbers are invalid
    negative = last & (digit >= 16)
    part = tf.bitwise.left_shift(digit, shift)
    part -= tf.where(negative, tf.bitwise.left_shift(1, shift + 5), 0)
    values = tf.math.segment_sum(part, value_of)
    rows = tf.gather(places[:, 0], starts)
    runs = tf.RaggedTensor.from_value_rowids(values, rows, tf.cast(number, tf.int64))
    lengths = tf.cast(runs.row_lengths(), tf.int32)
    # An odd number of columns: one, and pairs of those that are summed separately
    width = tf.reduce_max(tf.concat([lengths, [1]], 0)) // 2 * 2 + 1
    dense = runs.to_tensor(0, shape=(None, None))
    dense = tf.pad(dense, [[0, 0], [0, width - tf.shape(dense)[1]]])
    pairs = tf.reshape(dense[:, 1:], tf.stack([number, width // 2, 2]))
    sums = tf.reshape(tf.cumsum(pairs, axis=1), tf.stack([number, width - 1]))
    sums = tf.concat([dense[:, :1], sums], axis=1)
    return tf.where(tf.sequence_mask(lengths, width), sums, 0)
