"""A labelled set of pictures, and which of them are broken."""

import dataclasses
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from keras_resadapt.data.preprocessing import check_decodes


@dataclasses.dataclass
class ImageSource:
    """One split of a classification set, as `load_source` returns it.

    Pictures are kept behind light handles (a path, an index, the encoded bytes) so that shuffling moves handles and
    not pictures.

    Attributes:
        name: what the source is called in messages, for example `"cifar10/train"`.
        records: `tf.data.Dataset` of `(handle, label, name)`: the handle is whatever `read` takes, the label an int64
            scalar, the name a string scalar that tells a person which picture this is. Its order is always the same.
        read: graph function from a handle to the picture: a string scalar (encoded JPEG, PNG, GIF or BMP) when
            `encoded`, else a uint8 tensor (height, width, 3).
        class_names: the name of each label, in label order.
        num_examples: how many pictures there are, broken ones included.
        encoded: whether `read` returns encoded bytes.
        image_shape: (height, width) when all pictures have that one size and it is known, else None.
        shuffle_buffer: how many handles a shuffle should hold in memory by default.
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
        """`tf.data.Dataset` of `(picture, label, name)`, unshuffled; a picture is as `read` returns it."""
        return self.records.map(
            lambda handle, label, name: (self.read(handle), label, name),
            num_parallel_calls=tf.data.AUTOTUNE,
        )

    @property
    def known_broken(self) -> int | None:
        """How many pictures are broken if that is known without reading them, else None (see `find_broken`)."""
        return (
            0
            if not self.encoded
            else None
            if self._broken is None
            else len(self._broken)
        )

    def steps_per_epoch(self, batch_size: int, drop_remainder: bool = True) -> int:
        """Batches in one epoch of `training_batches` with the same two arguments."""
        return (
            self.num_examples // batch_size
            if drop_remainder
            else -(-self.num_examples // batch_size)
        )

    def hold_out(self, share: float) -> tuple["ImageSource", "ImageSource"]:
        """Two sources of different pictures: the rest, and held-out ones evenly spread over the records.

        Args:
            share: of the pictures that are held out, in (0, 1); at least one is, and at least one is not.
        """
        count = int(self.num_examples * share) if 0 < share < 1 else 0
        if not 0 < count < self.num_examples:
            raise ValueError(
                f"share must be in (0, 1) and divide the {self.num_examples} pictures of {self.name} in two; got {share!r}."
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
        """Names of the pictures that cannot be read or decoded, in the order of `records`.

        Costs one parallel decoding pass, the first time only: the answer is kept. Nothing is read for a source
        that is not encoded.
        """
        if self._broken is None:
            self._broken = (
                self._missing_names(self._decodable()) if self.encoded else []
            )
        return list(self._broken)

    def _decodable(self) -> np.ndarray:
        """One bool a record: whether it can be decoded."""

        # The shape is returned, though nobody looks at it: TensorFlow would drop a decoding without a use.
        checked = self.records.enumerate().map(
            lambda position, record: (
                position,
                check_decodes(self.read(record[0])),
            ),
            num_parallel_calls=tf.data.AUTOTUNE,
            deterministic=False,
        )
        decodable = np.zeros(self.num_examples, bool)
        for positions, _ in checked.ignore_errors().batch(4096).as_numpy_iterator():
            decodable[positions] = True
        return decodable

    def _missing_names(self, decodable: np.ndarray) -> list[str]:
        if decodable.all():
            return []
        # Records that cannot even be read (a damaged TFRecord file) are skipped here too, and have no name.
        batches = (
            self.records.map(lambda handle, label, name: name)
            .ignore_errors()
            .batch(4096)
        )
        names = [
            name.decode("utf-8", "replace")
            for batch in batches.as_numpy_iterator()
            for name in batch
        ]
        missing = [name for name, good in zip(names, decodable) if not good]
        missing += [f"unreadable record of {self.name}"] * (
            self.num_examples - len(names)
        )
        return missing


def check_pictures(source: ImageSource, max_broken_fraction: float = 0.01) -> list[str]:
    """Names the broken pictures of a source, and refuses a source with too many of them.

    `training_batches` and `evaluation_batches` go on without broken pictures; a training script calls this at its end
    (or its start) for the report. One parallel decoding pass, nothing if the source was checked before.

    Args:
        source: what `load_source` returned.
        max_broken_fraction: the largest tolerated share of broken pictures, in [0, 0.5].

    Returns:
        The names of the broken pictures, empty if there are none.

    Raises:
        ValueError: more than `max_broken_fraction` of the pictures are broken. The message names the first ten.
    """
    check_broken_fraction(max_broken_fraction)
    broken = source.find_broken()
    if len(broken) > max_broken_fraction * source.num_examples:
        more = f" and {len(broken) - 10} more" if len(broken) > 10 else ""
        raise ValueError(
            f"{len(broken)} of the {source.num_examples} pictures of {source.name} cannot be decoded; "
            f"max_broken_fraction={max_broken_fraction} allows {int(max_broken_fraction * source.num_examples)}. "
            f"Broken: {', '.join(broken[:10])}{more}."
        )
    return broken


def check_broken_fraction(max_broken_fraction: float) -> None:
    """Raises a ValueError unless `max_broken_fraction` is in [0, 0.5]."""
    if not 0.0 <= max_broken_fraction <= 0.5:
        raise ValueError(
            f"max_broken_fraction must be between 0 and 0.5; got {max_broken_fraction!r}."
        )
