"""A set of images with one class label per pixel."""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import tensorflow as tf

from keras_resadapt.data.decoding import check_decodes, decode, decode_mask
from keras_resadapt.data.source import ImageSource


class MaskFaults(NamedTuple):
    """The properties of an image and its mask that `check_faults` compares.

    Attributes:
        name: The name of the image, a string scalar.
        image_size: int32 (2,), height and width of the image in pixels.
        mask_size: int32 (2,), height and width of the mask in pixels.
        wrong_label: int32 scalar, the largest label that is not that of a class, or
            -1 if all labels are valid.
    """

    name: tf.Tensor
    image_size: tf.Tensor
    mask_size: tf.Tensor
    wrong_label: tf.Tensor


@dataclasses.dataclass
class SegmentationSource(ImageSource):
    """One split of a segmentation set, as returned by `load_source`.

    The attributes are those of `ImageSource`, with these differences.

    Attributes:
        records: `tf.data.Dataset` of (handle, mask handle, name).
        class_names: The name of each class, in label order, or an empty tuple if the
            names are not known.
        read_mask: Graph function from a mask handle to the mask: a string scalar (the
            bytes of a grayscale PNG file with 8 bits per pixel) if `encoded`,
            otherwise a uint8 tensor (height, width).
        ignore_class: Label of the pixels that belong to no class, or None.
    """

    read_mask: Callable[[tf.Tensor], tf.Tensor] = dataclasses.field(
        repr=False, kw_only=True
    )
    ignore_class: int | None = dataclasses.field(default=255, kw_only=True)
    _largest_label: int | None = dataclasses.field(default=None, init=False, repr=False)

    @property
    def num_classes(self) -> int:
        """The number of classes.

        Without `class_names`, it is one more than the largest label in the masks of
        this split. The masks are read for it once.
        """
        if self.class_names:
            return len(self.class_names)
        if self._largest_label is None:
            self._largest_label = self._find_largest_label()
        return self._largest_label + 1

    @property
    def dataset(self) -> tf.data.Dataset:
        """`tf.data.Dataset` of (image, mask, name), decoded and not shuffled."""
        return self.records.map(
            lambda *record: (*self.read_decoded(record), record[2]),
            num_parallel_calls=tf.data.AUTOTUNE,
        )

    def read_decoded(self, record: tuple) -> tuple[tf.Tensor, tf.Tensor]:
        """Reads and decodes the image and the mask of a record.

        Args:
            record: An element of `records`.

        Returns:
            uint8 tensors (height, width, 3) and (height, width).
        """
        image, mask = self.read(record[0]), self.read_mask(record[1])
        return (decode(image), decode_mask(mask)) if self.encoded else (image, mask)

    def check_record(self, record: tuple) -> tf.Tensor:
        image_shape = check_decodes(self.read(record[0]))
        mask_shape = tf.shape(decode_mask(self.read_mask(record[1])))
        return tf.concat([image_shape, mask_shape], axis=0)

    def check_mask(
        self, image: tf.Tensor, mask: tf.Tensor, name: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns an image and its mask, with checks that run in the graph.

        Raises:
            tf.errors.InvalidArgumentError: When run, if the sizes differ or a label is
                neither that of a class nor `ignore_class`. The message has the name of
                the image, and the label.
        """
        faults = tf.nest.map_structure(
            lambda x: x[tf.newaxis], self.mask_faults(image, mask, name)
        )
        with tf.control_dependencies(self.check_faults(faults)):
            return tf.identity(image), tf.identity(mask)

    def mask_faults(
        self, image: tf.Tensor, mask: tf.Tensor, name: tf.Tensor
    ) -> "MaskFaults":
        """Returns what `check_faults` needs to check a mask later."""
        wrong_label = tf.constant(-1)
        if self.class_names:
            labels = tf.cast(mask, tf.int32)
            wrong = labels >= len(self.class_names)
            if self.ignore_class is not None:
                wrong &= labels != self.ignore_class
            wrong_label = tf.reduce_max(tf.where(wrong, labels, -1))
        return MaskFaults(name, tf.shape(image)[:2], tf.shape(mask), wrong_label)

    def check_faults(self, faults: "MaskFaults") -> list[tf.Operation]:
        """Returns operations that fail for the first wrong mask of a batch.

        Args:
            faults: The results of `mask_faults`, stacked.
        """
        # One valid row more, because a batch can be empty
        faults = MaskFaults(
            *(
                tf.pad(x, [(0, 1)] + [(0, 0)] * (x.shape.rank - 1), constant_values=c)
                for x, c in zip(faults, ("", 0, 0, -1))
            )
        )
        differ = tf.reduce_any(faults.image_size != faults.mask_size, axis=1)
        i = tf.argmax(tf.cast(differ, tf.int32))
        checks = [
            tf.debugging.Assert(
                tf.logical_not(tf.reduce_any(differ)),
                [
                    "A mask must have the size of its image. Received: the image",
                    faults.name[i],
                    "of height and width",
                    faults.image_size[i],
                    "with a mask of",
                    faults.mask_size[i],
                ],
            )
        ]
        if self.class_names:
            count = len(self.class_names)
            void = ""
            if self.ignore_class is not None:
                void = f", or {self.ignore_class} for pixels without a class"
            j = tf.argmax(faults.wrong_label)
            checks.append(
                tf.debugging.Assert(
                    faults.wrong_label[j] < 0,
                    [
                        f"Labels must be from 0 to {count - 1}{void}. Received: class",
                        faults.wrong_label[j],
                        "in the mask of",
                        faults.name[j],
                    ],
                )
            )
        return checks

    def _find_largest_label(self) -> int:
        def largest(number, record):
            mask = self.read_mask(record[1])
            labels = tf.cast(decode_mask(mask) if self.encoded else mask, tf.int32)
            if self.ignore_class is not None:
                labels = tf.where(labels == self.ignore_class, -1, labels)
            return tf.reduce_max(labels)

        found = self.numbered_records.map(
            largest, num_parallel_calls=tf.data.AUTOTUNE, deterministic=False
        ).ignore_errors()
        result = int(found.reduce(-1, tf.maximum))
        if result < 0:
            raise ValueError(
                f"The masks of {self.name} must have at least one pixel with a class."
            )
        return result
