import contextlib
import dataclasses
import faulthandler
import io
import os
import pathlib
import shutil
import traceback

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from keras_resadapt.data import (
    ImageSource,
    check_pictures,
    decode,
    demo_source,
    evaluation_batches,
    load_source,
    preprocess,
    preprocess_encoded,
    read_class_names,
    training_batches,
    write_class_names,
)
from keras_resadapt.data.augmentation import (
    UNIFORMS,
    crop_image,
    random_resized_box,
    resize,
)

SHARED_TFDS = pathlib.Path(__file__).parents[1] / ".." / "shared" / "tfds"


def encode(array, kind="PNG", mode="RGB"):
    file = io.BytesIO()
    options = {"quality": 95} if kind == "JPEG" else {}
    Image.fromarray(array).convert(mode).save(file, kind, **options)
    return file.getvalue()


def smooth_image(height, width, seed=0):
    """Returns an image without fine detail.

    JPEG and two resizing programs agree closely on it.
    """
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), np.uint8)
    return np.asarray(
        Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
    )


@pytest.fixture
def folder(tmp_path):
    """3 classes, 6 and 2 images each: JPEG, PNG and grey PNG of different sizes."""
    root = tmp_path / "images"
    number = 0
    for split, count in (("train", 6), ("val", 2)):
        for name in ("ant", "bee", "cat"):
            (root / split / name).mkdir(parents=True)
            for i in range(count):
                number += 1
                image = smooth_image(40 + number, 50, seed=number)
                if i % 3 == 0:
                    (root / split / name / f"{i}.jpg").write_bytes(
                        encode(image, "JPEG")
                    )
                elif i % 3 == 1:
                    (root / split / name / f"{i}.PNG").write_bytes(encode(image))
                else:
                    (root / split / name / f"{i}.png").write_bytes(
                        encode(image, mode="L")
                    )
    return root


def numbered_source(count=40, size=8):
    """Picture i is filled with the value i, and so is its label."""
    images = np.broadcast_to(
        np.arange(count, dtype=np.uint8)[:, None, None, None],
        (count, size, size, 3),
    ).copy()
    return ImageSource(
        name="numbers",
        records=tf.data.Dataset.from_tensor_slices(
            (images, np.arange(count), [f"number{i}" for i in range(count)])
        ),
        read=tf.identity,
        class_names=tuple(map(str, range(count))),
        num_examples=count,
        encoded=False,
        image_shape=(size, size),
    )


def take(dataset, count):
    return list(dataset.take(count).as_numpy_iterator())


def assert_equal_batches(first, second):
    assert len(first) == len(second)
    for a, b in zip(first, second):
        tf.nest.map_structure(np.testing.assert_array_equal, a, b)


# === Random crops ===


def test_crop_area_is_uniform_and_aspect_log_uniform():
    uniforms = np.random.default_rng(0).random((20_000, UNIFORMS), np.float32)
    # With square boxes all areas fit, so that nothing is drawn again.
    top, left, height, width = (
        random_resized_box(500, 500, uniforms, (0.08, 1.0), (1.0, 1.0)).numpy().T
    )
    area = height * width / 500**2
    assert np.all(height == width)
    assert area.min() >= 0.0795 and area.max() <= 1
    np.testing.assert_allclose(area.mean(), 0.54, atol=0.01)  # appendix E of the paper
    np.testing.assert_allclose(
        np.quantile(area, [0.25, 0.5, 0.75]), [0.31, 0.54, 0.77], atol=0.015
    )
    for start, extent in ((top, height), (left, width)):
        room = 500 - extent
        assert np.all((start >= 0) & (start <= room))
        np.testing.assert_allclose(
            (start[room > 20] / room[room > 20]).mean(), 0.5, atol=0.01
        )

    _, _, height, width = random_resized_box(500, 500, uniforms, (0.1, 0.4)).numpy().T
    aspect = width / height
    assert aspect.min() > 0.74 and aspect.max() < 1.35
    np.testing.assert_allclose(np.log(aspect).mean(), 0, atol=0.01)
    np.testing.assert_allclose(np.quantile(aspect, 0.75), (4 / 3) ** 0.5, atol=0.01)
    area = height * width / 500**2
    assert 0.099 < area.min() and area.max() < 0.401


def test_crop_of_long_images_falls_back_to_the_centre():
    uniforms = np.random.default_rng(0).random((50, UNIFORMS), np.float32)
    # No box of this area and shape fits into a line.
    boxes = random_resized_box(10, 1000, uniforms, (0.9, 1.0)).numpy()
    assert np.all(boxes == [0, 493, 10, 13])
    assert np.all(random_resized_box(1, 1, uniforms).numpy() == [0, 0, 1, 1])


def test_fused_crop_equals_slice_of_the_decoded_image():
    jpeg = encode(smooth_image(70, 90), "JPEG")
    box = tf.constant([11, 5, 40, 33])
    whole = np.asarray(Image.open(io.BytesIO(jpeg)))
    crop = crop_image(tf.constant(jpeg), box).numpy()
    np.testing.assert_array_equal(crop[:, :-2], whole[11:51, 5:36])
    # The color of the last column is interpolated without its neighbor outside.
    np.testing.assert_allclose(crop.astype(int), whole[11:51, 5:38], atol=10)


@pytest.mark.parametrize("shape", [(9, 20), (30, 21), (40, 50)])
def test_resize_equals_pillow_when_it_shrinks_and_when_it_grows(shape):
    image = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
    channels = [
        Image.fromarray(image[..., c].astype(np.float32)).resize(
            (24, 24), Image.Resampling.BILINEAR
        )
        for c in range(3)
    ]
    np.testing.assert_allclose(
        resize(tf.constant(image), 24, 24), np.stack(channels, -1), atol=0.02
    )


def test_random_resized_crop_shows_a_part_of_the_right_size():
    """On a horizontal ramp, the spread of values in a crop is the crop's width."""
    ramp = np.broadcast_to(np.arange(200, dtype=np.uint8)[None, :, None], (200, 200, 3))
    images = np.repeat(ramp[None], 32, axis=0)
    source = numbered_source(32, 200)
    source.records = tf.data.Dataset.from_tensor_slices(
        (images, np.zeros(32, np.int64), ["x"] * 32)
    )
    ((batch, _),) = take(
        training_batches(
            source,
            32,
            64,
            area_range=(0.25, 0.25),
            aspect_range=(1, 1),
            flip=False,
            seed=0,
        ),
        1,
    )
    spread = batch[:, 0, -1, 0] - batch[:, 0, 0, 0]
    np.testing.assert_allclose(spread, 100 * 63 / 64, atol=1)
    assert len(np.unique(batch[:, 0, 0, 0])) > 20


def test_pad_crop_is_a_shifted_window_of_the_padded_image():
    images = np.random.default_rng(0).integers(1, 256, (16, 8, 8, 3), np.uint8)
    source = numbered_source(16)
    source.records = tf.data.Dataset.from_tensor_slices(
        (images, np.arange(16), ["x"] * 16)
    )
    shifts = set()
    for batch, labels in take(
        training_batches(source, 16, 8, crop="pad", padding=2, flip=False, seed=4),
        8,
    ):
        for view, label in zip(batch, labels):
            padded = np.pad(images[label], ((2, 2), (2, 2), (0, 0)))
            windows = {
                (y, x)
                for y in range(5)
                for x in range(5)
                if np.array_equal(padded[y : y + 8, x : x + 8], view)
            }
            assert len(windows) == 1
            shifts |= windows
    assert len(shifts) == 25


def test_pad_crop_resizes_the_short_side_of_other_sizes(folder):
    source = load_source(folder, "train")
    ((batch, labels),) = take(
        training_batches(source, 18, 16, crop="pad", padding=0, flip=False, seed=0),
        1,
    )
    assert batch.shape == (18, 16, 16, 3) and batch.max() <= 255.0
    assert np.all(batch.mean((1, 2, 3)) > 20)  # no padding in view


def test_flip_in_half_of_the_cases_only_when_asked():
    half = np.zeros((8, 8, 3), np.uint8)
    half[:, :4] = 200
    source = numbered_source(64)
    source.records = tf.data.Dataset.from_tensor_slices(
        (np.repeat(half[None], 64, 0), np.arange(64), ["x"] * 64)
    )

    def flipped(flip):
        batches = take(
            training_batches(source, 64, 8, crop="pad", padding=0, flip=flip, seed=0),
            8,
        )
        return np.mean([batch[:, 0, 0, 0] == 0 for batch, _ in batches])

    assert flipped(False) == 0
    assert 0.42 < flipped(True) < 0.58


@pytest.mark.slow
def test_single_crop_or_a_crop_per_resolution():
    source = demo_source("train", 64, size=32)
    ((images, labels),) = take(training_batches(source, 64, (32, 24, 16), seed=0), 1)
    assert (
        images.shape == (64, 32, 32, 3)
        and images.dtype == np.float32
        and labels.dtype == np.int64
    )
    assert 0 <= images.min() and images.max() <= 255

    ((crops, _),) = take(
        training_batches(source, 64, (32, 32, 16), crop_per_resolution=True, seed=0),
        1,
    )
    assert [crop.shape for crop in crops] == [
        (64, 32, 32, 3),
        (64, 32, 32, 3),
        (64, 16, 16, 3),
    ]
    assert (
        np.abs(crops[0] - crops[1]).mean((1, 2, 3)).min() > 0
    )  # another crop of every image

    ((single, _),) = take(
        training_batches(source, 64, 32, crop_per_resolution=True, seed=0), 1
    )
    assert single.shape == (64, 32, 32, 3)
    ((padded, _),) = take(
        training_batches(
            source, 64, (32, 16), crop="pad", crop_per_resolution=True, seed=0
        ),
        1,
    )
    assert [crop.shape for crop in padded] == [(64, 32, 32, 3), (64, 16, 16, 3)]


# === Epochs and seeds ===


def test_an_epoch_has_every_image_once_in_an_order_of_its_own():
    batches = take(
        training_batches(numbered_source(), 8, 8, crop="pad", padding=0, seed=0),
        10,
    )
    epochs = [
        np.concatenate([labels for _, labels in batches[i : i + 5]]) for i in (0, 5)
    ]
    assert all(np.array_equal(np.sort(labels), np.arange(40)) for labels in epochs)
    assert not np.array_equal(*epochs) and not np.array_equal(epochs[0], np.arange(40))
    for images, labels in batches:  # images stay with their labels
        np.testing.assert_array_equal(images[:, 0, 0, 0], labels)


@pytest.mark.slow
def test_same_seed_same_batches_whatever_the_global_seed():
    source = demo_source("train", 50, size=32)
    runs = []
    for global_seed, seed in ((1, 7), (2, 7), (1, 8)):
        keras.utils.set_random_seed(global_seed)
        runs.append(take(training_batches(source, 16, 24, seed=seed), 5))
    assert_equal_batches(runs[0], runs[1])
    assert not np.array_equal(runs[0][0][1], runs[2][0][1])
    unseeded = [take(training_batches(source, 16, 24), 3) for _ in range(2)]
    assert not np.array_equal(unseeded[0][0][0], unseeded[1][0][0])


@pytest.mark.parametrize("drop_remainder", [True, False])
def test_starting_at_an_epoch_gives_what_an_uninterrupted_run_sees(
    drop_remainder,
):
    source = demo_source("train", 50, size=32)
    arguments = dict(seed=5, drop_remainder=drop_remainder)
    steps = source.steps_per_epoch(16, drop_remainder)
    assert steps == (3 if drop_remainder else 4)
    run = take(training_batches(source, 16, 24, **arguments), 4 * steps)
    resumed = take(
        training_batches(source, 16, 24, initial_epoch=2, **arguments),
        2 * steps,
    )
    assert_equal_batches(run[2 * steps :], resumed)
    one = training_batches(source, 16, 24, initial_epoch=2, epochs=1, **arguments)
    assert one.cardinality() == steps
    assert_equal_batches(resumed[:steps], list(one.as_numpy_iterator()))
    # The same images are cropped otherwise in the next epoch.
    assert not any(np.array_equal(run[0][0], batch) for batch, _ in run[steps:])


def test_fit_resumes_at_an_epoch():
    class MeanOfInput(keras.layers.Layer):
        def call(self, images):
            return keras.ops.mean(images, axis=(1, 2))

    def losses(initial_epoch, epochs):
        inputs = keras.Input((16, 16, 3))
        outputs = keras.layers.Dense(1, kernel_initializer="ones", trainable=False)(
            MeanOfInput()(inputs)
        )
        model = keras.Model(inputs, outputs)
        model.compile(loss="mse", optimizer="sgd", jit_compile=False)
        batches = training_batches(source, 16, 16, seed=1, initial_epoch=initial_epoch)
        history = model.fit(
            batches,
            steps_per_epoch=source.steps_per_epoch(16),
            initial_epoch=initial_epoch,
            epochs=epochs,
            verbose=0,
        )
        return history.history["loss"]

    source = demo_source("train", 50, size=16)
    whole = losses(0, 3)
    assert len(set(whole)) == 3
    np.testing.assert_allclose(losses(1, 3), whole[1:], rtol=1e-6)


def test_unordered_batches_still_have_every_image():
    batches = training_batches(
        numbered_source(),
        8,
        8,
        crop="pad",
        padding=0,
        seed=0,
        deterministic=False,
    )
    labels = np.concatenate([labels for _, labels in take(batches, 5)])
    assert np.array_equal(np.sort(labels), np.arange(40))


# === Evaluation ===


def resize_by_pillow(image, resolution, crop_fraction):
    """The same preprocessing in Pillow, one float channel at a time."""
    height, width = image.shape[:2]
    short = int(resolution / crop_fraction)
    new_height, new_width = (
        short * height // min(height, width),
        short * width // min(height, width),
    )
    channels = [
        Image.fromarray(image[..., c].astype(np.float32)).resize(
            (new_width, new_height), Image.Resampling.BILINEAR
        )
        for c in range(3)
    ]
    resized = np.stack([np.asarray(channel) for channel in channels], -1)
    top, left = (
        round((new_height - resolution) / 2),
        round((new_width - resolution) / 2),
    )
    return resized[top : top + resolution, left : left + resolution]


@pytest.mark.parametrize("shape", [(64, 64), (97, 61), (50, 133), (20, 24)])
@pytest.mark.parametrize("crop_fraction", [0.875, 1.0, 0.6])
def test_preprocess_equals_pillow(shape, crop_fraction):
    image = np.random.default_rng(0).integers(
        0, 256, (*shape, 3), np.uint8
    )  # white noise: the hardest case
    expected = resize_by_pillow(image, 28, crop_fraction)
    result = preprocess(tf.constant(image), 28, crop_fraction).numpy()
    assert result.dtype == np.float32
    np.testing.assert_allclose(result, expected, atol=0.02)
    np.testing.assert_array_equal(
        preprocess(tf.constant(image[None]), 28, crop_fraction)[0], result
    )
    np.testing.assert_array_equal(
        preprocess_encoded(encode(image), 28, crop_fraction), result
    )


@pytest.mark.parametrize(
    "kind, mode",
    [
        ("PNG", "L"),
        ("PNG", "RGBA"),
        ("PNG", "P"),
        ("BMP", "L"),
        ("BMP", "P"),
        ("BMP", "RGB"),
        ("BMP", "RGBA"),
        ("GIF", "RGB"),
        ("JPEG", "L"),
        ("JPEG", "RGB"),
    ],
)
def test_preprocess_encoded_turns_images_to_rgb(kind, mode):
    data = encode(smooth_image(45, 61), kind, mode)
    image = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    result = preprocess_encoded(tf.constant(data), 32).numpy()
    assert result.shape == (32, 32, 3)
    np.testing.assert_allclose(result, resize_by_pillow(image, 32, 0.875), atol=0.02)


@pytest.fixture(scope="module")
def saved_preprocessing(tmp_path_factory):
    """`preprocess_encoded` in a SavedModel, with a small limit."""

    class Module(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec((), tf.string)])
        def serve(self, encoded):
            return preprocess_encoded(encoded, 24, max_pixels=45 * 61)

    path = str(tmp_path_factory.mktemp("preprocessing"))
    tf.saved_model.save(Module(), path)
    return tf.saved_model.load(path).serve


def test_preprocess_encoded_in_a_saved_model(saved_preprocessing):
    data = encode(smooth_image(45, 61), "JPEG")
    result = saved_preprocessing(tf.constant(data))
    np.testing.assert_array_equal(result, preprocess_encoded(data, 24))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "BMP"])
def test_encoded_images_have_a_pixel_limit(saved_preprocessing, kind):
    data = encode(smooth_image(45, 61), kind)
    assert saved_preprocessing(tf.constant(data)).shape == (24, 24, 3)
    data = encode(smooth_image(45, 62), kind)
    message = r"at most max_pixels=2745 pixels[^0-9]*45[^0-9]*62"
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        saved_preprocessing(tf.constant(data))
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        preprocess_encoded(data, 24, max_pixels=45 * 61)


@pytest.mark.slow
def test_a_small_file_of_a_huge_image_is_refused_before_decoding(folder):
    file = io.BytesIO()
    Image.new("1", (20_000, 20_000)).save(file, "PNG")
    assert len(file.getvalue()) < 60_000
    # The header is enough: the rest of the file is not read.
    with pytest.raises(
        tf.errors.InvalidArgumentError, match="=50000000 pixels[^0-9]*20000[^0-9]*20000"
    ):
        decode(file.getvalue()[:50])
    # Two sides whose product overflows.
    huge = file.getvalue()[:16] + b"\xff" * 8 + file.getvalue()[24:]
    with pytest.raises(tf.errors.InvalidArgumentError, match="at most max_pixels"):
        decode(huge)
    path = folder / "train" / "ant" / "0.jpg"
    path.write_bytes(file.getvalue())
    source = load_source(folder, "train")
    assert source.find_broken() == ["train/ant/0.jpg"]
    for batches in (
        training_batches(source, 6, 16, seed=0, epochs=1, max_broken_fraction=0.1),
        evaluation_batches(source, 6, 16, max_broken_fraction=0.1),
    ):
        labels = np.concatenate([y for _, y in batches.as_numpy_iterator()])
        assert len(labels) >= 17


def test_files_that_are_refused():
    with pytest.raises(tf.errors.InvalidArgumentError, match="JPEG, PNG, GIF or BMP"):
        decode(encode(smooth_image(9, 9), "WEBP"))
    with pytest.raises(tf.errors.InvalidArgumentError, match="BMP.*8, 24 or 32 bits"):
        decode(encode(smooth_image(9, 9), "BMP", "1"))
    with pytest.raises(ValueError, match="`max_pixels` must be .*max_pixels=0"):
        preprocess_encoded(b"", 24, max_pixels=0)


def test_evaluation_gives_every_image_once_in_order(folder):
    source = load_source(folder, "validation")
    batches = list(evaluation_batches(source, 4, (32, 24, 24)).as_numpy_iterator())
    assert [labels.tolist() for _, labels in batches] == [[0, 0, 1, 1], [2, 2]]
    for views, _ in batches:
        assert [view.shape[1:] for view in views] == [
            (32, 32, 3),
            (24, 24, 3),
            (24, 24, 3),
        ]
    names = [name.decode() for _, _, name in source.dataset.as_numpy_iterator()]
    images = [(folder / name).read_bytes() for name in names]
    for i, image in enumerate(images):
        for view, resolution in zip(batches[i // 4][0], (32, 24, 24)):
            np.testing.assert_allclose(
                view[i % 4], preprocess_encoded(image, resolution), atol=1e-4
            )


def test_evaluation_of_images_of_one_size():
    source = demo_source("validation", 10)
    ((views, labels),) = list(
        evaluation_batches(source, 16, (48, 32), crop_fraction=1.0).as_numpy_iterator()
    )
    image, label, _ = next(source.dataset.skip(3).as_numpy_iterator())
    assert labels[3] == label
    np.testing.assert_allclose(views[1][3], resize_by_pillow(image, 32, 1.0), atol=0.02)
    (single,) = list(
        evaluation_batches(source, 16, 32, crop_fraction=1.0).as_numpy_iterator()
    )
    np.testing.assert_array_equal(single[0], views[1])


# === Broken images ===


@pytest.fixture
def broken_folder(folder):
    """Of 18 training images, one is cut off, one is no image and one is empty."""
    ant = folder / "train" / "ant"
    jpeg = (ant / "0.jpg").read_bytes()
    (ant / "0.jpg").write_bytes(jpeg[: len(jpeg) * 3 // 4])
    (folder / "train" / "bee" / "1.PNG").write_bytes(b"this is no image")
    (folder / "train" / "cat" / "3.jpg").write_bytes(b"")
    return folder


BROKEN = ["train/ant/0.jpg", "train/bee/1.PNG", "train/cat/3.jpg"]


@pytest.mark.parametrize("cache", [False, True])
def test_broken_images_are_named(broken_folder, cache):
    source = load_source(broken_folder, "train", cache=cache)
    assert sorted(source.find_broken()) == BROKEN
    assert sorted(check_pictures(source, max_broken_fraction=0.2)) == BROKEN
    with pytest.raises(
        ValueError,
        match=r"3 of the 18 images .*max_broken_fraction=0.1 allows 1.*\.jpg",
    ):
        check_pictures(source, max_broken_fraction=0.1)
    assert check_pictures(load_source(broken_folder, "validation")) == []


def test_only_the_first_ten_broken_images_are_listed(folder):
    for path in (folder / "train").glob("*/*"):
        if path.parent.name != "cat":
            path.write_bytes(b"no")
    with pytest.raises(ValueError, match="12 of the 18 images .* and 2 more") as error:
        check_pictures(load_source(folder, "train"))
    assert str(error.value).split("Broken: ")[1].count("train/") == 10


@pytest.mark.parametrize("crop", ["random_resized", "pad"])
@pytest.mark.parametrize("deterministic", [True, False])
def test_training_goes_on_without_broken_images(broken_folder, crop, deterministic):
    source = load_source(broken_folder, "train")
    batches = training_batches(
        source,
        6,
        16,
        crop=crop,
        seed=0,
        max_broken_fraction=0.2,
        epochs=3,
        deterministic=deterministic,
    )
    labels = [labels for _, labels in batches.as_numpy_iterator()]
    assert [len(part) for part in labels] == [6] * 9  # no epoch shrinks
    counts = np.bincount(np.concatenate(labels[:3]))
    assert (
        counts.sum() == 18 and counts.min() >= 5
    )  # 5 good ones a class, and three that fill up


def test_truncated_jpeg_is_always_skipped(folder):
    """Also when the random crop lies in the part that is there."""
    for path in (folder / "train").glob("ant/*"):
        path.unlink()
    jpeg = encode(smooth_image(400, 400), "JPEG")
    (folder / "train" / "ant" / "0.jpg").write_bytes(jpeg[: len(jpeg) * 9 // 10])
    source = load_source(folder, "train")
    batches = training_batches(
        source,
        13,
        16,
        area_range=(0.01, 0.02),
        seed=0,
        epochs=4,
        max_broken_fraction=0.1,
    )
    assert not any(np.any(labels == 0) for _, labels in batches.as_numpy_iterator())


@pytest.mark.slow
def test_resuming_with_broken_images(broken_folder):
    source = load_source(broken_folder, "train")
    arguments = dict(seed=3, max_broken_fraction=0.2)
    run = take(training_batches(source, 6, 16, **arguments), 6)
    assert_equal_batches(
        run[3:],
        take(training_batches(source, 6, 16, initial_epoch=1, **arguments), 3),
    )


@pytest.mark.slow
@pytest.mark.parametrize("deterministic", [True, False])
def test_training_refuses_too_many_broken_images(broken_folder, deterministic):
    source = load_source(broken_folder, "train")
    batches = training_batches(
        source,
        6,
        16,
        seed=0,
        max_broken_fraction=0.1,
        deterministic=deterministic,
    )
    with pytest.raises(
        tf.errors.InvalidArgumentError,
        match="Too many images of .* cannot be decoded",
    ):
        take(batches, 6)


def test_nothing_but_broken_images_is_an_error_and_no_endless_loop(folder):
    for path in folder.glob("*/*/*"):
        path.write_bytes(b"no")
    with pytest.raises(tf.errors.InvalidArgumentError, match="Too many images"):
        take(
            training_batches(
                load_source(folder, "train"), 6, 16, max_broken_fraction=0.5
            ),
            1,
        )
    with pytest.raises(tf.errors.InvalidArgumentError, match="Too many images"):
        take(
            evaluation_batches(
                load_source(folder, "validation"),
                6,
                16,
                max_broken_fraction=0.5,
            ),
            1,
        )


def fails(*record):
    with tf.control_dependencies([tf.debugging.Assert(False, ["unreadable"])]):
        return tf.nest.map_structure(tf.identity, record)


@contextlib.contextmanager
def time_limit(seconds):
    """Ends the process with a traceback if the block runs for longer."""
    faulthandler.dump_traceback_later(seconds, exit=True)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()


def without_files(folder):
    """A source of two TFRecord files, of which TensorFlow cannot open the second."""
    path = str(folder / "a.tfrecord")
    with tf.io.TFRecordWriter(path) as file:
        for _ in range(8):
            file.write(b"x")
    lines = tf.data.TFRecordDataset([path, str(folder / "lost.tfrecord")])
    source = numbered_source(16)
    source.records = lines.map(lambda x: (tf.zeros((8, 8, 3), tf.uint8), 0, x))
    return source


@pytest.mark.parametrize("kind", ["broken", "unreadable", "lost file", "one image"])
def test_no_data_set_loops_forever(kind, tmp_path):
    """Each reports an error, without a number of epochs as well."""
    source = numbered_source(1 if kind == "one image" else 16)
    if kind == "unreadable":
        source.records = source.records.map(fails)
    elif kind == "lost file":
        source = without_files(tmp_path)
    else:
        source.read = lambda handle: fails(handle)[0]
    with time_limit(120):
        batches = training_batches(
            source, 4, 8, crop="pad", max_broken_fraction=0.4, drop_remainder=False
        )
        with pytest.raises(tf.errors.InvalidArgumentError, match="Too many images"):
            for _ in batches:
                pass
        for index in range(min(2, source.num_examples)):
            batches = evaluation_batches(source, 4, 8, shard=(index, 2))
            with pytest.raises(tf.errors.OpError):
                list(batches)
        with pytest.raises(tf.errors.InvalidArgumentError, match="Too many images"):
            list(evaluation_batches(source, 4, 8))


def test_one_image_fills_an_epoch():
    """Fewer images than a batch, and one of two images broken."""
    batches = training_batches(
        numbered_source(1), 4, 8, crop="pad", seed=0, drop_remainder=False
    )
    assert [len(labels) for _, labels in take(batches, 3)] == [1] * 3
    source = numbered_source(2)
    source.read = lambda handle: tf.cond(
        handle[0, 0, 0] == 0, lambda: fails(handle)[0], lambda: handle
    )
    batches = training_batches(
        source,
        *(8, 8),
        crop="pad",
        seed=0,
        drop_remainder=False,
        max_broken_fraction=0.5,
    )
    assert [labels.tolist() for _, labels in take(batches, 2)] == [[1, 1]] * 2


def test_a_record_that_cannot_be_read_is_replaced():
    source = numbered_source(16)
    source.records = source.records.map(
        lambda image, label, name: tf.cond(
            label == 5, lambda: fails(image, label, name), lambda: (image, label, name)
        )
    )
    batches = training_batches(
        source, 8, 8, crop="pad", seed=0, epochs=2, max_broken_fraction=0.1
    )
    for epoch in np.split(np.concatenate([y for _, y in batches]), 2):
        assert len(epoch) == 16 and 5 not in epoch
        assert len(np.unique(epoch)) == 15
    assert source.find_broken() == []  # not an encoded source


def test_evaluation_leaves_broken_images_out(folder):
    (folder / "val" / "cat" / "1.PNG").write_bytes(
        b"no"
    )  # the last one: no good one follows
    source = load_source(folder, "validation")
    batches = evaluation_batches(source, 10, 16, max_broken_fraction=0.2)
    assert [labels.tolist() for _, labels in batches.as_numpy_iterator()] == [
        [0, 0, 1, 1, 2]
    ]
    with pytest.raises(tf.errors.InvalidArgumentError, match="allows 0 of 6"):
        list(evaluation_batches(source, 10, 16))


def test_number_of_evaluation_batches_is_known_after_a_check(broken_folder):
    source = load_source(broken_folder, "train")
    arguments = dict(batch_size=5, resolutions=16, max_broken_fraction=0.2)
    assert (
        evaluation_batches(source, **arguments).cardinality()
        == tf.data.UNKNOWN_CARDINALITY
    )
    check_pictures(source, 0.2)
    batches = evaluation_batches(source, **arguments)
    assert batches.cardinality() == 3 == len(list(batches))  # 15 good ones


# === Steps and shards ===


def joined(shards):
    """Returns the batches whose rows are those of all shards, in order."""
    return [
        tf.nest.map_structure(lambda *parts: np.concatenate(parts), *batches)
        for batches in zip(*shards, strict=True)
    ]


def counted(source):
    """Returns the source with a list that gets one entry for each image read."""
    reads = []

    def read(handle):
        note = tf.numpy_function(lambda h: reads.append(h) or 0, [handle], tf.int64)
        with tf.control_dependencies([note]):
            return tf.identity(source.read(handle))

    return dataclasses.replace(source, read=read), reads


@pytest.mark.slow
def test_shards_and_later_steps_with_broken_images(broken_folder):
    """Also where the broken image is in the batches that are skipped."""
    source, reads = counted(load_source(broken_folder, "train"))
    arguments = dict(seed=3, max_broken_fraction=0.2, crop_per_resolution=True)
    whole = list(
        training_batches(source, 6, (16, 12), epochs=2, **arguments).as_numpy_iterator()
    )
    assert len(whole) == 6
    reads.clear()
    shards = []
    for index in range(2):
        batches = training_batches(
            source, 6, (16, 12), epochs=1, shard=(index, 2), **arguments
        )
        assert batches.cardinality() == 3
        shards.append(list(batches.as_numpy_iterator()))
    assert_equal_batches(joined(shards), whole[:3])
    assert 18 + 3 <= len(reads) <= 18 + 2 * 3  # one or two more per broken image

    reads.clear()
    resumed = training_batches(
        source, 6, (16, 12), epochs=2, initial_step=2, **arguments
    )
    assert resumed.cardinality() == 4
    assert_equal_batches(list(resumed.as_numpy_iterator()), whole[2:])
    assert len(reads) <= 6 + 18 + 2 * 6


def test_each_worker_reads_its_share():
    source, reads = counted(demo_source("train", 64, size=16))
    for index in range(4):
        reads.clear()
        batches = training_batches(
            source, 8, 16, seed=1, epochs=1, shard=(index, 4), initial_step=3
        )
        assert [len(labels) for _, labels in batches.as_numpy_iterator()] == [2] * 5
        assert len(reads) == 2 * 5


def test_shards_of_evaluation_have_every_image_once(folder):
    (folder / "train" / "cat" / "1.PNG").write_bytes(b"no")
    source, reads = counted(load_source(folder, "train"))
    arguments = dict(resolutions=(16, 8), max_broken_fraction=0.1)
    whole = list(evaluation_batches(source, 8, **arguments).as_numpy_iterator())
    reads.clear()
    shards = []
    for index in range(4):
        batches = evaluation_batches(source, 8, shard=(index, 4), **arguments)
        assert batches.cardinality() == 3
        shards.append(list(batches.as_numpy_iterator()))
    assert len(reads) == 18
    assert [len(shard[2][1]) for shard in shards] == [2, 0, 0, 0]
    # Batches keep their records where images are broken, so that only the images
    # of all batches together are the same.
    together, single = (
        tf.nest.map_structure(lambda *parts: np.concatenate(parts), *batches)
        for batches in (joined(shards), whole)
    )
    assert_equal_batches([together], [single])
    with pytest.raises(tf.errors.InvalidArgumentError, match="allows 0 in shard"):
        for index in range(4):
            list(evaluation_batches(source, 8, 16, shard=(index, 4)))


# === Image folders ===


def test_folder_order_is_set_by_the_seed(folder):
    def names(split, seed):
        return [
            name
            for _, _, name in load_source(
                folder, split, seed=seed
            ).records.as_numpy_iterator()
        ]

    assert names("train", 1) == names("train", 1) != names("train", 2)
    assert sorted(names("train", 1)) == sorted(names("train", 2))
    assert (
        names("validation", 1)
        == names("validation", 2)
        == sorted(names("validation", 1))
    )


def test_folder_labels_and_ignored_files(folder):
    (folder / "train" / "ant" / "notes.txt").write_text("no image")
    (folder / "train" / "ant" / ".hidden.jpg").write_bytes(b"no")
    source = load_source(str(folder), "train", cache=True)
    assert (
        source.class_names == ("ant", "bee", "cat")
        and source.num_classes == 3
        and source.num_examples == 18
    )
    for image, label, name in source.dataset.as_numpy_iterator():
        assert name.decode().split("/")[1] == source.class_names[label]
        assert image == (folder / name.decode()).read_bytes()


def test_val_may_have_fewer_classes(folder):
    for path in (folder / "val" / "ant").iterdir():
        path.unlink()
    (folder / "val" / "ant").rmdir()
    labels = [
        label
        for _, label, _ in load_source(folder, "validation").records.as_numpy_iterator()
    ]
    assert labels == [1, 1, 2, 2]


def test_folder_errors(folder, tmp_path):
    with pytest.raises(
        ValueError,
        match="`split` of an image folder must be one of .* Received: split='test'",
    ):
        load_source(folder, "test")
    (folder / "val" / "dog").mkdir()
    with pytest.raises(
        ValueError, match="all classes of val/ in train/.*does not have the classes dog"
    ):
        load_source(folder, "validation")
    (folder / "train" / "dog").mkdir()
    with pytest.raises(
        ValueError,
        match="must have .jpg, .jpeg, .png images .*in the classes dog of train/",
    ):
        load_source(folder, "train")
    with pytest.raises(
        ValueError,
        match="must have .jpg, .jpeg, .png images .*in the classes dog of val/",
    ):
        load_source(folder, "validation")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="which has no folder train/"):
        load_source(tmp_path / "empty", "train")
    (tmp_path / "empty" / "train").mkdir()
    with pytest.raises(ValueError, match="train/ has no class folders"):
        load_source(tmp_path / "empty", "train")
    with pytest.raises(ValueError, match="is not a folder"):
        load_source(tmp_path / "absent", "train")
    with pytest.raises(
        ValueError,
        match="`split` must be 'train', 'validation' .* Received: split=None",
    ):
        load_source(folder, None)


def test_entries_that_are_not_regular_files_are_skipped(folder):
    """Reading a pipe blocks, and a device can be endless."""
    ant = folder / "train" / "ant"
    os.mkfifo(ant / "pipe.jpg")
    (ant / "zero.png").symlink_to("/dev/zero")
    (ant / "folder.jpg").mkdir()
    (ant / "link.jpg").symlink_to(ant / "0.jpg")  # to a regular file: kept
    (ant / "lost.jpg").symlink_to(ant / "nowhere.jpg")
    with pytest.warns(UserWarning, match="Skipping 3 entries .*'pipe.jpg', 'zero.png'"):
        source = load_source(folder, "train")
    assert source.num_examples == 20
    assert source.find_broken() == ["train/ant/lost.jpg"]


def test_file_names_need_not_be_utf8(folder):
    ant = folder / "train" / "ant"
    name = os.fsencode(ant) + b"/caf\xe9.jpg"
    try:
        os.rename(ant / "0.jpg", name)
    except OSError:
        pytest.skip("The file system refuses names that are not UTF-8.")
    source = load_source(folder, "train", cache=True)
    assert source.num_examples == 18 and source.find_broken() == []
    with open(name, "wb") as file:
        file.write(b"no")
    assert load_source(folder, "train").find_broken() == [r"train/ant/caf\xe9.jpg"]
    os.rename(folder / "train" / "bee", os.fsencode(folder / "train") + b"/be\xe9")
    with pytest.raises(ValueError, match="UTF-8 names. Received: 'be"):
        load_source(folder, "train")


def test_class_names_survive_their_file(tmp_path):
    names = ("plain", "two\nlines", r"back\slash \n", "café\r", "", "\u2028 x")
    write_class_names(tmp_path / "names.txt", names)
    assert read_class_names(tmp_path / "names.txt") == names
    write_class_names(tmp_path / "names.txt", ("ant", "bee"))
    assert (tmp_path / "names.txt").read_text() == "ant\nbee\n"
    (tmp_path / "names.txt").write_text("ant\r\nbee")
    assert read_class_names(tmp_path / "names.txt") == ("ant", "bee")
    for content, message in ((b"", "at least one class name"), (b"\xff", "UTF-8")):
        (tmp_path / "names.txt").write_bytes(content)
        with pytest.raises(ValueError, match=message):
            read_class_names(tmp_path / "names.txt")


def test_a_single_class_gives_a_warning(folder):
    for name in ("ant", "bee"):
        shutil.rmtree(folder / "train" / name)
    with pytest.warns(UserWarning, match="single class, 'cat'.* accuracy of 1"):
        load_source(folder, "train")


# === TensorFlow Datasets ===


@pytest.fixture(scope="module")
def tfds_dir(tmp_path_factory):
    """Two prepared sets: `tiny_grey` for classification, and `no_labels`."""
    tfds = pytest.importorskip("tensorflow_datasets")
    data_dir = tmp_path_factory.mktemp("tfds")
    images = np.random.default_rng(0).integers(0, 256, (24, 12, 10, 1), np.uint8)
    label = tfds.features.ClassLabel(names=list("abc"))
    image = tfds.features.Image(shape=(12, 10, 1))
    for name, features in (
        (
            "tiny_grey",
            tfds.features.FeaturesDict({"image": image, "label": label}),
        ),
        ("no_labels", tfds.features.FeaturesDict({"image": image})),
    ):
        folder = data_dir / name / "1.0.0"
        folder.mkdir(parents=True)
        for split, members in (("train", range(18)), ("test", range(18, 24))):
            with tf.io.TFRecordWriter(
                str(folder / f"{name}-{split}.tfrecord-00000-of-00001")
            ) as file:
                for i in members:
                    example = {"image": images[i], "label": i % 3}
                    file.write(
                        features.serialize_example(
                            {key: example[key] for key in features}
                        )
                    )
        split_infos = [
            tfds.core.SplitInfo(
                name=split,
                shard_lengths=[count],
                num_bytes=0,
                filename_template=tfds.core.ShardedFileTemplate(
                    dataset_name=name,
                    data_dir=folder,
                    split=split,
                    filetype_suffix="tfrecord",
                ),
            )
            for split, count in (("train", 18), ("test", 6))
        ]
        tfds.folder_dataset.write_metadata(
            data_dir=folder, features=features, split_infos=split_infos
        )
    return data_dir


def test_tfds_source(tfds_dir):
    source = load_source("tiny_grey", "train", data_dir=tfds_dir)
    assert (
        source.class_names == ("a", "b", "c")
        and source.num_examples == 18
        and source.image_shape == (12, 10)
    )
    elements = list(source.dataset.as_numpy_iterator())
    assert all(
        Image.open(io.BytesIO(image)).size == (10, 12) for image, _, _ in elements
    )
    assert (
        len({name for _, _, name in elements}) == 18
        and b"tiny_grey-train" in elements[0][2]
    )
    assert source.find_broken() == []
    ((images, labels),) = take(training_batches(source, 18, (12, 8), seed=0), 1)
    assert images.shape == (18, 12, 12, 3) and np.bincount(labels).tolist() == [
        6,
        6,
        6,
    ]
    # A set without a validation split is evaluated on its test split.
    validation = load_source("tiny_grey", "validation", data_dir=tfds_dir, cache=True)
    assert validation.num_examples == 6
    ((images, _),) = evaluation_batches(validation, 10, 8).as_numpy_iterator()
    assert images.shape == (6, 8, 8, 3)
    np.testing.assert_array_equal(images[..., 0], images[..., 2])
    assert load_source("tiny_grey", "train[:50%]", data_dir=tfds_dir).num_examples == 9


def test_tfds_errors(tfds_dir):
    with pytest.raises(
        ValueError,
        match="`dataset` must be 'demo', an existing folder .*dataset='no_such_set'",
    ):
        load_source("no_such_set", "train", data_dir=tfds_dir)
    # Short, and without the message of TFDS as its cause.
    with pytest.raises(ValueError, match="Similar names: .*tiny_grey") as error:
        load_source("tiny_gray", "train", data_dir=tfds_dir)
    lines = traceback.format_exception(error.value)
    assert len(str(error.value)) < 500 and sum(map(len, lines)) < 5000
    with pytest.raises(
        ValueError,
        match="prepared in data_dir=.* unless download=True. .*dataset='mnist'",
    ):
        load_source("mnist", "train", data_dir=tfds_dir)
    with pytest.raises(
        ValueError,
        match="`split` must be one of .* for dataset='tiny_grey', .*split='evaluation'",
    ):
        load_source("tiny_grey", "evaluation", data_dir=tfds_dir)
    with pytest.raises(
        ValueError,
        match="one Image and one ClassLabel. .*dataset='no_labels' with image: Image",
    ):
        load_source("no_labels", "train", data_dir=tfds_dir)


@pytest.mark.parametrize(
    "name, size, splits",
    [
        ("cifar10_jpeg", 32, (50_000, 10_000)),
        ("tiny_imagenet50", 64, (25_000, 2_500)),
    ],
)
def test_real_tfds_sets(name, size, splits):
    if not SHARED_TFDS.is_dir():
        pytest.skip("../shared/tfds is not here")
    sources = [
        load_source(name, split, data_dir=SHARED_TFDS)
        for split in ("train", "validation")
    ]
    assert tuple(source.num_examples for source in sources) == splits
    small = load_source(name, "train[:256]", data_dir=SHARED_TFDS)
    runs = [
        take(
            training_batches(small, 64, size, crop="pad", seed=1, initial_epoch=i),
            8 - 4 * i,
        )
        for i in (0, 1)
    ]
    assert_equal_batches(runs[0][4:], runs[1])
    (views, labels), *_ = take(evaluation_batches(sources[1], 8, (size, size // 2)), 1)
    encoded, label, _ = next(sources[1].dataset.as_numpy_iterator())
    assert label == labels[0]
    for view, resolution in zip(views, (size, size // 2)):
        np.testing.assert_allclose(
            view[0], preprocess_encoded(encoded, resolution), atol=1e-4
        )


# === Errors ===


@pytest.mark.parametrize(
    "arguments, message",
    [
        (
            dict(batch_size=0),
            "`batch_size` must be a positive integer. Received: batch_size=0",
        ),
        (
            dict(batch_size=41),
            "at most the number of images .*=41 for the 40 images of numbers",
        ),
        (
            dict(resolutions=0),
            "`resolutions` must be a positive integer .* Received: resolutions=0",
        ),
        (
            dict(resolutions=8.0),
            "`resolutions` must be an integer or a sequence of .*: resolutions=8.0",
        ),
        (
            dict(resolutions=()),
            r"`resolutions` must be an integer or a sequence of .*: resolutions=\(\)",
        ),
        (
            dict(resolutions=(8, 6.5)),
            "`resolutions` must be a positive integer .* Received: resolutions=6.5",
        ),
        (
            dict(resolutions=(4, 8)),
            r"`resolutions` must have the largest first. .*: resolutions=\(4, 8\)",
        ),
        (
            dict(crop="center"),
            "`crop` must be one of .*random_resized.*pad.* Received: crop='center'",
        ),
        (
            dict(area_range=(0.0, 1.0)),
            r"`area_range` must be .*greater than 0 and at most 1. .*=\(0.0, 1.0\)",
        ),
        (dict(area_range=(0.5, 0.1)), "`area_range` must be"),
        (dict(area_range=(0.5, 1.1)), "`area_range` must be"),
        (
            dict(aspect_range=(-1, 1)),
            r"`aspect_range` must be .*greater than 0. .*aspect_range=\(-1, 1\)",
        ),
        (dict(padding=-1), "`padding` must be at least 0. Received: padding=-1"),
        (
            dict(shuffle_buffer=0),
            "`shuffle_buffer` must be a positive .* Received: shuffle_buffer=0",
        ),
        (
            dict(initial_step=5),
            "`initial_step` must be .* less than .* Received: initial_step=5",
        ),
        (dict(shard=(2, 2)), r"`shard` must be \(index, count\).*shard=\(2, 2\)"),
        (dict(shard=(0, 3)), "`batch_size` must be divisible .*batch_size=8"),
        (dict(shard=(0, 2)), "`seed` must be an integer if there are several"),
        (
            dict(seed=-1),
            "`seed` must be None or an integer from 0 to .* Received: seed=-1",
        ),
        (
            dict(initial_epoch=-1),
            "`initial_epoch` must be at least 0. Received: initial_epoch=-1",
        ),
        (dict(epochs=0), "`epochs` must be a positive integer. Received: epochs=0"),
        (
            dict(max_broken_fraction=0.6),
            "`max_broken_fraction` must be from 0 to 0.5. .*max_broken_fraction=0.6",
        ),
    ],
)
def test_training_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        training_batches(
            **{
                "source": numbered_source(),
                "batch_size": 8,
                "resolutions": 8,
                **arguments,
            }
        )


@pytest.mark.parametrize(
    "arguments, message",
    [
        (
            dict(batch_size=True),
            "`batch_size` must be a positive integer. Received: batch_size=True",
        ),
        (dict(resolutions=(4, 8)), "largest first"),
        (
            dict(crop_fraction=0),
            "`crop_fraction` must be greater than 0 and at .* crop_fraction=0",
        ),
        (
            dict(crop_fraction=1.1),
            "`crop_fraction` must be greater than 0 and at .* crop_fraction=1.1",
        ),
        (
            dict(max_broken_fraction=-0.1),
            "`max_broken_fraction` must be from 0 to 0.5. .*max_broken_fraction=-0.1",
        ),
    ],
)
def test_evaluation_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        evaluation_batches(
            **{
                "source": numbered_source(),
                "batch_size": 8,
                "resolutions": 8,
                **arguments,
            }
        )


def test_other_arguments():
    with pytest.raises(
        ValueError,
        match="`resolution` must be a positive integer .* Received: resolution=-3",
    ):
        preprocess_encoded(b"", -3)
    with pytest.raises(ValueError, match="`crop_fraction` must be"):
        preprocess(np.zeros((4, 4, 3), np.uint8), 4, crop_fraction=2)
    with pytest.raises(
        ValueError,
        match="`max_broken_fraction` must be from 0 to 0.5. .*max_broken_fraction=1",
    ):
        check_pictures(numbered_source(), max_broken_fraction=1)


@pytest.mark.slow
def test_hold_out():
    source = load_source("demo", "train")
    rest, held = source.hold_out(0.1)
    everything, kept, away = (
        [name for *_, name in s.records.as_numpy_iterator()]
        for s in (source, rest, held)
    )
    assert (len(kept), len(away)) == (rest.num_examples, held.num_examples)
    assert len(away) == len(everything) // 10
    assert sorted(kept + away) == sorted(everything)
    places = [everything.index(name) for name in away]
    assert set(np.diff(places)) == {10}  # evenly spread
    assert "held out" in held.name and rest.class_names == held.class_names
    for share in (0, 1, 1.5, 1e-6, float("nan")):
        with pytest.raises(ValueError, match="`share` must be in"):
            source.hold_out(share)
