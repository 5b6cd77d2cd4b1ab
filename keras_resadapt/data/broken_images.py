"""Which images of a source are broken, and batches without these images."""

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from keras_resadapt.data.checks import check_broken_fraction
from keras_resadapt.data.source import ImageSource, numbered


def check_pictures(source: ImageSource, max_broken_fraction: float = 0.01) -> list[str]:
    """Returns the names of the broken images of a source.

    `training_batches` and `evaluation_batches` skip broken images. A training script
    calls this function at its start or its end for the report. It costs one parallel
    decoding pass, and nothing if the source was checked before.

    Args:
        source: The result of `load_source`.
        max_broken_fraction: Largest tolerated fraction of broken images, in [0, 0.5].

    Returns:
        The names of the broken images, empty if there are none.

    Raises:
        ValueError: If more than `max_broken_fraction` of the images are broken. The
            message has the first ten names.
    """
    check_broken_fraction(max_broken_fraction)
    broken = source.find_broken()
    allowed = int(max_broken_fraction * source.num_examples)
    if len(broken) > allowed:
        more = f" and {len(broken) - 10} more" if len(broken) > 10 else ""
        raise ValueError(
            f"{len(broken)} of the {source.num_examples} images of {source.name} "
            f"cannot be decoded. max_broken_fraction={max_broken_fraction} allows "
            f"{allowed}. Broken: {', '.join(broken[:10])}{more}"
        )
    return broken


def without_broken(
    records: tf.data.Dataset,
    make_element: Callable[[tf.Tensor, Any], Any],
    source: ImageSource,
    deterministic: bool,
    max_broken_fraction: float,
) -> tf.data.Dataset:
    """Maps records to elements and leaves out the records for which this fails.

    The number of dropped records is counted without extra work: each element carries
    its place before dropping and gets a second place after it. The difference is the
    number of records dropped so far. A marker at the end makes the count complete.

    Args:
        records: The records of `source`, in any order.
        make_element: Graph function from (place, record) to a structure of tensors.
        source: Where the records come from.
        deterministic: Whether the order of the records is kept.
        max_broken_fraction: Largest tolerated fraction of broken images, in [0, 0.5].

    Returns:
        `tf.data.Dataset` of (place, element). Iterating raises
        `tf.errors.InvalidArgumentError` if too many records are broken.
    """
    total = source.num_examples
    allowed = int(max_broken_fraction * total)
    made = numbered(records, total).map(
        lambda place, record: (place, make_element(place, record)),
        num_parallel_calls=tf.data.AUTOTUNE,
        deterministic=deterministic,
    )
    empty = tf.nest.map_structure(
        lambda spec: tf.zeros([size or 0 for size in spec.shape], spec.dtype),
        made.element_spec[1],
    )
    end = tf.data.Dataset.from_tensors((tf.constant(total, tf.int64), empty))

    def count(kept, placed):
        place, element = placed
        # Out of order, only the count at the end is certain.
        certain = True if deterministic else tf.equal(place, total)
        tf.debugging.Assert(
            (place - kept <= allowed) | tf.logical_not(certain),
            [
                f"Too many images of {source.name} cannot be decoded: "
                f"max_broken_fraction={max_broken_fraction} allows {allowed} of "
                f"{total}, check_pictures() returns their names. Broken so far:",
                place - kept,
            ],
        )
        return place, element

    counted = made.ignore_errors().concatenate(end).enumerate().map(count)
    # An error of the count must not be ignored, so it comes after `ignore_errors`.
    return counted.filter(lambda place, element: place < total)
