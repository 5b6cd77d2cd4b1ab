"""A labeled set of images, and which of its images are broken."""

import dataclasses
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from keras_resadapt.data.decoding import check_decodes


@dataclasses.dataclass
class ImageSource:
    """One split of a classification set, as returned by `load_source`.

    Images are kept behind small handles (a path, an index, the encoded bytes), so that
    shuffling moves handles and not images.

    Attributes:
        name: Name of the source in messages, for example `"cifar10/train"`.
        records: `tf.data.Dataset` of (handle, label, name). The handle is the argument
            of `read`, the label an int64 scalar, and the name a string scalar that
            identifies the image in messages. The order is always the same.
        read: Graph function from a handle to the image: a string scalar (the bytes of
            a JPEG, PNG, GIF or BMP file) if `encoded`, otherwise a uint8 tensor
            (height, width, 3).
        class_names: The name of each class, in label order.
        num_examples: Number of images, including broken ones.
        encoded: Whether `read` returns encoded bytes.
        image_shape: (height, width) if all images have one known size, otherwise None.
        shuffle_buffer: Default number of handles in a shuffle buffer.
    """

    name: str
    records: tf.data.Dataset = dataclasses.field(repr=False)
    read: Callable[[tf.Tensor], tf.Tensor] = dataclasses.field(repr=False)
    class_names: tuple[str, ...] = dataclasses.field(repr=False)
    num_examples: int
    encoded: bool = True
    image_shape: tuple[int, int] | None = None
    shuffle_buffer: int = 16_384
    _broken: list[str] | None = dataclasses.field(default=None, init=False, repr=False)

    @property
    def num_classes(self) -> int:
        """The number of classes."""
        return len(self.class_names)

    @property
    def dataset(self) -> tf.data.Dataset:
        """`tf.data.Dataset` of (image, label, name), not shuffled.

        An image is the result of `read`.
        """
        return self.records.map(
            lambda handle, label, name: (self.read(handle), label, name),
            num_parallel_calls=tf.data.AUTOTUNE,
        )

    @property
    def numbered_records(self) -> tf.data.Dataset:
        """`tf.data.Dataset` of (number, record), for use with `ignore_errors`.

        Iterating ends after `num_examples` records and errors. `records` alone may not
        end with `ignore_errors`: TensorFlow reports a missing TFRecord file again and
        again.
        """
        return numbered(self.records, self.num_examples)

    @property
    def known_broken(self) -> int | None:
        """The number of broken images if it is known without reading, otherwise None.

        It is known after `find_broken`, and for sources that are not encoded.
        """
        if not self.encoded:
            return 0
        return None if self._broken is None else len(self._broken)

    def steps_per_epoch(self, batch_size: int, drop_remainder: bool = True) -> int:
        """Returns the number of batches in one epoch of `training_batches`.

        Args:
            batch_size, drop_remainder: As for `training_batches`.
        """
        if drop_remainder:
            return self.num_examples // batch_size
        return -(-self.num_examples // batch_size)

    def hold_out(self, share: float) -> tuple["ImageSource", "ImageSource"]:
        """Splits the source into two sources of different images.

        The held-out images are evenly spread over the records.

        Args:
            share: Fraction of the images to hold out, in (0, 1). At least one image
                must be held out, and at least one must not.

        Returns:
            The rest, and the held-out images.

        Raises:
            ValueError: If one of the two sources would be empty.
        """
        count = int(self.num_examples * share) if 0 < share < 1 else 0
        if not 0 < count < self.num_examples:
            raise ValueError(
                "`share` must be in (0, 1) and leave images in both parts of the "
                f"{self.num_examples} images of {self.name}. Received: share={share!r}"
            )

        def part(name, held, number):
            def belongs(place, record):
                # Whether place * count / num_examples passes an integer
                after = (place + 1) * count // self.num_examples
                return (after > place * count // self.num_examples) == held

            records = (
                self.records.enumerate()
                .filter(belongs)
                .map(lambda place, record: record)
            )
            return dataclasses.replace(
                self, name=name, records=records, num_examples=number
            )

        return (
            part(self.name, False, self.num_examples - count),
            part(f"{self.name} (held out)", True, count),
        )

    def find_broken(self) -> list[str]:
        """Returns the names of the images that cannot be read or decoded.

        The first call costs one parallel decoding pass, later calls return the stored
        result. Nothing is read for a source that is not encoded.

        Returns:
            The names in the order of `records`.
        """
        if self._broken is None:
            if self.encoded:
                self._broken = self._names_without(self._decodable())
            else:
                self._broken = []
        return list(self._broken)

    def check_record(self, record: tuple) -> tf.Tensor:
        """Returns a tensor that fails to compute if the image is broken.

        Args:
            record: An element of `records`.
        """
        return check_decodes(self.read(record[0]))

    def _decodable(self) -> np.ndarray:
        """Returns one bool per record: whether it can be decoded."""

        # The shape is returned although it is not used: TensorFlow would otherwise
        # remove the decoding.
        checked = self.numbered_records.map(
            lambda place, record: (place, self.check_record(record)),
            num_parallel_calls=tf.data.AUTOTUNE,
            deterministic=False,
        )
        decodable = np.zeros(self.num_examples, bool)
        for places, _ in checked.ignore_errors().batch(4096).as_numpy_iterator():
            decodable[places] = True
        return decodable

    def _names_without(self, decodable: np.ndarray) -> list[str]:
        """Returns the names of the records that are not decodable."""
        if decodable.all():
            return []
        # Records that cannot even be read (a damaged TFRecord file) are skipped here
        # too, and have no name.
        batches = (
            self.numbered_records.map(lambda place, record: record[2])
            .ignore_errors()
            .batch(4096)
        )
        names = [
            name.decode("utf-8", "backslashreplace")
            for batch in batches.as_numpy_iterator()
            for name in batch
        ]
        missing = [name for name, good in zip(names, decodable) if not good]
        unreadable = self.num_examples - len(names)
        return missing + [f"unreadable record of {self.name}"] * unreadable


def numbered(records: tf.data.Dataset, count: int) -> tf.data.Dataset:
    """Returns records with their numbers, and ends after `count` records and errors.

    Args:
        records: The records. A record may not be readable.
        count: The largest number of records.
    """
    return tf.data.Dataset.zip((tf.data.Dataset.range(count), records))
