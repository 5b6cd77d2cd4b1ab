"""Shuffled epochs of training batches that can be repeated and resumed."""

import dataclasses
import random
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from keras_resadapt.data.checks import (
    check_broken_fraction,
    check_shard,
)
from keras_resadapt.data.source import ImageSource, numbered
from keras_resadapt.data.substitution import first_unbroken, with_substitutes
from keras_resadapt.number_checks import check_integer

# Broken images are replaced by one of the first images of the source. They are few, so
# that little is read to find one.
CANDIDATES = 1024


@dataclasses.dataclass
class Epochs:
    """The arguments of training batches that do not depend on the augmentation.

    All randomness is a function of (seed, epoch, place in the epoch).

    Attributes:
        source: The images.
        batch_size, shuffle_buffer, seed, deterministic, drop_remainder,
            initial_epoch, initial_step, epochs, shard, max_broken_fraction: As for
            `training_batches`.
        steps: Number of batches per epoch.

    Raises:
        ValueError: If an argument is outside its range.
    """

    source: ImageSource
    batch_size: int
    shuffle_buffer: int | None
    seed: int | None
    deterministic: bool | None
    drop_remainder: bool
    initial_epoch: int
    initial_step: int
    epochs: int | None
    shard: tuple[int, int]
    max_broken_fraction: float
    steps: int = dataclasses.field(init=False)

    def __post_init__(self):
        check_integer(self.batch_size, "batch_size")
        if self.shuffle_buffer is not None:
            check_integer(self.shuffle_buffer, "shuffle_buffer")
        if self.seed is not None and not 0 <= self.seed < 2**31:
            raise ValueError(
                "`seed` must be None or an integer from 0 to 2**31 - 1. "
                f"Received: seed={self.seed!r}"
            )
        if self.initial_epoch < 0:
            raise ValueError(
                "`initial_epoch` must be at least 0. "
                f"Received: initial_epoch={self.initial_epoch!r}"
            )
        if self.epochs is not None:
            check_integer(self.epochs, "epochs")
        check_shard(self.shard, self.batch_size)
        if self.shard[1] > 1:
            self._check_sharding()
        check_broken_fraction(self.max_broken_fraction)
        self.steps = self.source.steps_per_epoch(self.batch_size, self.drop_remainder)
        if self.steps == 0:
            raise ValueError(
                "`batch_size` must be at most the number of images unless "
                f"drop_remainder=False. Received: batch_size={self.batch_size} for "
                f"the {self.source.num_examples} images of {self.source.name}"
            )
        if not 0 <= self.initial_step < self.steps:
            raise ValueError(
                "`initial_step` must be at least 0 and less than the number of steps "
                f"per epoch, {self.steps}. Received: initial_step={self.initial_step!r}"
            )
        if self.deterministic is None:
            self.deterministic = self.seed is not None
        if self.seed is None:
            self.seed = random.SystemRandom().randrange(2**31)

    def _check_sharding(self):
        if self.seed is None:
            raise ValueError(
                "`seed` must be an integer if there are several shards, because all "
                f"shards need the same order. Received: seed=None, shard={self.shard}"
            )
        if self.deterministic is False:
            raise ValueError(
                "`deterministic` must not be False if there are several shards. "
                f"Received: deterministic=False, shard={self.shard}"
            )
        if not self.drop_remainder:
            raise ValueError(
                "`drop_remainder` must be True if there are several shards, because "
                "all shards of a batch have the same size. "
                f"Received: drop_remainder=False, shard={self.shard}"
            )

    def batches(
        self,
        make_element: Callable[[tf.Tensor, tf.Tensor, Any], Any],
        finish: Callable[..., Any],
    ) -> tf.data.Dataset:
        """Returns the batches of all epochs, or the shard's rows of each batch.

        Args:
            make_element: Graph function from (seed of the epoch, place in the epoch,
                record) to a structure of tensors of static shapes. The seed and the
                place are int64 scalars. It fails for a broken image.
            finish: Graph function from a batch of elements to the batch returned.
        """
        index, count = self.shard
        rows = self.batch_size // count
        if self.drop_remainder:
            images_per_epoch = self.steps * self.batch_size
        else:
            images_per_epoch = self.source.num_examples
        # Traced once, for the images and for their substitutes
        element_of = tf.function(make_element, autograph=False)

        def is_read(place, record):
            return place % self.batch_size // rows == index

        # Conversion would take longer than all else.
        @tf.autograph.experimental.do_not_convert
        def one_epoch(epoch):
            epoch_seed = int(self.seed) * 1_000_003 + 2 * epoch
            first = tf.where(
                epoch == self.initial_epoch, self.initial_step * self.batch_size, 0
            )
            first = tf.cast(first, tf.int64)
            records = numbered(self._shuffled(epoch_seed), self.source.num_examples)
            # Records that cannot be read are missing at the end.
            records = records.ignore_errors().enumerate()
            records = records.skip(first).take(images_per_epoch - first)
            if count > 1:
                records = records.filter(is_read)

            def element(position, placed):
                place, (_, record) = placed
                return position, element_of(epoch_seed, place, record)

            def substitute(position):
                batch, row = position // rows, position % rows
                place = first + batch * self.batch_size + index * rows + row
                return first_unbroken(
                    self.source.numbered_records,
                    place % min(self.source.num_examples, CANDIDATES),
                    lambda number, record: element_of(epoch_seed, place, record),
                )

            elements = records.enumerate().map(
                element, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True
            )
            return with_substitutes(
                elements.ignore_errors().batch(rows),
                (images_per_epoch - first) // count,
                substitute,
                self._allowed_broken(),
                self._message(),
            ).rebatch(rows, drop_remainder=self.drop_remainder)

        last = tf.int64.max if self.epochs is None else self.initial_epoch + self.epochs
        batches = tf.data.Dataset.range(self.initial_epoch, last).flat_map(one_epoch)
        batches = batches.map(
            finish,
            num_parallel_calls=tf.data.AUTOTUNE,
            deterministic=self.deterministic,
        )
        # `flat_map` hides the number of batches, which Keras reads.
        if self.epochs is None:
            number = tf.data.INFINITE_CARDINALITY
        else:
            number = self.steps * self.epochs - self.initial_step
        return batches.apply(tf.data.experimental.assert_cardinality(number)).prefetch(
            tf.data.AUTOTUNE
        )

    def _shuffled(self, epoch_seed):
        """Returns the records in the order of an epoch."""
        buffer = min(
            self.shuffle_buffer or self.source.shuffle_buffer,
            self.source.num_examples,
        )
        # `shuffle` mixes its seed with the seed of its graph, which by default is
        # the global seed of the program. Setting the seed in the graph of this
        # function makes the order depend on nothing else. It is not 0, because
        # TensorFlow would then compare the tensor seed in Python, and fail.
        if not tf.executing_eagerly():
            tf.random.set_seed(1)
        return self.source.records.shuffle(
            buffer, seed=epoch_seed, reshuffle_each_iteration=False
        )

    def _allowed_broken(self):
        """Returns the number of broken images that this shard tolerates.

        Broken images are not spread evenly over the shards. A shard tolerates twice
        its part of the number that all tolerate together.
        """
        allowed = int(self.max_broken_fraction * self.source.num_examples)
        return min(allowed, 2 * -(-allowed // self.shard[1]))

    def _message(self):
        shard = f" in shard {self.shard}" if self.shard[1] > 1 else ""
        return (
            f"Too many images of {self.source.name} cannot be decoded: "
            f"max_broken_fraction={self.max_broken_fraction} allows "
            f"{self._allowed_broken()} of {self.source.num_examples}{shard}, "
            "check_pictures() returns their names. Broken so far:"
        )
