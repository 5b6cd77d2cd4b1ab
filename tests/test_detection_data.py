import json
import pathlib

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from keras_resadapt import analysis
from keras_resadapt.data import (
    DetectionSource,
    ObjectCounts,
    check_objects,
    check_pictures,
    demo_detection_source,
    detection_evaluation_batches,
    detection_training_batches,
    load_source,
)
from keras_resadapt.data.coco_masks import decode_masks
from keras_resadapt.data.detection_source import boxes_of_masks
from keras_resadapt.layers.preprocessing import MEAN_COLOR

SHARED_TFDS = pathlib.Path(__file__).parents[1] / ".." / "shared" / "tfds"
COLORS = np.array([[200, 40, 40], [40, 200, 40], [40, 40, 200]], np.uint8)


def memory_source(images, objects, **kwargs):
    """Returns a source of arrays.

    Args:
        images: uint8 arrays (height, width, 3).
        objects: For each image, a list of (box, class, crowd) or (box, class, crowd,
            mask). The mask is that of the box if it is left out.
    """
    images = [np.asarray(image) for image in images]
    masks, columns = {}, {}
    for n, (image, rows) in enumerate(zip(images, objects)):
        columns[n] = (
            np.array([row[0] for row in rows], np.float32).reshape(-1, 4),
            np.array([row[1] for row in rows], np.int32),
            np.array([row[2] for row in rows], bool),
        )
        masks[n] = np.zeros((len(rows), *image.shape[:2]), np.uint8)
        for mask, row in zip(masks[n], rows):
            if len(row) == 4:
                mask[:] = row[3]
            elif np.all(np.isfinite(row[0])):
                x1, y1, x2, y2 = np.maximum(row[0], 0).astype(int)
                mask[y1:y2, x1:x2] = 1

    def read(number):
        found = tf.numpy_function(lambda n: images[n], [number], tf.uint8)
        return tf.ensure_shape(found, (None, None, 3))

    def read_objects(number, size):
        boxes, classes, crowd = tf.numpy_function(
            lambda n: columns[n], [number], (tf.float32, tf.int32, tf.bool)
        )
        boxes = tf.ensure_shape(boxes, (None, 4))
        classes, crowd = (
            tf.ensure_shape(classes, [None]),
            tf.ensure_shape(crowd, [None]),
        )
        places = tf.range(tf.size(classes, out_type=tf.int64), dtype=tf.int64)
        rows = tf.stack([tf.fill(tf.shape(places), number), places], axis=1)
        area = tf.reduce_prod(boxes[:, 2:] - boxes[:, :2], axis=1)
        return {
            "image_id": number,
            "boxes": boxes,
            "classes": classes,
            "crowd": crowd,
            "area": area,
            "masks": rows,
        }

    def read_masks(rows):
        found = tf.numpy_function(
            lambda rows: (
                np.stack([masks[n][i] for n, i in rows])
                if len(rows)
                else np.zeros((0, 1, 1), np.uint8)
            ),
            [rows],
            tf.uint8,
        )
        return tf.ensure_shape(found, (None, None, None))

    numbers = np.arange(len(images))
    return DetectionSource(
        name="memory",
        records=tf.data.Dataset.from_tensor_slices(
            (numbers, numbers, [f"image{n}" for n in numbers])
        ),
        read=read,
        read_objects=read_objects,
        read_masks=read_masks,
        class_names=("red", "green", "blue"),
        num_examples=len(images),
        encoded=False,
        **kwargs,
    )


def blocks(height, width, seed):
    """Returns an image with one block per class, and its objects."""
    rng = np.random.default_rng(seed)
    image = np.full((height, width, 3), 120, np.uint8)
    objects = []
    for label in range(3):
        x = label * width // 3 + rng.integers(2, 5)
        y, h = rng.integers(2, height // 3), rng.integers(height // 3, height // 2)
        box = (x, y, x + width // 5, y + h)
        image[box[1] : box[3], box[0] : box[2]] = COLORS[label]
        objects.append((box, label, False))
    return image, objects


def arrays(batches):
    return list(batches.as_numpy_iterator())


def one_image(objects, **kwargs):
    """Returns the training targets of one gray image, neither scaled nor flipped."""
    source = memory_source([np.full((64, 64, 3), 90, np.uint8)], [objects])
    arguments = {"scale_range": (1.0, 1.0), "flip": False, "max_objects": 4, **kwargs}
    ((images, targets),) = arrays(
        detection_training_batches(source, 1, 64, epochs=1, seed=0, **arguments)
    )
    assert np.all(np.isfinite(images))
    targets = {key: value[0] for key, value in targets.items()}
    for key in ("boxes", "classes", "masks"):
        assert not np.any(targets[key][targets["count"] :])  # padding
    return targets


# === Training ===


def test_image_boxes_and_masks_are_changed_alike():
    images, objects = zip(*(blocks(60, 80 - 5 * (i % 3), seed=i) for i in range(12)))
    source = memory_source(images, objects)
    batches = arrays(detection_training_batches(source, 6, 64, seed=1, epochs=2))
    flips, seen = 0, 0
    for canvases, targets in batches:
        assert canvases.shape == (6, 128, 128, 3) and canvases.dtype == np.float32
        assert targets["masks"].shape == (6, 100, 128, 128)
        for n, canvas in enumerate(canvases):
            count, (height, width) = targets["count"][n], targets["size"][n]
            pad = np.ones((128, 128), bool)
            pad[:height, :width] = False
            np.testing.assert_array_equal(
                canvas[pad], np.broadcast_to(np.float32(MEAN_COLOR), canvas.shape)[pad]
            )
            masks, boxes = targets["masks"][n][:count], targets["boxes"][n][:count]
            assert not masks[:, pad].any()
            # A mask covers its box, and both are where the color is
            np.testing.assert_allclose(boxes_of_masks(masks), boxes, atol=1.01)
            labels = targets["classes"][n][:count]
            for mask, (x1, y1, x2, y2), label in zip(masks, boxes, labels):
                rows = slice(int(np.ceil(y1)) + 2, int(y2) - 2)
                columns = slice(int(np.ceil(x1)) + 2, int(x2) - 2)
                inner = canvas[rows, columns].reshape(-1, 3)
                assert mask[rows, columns].all()
                np.testing.assert_allclose(
                    inner, np.broadcast_to(COLORS[label], inner.shape), atol=2
                )
                seen += 1
            flips += boxes[0, 0] > boxes[-1, 0]
    assert seen > 60 and 4 < flips < 20


def test_batches_repeat_resume_and_differ_between_epochs():
    images, objects = zip(*(blocks(24, 30, seed=i) for i in range(6)))
    source = memory_source(images, objects)

    def batches(**kwargs):
        return arrays(
            detection_training_batches(source, 3, 24, max_objects=3, seed=5, **kwargs)
        )

    first, again = batches(epochs=2), batches(initial_epoch=1, epochs=1)
    assert len(first) == 4 and len(again) == 2
    tf.nest.map_structure(np.testing.assert_array_equal, first[2:], again)
    assert not np.array_equal(first[0][0], first[2][0])
    within = batches(initial_epoch=1, initial_step=1, epochs=1)
    tf.nest.map_structure(np.testing.assert_array_equal, first[3:], within)


def test_crowds_and_boxes_without_area_are_left_out_and_boxes_clipped():
    nan = float("nan")
    targets = one_image(
        [
            ((10, 10, 20, 30), 0, False),
            ((0, 0, 64, 64), 1, True),  # a crowd
            ((-10, 50, 12, 90), 1, False),  # partly outside
            ((70, 5, 90, 20), 2, False),  # outside
            ((30, 30, 30, 40), 2, False),  # no width
            ((40, 30, 35, 40), 2, False),  # negative width
            ((nan, 5, 20, 20), 2, False),
            ((5, 5, 20, 20), 2, False, 0),  # an empty mask
            ((0, 0, 9, 9), 2, False, np.eye(64)[::-1]),  # a mask beside the box
            ((50, 50, 50.5, 60), 2, False),  # less than a pixel
        ]
    )
    assert targets["count"] == 2
    np.testing.assert_array_equal(
        targets["boxes"][:2], [[10, 10, 20, 30], [0, 50, 12, 64]]
    )
    np.testing.assert_array_equal(targets["classes"][:2], [0, 1])
    np.testing.assert_array_equal(targets["masks"].sum((1, 2)), [200, 168, 0, 0])


def test_the_largest_objects_are_kept():
    sides = (5, 12, 3, 9, 20, 2)
    rows = [((1, 1, 1 + s, 1 + s), n % 3, False) for n, s in enumerate(sides)]
    targets = one_image(rows, max_objects=3)
    assert targets["count"] == 3
    np.testing.assert_array_equal(targets["boxes"][:, 2] - 1, [12, 9, 20])


def test_objects_are_counted_with_a_warning():
    source = memory_source(
        [np.zeros((20, 20, 3), np.uint8)] * 2,
        [
            [],
            [
                ((0, 0, 9, 9), 0, False),
                ((0, 0, 8, 8), 0, False),
                ((-5, 0, 8, 8), 0, False),
                ((0, 0, 9, 9), 0, True),
                ((5, 5, 5, 5), 0, False),
                ((0, 0, 9, 9), 0, False, 0),
            ],
        ],
    )
    with pytest.warns(UserWarning, match="without_area: 1, outside_box: 1, over_limit"):
        counts = check_objects(source, max_objects=2)
    assert counts == ObjectCounts(
        images=2,
        images_without_objects=1,
        objects=6,
        crowds=1,
        without_area=1,
        clipped=1,
        outside_box=1,
        over_limit=1,
    )


def test_images_without_objects_and_of_extreme_shape():
    shapes = ((1, 5000), (64, 64), (1, 5000), (64, 64))
    source = memory_source(
        [np.zeros((*shape, 3), np.uint8) for shape in shapes],
        [
            [],
            [],
            [((0, 0, 5000, 1), 1, False), ((7, 0, 9, 1), 1, False)],
            [((0, 0, 64, 1), 1, False)],
        ],
    )
    batches = detection_training_batches(
        source, 4, 64, max_size=96, scale_range=(1, 1), seed=0, epochs=1
    )
    ((images, targets),) = arrays(batches)
    assert images.shape == (4, 96, 96, 3) and np.all(np.isfinite(images))
    assert sorted(targets["count"]) == [0, 0, 1, 1]
    for size, shape, count, box, masks in zip(
        targets["size"],
        targets["original_size"],
        targets["count"],
        targets["boxes"][:, 0],
        targets["masks"],
    ):
        np.testing.assert_array_equal(size, (1, 96) if shape[0] == 1 else (64, 64))
        np.testing.assert_allclose(box, np.array([0, 0, size[1], 1]) * count)
        assert masks.sum() == size[1] * count
    pytest.importorskip("pycocotools")
    batches = detection_evaluation_batches(source, 4, 64, max_size=96)
    ((images, targets),) = arrays(batches)
    assert images.shape == (4, 96, 96, 3) and np.all(np.isfinite(images))
    np.testing.assert_array_equal(targets["count"], [0, 0, 2, 1])
    np.testing.assert_array_equal(targets["size"][2], [1, 96])
    masks, fit = decode_masks(targets["masks"][2], targets["original_size"][2])
    assert fit.numpy().all() and masks.numpy().sum() == 5002


def test_a_class_out_of_range_is_an_error_with_the_image():
    with pytest.raises(tf.errors.InvalidArgumentError, match="from 0 to 2.*image0"):
        one_image([((1, 1, 9, 9), -1, False), ((1, 1, 9, 9), 2, False)])
    with pytest.raises(tf.errors.InvalidArgumentError, match="from 0 to 2.*image0"):
        one_image([((1, 1, 9, 9), 3, False)])
    source = memory_source(
        [np.zeros((9, 9, 3), np.uint8)], [[((1, 1, 9, 9), 3, False)]]
    )
    with pytest.raises(tf.errors.InvalidArgumentError, match="from 0 to 2.*image0"):
        arrays(detection_evaluation_batches(source, 1, 8, masks=False))


def test_a_size_that_does_not_fit_is_scaled_down_and_a_window_is_taken():
    image, objects = blocks(30, 90, seed=0)
    source = memory_source([image], [objects])
    ((images, targets),) = arrays(
        detection_training_batches(
            source, 1, 30, max_size=(32, 45), scale_range=(2, 2), seed=0, epochs=1
        )
    )
    assert images.shape == (1, 32, 64, 3)  # 15 x 45 at the scale 1, 30 x 90 at 2
    np.testing.assert_array_equal(targets["size"], [[30, 64]])
    assert np.all(targets["boxes"] <= 64)


# === Evaluation ===


def test_evaluation_has_every_image_once_at_its_original_size():
    pytest.importorskip("pycocotools")
    images, objects = zip(*(blocks(20 + i, 40, seed=i) for i in range(3)))
    objects = (objects[0], [], [*objects[2], ((-3, 0, 50, 5), 1, True)])
    source = memory_source(images, objects)
    batches = arrays(detection_evaluation_batches(source, 2, (40, 20)))
    assert len(batches) == 2
    (large, small), targets = batches[0]
    assert large.shape == (2, 96, 96, 3) and small.shape == (2, 64, 64, 3)
    np.testing.assert_array_equal(targets["image_id"], [0, 1])
    np.testing.assert_array_equal(targets["count"], [3, 0])
    np.testing.assert_array_equal(targets["original_size"], [[20, 40], [21, 40]])
    # At most 67 pixels for 40, and 33 1/3 pixels for 20
    np.testing.assert_array_equal(targets["size"][0], [[34, 67], [35, 67]])
    np.testing.assert_array_equal(targets["size"][1], [[17, 34], [18, 34]])
    last = batches[1][1]
    np.testing.assert_array_equal(last["crowd"][0], [False, False, False, True])
    np.testing.assert_array_equal(last["boxes"][0, 3], [-3, 0, 50, 5])
    masks = decode_masks(last["masks"][0], last["original_size"][0])[0]
    np.testing.assert_allclose(boxes_of_masks(masks)[:3], last["boxes"][0, :3])


def test_shards_are_the_rows_of_the_batches():
    pytest.importorskip("pycocotools")
    images, objects = zip(*(blocks(20, 30, seed=i) for i in range(5)))
    objects = (objects[0][:1], [], *objects[2:])
    source = memory_source(images, objects)
    for make in (
        lambda **kwargs: detection_training_batches(
            source, 2, 24, max_objects=3, seed=1, epochs=1, **kwargs
        ),
        lambda **kwargs: detection_evaluation_batches(source, 2, 24, **kwargs),
    ):
        shards = [arrays(make(shard=(i, 2))) for i in range(2)]
        for (x, y), *parts in zip(arrays(make()), *shards, strict=True):
            np.testing.assert_array_equal(np.concatenate([p[0] for p in parts]), x)
            for key in ("boxes", "classes", "count", "masks", "original_size"):
                # Each worker pads to its own largest number of objects.
                whole = list(y[key])
                rows = [row for _, targets in parts for row in targets[key]]
                assert len(rows) == len(whole)
                for row, expected, n in zip(rows, whole, y["count"]):
                    if key in ("boxes", "classes", "masks"):
                        row, expected = row[:n], expected[:n]
                    np.testing.assert_array_equal(row, expected)
    source = memory_source(images, [[((1, 1, 9, 9), 3, False)]] * 5)
    with pytest.raises(tf.errors.InvalidArgumentError, match="from 0 to 2.*image1"):
        arrays(detection_evaluation_batches(source, 2, 24, shard=(1, 2)))


# === Sources ===


def coco_json(**changes):
    polygon = [[2, 3, 12, 3, 12, 9, 2, 9]]
    content = {
        "images": [
            {"id": 7, "file_name": "a.png", "height": 16, "width": 20},
            {"id": 3, "file_name": "b.png", "height": 16, "width": 20},
        ],
        "categories": [{"id": 18, "name": "dog"}, {"id": 2, "name": "cat"}],
        "annotations": [
            {"id": 1, "image_id": 7, "category_id": 18, "bbox": [2, 3, 10, 6]},
            {"id": 2, "image_id": 7, "category_id": 2, "bbox": [0, 0, 20, 16]},
        ],
    }
    dog, crowd = content["annotations"]
    dog.update(iscrowd=0, area=60.0, segmentation=polygon)
    crowd.update(iscrowd=1, area=320)
    crowd["segmentation"] = {"size": [16, 20], "counts": [0, 320]}
    dog.update(changes)
    return content


def write_coco(root, content, splits=("train", "val")):
    (root / "annotations").mkdir(parents=True)
    suffixes = {"train": "", "val": "2017"}
    for split, suffix in ((split, suffixes[split]) for split in splits):
        (root / f"{split}{suffix}").mkdir()
        path = root / "annotations" / f"instances_{split}{suffix}.json"
        path.write_text(json.dumps(content))
        for name in "ab":
            image = Image.fromarray(np.full((16, 20, 3), 90, np.uint8))
            image.save(root / f"{split}{suffix}" / f"{name}.png")
    return root


def test_folder_with_the_json_of_coco(tmp_path):
    pytest.importorskip("pycocotools")
    root = write_coco(tmp_path / "set", coco_json())
    (root / "val2017" / "b.png").write_bytes(b"broken")
    source = load_source(root, "validation", cache=True)
    assert isinstance(source, DetectionSource)
    assert source.class_names == ("cat", "dog")  # in the order of their numbers
    assert check_pictures(source, 0.5) == ["b.png"]
    ((image, objects, name),) = list(source.dataset.ignore_errors())
    assert image.shape == (16, 20, 3) and name == b"a.png"
    assert objects["image_id"] == 7
    np.testing.assert_array_equal(objects["boxes"], [[2, 3, 12, 9], [0, 0, 20, 16]])
    np.testing.assert_array_equal(objects["classes"], [1, 0])
    np.testing.assert_array_equal(objects["crowd"], [False, True])
    masks = source.decode_masks(objects["masks"], [16, 20])[0].numpy()
    expected = np.zeros((2, 16, 20))
    expected[0, 3:9, 2:12] = 1
    expected[1] = 1
    np.testing.assert_array_equal(masks, expected)
    batches = detection_training_batches(
        source, 1, 16, seed=0, epochs=1, max_broken_fraction=0.5
    )
    assert [int(targets["count"][0]) for _, targets in batches] == [1, 1]
    assert check_objects(load_source(root, "train")).images_without_objects == 1


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"category_id": 5}, "`category_id` of every annotation.*5 of annotation 1"),
        ({"image_id": 8}, "`image_id` of every annotation must be in the file"),
        ({"bbox": [1, 2, 3]}, r"`bbox` of every annotation.*\[1, 2, 3\]"),
        ({"bbox": [1, 2, 3, float("nan")]}, "`bbox` of every annotation"),
        ({"bbox": None}, "`bbox` of every annotation"),
        ({"area": "large"}, "`area` of every annotation.*'large' of annotation 1"),
        (
            {"segmentation": {"size": [20, 16], "counts": [0, 320]}},
            "A mask must have the size of its image.*annotation 1",
        ),
        (
            {"segmentation": [[1, 2, 3, 4]]},
            "`segmentation` .* at least 3 points.*ion 1",
        ),
        ({"segmentation": [[1, 2, 9, 2, 9, 9, 5]]}, "at least 3 points"),
        ({"segmentation": [[1, 2, 9, 2, 9, float("nan")]]}, "at least 3 points"),
        ({"segmentation": [[]]}, "at least 3 points"),
        ({"segmentation": [1, 2, 9, 2, 9, 9]}, "at least 3 points"),
        ({"segmentation": "polygon"}, "at least 3 points.*'polygon'"),
        ({"segmentation": {"counts": [320]}}, "size=None of annotation 1"),
        ({"segmentation": {"size": [16, 20]}}, "run lengths that add up .*16, 20"),
        (
            {"segmentation": {"size": [16, 20], "counts": [-5, 325]}},
            "run lengths that add up .*annotation 1",
        ),
        ({"segmentation": {"size": [16, 20], "counts": [319]}}, "that add up"),
    ],
)
def test_invalid_annotations_are_errors(tmp_path, changes, message):
    pytest.importorskip("pycocotools")
    root = write_coco(tmp_path / "set", coco_json(**changes), splits=("train",))
    with pytest.raises(ValueError, match=message):
        load_source(root, "train")


@pytest.mark.parametrize(
    "part, place, changes, message",
    [
        ("images", 0, {"file_name": None}, "`images` must have an integer `id`, a `fi"),
        ("images", 1, {"height": "16"}, "`images` must have .*'height': '16'"),
        ("images", 1, {"id": 7}, "a unique `id`. Received: 2 entries with id=7"),
        ("images", 0, {"file_name": "c.png"}, "without 1 of 2 files, such as 'c.png'"),
        ("categories", 0, {"id": None}, "`categories` must have an integer `id`"),
        ("categories", 0, {"name": 3}, "and a `name`. Received: .*'name': 3"),
        ("categories", 0, {"id": 2}, "`categories` must have a unique `id`"),
    ],
)
def test_invalid_entries_are_errors(tmp_path, part, place, changes, message):
    content = coco_json(segmentation=[])
    content[part][place].update(changes)
    root = write_coco(tmp_path / "set", content, splits=("train",))
    with pytest.raises(ValueError, match=message):
        load_source(root, "train")


@pytest.mark.parametrize(
    "text, message",
    [
        ("{", "must be a JSON file"),
        ("[1]", "must have the lists `images`.*Received: a list"),
        ('{"images": []}', r"must have the lists `images`.*Received: \['images'\]"),
        (
            '{"images": 3, "categories": [], "annotations": []}',
            "must have the lists `images`",
        ),
    ],
)
def test_files_that_are_not_those_of_coco(tmp_path, text, message):
    root = write_coco(tmp_path / "set", coco_json(), splits=("train",))
    (root / "annotations" / "instances_train.json").write_text(text)
    with pytest.raises(ValueError, match=message):
        load_source(root, "train")


def test_an_image_of_another_size_than_its_annotations_is_an_error(tmp_path):
    pytest.importorskip("pycocotools")
    root = write_coco(tmp_path / "set", coco_json())
    Image.fromarray(np.zeros((20, 16, 3), np.uint8)).save(root / "train" / "a.png")
    source = load_source(root, "train")
    with pytest.raises(tf.errors.InvalidArgumentError, match="height and width of its"):
        arrays(detection_training_batches(source, 2, 16, seed=0, epochs=1))


def test_run_lengths_are_those_of_pycocotools():
    mask = pytest.importorskip("pycocotools.mask")
    rng = np.random.default_rng(0)
    decode = tf.function(
        decode_masks,
        input_signature=[
            tf.TensorSpec([None], tf.string),
            tf.TensorSpec([2], tf.int32),
        ],
    )
    for height, width in ((1, 1), (7, 5), (1, 3000), (60, 90)):
        masks = rng.random((4, height, width)) < np.reshape(
            [0, 0.02, 0.5, 1], (4, 1, 1)
        )
        masks = masks.astype(np.uint8)
        counts = [mask.encode(np.asfortranarray(one))["counts"] for one in masks]
        np.testing.assert_array_equal(decode(counts, [height, width])[0], masks)
    assert decode(tf.zeros([0], tf.string), [4, 5])[0].shape == (0, 4, 5)
    small = mask.encode(np.ones((4, 4), np.uint8, order="F"))["counts"]
    invalid = [small, b"", b"no counts", b"P" * 40, b"\xff\x00\x01"]
    masks, fits = decode(invalid, [4, 5])
    assert not np.any(masks) and not np.any(fits)


def test_a_mask_of_another_size_is_an_error_with_the_image():
    mask = pytest.importorskip("pycocotools.mask")
    small = mask.encode(np.ones((4, 4), np.uint8, order="F"))["counts"]
    source = memory_source(
        [np.zeros((8, 8, 3), np.uint8)], [[((0, 0, 8, 8), 0, False)]]
    )
    read_objects = source.read_objects
    source.read_masks = None
    source.read_objects = lambda *args: {**read_objects(*args), "masks": [small]}
    with pytest.raises(tf.errors.InvalidArgumentError, match="(?s)A mask must.*image0"):
        arrays(detection_training_batches(source, 1, 8, seed=0, epochs=1))
    with pytest.raises(tf.errors.InvalidArgumentError, match="(?s)A mask must.*image0"):
        arrays(detection_evaluation_batches(source, 1, 8))


@pytest.mark.skipif(not SHARED_TFDS.is_dir(), reason="needs ../shared/tfds")
def test_tfds_set_with_the_fields_of_coco():
    source = load_source("coco_mini", "train", data_dir=SHARED_TFDS)
    assert isinstance(source, DetectionSource) and source.has_masks
    assert source.num_classes == 80 and source.class_names[0] == "person"
    batches = detection_training_batches(
        source, 2, 64, max_objects=20, seed=0, scale_range=(1, 1)
    )
    for _, targets in batches.take(4).as_numpy_iterator():
        for boxes, masks, count in zip(
            targets["boxes"], targets["masks"], targets["count"]
        ):
            tight = boxes_of_masks(masks[:count])
            # Small masks lose pixels
            assert np.mean(np.abs(tight - boxes[:count])) < 1


def test_demo_set_has_objects():
    source = demo_detection_source("train", 64, 32)
    assert source.class_names == ("disc", "triangle")
    counts = check_objects(source)
    assert counts.objects > 64 and 8 < counts.images_without_objects < 24
    assert load_source("demo", "validation", task="detection").num_examples == 800
    for _, objects, _ in source.dataset.take(8):
        masks = source.decode_masks(objects["masks"], [32, 32])[0]
        np.testing.assert_array_equal(boxes_of_masks(masks), objects["boxes"])


# === Arguments and plots ===


def test_arguments_are_checked(tmp_path):
    source = memory_source([np.zeros((8, 8, 3), np.uint8)], [[]], has_masks=False)
    with pytest.raises(ValueError, match="`masks` must be False or None"):
        detection_training_batches(source, 1, 8, masks=True)
    with pytest.raises(ValueError, match="`max_size` must be None, an integer"):
        detection_training_batches(source, 1, 8, max_size="large")
    with pytest.raises(ValueError, match="`max_objects` must be a positive integer"):
        detection_training_batches(source, 1, 8, max_objects=0)
    with pytest.raises(ValueError, match="`scale_range` must be"):
        detection_training_batches(source, 1, 8, scale_range=(2, 1))
    with pytest.raises(TypeError, match="must be a DetectionSource"):
        detection_evaluation_batches(load_source("demo", "validation"), 1, 8)
    ((_, targets),) = arrays(detection_evaluation_batches(source, 1, 8))
    assert "masks" not in targets
    (tmp_path / "annotations").mkdir()
    with pytest.raises(ValueError, match="one file annotations/instances_train"):
        load_source(tmp_path, "train", task="detection")


def test_plot_of_two_operating_points(tmp_path):
    image, objects = blocks(30, 40, seed=0)
    boxes = np.array([row[0] for row in objects], np.float32)
    classes = np.arange(3)
    masks = np.zeros((3, 30, 40), np.uint8)
    large = {"boxes": boxes, "classes": classes, "masks": masks, "scores": np.ones(3)}
    small = {"boxes": boxes, "classes": classes, "count": 1}
    path = tmp_path / "plot.png"
    analysis.plot_detections(
        [image], {"r600_w100": [large], "r480_w050": [small]}, path, ["a", "b", "_$c$"]
    )
    assert Image.open(path).width > 800
    with pytest.raises(ValueError, match="must have the same length"):
        analysis.plot_detections([image], {"r600": []}, path)
    with pytest.raises(ValueError, match="have a name in `class_names`"):
        analysis.plot_detections([image], {"r600": [large]}, path, ["a", "b"])
