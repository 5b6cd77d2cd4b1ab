"""A set of images with the objects in them."""

import dataclasses
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from keras_resadapt.data.coco_masks import decode_masks, encode_masks
from keras_resadapt.data.decoding import decode, image_size
from keras_resadapt.data.source import ImageSource


@dataclasses.dataclass
class DetectionSource(ImageSource):
    """One split of a set of images with objects, as returned by `load_source`.

    The attributes are those of `ImageSource`, with these differences.

    Attributes:
        records: `tf.data.Dataset` of (handle, object handle, name).
        class_names: The name of each class, in label order.
        read_objects: Graph function from an object handle and the size of the image
            (int32, height and width) to a dict of the objects:

            - `image_id`: int64 scalar, the number of the image.
            - `boxes`: float32 (objects, 4), x1, y1, x2, y2 in pixels of the image.
            - `classes`: int32 (objects,).
            - `crowd`: bool (objects,), True for a region with many objects that are
              not annotated one by one.
            - `area`: float32 (objects,), area of the mask, or of the box, in pixels.
            - `annotated_size`: optional int32 (2,), height and width of the image for
              which the objects were annotated.
            - `masks`: a tensor (objects, ...), the argument of `read_masks`. Strings
              are the compressed run lengths of COCO. Only if `has_masks`.
        read_masks: Graph function from `masks` to uint8 (objects, height, width) of
            zeros and ones. None for run lengths.
        has_masks: Whether the objects have masks.
    """

    read_objects: Callable[[Any, tf.Tensor], dict[str, tf.Tensor]] = dataclasses.field(
        repr=False, kw_only=True
    )
    read_masks: Callable[[tf.Tensor], tf.Tensor] | None = dataclasses.field(
        default=None, repr=False, kw_only=True
    )
    has_masks: bool = dataclasses.field(default=True, kw_only=True)

    @property
    def dataset(self) -> tf.data.Dataset:
        """`tf.data.Dataset` of (image, objects, name), decoded and not shuffled."""

        def decoded(handle, objects, name):
            image = self.read_image(handle)
            return image, self.read_objects(objects, tf.shape(image)[:2]), name

        return self.records.map(decoded, num_parallel_calls=tf.data.AUTOTUNE)

    def read_image(self, handle: tf.Tensor) -> tf.Tensor:
        """Reads and decodes an image, uint8 (height, width, 3).

        Args:
            handle: The first part of an element of `records`.
        """
        image = self.read(handle)
        return decode(image) if self.encoded else image

    def decode_masks(
        self, masks: tf.Tensor, size: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns masks as zeros and ones, and whether they have the image's size.

        Args:
            masks: Some of the `masks` of the objects of an image.
            size: int32 (2,), height and width of the image.

        Returns:
            uint8 (objects, height, width) and bool (objects,). A mask of another size
            is empty.
        """
        if self.read_masks is None:
            return decode_masks(masks, size)
        return self.read_masks(masks), tf.fill(tf.shape(masks)[:1], True)

    def encode_masks(self, masks: tf.Tensor) -> tf.Tensor:
        """Returns masks as compressed run lengths, a string tensor (objects,).

        Args:
            masks: Some of the `masks` of the objects of an image.
        """
        return (
            masks if self.read_masks is None else encode_masks(self.read_masks(masks))
        )

    def find_fault(
        self, objects: dict[str, tf.Tensor], size: tf.Tensor, name: tf.Tensor
    ) -> tf.Tensor:
        """Describes what is wrong with the classes and the size of the annotations.

        Args:
            objects: The result of `read_objects`.
            size: int32 (2,), height and width of the image.
            name: String scalar, the name of the image.

        Returns:
            String scalar, empty if nothing is wrong.
        """
        classes = objects["classes"]
        wrong = tf.boolean_mask(classes, (classes < 0) | (classes >= self.num_classes))
        fault = _fault_if(
            tf.size(wrong) > 0,
            f"Classes must be from 0 to {self.num_classes - 1}. Received: class",
            wrong,
            "of an object in",
            name,
        )
        if "annotated_size" not in objects:
            return fault
        annotated = objects["annotated_size"]
        other_size = _fault_if(
            tf.reduce_any(tf.not_equal(annotated, size)),
            "An image must have the height and width of its annotations,",
            annotated,
            ". Received:",
            size,
            "for",
            name,
        )
        return tf.strings.join([fault, other_size])


def mask_fault(fits: tf.Tensor, size: tf.Tensor, name: tf.Tensor) -> tf.Tensor:
    """Returns a message unless all masks have the size of their image.

    Args:
        fits: bool (objects,), from `DetectionSource.decode_masks`.
        size, name: As for `DetectionSource.find_fault`.
    """
    return _fault_if(
        tf.logical_not(tf.reduce_all(fits)),
        "A mask must have the size of its image, height and width",
        size,
        ". Received: a mask of another size, or invalid run lengths, in",
        name,
    )


def assert_no_faults(faults: tf.Tensor) -> tf.Operation:
    """Returns an operation that fails with the messages of faults.

    Args:
        faults: String tensor of any shape, results of `find_fault` and `mask_fault`.
    """
    return tf.debugging.Assert(
        tf.reduce_all(tf.equal(faults, "")), [tf.strings.reduce_join(faults)]
    )


def _fault_if(wrong: tf.Tensor, *parts) -> tf.Tensor:
    parts = [
        part
        if isinstance(part, str) or part.dtype == tf.string
        else tf.strings.format("{}", part)
        for part in parts
    ]
    return tf.where(wrong, tf.strings.join([*parts, "\n"], separator=" "), "")


@dataclasses.dataclass(frozen=True)
class ObjectCounts:
    """Numbers of objects that training leaves out or changes.

    Attributes:
        images: Images that can be read.
        images_without_objects: Images that have no objects, or only crowds.
        objects: Objects, crowds included.
        crowds: Regions with many objects. Training leaves them out.
        without_area: Objects whose box has no area inside the image. Training leaves
            them out.
        clipped: Objects whose box is partly outside the image. Training clips the box.
        outside_box: Objects whose mask has no pixel in their box. Training leaves them
            out.
        over_limit: Objects beyond the `max_objects` largest of their image. Training
            leaves them out.
    """

    images: int = 0
    images_without_objects: int = 0
    objects: int = 0
    crowds: int = 0
    without_area: int = 0
    clipped: int = 0
    outside_box: int = 0
    over_limit: int = 0


def check_objects(source: DetectionSource, max_objects: int = 100) -> ObjectCounts:
    """Counts the objects that training leaves out, and warns if there are any.

    `detection_training_batches` leaves out these objects without a message. A training
    script calls this function at its start for the report. It reads all annotations
    once, and the headers of the images.

    Args:
        source: The result of `load_source` for a detection set.
        max_objects: As for `detection_training_batches`.

    Raises:
        tf.errors.InvalidArgumentError: If a class is out of range or a mask has
            another size than its image.
    """

    def read(handle, objects, name):
        image = source.read(handle)
        size = image_size(image) if source.encoded else tf.shape(image)[:2]
        return size, objects, name

    def count(size, objects, name):
        objects = source.read_objects(objects, size)
        with tf.control_dependencies(
            [assert_no_faults(source.find_fault(objects, size, name))]
        ):
            size = tf.identity(size)
        counts = {"crowds": objects["crowd"]}
        kept = tf.logical_not(objects["crowd"])
        clipped, inside = clip_boxes(objects["boxes"], size)
        changed = tf.reduce_any(tf.abs(clipped - objects["boxes"]) > 0.01, axis=1)
        counts["without_area"] = kept & tf.logical_not(inside)
        counts["clipped"] = kept & inside & changed
        kept &= inside
        if source.has_masks:
            masks, has_size = source.decode_masks(objects["masks"], size)
            with tf.control_dependencies(
                [assert_no_faults(mask_fault(has_size, size, name))]
            ):
                fits = mask_in_box(masks, clipped)
            counts["outside_box"] = kept & tf.logical_not(fits)
            kept &= fits
        numbers = {
            key: tf.reduce_sum(tf.cast(value, tf.int64))
            for key, value in {**counts, "kept": kept}.items()
        }
        kept = numbers.pop("kept")
        numbers["over_limit"] = tf.maximum(kept - max_objects, 0)
        numbers["images"] = tf.constant(1, tf.int64)
        total = tf.size(objects["classes"], out_type=tf.int64)
        numbers["objects"] = total
        empty = tf.equal(total, numbers["crowds"])
        numbers["images_without_objects"] = tf.cast(empty, tf.int64)
        return numbers

    readable = source.numbered_records.map(
        lambda number, record: read(*record), num_parallel_calls=tf.data.AUTOTUNE
    )
    batches = readable.ignore_errors().map(count, num_parallel_calls=tf.data.AUTOTUNE)
    totals = dict.fromkeys(batches.element_spec, 0)
    for numbers in batches.as_numpy_iterator():
        totals = {key: totals[key] + int(number) for key, number in numbers.items()}
    left_out = {
        key: number
        for key, number in totals.items()
        if number and key in ("without_area", "outside_box", "over_limit")
    }
    if left_out:
        warnings.warn(
            f"Training leaves out objects of {source.name}: "
            + ", ".join(f"{key}: {number}" for key, number in left_out.items())
            + f". `ObjectCounts` explains the reasons. max_objects={max_objects}",
            stacklevel=2,
        )
    return ObjectCounts(**totals)


def clip_boxes(boxes: tf.Tensor, size: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Clips boxes to an image.

    Args:
        boxes: float32 (objects, 4), x1, y1, x2, y2 in pixels.
        size: int32 (2,), height and width in pixels.

    Returns:
        The boxes, and bool (objects,): whether a box has an area inside the image.
        A box with a coordinate that is not a number has none.
    """
    height, width = tf.unstack(tf.cast(size, tf.float32))
    clipped = tf.clip_by_value(boxes, 0.0, tf.stack([width, height, width, height]))
    sides = clipped[:, 2:] - clipped[:, :2]
    return clipped, tf.reduce_all(sides > 0, axis=1)


def mask_in_box(masks: tf.Tensor, boxes: tf.Tensor) -> tf.Tensor:
    """Returns whether each mask has a pixel that overlaps the box of its object.

    Args:
        masks: uint8 (objects, height, width).
        boxes: float32 (objects, 4), x1, y1, x2, y2 in pixels.

    Returns:
        bool (objects,).
    """
    x1, y1, x2, y2 = tf.unstack(boxes[:, :, tf.newaxis], axis=1)

    def overlaps(first, last, length):
        pixels = tf.range(tf.cast(length, tf.float32))[tf.newaxis]
        return tf.cast((pixels + 1 > first) & (pixels < last), tf.uint8)

    rows = overlaps(y1, y2, tf.shape(masks)[1])
    columns = overlaps(x1, x2, tf.shape(masks)[2])
    in_box = tf.reduce_max(masks * rows[:, :, tf.newaxis], axis=1) * columns
    return tf.reduce_max(in_box, axis=1) > 0


def boxes_of_masks(masks: np.ndarray) -> np.ndarray:
    """Returns the smallest box around each mask.

    Args:
        masks: (objects, height, width), zero outside the object. No mask is empty.

    Returns:
        float32 (objects, 4), x1, y1, x2, y2 in pixels.
    """
    result = np.zeros((len(masks), 4), np.float32)
    for axis in (0, 1):
        occupied = np.any(masks, axis=1 + axis)  # per column, per row
        result[:, axis] = np.argmax(occupied, axis=1)
        result[:, axis + 2] = occupied.shape[1] - np.argmax(occupied[:, ::-1], axis=1)
    return result
