"""Batches for the training and evaluation of segmentation at several resolutions."""

from collections.abc import Sequence

import tensorflow as tf

from keras_resadapt.data import segmentation_augmentation as augmentation
from keras_resadapt.data.augmentation import resize
from keras_resadapt.data.broken_images import without_broken
from keras_resadapt.data.checks import (
    check_broken_fraction,
    check_color_jitter,
    check_range,
    check_shard,
)
from keras_resadapt.data.epochs import Epochs
from keras_resadapt.data.preprocessing import short_side_size
from keras_resadapt.data.segmentation_source import SegmentationSource
from keras_resadapt.data.sharded_evaluation import sharded_batches, with_cardinality
from keras_resadapt.number_checks import check_integer

Size = int | tuple[int, int]


def segmentation_training_batches(
    source: SegmentationSource,
    batch_size: int,
    resolution: Size,
    *,
    scale_range: tuple[float, float] = (0.5, 2.0),
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
    """Returns shuffled batches of random crops and their masks, epoch after epoch.

    An image and its mask are scaled by the same random number, cropped at the same
    random place and flipped together. Colors are changed in the image alone. Labels
    are never interpolated. Epochs, seeds, resuming, shards and broken images are
    as for `training_batches`.

    Sources: RS-Net, appendix C, and RefineNet, whose training scales are from 0.5 to 2.

    Args:
        source: The result of `load_source` for a segmentation set.
        batch_size: Images per batch, a positive integer.
        resolution: Size of the crops in pixels, an integer for squares or
            (height, width). It is the largest resolution of the network, which makes
            the smaller inputs from the same crop.
        scale_range: Lowest and highest scale of the image, positive. Where a scaled
            image is smaller than the crop, the rest of the crop has the mean color of
            ImageNet, and the label `source.ignore_class`.
        flip: Whether to mirror half of the images left to right.
        color_jitter: Strength, in [0, 1), of random changes of brightness, contrast
            and saturation.
        shuffle_buffer, seed, deterministic, drop_remainder, initial_epoch,
            initial_step, epochs, shard, max_broken_fraction: As for
            `training_batches`.

    Returns:
        `tf.data.Dataset` of (images, masks): float32 (batch, height, width, 3) in
        [0, 255], and int32 (batch, height, width). Iterating raises
        `tf.errors.InvalidArgumentError` if a mask has another size than its image or a
        label out of range, or if too many images are broken.

    Raises:
        TypeError: If the source has no masks.
        ValueError: If an argument is outside its range, or `source.ignore_class` is
            None while scaled images can be smaller than the crop.
    """
    _check_source(source)
    size = _check_size("resolution", resolution)
    check_range("scale_range", scale_range)
    check_color_jitter(color_jitter)
    if source.ignore_class is None:
        raise ValueError(
            "`source` must have an `ignore_class` for the pixels outside the image. "
            f"Received: {source.name}, whose ignore_class is None"
        )
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
        image, mask = source.read_decoded(record)
        # An image that fails here is replaced. A wrong mask must stop the training
        # instead, so it is only described here and raises its error in `finish`.
        faults = source.mask_faults(image, mask, record[2])
        mask = _same_size(mask, image)
        uniforms = tf.random.stateless_uniform(
            (augmentation.UNIFORMS,), seed=tf.stack([epoch_seed, place])
        )
        if color_jitter:
            image = augmentation.random_colors(image, uniforms, color_jitter)
        image, mask = augmentation.random_scale_and_crop(
            image, mask, uniforms, size, scale_range, source.ignore_class
        )
        if flip:
            image, mask = augmentation.random_flip_pair(image, mask, uniforms)
        return image, mask, faults

    def finish(images, masks, faults):
        with tf.control_dependencies(source.check_faults(faults)):
            return tf.identity(images), tf.cast(masks, tf.int32)

    return all_epochs.batches(make_element, finish)


def _same_size(mask, image):
    """Returns the mask, or an empty mask of the image's size if the sizes differ."""
    size = tf.shape(image)[:2]
    return tf.cond(
        tf.reduce_all(tf.equal(tf.shape(mask), size)),
        lambda: mask,
        lambda: tf.zeros(size, mask.dtype),
    )


def segmentation_evaluation_batches(
    source: SegmentationSource,
    batch_size: int,
    resolutions: Size | Sequence[Size] | None = None,
    *,
    stride: int = 32,
    shard: tuple[int, int] = (0, 1),
    max_broken_fraction: float = 0.01,
) -> tf.data.Dataset:
    """Returns every whole image once, in order, with its mask at the original size.

    Networks resize their outputs to the size of the masks before the evaluation. The
    images of a batch must have one size. For a set with images of different sizes, use
    a `batch_size` of 1.

    Source: RS-Net, appendix C: outputs are evaluated at the original resolution.

    Args:
        source: The result of `load_source` for a segmentation set.
        batch_size: Images per batch, a positive integer. The last batch can be smaller.
        resolutions: One or more input sizes in pixels. An integer is the length of the
            short side of the resized image. The long side keeps the aspect ratio and is
            rounded to a multiple of `stride`: an image of 240 x 320 pixels becomes
            352 x 480 for 352. A pair (height, width) is the size itself. In a sequence
            of two integers, these are two resolutions. None for images at their own
            size.
        stride: Stride of the network, a positive integer.
        shard: As for `evaluation_batches`.
        max_broken_fraction: Largest tolerated fraction of broken images, in [0, 0.5].

    Returns:
        `tf.data.Dataset` of (images, masks). Images are a tuple of float32
        (batch, height, width, 3) in [0, 255], one per resolution, or a single tensor
        for one integer or None. Masks are int32 (batch, height, width). Iterating
        raises `tf.errors.InvalidArgumentError` as for `segmentation_training_batches`.

    Raises:
        TypeError: If the source has no masks.
        ValueError: If an argument is outside its range.
    """
    _check_source(source)
    check_integer(batch_size, "batch_size")
    check_integer(stride, "stride")
    check_shard(shard, batch_size)
    check_broken_fraction(max_broken_fraction)
    single = resolutions is None or hasattr(resolutions, "__index__")
    sizes = [resolutions] if single else list(resolutions)
    if not sizes:
        raise ValueError(
            "`resolutions` must have at least one resolution. "
            f"Received: resolutions={resolutions!r}"
        )
    for size in sizes:
        if size is not None:
            _check_size("resolutions", size)

    def view(image, size):
        if size is None:
            return tf.cast(image, tf.float32)
        if hasattr(size, "__index__"):
            # Known before the batches are made, if all images have one size
            shape = source.image_shape or tf.shape(image)[:2]
            size = short_side_size(shape, int(size), stride)
        return resize(image, size[0], size[1])

    def make_views(image, mask):
        if source.image_shape is not None:
            image = tf.ensure_shape(image, (*source.image_shape, 3))
            mask = tf.ensure_shape(mask, source.image_shape)
        views = tuple(view(image, size) for size in sizes)
        return (views[0] if single else views), tf.cast(mask, tf.int32)

    def decode(place, record):
        image, mask = source.read_decoded(record)
        return image, mask, record[2]

    if shard[1] > 1:

        def make_element(place, record):
            image, mask = source.read_decoded(record)
            faults = source.mask_faults(image, mask, record[2])
            return *make_views(image, _same_size(mask, image)), faults

        def check(images, masks, faults):
            with tf.control_dependencies(source.check_faults(faults)):
                return tf.nest.map_structure(tf.identity, (images, masks))

        batches = sharded_batches(
            source, make_element, batch_size, shard, max_broken_fraction, stride
        ).map(check)
    else:
        # Errors of the checks that follow are not ignored.
        batches = (
            without_broken(source.records, decode, source, True, max_broken_fraction)
            .map(
                lambda place, element: make_views(*source.check_mask(*element)),
                num_parallel_calls=tf.data.AUTOTUNE,
            )
            .batch(batch_size)
        )
    return with_cardinality(batches, source, batch_size, shard).prefetch(
        tf.data.AUTOTUNE
    )


def _check_source(source):
    if not isinstance(source, SegmentationSource):
        raise TypeError(
            "`source` must be a SegmentationSource, whose images have masks "
            '(`load_source(..., task="segmentation")`). Received: '
            f"{getattr(source, 'name', source)!r}, a {type(source).__name__}"
        )


def _check_size(argument: str, size: Size) -> tuple[int, int]:
    pair = (size, size) if hasattr(size, "__index__") else size
    if not hasattr(pair, "__len__") or isinstance(pair, str) or len(pair) != 2:
        raise ValueError(
            f"`{argument}` must be integers or pairs (height, width), in pixels. "
            f"Received: {argument}={size!r}"
        )
    for side in pair:
        check_integer(side, argument, unit="pixels")
    return int(pair[0]), int(pair[1])
