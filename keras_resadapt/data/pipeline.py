"""Batches for training and for evaluation at several resolutions."""

import random
from collections.abc import Sequence

import tensorflow as tf

from keras_resadapt.data import augmentation
from keras_resadapt.data.preprocessing import (
    check_crop_fraction,
    check_resolution,
    decode,
    preprocess,
)
from keras_resadapt.data.source import ImageSource, check_broken_fraction

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
    epochs: int | None = None,
    max_broken_fraction: float = 0.01,
) -> tf.data.Dataset:
    """Shuffled, randomly cropped and flipped training batches, epoch after epoch.

    Every epoch has its own order and crops, and exactly `source.steps_per_epoch(batch_size, drop_remainder)` batches.
    With a `seed`, all randomness is a function of (seed, epoch, place in the epoch): a run that starts at
    `initial_epoch=k` sees what an uninterrupted one sees from epoch k on. For Keras:

        batches = training_batches(source, 128, (64, 48, 32), seed=1, initial_epoch=k)
        model.fit(batches, steps_per_epoch=source.steps_per_epoch(128), initial_epoch=k, epochs=90)

    A picture that cannot be decoded is skipped and another one takes its place, so that epochs keep their length.
    `check_pictures(source)` tells afterwards which ones were skipped. If more than `max_broken_fraction` of the
    pictures are broken, iterating raises `tf.errors.InvalidArgumentError` (`check_pictures` then names them).

    Sources: RS-Net, section 4.1 (one crop, area in [0.08, 1], aspect ratio in [3/4, 4/3], flip) and Table 6 (a crop
    per resolution).

    Args:
        source: what `load_source` returned.
        batch_size: pictures a batch, a positive int.
        resolutions: an int, or ints with the largest first (equal ones are allowed), in pixels.
        crop: `"random_resized"`: a random box, resized. `"pad"`: the short side resized to the largest resolution if
            it differs, zero padding, a random square (the usual augmentation of CIFAR).
        area_range: for `"random_resized"`, the share of the picture that a box takes, drawn uniformly, in (0, 1].
        aspect_range: for `"random_resized"`, the box's width by its height, drawn log-uniformly, positive.
        padding: for `"pad"`, pixels added on each side at the largest resolution, at least 0.
        flip: whether to mirror left and right in half of the cases.
        crop_per_resolution: draw an independent crop and flip for each of the `resolutions`.
        shuffle_buffer: how many pictures the shuffle holds, at least 1; None for the source's own choice (all of
            them wherever they are light).
        seed: an int in [0, 2**31), or None for other batches in every run.
        deterministic: whether batches must come in the order drawn; False may be faster. None: only with a seed.
        drop_remainder: leave out the last pictures of an epoch that do not fill a batch.
        initial_epoch: the epoch to start at, at least 0.
        epochs: how many epochs to give, or None for no end.
        max_broken_fraction: the largest tolerated share of broken pictures, in [0, 0.5].

    Returns:
        `tf.data.Dataset` of (images, labels): images float32 (batch, R, R, 3) in [0, 255] with R the largest
        resolution (models make the smaller ones from it), or with `crop_per_resolution` and a sequence of
        resolutions a tuple of such tensors, largest first. Labels int64 (batch,).

    Raises:
        ValueError: an argument outside its range, or a `batch_size` above the number of pictures while
            `drop_remainder`.
    """
    sizes, single = _check_resolutions(resolutions)
    _check_positive("batch_size", batch_size)
    if crop not in CROPS:
        raise ValueError(f"crop must be one of {CROPS}; got {crop!r}.")
    _check_range("area_range", area_range, highest=1.0)
    _check_range("aspect_range", aspect_range)
    if padding < 0:
        raise ValueError(f"padding must be at least 0; got {padding!r}.")
    if shuffle_buffer is not None:
        _check_positive("shuffle_buffer", shuffle_buffer)
    if seed is not None and not 0 <= seed < 2**31:
        raise ValueError(
            f"seed must be None or an integer from 0 to 2**31 - 1; got {seed!r}."
        )
    if initial_epoch < 0:
        raise ValueError(f"initial_epoch must be at least 0; got {initial_epoch!r}.")
    if epochs is not None:
        _check_positive("epochs", epochs)
    check_broken_fraction(max_broken_fraction)
    steps = source.steps_per_epoch(batch_size, drop_remainder)
    if steps == 0:
        raise ValueError(
            f"batch_size={batch_size} leaves no batch of the {source.num_examples} pictures of {source.name}: "
            "it must be at most their number, unless drop_remainder=False."
        )

    deterministic = seed is not None if deterministic is None else deterministic
    seed = random.SystemRandom().randrange(2**31) if seed is None else seed
    in_tuple = crop_per_resolution and not single
    views = sizes if in_tuple else sizes[:1]
    # A picture that needs no resizing stays uint8 until it is in its batch: a quarter of the memory traffic.
    keep_uint8 = (
        crop == "pad"
        and source.image_shape is not None
        and min(source.image_shape) == sizes[0]
    )

    def make_view(picture, uniforms, size):
        if crop == "random_resized":
            box = augmentation.random_resized_box(
                *augmentation.picture_size(picture),
                uniforms,
                area_range,
                aspect_range,
            )
            view = augmentation.resize(
                augmentation.crop_picture(picture, box), size, size
            )
        else:
            view = augmentation.pad_and_crop(picture, sizes[0], padding, uniforms)
            if size != sizes[0]:
                view = augmentation.resize(view, size, size)
        return augmentation.random_flip(view, uniforms) if flip else view

    def make_views(stream_seed, place, handle):
        picture = source.read(handle)
        if source.encoded and (crop == "pad" or len(views) > 1):
            picture = decode(picture)  # once, for all views
        if crop == "pad" and not keep_uint8:
            picture = _resize_short_side(picture, sizes[0])
        uniforms = tf.random.stateless_uniform(
            (len(views), augmentation.UNIFORMS),
            seed=tf.stack([stream_seed, place]),
        )
        return tuple(
            make_view(picture, uniforms[i], size) for i, size in enumerate(views)
        )

    buffer = min(shuffle_buffer or source.shuffle_buffer, source.num_examples)

    def one_pass(stream_seed):
        # `shuffle` mixes its seed with the one of its graph, which is by default the program's global seed. Here, in
        # the graph of this function, that is replaced, so that the order depends on nothing else. Not by 0: TensorFlow
        # would then compare the tensor seed in Python, and fail.
        if not tf.executing_eagerly():
            tf.random.set_seed(1)
        shuffled = source.records.shuffle(
            buffer, seed=stream_seed, reshuffle_each_iteration=False
        )
        return _without_broken(
            shuffled,
            lambda place, handle: make_views(stream_seed, place, handle),
            source,
            deterministic,
            max_broken_fraction,
        )

    pictures_per_epoch = steps * batch_size if drop_remainder else source.num_examples

    def one_epoch(epoch):
        # The second pass is begun only to replace broken pictures of the first.
        stream_seeds = seed * 1_000_003 + 2 * epoch + tf.range(2, dtype=tf.int64)
        passes = tf.data.Dataset.from_tensor_slices(stream_seeds).flat_map(one_pass)
        return passes.take(pictures_per_epoch).batch(
            batch_size, drop_remainder=drop_remainder
        )

    def finish(images, labels):
        images = tuple(tf.cast(image, tf.float32) for image in images)
        return (images if in_tuple else images[0]), labels

    last = initial_epoch + epochs if epochs is not None else tf.int64.max
    batches = tf.data.Dataset.range(initial_epoch, last).flat_map(one_epoch)
    batches = batches.map(
        finish, num_parallel_calls=tf.data.AUTOTUNE, deterministic=deterministic
    )
    # flat_map hides the number of batches, which Keras asks for.
    count = tf.data.INFINITE_CARDINALITY if epochs is None else steps * epochs
    return batches.apply(tf.data.experimental.assert_cardinality(count)).prefetch(
        tf.data.AUTOTUNE
    )


def evaluation_batches(
    source: ImageSource,
    batch_size: int,
    resolutions: int | Sequence[int],
    *,
    crop_fraction: float = 0.875,
    max_broken_fraction: float = 0.01,
) -> tf.data.Dataset:
    """Every picture once, in order, at every resolution: short side resized, then the centre cropped (`preprocess`).

    A picture that cannot be decoded is left out; `check_pictures(source)` tells which ones. If more than
    `max_broken_fraction` are broken, iterating raises `tf.errors.InvalidArgumentError`. The number of batches is known
    beforehand (to Keras's progress bar, which else warns once that the data ran out) if the source was checked before.

    Source: RS-Net, section 4.1: each resolution is resized from the original picture.

    Args:
        source: what `load_source` returned.
        batch_size: pictures a batch, a positive int; the last batch may be smaller.
        resolutions: an int, or ints with the largest first, in pixels.
        crop_fraction: resolution divided by the resized short side, in (0, 1]; 1.0 crops nothing off the short side.
        max_broken_fraction: the largest tolerated share of broken pictures, in [0, 0.5].

    Returns:
        `tf.data.Dataset` of (images, labels): images a tuple of float32 (batch, R, R, 3) in [0, 255], one a
        resolution in the order given, or a single such tensor for an int. Labels int64 (batch,).

    Raises:
        ValueError: an argument outside its range.
    """
    sizes, single = _check_resolutions(resolutions)
    _check_positive("batch_size", batch_size)
    check_crop_fraction(crop_fraction)
    check_broken_fraction(max_broken_fraction)

    def views(pictures):
        made = {size: preprocess(pictures, size, crop_fraction) for size in set(sizes)}
        return tuple(made[size] for size in sizes)

    def read(place, handle):
        picture = source.read(handle)
        return decode(picture) if source.encoded else picture

    if source.image_shape is not None:
        # Pictures of one size are resized a batch at a time.
        def fixed_size(place, handle):
            return (tf.ensure_shape(read(place, handle), (*source.image_shape, 3)),)

        pictures = _without_broken(
            source.records, fixed_size, source, True, max_broken_fraction
        )
        batches = pictures.batch(batch_size).map(
            lambda images, labels: (views(images[0]), labels),
            num_parallel_calls=tf.data.AUTOTUNE,
        )
    else:
        pictures = _without_broken(
            source.records,
            lambda place, handle: views(read(place, handle)),
            source,
            True,
            max_broken_fraction,
        )
        batches = pictures.batch(batch_size)
    if single:
        batches = batches.map(lambda images, labels: (images[0], labels))
    if source.known_broken is not None:
        count = -(-(source.num_examples - source.known_broken) // batch_size)
        batches = batches.apply(tf.data.experimental.assert_cardinality(count))
    return batches.prefetch(tf.data.AUTOTUNE)


def _without_broken(records, make_views, source, deterministic, max_broken_fraction):
    """(tuple of images, label) of the records whose pictures can be read, or an error if too many cannot.

    What is dropped is counted without a cost: each element carries its place before the dropping and gets a second
    one after it, and the difference is the number dropped so far. A marker at the end makes the count complete.
    """
    allowed = int(max_broken_fraction * source.num_examples)

    def make(place, record):
        handle, label, _ = record
        return place, make_views(place, handle), tf.cast(label, tf.int64)

    made = records.enumerate().map(
        make, num_parallel_calls=tf.data.AUTOTUNE, deterministic=deterministic
    )
    end = tf.nest.map_structure(
        lambda spec: tf.zeros([size or 0 for size in spec.shape], spec.dtype),
        made.element_spec,
    )
    end = tf.data.Dataset.from_tensors(
        (tf.constant(source.num_examples, tf.int64), *end[1:])
    )

    def count(kept, element):
        place, images, label = element
        # Out of order, only the end is certain.
        check = True if deterministic else tf.equal(place, source.num_examples)
        tf.debugging.Assert(
            (place - kept <= allowed) | tf.logical_not(check),
            [
                f"Too many pictures of {source.name} cannot be decoded: max_broken_fraction={max_broken_fraction} "
                f"allows {allowed} of {source.num_examples}, check_pictures() names them. Broken so far:",
                place - kept,
            ],
        )
        return place, images, label

    counted = made.ignore_errors().concatenate(end).enumerate().map(count)
    # An error of the count must not end up among the ignored ones, so it comes after them.
    return counted.filter(lambda place, images, label: place < source.num_examples).map(
        lambda place, images, label: (images, label)
    )


def _resize_short_side(picture, size):
    shape = tf.shape(picture)[:2]
    new = size * shape // tf.reduce_min(shape)
    return tf.cond(
        tf.equal(tf.reduce_min(shape), size),
        lambda: tf.cast(picture, tf.float32),
        lambda: augmentation.resize(picture, new[0], new[1]),
    )


def _check_resolutions(resolutions):
    single = hasattr(resolutions, "__index__")
    if not single and (
        isinstance(resolutions, str)
        or not isinstance(resolutions, Sequence)
        or not resolutions
    ):
        raise ValueError(
            f"resolutions must be an integer or a sequence of integers; got {resolutions!r}."
        )
    sizes = (resolutions,) if single else tuple(resolutions)
    for size in sizes:
        check_resolution(size, "resolutions")
    if list(sizes) != sorted(sizes, reverse=True):
        raise ValueError(
            f"resolutions must be given with the largest first; got {resolutions!r}."
        )
    return tuple(int(size) for size in sizes), single


def _check_positive(argument, value):
    if isinstance(value, bool) or not hasattr(value, "__index__") or value < 1:
        raise ValueError(f"{argument} must be a positive integer; got {value!r}.")


def _check_range(argument, value, highest=float("inf")):
    limit = "" if highest == float("inf") else f" and at most {highest:g}"
    if len(value) != 2 or not 0 < value[0] <= value[1] <= highest:
        raise ValueError(
            f"{argument} must be (lowest, highest), both greater than 0{limit}; got {value!r}."
        )
