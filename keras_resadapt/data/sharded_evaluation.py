"""Evaluation batches of one of several workers."""

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from keras_resadapt.data.source import ImageSource

# Batches that are decoded at the same time.
PARALLEL_BATCHES = 2


def sharded_batches(
    source: ImageSource,
    make_element: Callable[[tf.Tensor, Any], Any],
    batch_size: int,
    shard: tuple[int, int],
    max_broken_fraction: float,
    empty_side: int = 32,
    padded: bool = False,
) -> tf.data.Dataset:
    """Returns the rows of one worker in each global batch of a source, in order.

    Global batch k has the records from k * batch_size on. Every worker has the same
    number of batches, whose rows can be fewer or none: in the last batch, and where
    images are broken. All workers together have every image once.

    Args:
        source: The images.
        make_element: Graph function from (place, record) to a structure of tensors.
        batch_size: Images per global batch, which the number of workers divides.
        shard: (index, count), the number of the worker and the number of workers.
        max_broken_fraction: Largest tolerated fraction of broken images.
        empty_side: Height and width in pixels of images in batches without rows, if
            the size is not known.
        padded: Whether to pad tensors of different shapes with zeros, instead of an
            error.

    Returns:
        `tf.data.Dataset` of batches. Iterating raises
        `tf.errors.InvalidArgumentError` if too many records are broken.
    """
    index, count = shard
    rows = batch_size // count
    total = source.num_examples
    allowed = int(max_broken_fraction * total)
    allowed = min(allowed, 2 * -(-allowed // count))

    def make(records):
        return records.map(
            lambda *record: make_element(tf.constant(0, tf.int64), record),
            num_parallel_calls=tf.data.AUTOTUNE,
            deterministic=True,
        )

    empty = tf.nest.map_structure(
        lambda spec: tf.zeros(
            [0, *(empty_side if n is None else n for n in spec.shape)], spec.dtype
        ),
        make(source.records).element_spec,
    )

    def one_batch(number, window):
        records = tf.data.Dataset.zip(window).skip(index * rows).take(rows)
        elements = make(records).ignore_errors()
        batch = elements.padded_batch(rows) if padded else elements.batch(rows)
        expected = tf.clip_by_value(total - number * batch_size - index * rows, 0, rows)
        batch = batch.concatenate(tf.data.Dataset.from_tensors(empty)).take(1)
        return batch.map(lambda *element: (expected, element))

    def count_broken(broken, batch):
        expected, element = batch
        kept = tf.shape(tf.nest.flatten(element)[0], tf.int64)[0]
        broken += expected - kept
        check = tf.debugging.Assert(
            broken <= allowed,
            [
                f"Too many images of {source.name} cannot be decoded: "
                f"max_broken_fraction={max_broken_fraction} allows {allowed} in shard "
                f"{shard}, check_pictures() returns their names. Broken so far:",
                broken,
            ],
        )
        with tf.control_dependencies([check]):
            return broken, tf.nest.map_structure(tf.identity, element)

    records = source.numbered_records.ignore_errors().map(lambda place, record: record)
    windows = records.window(batch_size).enumerate()
    return windows.interleave(
        one_batch,
        cycle_length=PARALLEL_BATCHES,
        block_length=1,
        num_parallel_calls=PARALLEL_BATCHES,
        deterministic=True,
    ).scan(tf.constant(0, tf.int64), count_broken)


def with_cardinality(
    batches: tf.data.Dataset,
    source: ImageSource,
    batch_size: int,
    shard: tuple[int, int],
) -> tf.data.Dataset:
    """Sets the number of evaluation batches if it is known.

    Args:
        batches: The evaluation batches of one worker.
        source, batch_size, shard: As for `evaluation_batches`.
    """
    if shard[1] > 1:
        images = source.num_examples
    elif source.known_broken is not None:
        images = source.num_examples - source.known_broken
    else:
        return batches
    return batches.apply(
        tf.data.experimental.assert_cardinality(-(-images // batch_size))
    )
