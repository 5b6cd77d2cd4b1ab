"""Batches for the training and evaluation of detection."""

from collections.abc import Sequence

import tensorflow as tf

from keras_resadapt.data import detection_augmentation as augmentation
from keras_resadapt.data.broken_images import without_broken
from keras_resadapt.data.checks import (
    check_broken_fraction,
    check_color_jitter,
    check_range,
    check_resolutions,
    check_shard,
)
from keras_resadapt.data.coco_masks import run_lengths_fit
from keras_resadapt.data.detection_source import (
    DetectionSource,
    assert_no_faults,
    clip_boxes,
    mask_fault,
    mask_in_box,
)
from keras_resadapt.data.epochs import Epochs
from keras_resadapt.data.segmentation_augmentation import UNIFORMS, random_colors
from keras_resadapt.data.sharded_evaluation import sharded_batches, with_cardinality
from keras_resadapt.number_checks import check_integer

# Images are padded to a multiple of the largest stride of the networks.
STRIDE = 32

MaxSize = int | tuple[int, int] | None


def detection_training_batches(
    source: DetectionSource,
    batch_size: int,
    resolution: int,
    *,
    max_size: MaxSize = None,
    max_objects: int = 100,
    masks: bool | None = None,
    scale_range: tuple[float, float] = (0.8, 1.25),
    flip: bool = True,
    color_jitter: float = 0.0,
    shuffle_buffer: int | None = None,
    seed: int | None = None,
    deterministic: bool | None = None,
    drop_remainder: bool = True,
    initial_epoch: int = 0,
    initial_step: int = 0,
    epochs: int | None = None,
    shard: tuple[int, int] = (0, 1),
    max_broken_fraction: float = 0.01,
) -> tf.data.Dataset:
    """Returns shuffled batches of images and their objects, epoch after epoch.

    An image is resized, scaled by a random number and flipped together with its boxes
    and masks. It is at the top left of a canvas of fixed size. If it is larger than the
    canvas, a random window is taken. Epochs, seeds, resuming, shards and broken
    images are as for `training_batches`.

    Some objects are left out: crowds, objects whose box has no area inside the image,
    objects whose visible part is less than one pixel wide or high, and objects whose
    mask has no pixel in their box. If an image has more than `max_objects` objects, the
    largest boxes are kept. `check_objects(source, max_objects)` counts these objects.
    Boxes that are partly outside the image are clipped. Images without objects are
    kept.

    Masks have the size of the canvas, so that targets of any proposal can be computed
    exactly. `max_objects` masks of one image take `max_objects` times the pixels of the
    canvas in bytes: 10 MB for 100 objects at 320 x 320 pixels, and 105 MB at
    1024 x 1024 pixels.

    Source: MutualNet, appendix A.3 (short sides up to 600 pixels, long sides up to
    1000 pixels).

    Args:
        source: The result of `load_source` for a detection set.
        batch_size: Images per batch, a positive integer.
        resolution: Short side of the resized image in pixels, a positive integer.
        max_size: Largest size of the image in pixels: an integer for both sides, or
            (height, width). A larger image is scaled down. The canvas has this size,
            rounded up to a multiple of 32. None for the size of the resized images if
            all images of the source have one size, otherwise for 5/3 of the resolution,
            which is 1000 for 600.
        max_objects: Number of objects to which targets are padded, a positive integer.
        masks: Whether targets have masks. None for masks if the source has them.
        scale_range: Lowest and highest scale of the resized image, positive. It is
            drawn uniformly.
        flip: Whether to mirror half of the images left to right.
        color_jitter: Strength, in [0, 1), of random changes of brightness, contrast
            and saturation.
        shuffle_buffer, seed, deterministic, drop_remainder, initial_epoch,
            initial_step, epochs, shard, max_broken_fraction: As for
            `training_batches`.

    Returns:
        `tf.data.Dataset` of (images, targets). Images are float32
        (batch, height, width, 3) in [0, 255]. Beside the image, a canvas has the mean
        color of ImageNet. Targets are a dict, padded with zeros:

        - `boxes`: float32 (batch, max_objects, 4), x1, y1, x2, y2 in pixels of the
          canvas.
        - `classes`: int32 (batch, max_objects).
        - `masks`: uint8 (batch, max_objects, height, width) of zeros and ones, if there
          are masks.
        - `count`: int32 (batch,), number of objects.
        - `size`: int32 (batch, 2), height and width of the image on the canvas.
        - `original_size`: int32 (batch, 2), height and width of the image before.

        Iterating raises `tf.errors.InvalidArgumentError` if a class is out of range, a
        mask has another size than its image, or too many images are broken.

    Raises:
        TypeError: If the source has no objects.
        ValueError: If an argument is outside its range, or `masks` is True for a
            source without masks.
    """
    _check_source(source)
    check_integer(resolution, "resolution", unit="pixels")
    check_integer(max_objects, "max_objects")
    check_range("scale_range", scale_range)
    check_color_jitter(color_jitter)
    with_masks = _check_masks(source, masks)
    largest = _largest_size(source, resolution, max_size)
    canvas = _canvas(largest)
    all_epochs = Epochs(
        source,
        batch_size,
        shuffle_buffer,
        seed,
        deterministic,
        drop_remainder,
        initial_epoch,
        initial_step,
        epochs,
        shard,
        max_broken_fraction,
    )

    def make_element(epoch_seed, place, record):
        image = source.read_image(record[0])
        shape = tf.shape(image)[:2]
        # An image that fails here is replaced. A wrong object must stop the training
        # instead, so it is only described here and raises its error in `finish`.
        objects = source.read_objects(record[1], shape)
        uniforms = tf.random.stateless_uniform(
            (UNIFORMS,), seed=tf.stack([epoch_seed, place])
        )
        placement = augmentation.random_placement(
            augmentation.resized_size(shape, resolution, largest),
            canvas,
            scale_range,
            flip,
            uniforms,
        )
        if color_jitter:
            image = random_colors(image, uniforms, color_jitter)
        targets, fits = _training_targets(
            source, objects, shape, placement, canvas, max_objects, with_masks
        )
        faults = [
            source.find_fault(objects, shape, record[2]),
            mask_fault(fits, shape, record[2]),
        ]
        targets["size"] = placement.size
        targets["original_size"] = shape
        return augmentation.place_image(image, placement, canvas), targets, faults

    def finish(images, targets, faults):
        with tf.control_dependencies([assert_no_faults(faults)]):
            return tf.identity(images), targets

    return all_epochs.batches(make_element, finish)


def detection_evaluation_batches(
    source: DetectionSource,
    batch_size: int,
    resolutions: int | Sequence[int],
    *,
    max_size: MaxSize = None,
    masks: bool | None = None,
    shard: tuple[int, int] = (0, 1),
    max_broken_fraction: float = 0.01,
) -> tf.data.Dataset:
    """Returns every image once, in order, with its objects at the original size.

    Images are resized and padded as for `detection_training_batches`, without random
    changes. Each resolution is resized from the original image. All objects are kept,
    crowds included, as the metrics of COCO expect.

    Args:
        source: The result of `load_source` for a detection set.
        batch_size: Images per batch, a positive integer. The last batch can be smaller.
        resolutions: Short side of the resized images in pixels, an integer, or integers
            with the largest first.
        max_size: As for `detection_training_batches`, for the largest resolution. It is
            scaled in proportion for the other resolutions.
        masks: Whether targets have masks. None for masks if the source has them.
        shard: As for `evaluation_batches`.
        max_broken_fraction: Largest tolerated fraction of broken images, in [0, 0.5].

    Returns:
        `tf.data.Dataset` of (images, targets). Images are a tuple of float32
        (batch, height, width, 3) in [0, 255], one per resolution, or a single tensor
        for an integer. Targets are a dict. Objects are padded with zeros to the largest
        number of objects in the batch:

        - `image_id`: int64 (batch,), the number of the image.
        - `original_size`: int32 (batch, 2), height and width of the original image.
        - `size`: int32 (batch, 2), height and width of the image on the canvas: a tuple
          of such tensors, one per resolution, or a single tensor for an integer.
        - `boxes`: float32 (batch, objects, 4), x1, y1, x2, y2 in pixels of the original
          image.
        - `classes`: int32 (batch, objects).
        - `crowd`: bool (batch, objects), True for a region with many objects.
        - `area`: float32 (batch, objects), in pixels of the original image.
        - `masks`: string (batch, objects), the compressed run lengths of COCO, if there
          are masks.
        - `count`: int32 (batch,), number of objects.

        Iterating raises `tf.errors.InvalidArgumentError` if a class is out of range or
        too many images are broken.

    Raises:
        TypeError: If the source has no objects.
        ValueError: If an argument is outside its range, or `masks` is True for a
            source without masks.
    """
    _check_source(source)
    check_integer(batch_size, "batch_size")
    check_shard(shard, batch_size)
    check_broken_fraction(max_broken_fraction)
    sizes, single = check_resolutions(resolutions)
    with_masks = _check_masks(source, masks)
    largest = _largest_size(source, sizes[0], max_size)
    limits = [tuple(side * size / sizes[0] for side in largest) for size in sizes]

    def view(image, resolution, limit):
        new = augmentation.resized_size(tf.shape(image)[:2], resolution, limit)
        placement = augmentation.whole_image(new)
        return augmentation.place_image(image, placement, _canvas(limit)), new

    def make_element(image, objects, name):
        fault = source.find_fault(objects, tf.shape(image)[:2], name)
        stored = objects.pop("masks", None)
        objects.pop("annotated_size", None)
        if with_masks:
            if stored.dtype == tf.string:  # run lengths
                shape = tf.shape(image)[:2]
                fits = run_lengths_fit(stored, shape)
                fault = tf.strings.join([fault, mask_fault(fits, shape, name)])
            objects["masks"] = source.encode_masks(stored)
        images, new = zip(*(view(image, *pair) for pair in zip(sizes, limits)))
        targets = {
            **objects,
            "size": new[0] if single else new,
            "original_size": tf.shape(image)[:2],
            "count": tf.size(objects["classes"]),
        }
        return (images[0] if single else images), targets, fault

    def element_of(place, record):
        image = source.read_image(record[0])
        objects = source.read_objects(record[1], tf.shape(image)[:2])
        return make_element(image, objects, record[2])

    def check(images, targets, faults):
        with tf.control_dependencies([assert_no_faults(faults)]):
            return tf.nest.map_structure(tf.identity, images), targets

    if shard[1] > 1:
        batches = sharded_batches(
            source,
            element_of,
            batch_size,
            shard,
            max_broken_fraction,
            empty_side=0,
            padded=True,
        )
    else:
        batches = (
            _decoded(source, max_broken_fraction)
            .map(
                lambda place, element: make_element(*element),
                num_parallel_calls=tf.data.AUTOTUNE,
            )
            .padded_batch(batch_size)
        )
    return with_cardinality(batches.map(check), source, batch_size, shard).prefetch(
        tf.data.AUTOTUNE
    )


def _training_targets(
    source, objects, shape, placement, canvas, max_objects, with_masks
):
    """Returns the padded targets of one image, and whether masks have its size."""
    clipped, inside = clip_boxes(objects["boxes"], shape)
    boxes = augmentation.place_boxes(clipped, shape, placement)
    sides = boxes[:, 2:] - boxes[:, :2]
    # A side of one pixel can be a little shorter after rounding.
    kept = inside & tf.reduce_all(sides > 0.999, axis=1)
    kept = tf.where(kept & tf.logical_not(objects["crowd"]))[:, 0]
    areas = tf.reduce_prod(tf.gather(sides, kept), axis=1)
    largest = tf.argsort(areas, direction="DESCENDING", stable=True)[:max_objects]
    kept = tf.sort(tf.gather(kept, largest))
    found = {
        "boxes": tf.gather(boxes, kept),
        "classes": tf.gather(objects["classes"], kept),
    }
    has_size = tf.fill(tf.shape(kept), True)
    if with_masks:
        stored = tf.gather(objects["masks"], kept)
        masks, has_size = source.decode_masks(stored, shape)
        masks = augmentation.place_masks(masks, placement, canvas)
        fits = mask_in_box(masks, found["boxes"])
        found = {
            key: tf.boolean_mask(value, fits)
            for key, value in {**found, "masks": masks}.items()
        }
    count = tf.size(found["classes"])
    targets = {"count": count}
    for key, value in found.items():
        rows = [[0, max_objects - count]] + [[0, 0]] * (value.shape.rank - 1)
        targets[key] = tf.ensure_shape(
            tf.pad(value, rows), (max_objects, *value.shape[1:])
        )
    return targets, has_size


def _decoded(source, max_broken_fraction):
    """Returns (place, (image, objects, name)) of the records that are not broken.

    Errors of the objects are not ignored.
    """

    def decode(place, record):
        image = source.read_image(record[0])
        return image, record[1], record[2]

    def read(place, element):
        image, objects, name = element
        return place, (image, source.read_objects(objects, tf.shape(image)[:2]), name)

    return without_broken(
        source.records, decode, source, True, max_broken_fraction
    ).map(read, num_parallel_calls=tf.data.AUTOTUNE)


def _check_source(source):
    if not isinstance(source, DetectionSource):
        raise TypeError(
            "`source` must be a DetectionSource, whose images have objects "
            '(`load_source(..., task="detection")`). Received: '
            f"{getattr(source, 'name', source)!r}, a {type(source).__name__}"
        )


def _check_masks(source, masks: bool | None) -> bool:
    if masks and not source.has_masks:
        raise ValueError(
            "`masks` must be False or None for a source without masks. "
            f"Received: masks={masks!r} for {source.name}"
        )
    return source.has_masks if masks is None else masks


def _largest_size(source, resolution, max_size: MaxSize) -> tuple[int, int]:
    """Returns the largest height and width of a resized image."""
    if max_size is None and source.image_shape is not None:
        short = min(source.image_shape)
        return tuple(round(side * resolution / short) for side in source.image_shape)
    if max_size is None:
        max_size = round(resolution * 5 / 3)
    sides = (max_size, max_size) if hasattr(max_size, "__index__") else max_size
    if not isinstance(sides, Sequence) or len(sides) != 2:
        raise ValueError(
            "`max_size` must be None, an integer or a pair (height, width), in pixels. "
            f"Received: max_size={max_size!r}"
        )
    for side in sides:
        check_integer(side, "max_size", unit="pixels")
    return int(sides[0]), int(sides[1])


def _canvas(largest) -> tuple[int, int]:
    """Returns a size rounded up to a multiple of `STRIDE`."""
    height, width = (int(-(-side // STRIDE) * STRIDE) for side in largest)
    return height, width
