"""Shuffled epochs of training batches that can be repeated and resumed."""

import dataclasses
import random
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from keras_resadapt.data.checks import check_broken_fraction, check_positive
from keras_resadapt.data.source import ImageSource


@dataclasses.dataclass
class Epochs:
    """The arguments of training batches that do not depend on the augmentation.

    All randomness is a function of (seed, epoch, place in the epoch).

    Attributes:
        source: The images.
        batch_size, shuffle_buffer, seed, deterministic, drop_remainder,
            initial_epoch, epochs, max_broken_fraction: As for `training_batches`.
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
    epochs: int | None
    max_broken_fraction: float
    steps: int = dataclasses.field(init=False)

    def __post_init__(self):
        check_positive("batch_size", self.batch_size)
        if self.shuffle_buffer is not None:
            check_positive("shuffle_buffer", self.shuffle_buffer)
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
            check_positive("epochs", self.epochs)
        check_broken_fraction(self.max_broken_fraction)
        self.steps = self.source.steps_per_epoch(self.batch_size, self.drop_remainder)
        if self.steps == 0:
            raise ValueError(
                "`batch_size` must be at most the number of images unless "
                f"drop_remainder=False. Received: batch_size={self.batch_size} for "
                f"the {self.source.num_examples} images of {self.source.name}"
            )
        if self.deterministic is None:
            self.deterministic = self.seed is not None
        if self.seed is None:
            self.seed = random.SystemRandom().randrange(2**31)

    def batches(
        self,
        make_elements: Callable[[tf.data.Dataset, tf.Tensor], tf.data.Dataset],
        finish: Callable[..., Any],
    ) -> tf.data.Dataset:
        """Returns the batches of all epochs.

        Args:
            make_elements: Function from the records of one shuffled pass and the seed
                of the pass (int64 scalar) to a dataset of elements.
            finish: Graph function from a batch of elements to the batch returned.
        """
        buffer = min(
            self.shuffle_buffer or self.source.shuffle_buffer,
            self.source.num_examples,
        )

        def one_pass(pass_seed):
            # `shuffle` mixes its seed with the seed of its graph, which by default is
            # the global seed of the program. Setting the seed in the graph of this
            # function makes the order depend on nothing else. It is not 0, because
            # TensorFlow would then compare the tensor seed in Python, and fail.
            if not tf.executing_eagerly():
                tf.random.set_seed(1)
            shuffled = self.source.records.shuffle(
                buffer, seed=pass_seed, reshuffle_each_iteration=False
            )
            return make_elements(shuffled, pass_seed)

        if self.drop_remainder:
            images_per_epoch = self.steps * self.batch_size
        else:
            images_per_epoch = self.source.num_examples

        def one_epoch(epoch):
            # The second pass only runs to replace broken images of the first.
            seeds = int(self.seed) * 1_000_003 + 2 * epoch + tf.range(2, dtype=tf.int64)
            passes = tf.data.Dataset.from_tensor_slices(seeds).flat_map(one_pass)
            return passes.take(images_per_epoch).batch(
                self.batch_size, drop_remainder=self.drop_remainder
            )

        last = tf.int64.max if self.epochs is None else self.initial_epoch + self.epochs
        batches = tf.data.Dataset.range(self.initial_epoch, last).flat_map(one_epoch)
        batches = batches.map(
            finish,
            num_parallel_calls=tf.data.AUTOTUNE,
            deterministic=self.deterministic,
        )
        # `flat_map` hides the number of batches, which Keras reads.
        if self.epochs is None:
            count = tf.data.INFINITE_CARDINALITY
        else:
            count = self.steps * self.epochs
        return batches.apply(tf.data.experimental.assert_cardinality(count)).prefetch(
            tf.data.AUTOTUNE
        )
