"""Substitutes for broken images, which leave all other images in their places."""

from collections.abc import Callable
from typing import Any

import tensorflow as tf


def with_substitutes(
    batches: tf.data.Dataset,
    total: tf.Tensor,
    substitute: Callable[[tf.Tensor], Any],
    allowed_broken: int,
    message: str,
) -> tf.data.Dataset:
    """Inserts an element at each position that is missing.

    A map with `ignore_errors` leaves broken images out, and the others keep the numbers
    of their positions. Where the numbers of a batch follow one another, the batch is
    returned as it is. Nothing is done for each image.

    The dataset returned has one element for each position from 0 to `total`, or
    iterating raises an error. It is therefore never shorter, not even if no image can
    be read.

    Args:
        batches: Batches of (position, element), in ascending order of the positions,
            which are int64. Elements are structures of tensors of static shapes.
        total: int64 scalar, the number of positions.
        substitute: Graph function from a position (int64 scalar) to the element that
            takes this position.
        allowed_broken: The largest number of missing positions.
        message: The beginning of the error message about missing positions.

    Returns:
        `tf.data.Dataset` of elements, stacked to tensors of any number of rows.
        `rebatch` makes batches of them. Iterating raises
        `tf.errors.InvalidArgumentError` if more than `allowed_broken` positions are
        missing.
    """
    # After the last batch comes one without rows, before which all rows are complete.
    end = tf.nest.map_structure(
        lambda spec: tf.zeros([0, *spec.shape[1:]], spec.dtype), batches.element_spec
    )

    def fill(state, batch):
        expected, broken = state
        positions, elements = batch
        count = tf.size(positions, tf.int64)
        ends = tf.concat([positions + 1, tf.reshape(total, [1])], axis=0)
        stop = ends[tf.maximum(count - 1, 0)]
        missing = stop - expected - count
        broken += missing
        elements = tf.cond(
            missing > 0,
            lambda: inserted(expected, stop, positions, elements, broken),
            lambda: elements,
        )
        return (stop, broken), elements

    def inserted(expected, stop, positions, elements, broken):
        check = tf.debugging.Assert(broken <= allowed_broken, [message, broken])
        with tf.control_dependencies([check]):
            candidates = tf.range(expected, stop)
        is_missing = tf.reduce_all(candidates[:, None] != positions, axis=1)
        missing = tf.boolean_mask(candidates, is_missing)
        substitutes = tf.map_fn(
            substitute,
            missing,
            fn_output_signature=tf.nest.map_structure(
                lambda x: tf.TensorSpec(x.shape[1:], x.dtype), elements
            ),
        )
        order = tf.argsort(tf.concat([missing, positions], axis=0))
        return tf.nest.map_structure(
            lambda new, x: tf.gather(tf.concat([new, x], axis=0), order),
            substitutes,
            elements,
        )

    start = (tf.constant(0, tf.int64), tf.constant(0, tf.int64))
    complete = batches.concatenate(tf.data.Dataset.from_tensors(end))
    return complete.scan(start, fill)


def first_unbroken(
    candidates: tf.data.Dataset,
    offset: tf.Tensor,
    make_element: Callable[..., Any],
) -> Any:
    """Returns the element of the first record, from `offset` on, that is not broken.

    Args:
        candidates: Records, of which those before `offset` come last.
        offset: int64 scalar.
        make_element: Graph function from a record to an element. It fails for a broken
            image.
    """
    candidates = candidates.ignore_errors()
    in_turn = candidates.skip(offset).concatenate(candidates.take(offset))
    return in_turn.map(make_element).ignore_errors().take(1).get_single_element()
