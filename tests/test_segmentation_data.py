import os
import pathlib

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from keras_resadapt.data import (
    SegmentationSource,
    check_pictures,
    demo_segmentation_source,
    demo_set,
    evaluation_batches,
    load_source,
    read_class_names,
    segmentation_evaluation_batches,
    segmentation_training_batches,
    training_batches,
)
from keras_resadapt.data.augmentation import resize
from keras_resadapt.data.demo import CLASS_NAMES, SEGMENTATION_CLASS_NAMES
from keras_resadapt.layers.preprocessing import MEAN_COLOR

SHARED_TFDS = pathlib.Path(__file__).parents[1] / ".." / "shared" / "tfds"
COLORS = np.array([[20, 90, 200], [200, 30, 60], [70, 220, 10]], np.uint8)


def blocks(height, width, seed=0):
    """Returns a mask of large blocks of three classes, and an image in their colors."""
    coarse = np.random.default_rng(seed).integers(0, 3, (4, 5), np.uint8)
    mask = np.asarray(Image.fromarray(coarse).resize((width, height), 0))
    return COLORS[mask], mask


def memory_source(images, masks, **kwargs):
    numbers = np.arange(len(images))
    arguments = {"class_names": ("a", "b", "c"), **kwargs}
    return SegmentationSource(
        name="memory",
        records=tf.data.Dataset.from_tensor_slices(
            (images, masks, [f"image{i}" for i in numbers])
        ),
        read=tf.identity,
        read_mask=tf.identity,
        num_examples=len(images),
        encoded=False,
        **arguments,
    )


@pytest.fixture
def folder(tmp_path):
    """Four and two images of different sizes with masks of three classes and void."""
    root = tmp_path / "set"
    for split, count in (("train", 4), ("val", 2)):
        for kind in ("images", "masks"):
            (root / split / kind).mkdir(parents=True)
        for i in range(count):
            image, mask = blocks(40 + 4 * i, 50, seed=i)
            mask = mask.copy()
            mask[0, 0] = 255
            Image.fromarray(image).save(root / split / "images" / f"x{i}.PNG", "PNG")
            Image.fromarray(mask).save(root / split / "masks" / f"x{i}.png")
    return root


def arrays(batches):
    return list(batches.as_numpy_iterator())


def interior(mask, distance=2):
    """Returns the pixels all of whose neighbors have the same label."""
    same = np.ones(mask.shape, bool)
    for down in range(-distance, distance + 1):
        for right in range(-distance, distance + 1):
            same &= np.roll(mask, (down, right), (0, 1)) == mask
    return same[4:-4, 4:-4]


# === Training ===


def test_image_and_mask_are_changed_alike():
    images, masks = zip(*(blocks(60, 80, seed=i) for i in range(24)))
    source = memory_source(np.stack(images), np.stack(masks))
    padded, compared = 0, 0
    batches = segmentation_training_batches(source, 12, (48, 64), seed=1, epochs=2)
    for crops, labels in arrays(batches):
        assert crops.shape == (12, 48, 64, 3) and crops.dtype == np.float32
        assert labels.shape == (12, 48, 64) and labels.dtype == np.int32
        assert set(np.unique(labels)) <= {0, 1, 2, 255}  # never interpolated
        for crop, label in zip(crops, labels):
            outside = label == 255
            np.testing.assert_array_equal(
                crop[outside],
                np.broadcast_to(np.float32(MEAN_COLOR), crop.shape)[outside],
            )
            padded += outside.any()
            inner = interior(label)
            crop, label = crop[4:-4, 4:-4][inner], label[4:-4, 4:-4][inner]
            compared += np.sum(label < 255)
            np.testing.assert_allclose(
                crop[label < 255], COLORS[label[label < 255]], atol=0.1
            )
    assert 2 < padded < 48 and compared > 10_000


def test_scale_position_and_flip_of_a_crop():
    """A ramp shows where a crop is from, and its scale."""
    columns = np.arange(200, dtype=np.uint8)[None, :, None]
    ramp = np.broadcast_to(columns, (64, 200, 3))
    images, masks = np.stack([ramp] * 64), np.zeros((64, 64, 200), np.uint8)
    source = memory_source(images, masks)

    def slopes(**kwargs):
        ((crops, _),) = arrays(
            segmentation_training_batches(source, 64, 32, seed=3, epochs=1, **kwargs)
        )
        return crops[:, 16, 17, 0] - crops[:, 16, 16, 0], crops[:, 16, 16, 0]

    slope, value = slopes()
    assert 0.4 < np.mean(slope < 0) < 0.6  # flipped
    scales = 1 / np.abs(slope)
    assert 0.45 < scales.min() < 0.65 and 1.7 < scales.max() < 2.1
    assert value.max() - value.min() > 100  # from all places
    slope, _ = slopes(flip=False, scale_range=(1, 1))
    np.testing.assert_allclose(slope, 1)


def test_color_jitter_changes_the_image_alone():
    image, mask = blocks(40, 40)
    source = memory_source(image[None].repeat(8, 0), mask[None].repeat(8, 0))
    arguments = dict(seed=2, epochs=1, scale_range=(1, 1), flip=False)
    ((plain, labels),) = arrays(
        segmentation_training_batches(source, 8, 40, **arguments)
    )
    np.testing.assert_array_equal(plain[0], image)
    ((changed, same),) = arrays(
        segmentation_training_batches(source, 8, 40, color_jitter=0.4, **arguments)
    )
    np.testing.assert_array_equal(labels, same)
    assert 0 <= changed.min() and changed.max() <= 255
    means = changed.mean((1, 2, 3))
    assert np.ptp(means) > 10 and np.abs(changed - plain).mean() > 5


@pytest.mark.parametrize("kind", ["demo", "folder"])
def test_batches_are_repeated_and_resumed(folder, kind):
    if kind == "demo":
        source, size = demo_segmentation_source("train", 20, 32), 8
    else:
        source, size = load_source(folder, "train"), 2
    arguments = dict(seed=5, color_jitter=0.2)
    run = arrays(segmentation_training_batches(source, size, 24, epochs=3, **arguments))
    assert len(run) == 3 * source.steps_per_epoch(size)
    resumed = arrays(
        segmentation_training_batches(
            source, size, 24, initial_epoch=1, epochs=2, **arguments
        )
    )
    for a, b in zip(run[-len(resumed) :], resumed):
        tf.nest.map_structure(np.testing.assert_array_equal, a, b)
    assert not np.array_equal(run[0][0], resumed[0][0])


# === Evaluation ===


def test_evaluation_keeps_the_masks_at_their_size(folder):
    source = load_source(folder, "validation")
    batches = arrays(
        segmentation_evaluation_batches(source, 1, (32, (24, 48)), stride=8)
    )
    assert len(batches) == 2
    for i, ((first, second), labels) in enumerate(batches):
        image, mask = blocks(40 + 4 * i, 50, seed=i)
        assert labels.shape == (1, 40 + 4 * i, 50) and labels.dtype == np.int32
        assert labels[0, 0, 0] == 255
        np.testing.assert_array_equal(labels[0, 1:], mask[1:])
        # 32 * 50 / 40 is 40, and 32 * 50 / 44 is nearest to 40 too.
        assert first.shape == (1, 32, 40, 3) and second.shape == (1, 24, 48, 3)
        np.testing.assert_allclose(first[0], resize(image, 32, 40), atol=1e-3)
        np.testing.assert_allclose(second[0], resize(image, 24, 48), atol=1e-3)
    own = arrays(segmentation_evaluation_batches(source, 1))
    np.testing.assert_array_equal(own[1][0][0], blocks(44, 50, seed=1)[0])


def test_evaluation_of_images_of_one_size():
    source = demo_segmentation_source("validation", 10, 32)
    batches = segmentation_evaluation_batches(source, 8, 64)
    assert batches.cardinality() == 2
    specs = [tuple(spec.shape) for spec in batches.element_spec]
    assert specs == [(None, 64, 64, 3), (None, 32, 32)]
    (images, masks), (rest, _) = arrays(batches)
    assert images.shape == (8, 64, 64, 3) and masks.shape == (8, 32, 32)
    assert rest.shape == (2, 64, 64, 3)
    upright = memory_source(
        np.zeros((2, 40, 20, 3), np.uint8), np.zeros((2, 40, 20), int)
    )
    ((views, _),) = arrays(segmentation_evaluation_batches(upright, 2, (48, 32)))
    assert [view.shape[1:3] for view in views] == [(96, 48), (64, 32)]


# === Sets ===


def test_folder(folder):
    source = load_source(folder, "train", cache=True)
    assert isinstance(source, SegmentationSource) and source.num_examples == 4
    assert source.class_names == () and source.num_classes == 3
    for image, mask, name in source.dataset.as_numpy_iterator():
        expected, labels = blocks(*image.shape[:2], seed=int(name.decode()[-5]))
        np.testing.assert_array_equal(image, expected)
        np.testing.assert_array_equal(mask[1:], labels[1:])
        assert name.decode().startswith("train/images/x")
    (folder / "class_names.txt").write_text("wall\nfloor\nlamp\nbed\n")
    assert load_source(folder, "train").num_classes == 4
    named = load_source(folder, "validation", class_names=["a", "b", "c"])
    assert named.class_names == ("a", "b", "c")
    rest, held = source.hold_out(0.25)
    assert (len(list(rest.dataset)), len(list(held.dataset))) == (3, 1)


def test_folder_errors(folder):
    os.rename(folder / "val" / "masks" / "x1.png", folder / "val" / "masks" / "y.png")
    with pytest.raises(ValueError, match="mask for every image.*no mask for 1 .*: x1"):
        load_source(folder, "validation")
    with pytest.raises(ValueError, match="`split` of an image folder"):
        load_source(folder, "test")
    with pytest.raises(ValueError, match="no folder val/masks/"):
        os.rename(folder / "val" / "masks", folder / "val" / "labels")
        load_source(folder, "validation")
    with pytest.raises(ValueError, match="without files in train/images/"):
        for path in (folder / "train" / "images").iterdir():
            path.unlink()
        load_source(folder, "train")
    with pytest.raises(ValueError, match="`task` must be one of .*task='boxes'"):
        load_source(folder, "train", task="boxes")


@pytest.mark.parametrize("mode", ["P", "1", "RGB", "I;16"])
def test_masks_of_other_files_are_broken(folder, mode):
    """Their labels would be other numbers, or colors."""
    path = folder / "train" / "masks" / "x2.png"
    mask = np.asarray(Image.open(path))
    if mode == "I;16":
        image = Image.fromarray(mask.astype(np.uint16))
    else:
        image = Image.fromarray(mask).convert(mode)
    image.save(path)
    source = load_source(folder, "train")
    assert check_pictures(source, 0.5) == ["train/images/x2.PNG"]
    batches = segmentation_evaluation_batches(source, 1, max_broken_fraction=0.5)
    assert len(arrays(batches)) == 3
    with pytest.raises(tf.errors.InvalidArgumentError, match="Too many images"):
        arrays(segmentation_training_batches(source, 2, 16, seed=0, epochs=1))


def both_batches(source):
    return (
        segmentation_training_batches(source, 1, 16, seed=0, epochs=1),
        segmentation_evaluation_batches(source, 1, 16),
    )


@pytest.mark.slow
def test_wrong_masks_are_named(folder):
    """Wrong masks are errors, and are not skipped as broken images are."""
    path = folder / "train" / "masks" / "x2.png"
    mask = np.array(Image.open(path))
    mask[5, 7] = 41
    Image.fromarray(mask).save(path)
    source = load_source(folder, "train", class_names=["a", "b", "c"])
    message = "from 0 to 2, or 255 .*class[^0-9]*41.*train/images/x2.PNG"
    for batches in both_batches(source):
        with pytest.raises(tf.errors.InvalidArgumentError, match=message):
            arrays(batches)
    Image.fromarray(mask[:, 1:]).save(path)
    message = "size of its image.*x2.PNG.*48 50.*48 49"
    for batches in both_batches(load_source(folder, "train")):
        with pytest.raises(tf.errors.InvalidArgumentError, match=message):
            arrays(batches)


@pytest.mark.slow
def test_shards_are_the_rows_of_the_batches():
    source = demo_segmentation_source("train", 7, size=16)
    makers = (
        lambda **kwargs: segmentation_training_batches(
            source, 2, 16, seed=3, epochs=1, color_jitter=0.2, **kwargs
        ),
        lambda **kwargs: segmentation_evaluation_batches(source, 2, 16, **kwargs),
    )
    for make in makers:
        shards = [arrays(make(shard=(i, 2))) for i in range(2)]
        joined = [
            [np.concatenate(parts) for parts in zip(*batches)]
            for batches in zip(*shards, strict=True)
        ]
        whole = arrays(make())
        assert len(joined) == len(whole)
        for batch, expected in zip(joined, whole):
            for x, y in zip(batch, expected):
                np.testing.assert_array_equal(x, y)
    with pytest.raises(ValueError, match="`batch_size` must be divisible .*shard"):
        makers[0](shard=(0, 3))


def test_tfds_set_without_masks(tmp_path):
    pytest.importorskip("tensorflow_datasets")
    if not SHARED_TFDS.is_dir():
        pytest.skip("../shared/tfds is not here")
    with pytest.raises(ValueError, match="`segmentation_mask`.*label: ClassLabel"):
        load_source("cifar10_jpeg", "train", data_dir=SHARED_TFDS, task="segmentation")


@pytest.mark.parametrize(
    "name, classes, sizes",
    [("nyuv2_seg40", 40, (795, 222)), ("camvid_seg11", 11, (367, 101))],
)
def test_real_tfds_sets(name, classes, sizes):
    if not SHARED_TFDS.is_dir():
        pytest.skip("../shared/tfds is not here")
    names = read_class_names(SHARED_TFDS / "annotations" / f"{name}.classes.txt")
    train, validation = (
        load_source(name, split, data_dir=SHARED_TFDS, class_names=names)
        for split in ("train", "validation")
    )
    assert (train.num_examples, validation.num_examples) == sizes
    assert train.num_classes == classes and train.image_shape == (240, 320)
    unnamed = load_source(name, "train[:5%]", data_dir=SHARED_TFDS)
    assert unnamed.class_names == () and 5 < unnamed.num_classes <= classes
    ((images, masks),) = segmentation_training_batches(train, 4, 96, seed=1).take(1)
    assert images.shape == (4, 96, 96, 3) and masks.shape == (4, 96, 96)
    ((views, masks),) = segmentation_evaluation_batches(validation, 2, (352, 96)).take(
        1
    )
    assert [view.shape[1:3] for view in views] == [(352, 480), (96, 128)]
    _, mask, _ = next(validation.dataset.as_numpy_iterator())
    np.testing.assert_array_equal(masks[0], mask)


def test_demo_masks_show_the_objects():
    source = load_source("demo", "validation", task="segmentation")
    assert source.class_names == SEGMENTATION_CLASS_NAMES
    assert load_source("demo", "validation").class_names == CLASS_NAMES
    images, labels, difficulty = demo_set("validation")
    read, masks, names = zip(*source.dataset.as_numpy_iterator())
    np.testing.assert_array_equal(np.stack(read), images)
    for mask, label in zip(masks, labels):
        assert set(np.unique(mask)) == {0, 1 + label // 4}  # background and one shape
    area = (np.stack(masks) > 0).mean((1, 2))
    assert np.corrcoef(area, difficulty)[0, 1] < -0.85
    # Plain objects differ from the background around them.
    for i in np.flatnonzero((labels % 4 == 3) & (difficulty < 0.3)):
        gray = images[i].mean(-1)
        inside, outside = gray[masks[i] > 0], gray[masks[i] == 0]
        assert abs(np.median(inside) - np.median(outside)) > 25


# === Errors ===


@pytest.mark.parametrize(
    "arguments, message",
    [
        (dict(resolution=0), "`resolution` must be a positive integer .*=0"),
        (dict(resolution=(8, 8, 8)), r"`resolution` must be .*pairs .*=\(8, 8, 8\)"),
        (dict(resolution=(8, 0.5)), "`resolution` must be a positive .*=0.5"),
        (dict(resolution="8"), "`resolution` must be .*pairs .*='8'"),
        (dict(scale_range=(0, 1)), r"`scale_range` must be .*=\(0, 1\)"),
        (dict(color_jitter=1), "`color_jitter` must be .*less than 1.*=1"),
        (dict(batch_size=0), "`batch_size` must be a positive integer"),
        (dict(seed=-1), "`seed` must be None or"),
    ],
)
def test_training_arguments(arguments, message):
    arguments = {"batch_size": 2, "resolution": 8, **arguments}
    with pytest.raises(ValueError, match=message):
        segmentation_training_batches(demo_segmentation_source("train", 4), **arguments)


def test_other_arguments():
    masked, labeled = (
        load_source("demo", "validation", task=task)
        for task in ("segmentation", "classification")
    )
    for make in (training_batches, evaluation_batches):
        with pytest.raises(TypeError, match="class labels.*a SegmentationSource"):
            make(masked, 2, 16)
    for make in (segmentation_training_batches, segmentation_evaluation_batches):
        with pytest.raises(TypeError, match="images have masks.*an? ImageSource"):
            make(labeled, 2, 16)
    for resolutions, message in (
        ((), "at least one resolution"),
        ((0,), "`resolutions` must be a positive"),
        ("32", "`resolutions` must be .*pairs"),
    ):
        with pytest.raises(ValueError, match=message):
            segmentation_evaluation_batches(masked, 2, resolutions)
    with pytest.raises(ValueError, match="`stride` must be a positive"):
        segmentation_evaluation_batches(masked, 2, 16, stride=0)
    images, masks = np.zeros((2, 8, 8, 3), np.uint8), np.zeros((2, 8, 8), np.uint8)
    source = memory_source(images, masks, ignore_class=None)
    with pytest.raises(ValueError, match="`ignore_class`.*memory"):
        segmentation_training_batches(source, 2, 8)
    void = memory_source(images, masks + 255, class_names=())
    with pytest.raises(ValueError, match="at least one pixel with a class"):
        void.num_classes  # noqa: B018
