"""Batches for the training and evaluation of classifiers at several resolutions."""

from collections.abc import Sequence

import tensorflow as tf

from keras_resadapt.data import augmentation
from keras_resadapt.data.broken_images import without_broken
from keras_resadapt.data.checks import (
    check_broken_fraction,
    check_crop_fraction,
    check_range,
    check_resolutions,
    check_shard,
)
from keras_resadapt.data.decoding import decode
from keras_resadapt.data.epochs import Epochs
from keras_resadapt.data.preprocessing import preprocess
from keras_resadapt.data.segmentation_source import SegmentationSource
from keras_resadapt.data.sharded_evaluation import sharded_batches, with_cardinality
from keras_resadapt.data.source import ImageSource
from keras_resadapt.number_checks import check_integer

CROPS = ("random_resized", "pad")


def training_batches(
    source: ImageSource,
    batch_size: int,
    resolutions: int | Sequence[int],
    *,
    crop: str = "random_resized",
    area_range: tuple[float, float] = (0.08, 1.0),
    aspect_range: tuple[float, float] = (3 / 4, 4 / 3),
    padding: int = 4,
    flip: bool = True,
    crop_per_resolution: bool = False,
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
    """Returns shuffled, randomly cropped and flipped batches, epoch after epoch.

    Every epoch has its own order and crops, and exactly
    `source.steps_per_epoch(batch_size, drop_remainder)` batches. With a `seed`, all
    randomness is a function of (seed, epoch, place in the epoch). A run that starts at
    `initial_epoch=k` gets the batches that an uninterrupted run gets from epoch k on.
    With Keras:

        batches = training_batches(source, 128, (64, 48, 32), seed=1, initial_epoch=k)
        steps = source.steps_per_epoch(128)
        model.fit(batches, steps_per_epoch=steps, initial_epoch=k, epochs=90)

    The first batch can also be that of a later step of the first epoch:
    `initial_step=s` gives the batches of the uninterrupted run from step s of epoch k
    on. No image is read or decoded for the steps before it.

    An image that cannot be decoded is replaced by one of the first 1024 images of the
    source. The other images of the epoch keep their places. `check_pictures(source)`
    returns the names of the broken images.

    With several workers, each worker reads, decodes and augments its own rows of every
    global batch: worker i of n has the argument `shard=(i, n)`. The rows of all workers
    are, in the order of the workers, the batch of a single process, bit for bit.

    Sources: RS-Net, section 4.1 (one crop, area in [0.08, 1], aspect ratio in
    [3/4, 4/3], flip) and table 6 (one crop per resolution).

    Args:
        source: The result of `load_source`.
        batch_size: Images per batch over all shards, a positive integer that the
            number of shards divides.
        resolutions: An integer, or integers with the largest first (equal ones are
            allowed), in pixels.
        crop: `"random_resized"` resizes a random box. `"pad"` resizes the short side
            to the largest resolution if it differs, pads with zeros and takes a random
            square, which is the usual augmentation of CIFAR.
        area_range: For `"random_resized"`, the range of the fraction of the image that
            the box covers, in (0, 1]. It is drawn uniformly.
        aspect_range: For `"random_resized"`, the range of the width of the box divided
            by its height, positive. It is drawn log-uniformly.
        padding: For `"pad"`, pixels added on each side at the largest resolution, at
            least 0.
        flip: Whether to mirror half of the images left to right.
        crop_per_resolution: Whether to draw an independent crop and flip for each of
            the `resolutions`.
        shuffle_buffer: Number of images in the shuffle buffer, a positive integer.
            None for the default of the source, which is all images wherever their
            handles are small.
        seed: An integer in [0, 2**31), or None for different batches in every run.
        deterministic: Whether batches come in the order in which they were drawn.
            False can be faster. None for True with a `seed` and False without.
        drop_remainder: Whether to leave out the last images of an epoch that do not
            fill a batch.
        initial_epoch: The first epoch, at least 0.
        initial_step: The first step of the first epoch, at least 0 and less than the
            number of steps per epoch.
        epochs: Number of epochs, a positive integer, or None for no end. The first
            epoch counts fully, also if it starts at a later step.
        shard: (index, count), the number of this worker, from 0 on, and the number of
            workers. Several shards need a `seed` and `drop_remainder=True`.
        max_broken_fraction: Largest tolerated fraction of broken images, in [0, 0.5].
            Each shard counts the broken images among its own.

    Returns:
        `tf.data.Dataset` of (images, labels). Images are float32 (batch, R, R, 3) in
        [0, 255], where R is the largest resolution, and models make the smaller inputs
        from them. With `crop_per_resolution` and a sequence of resolutions, images are
        a tuple of such tensors, one per resolution. Labels are int64 (batch,).
        Iterating raises `tf.errors.InvalidArgumentError` if more than
        `max_broken_fraction` of the images are broken.

    Raises:
        TypeError: If the source has masks instead of class labels.
        ValueError: If an argument is outside its range.
    """
    _check_source(source)
    sizes, single = check_resolutions(resolutions)
    if crop not in CROPS:
        raise ValueError(f"`crop` must be one of {CROPS}. Received: crop={crop!r}")
    check_range("area_range", area_range, highest=1.0)
    check_range("aspect_range", aspect_range)
    if padding < 0:
        raise ValueError(f"`padding` must be at least 0. Received: padding={padding!r}")
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
    in_tuple = crop_per_resolution and not single
    view_sizes = sizes if in_tuple else sizes[:1]
    if crop == "pad":

        def make_views(image, uniforms):
            return _padded_views(image, uniforms, source, view_sizes, padding, flip)

    else:

        def make_views(image, uniforms):
            return _resized_views(
                image, uniforms, source, view_sizes, area_range, aspect_range, flip
            )

    def make_element(epoch_seed, place, record):
        handle, label, _ = record
        uniforms = tf.random.stateless_uniform(
            (len(view_sizes), augmentation.UNIFORMS),
            seed=tf.stack([epoch_seed, place]),
        )
        return make_views(source.read(handle), uniforms), tf.cast(label, tf.int64)

    def finish(images, labels):
        images = tuple(tf.cast(image, tf.float32) for image in images)
        return (images if in_tuple else images[0]), labels

    return all_epochs.batches(make_element, finish)


def evaluation_batches(
    source: ImageSource,
    batch_size: int,
    resolutions: int | Sequence[int],
    *,
    crop_fraction: float = 0.875,
    shard: tuple[int, int] = (0, 1),
    max_broken_fraction: float = 0.01,
) -> tf.data.Dataset:
    """Returns every image once, in order, at every resolution.

    The short side is resized and the center is cropped (see `preprocess`). An image
    that cannot be decoded is left out. `check_pictures(source)` returns the names of
    these images. If the source was checked before, the dataset knows its number of
    batches, and Keras shows a complete progress bar from the first epoch on.

    Source: RS-Net, section 4.1. Each resolution is resized from the original image.

    Args:
        source: The result of `load_source`.
        batch_size: Images per batch, a positive integer. The last batch can be smaller.
        resolutions: An integer, or integers with the largest first, in pixels.
        crop_fraction: Resolution divided by the resized short side, in (0, 1]. With
            1.0, the whole short side is visible.
        shard: (index, count), the number of this worker, from 0 on, and the number of
            workers, which must divide `batch_size`. Each worker reads its own rows of
            every global batch. All workers have the same number of batches and, all
            together, every image once. A worker can have fewer rows, or none, in the
            last batch. Broken images leave batches with fewer rows.
        max_broken_fraction: Largest tolerated fraction of broken images, in [0, 0.5].

    Returns:
        `tf.data.Dataset` of (images, labels). Images are a tuple of float32
        (batch, R, R, 3) in [0, 255], one per resolution in the order given, or a
        single such tensor for an integer. Labels are int64 (batch,). Iterating raises
        `tf.errors.InvalidArgumentError` if more than `max_broken_fraction` of the
        images are broken.

    Raises:
        TypeError: If the source has masks instead of class labels.
        ValueError: If an argument is outside its range.
    """
    _check_source(source)
    sizes, single = check_resolutions(resolutions)
    check_integer(batch_size, "batch_size")
    check_crop_fraction(crop_fraction)
    check_shard(shard, batch_size)
    check_broken_fraction(max_broken_fraction)

    def views(images):
        made = {size: preprocess(images, size, crop_fraction) for size in set(sizes)}
        return tuple(made[size] for size in sizes)

    # Images of one size are resized one batch at a time.
    same_size = source.image_shape is not None

    def make_element(place, record):
        handle, label, _ = record
        image = source.read(handle)
        if source.encoded:
            image = decode(image)
        if same_size:
            image = tf.ensure_shape(image, (*source.image_shape, 3))
        else:
            image = views(image)
        return image, tf.cast(label, tf.int64)

    batches = _ordered_batches(
        source, make_element, batch_size, shard, max_broken_fraction
    )
    if same_size:
        batches = batches.map(
            lambda images, labels: (views(images), labels),
            num_parallel_calls=tf.data.AUTOTUNE,
        )
    if single:
        batches = batches.map(lambda images, labels: (images[0], labels))
    return with_cardinality(batches, source, batch_size, shard).prefetch(
        tf.data.AUTOTUNE
    )


def _ordered_batches(source, make_element, batch_size, shard, max_broken_fraction):
    if shard[1] > 1:
        return sharded_batches(
            source, make_element, batch_size, shard, max_broken_fraction
        )
    return (
        without_broken(source.records, make_element, source, True, max_broken_fraction)
        .map(lambda place, element: element)
        .batch(batch_size)
    )


def _check_source(source):
    if isinstance(source, SegmentationSource):
        raise TypeError(
            "`source` must have class labels. For images with masks, use "
            "`segmentation_training_batches` and `segmentation_evaluation_batches`. "
            f"Received: {source.name!r}, a SegmentationSource"
        )


def _resized_views(image, uniforms, source, sizes, area_range, aspect_range, flip):
    """A random resized crop for each size."""
    if source.encoded and len(sizes) > 1:
        image = decode(image)  # once, for all views
    views = []
    for i, size in enumerate(sizes):
        box = augmentation.random_resized_box(
            *augmentation.image_size(image), uniforms[i], area_range, aspect_range
        )
        view = augmentation.resize(augmentation.crop_image(image, box), size, size)
        views.append(augmentation.random_flip(view, uniforms[i]) if flip else view)
    return tuple(views)


def _padded_views(image, uniforms, source, sizes, padding, flip):
    """A random square of the padded image for each size."""
    if source.encoded:
        image = decode(image)
    # An image that needs no resizing stays uint8 until it is in its batch, which is a
    # quarter of the memory traffic.
    shape = source.image_shape
    if shape is None or min(shape) != sizes[0]:
        image = _resize_short_side(image, sizes[0])
    views = []
    for i, size in enumerate(sizes):
        view = augmentation.pad_and_crop(image, sizes[0], padding, uniforms[i])
        if size != sizes[0]:
            view = augmentation.resize(view, size, size)
        views.append(augmentation.random_flip(view, uniforms[i]) if flip else view)
    return tuple(views)


def _resize_short_side(image, size):
    shape = tf.shape(image)[:2]
    new = size * shape // tf.reduce_min(shape)
    return tf.cond(
        tf.equal(tf.reduce_min(shape), size),
        lambda: tf.cast(image, tf.float32),
        lambda: augmentation.resize(image, new[0], new[1]),
    )
