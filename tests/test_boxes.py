"""Boxes: torchvision's numbers, and the written rules in NumPy."""

import json
import math
import pathlib

import numpy as np
import pytest
import tensorflow as tf

from keras_resadapt import boxes
from keras_resadapt.boxes.nms import suppress

GOLDEN = json.loads((pathlib.Path(__file__).parent / "data" / "boxes.json").read_text())
WEIGHTS = [(1, 1, 1, 1), (10, 10, 5, 5)]


def random_boxes(seed, count, size=(64, 80), largest=60):
    """Boxes that are partly outside the image."""
    rng = np.random.default_rng(seed)
    center = rng.uniform(-5, 5, (count, 2)) + rng.uniform(0, 1, (count, 2)) * size[::-1]
    half = rng.uniform(0.3, largest / 2, (count, 2))
    return np.concatenate([center - half, center + half], 1).astype("float32")


# === Coding ===


@pytest.mark.parametrize("index", [0, 1])
def test_golden_coder(index):
    expected = GOLDEN["coder"][index]
    weights = expected["weights"]
    proposals, objects, deltas = (
        np.array(GOLDEN[name], "float32")
        for name in ("proposals", "ground_truth", "deltas")
    )
    found = boxes.encode(objects, proposals, weights)
    np.testing.assert_allclose(found, expected["encoded"], rtol=1e-5, atol=1e-5)
    found = boxes.decode(deltas, proposals, weights)
    np.testing.assert_allclose(found, expected["decoded"], rtol=1e-5, atol=1e-3)
    clipped = boxes.clip(found[None], np.array([GOLDEN["image_size_h_w"]]))[0]
    np.testing.assert_allclose(
        clipped, expected["decoded_and_clipped_to_image"], rtol=1e-5, atol=1e-3
    )
    kept = np.flatnonzero(boxes.is_at_least(clipped, 1e-3))
    np.testing.assert_array_equal(kept, expected["kept_by_remove_small_boxes_1e-3"])


@pytest.mark.parametrize("weights", WEIGHTS)
def test_boxes_survive_coding(weights):
    objects, anchors = random_boxes(0, 200), random_boxes(1, 200)
    deltas = boxes.encode(objects, anchors, weights)
    # Scales up to the limit
    valid = (np.array(deltas)[:, 2:] / weights[2:] < math.log(1000 / 16)).all(1)
    assert valid.sum() > 100
    decoded = np.array(boxes.decode(deltas, anchors, weights))
    np.testing.assert_allclose(decoded[valid], objects[valid], atol=1e-3)


def mirrored(values, width):
    """Boxes from right to left, in an image of this width."""
    x1, y1, x2, y2 = np.moveaxis(np.asarray(values), -1, 0)
    return np.stack([width - x2, y1, width - x1, y2], axis=-1)


def test_mirrored_boxes():
    """Deltas, areas, limits and overlaps are those of the boxes, mirrored."""
    objects, anchors = random_boxes(0, 40), random_boxes(1, 40)
    deltas = np.array(boxes.encode(objects, anchors, WEIGHTS[1]))
    flip = lambda values: mirrored(values, 80)
    found = boxes.encode(flip(objects), flip(anchors), WEIGHTS[1])
    np.testing.assert_allclose(found, deltas * [-1, 1, 1, 1], rtol=1e-5, atol=1e-4)
    decoded = boxes.decode(deltas * np.float32([-1, 1, 1, 1]), flip(anchors), (1,) * 4)
    expected = flip(boxes.decode(deltas, anchors, (1,) * 4))
    np.testing.assert_allclose(decoded, expected, atol=2e-3)
    size = np.array([[64, 80]])
    np.testing.assert_allclose(
        boxes.clip(flip(objects)[None], size)[0],
        flip(boxes.clip(objects[None], size)[0]),
        atol=1e-4,
    )
    np.testing.assert_allclose(
        boxes.iou(flip(objects), flip(anchors)), boxes.iou(objects, anchors), atol=1e-4
    )
    anchors = boxes.cell_anchors(32, (0.5, 1, 2))
    np.testing.assert_array_equal(mirrored(anchors, 0), anchors)


def test_coding_of_boxes_without_area():
    empty = np.zeros((1, 4), "float32")
    box = np.array([[0, 0, 4, 8]], "float32")
    for pair in ((empty, box), (box, empty), (empty, empty)):
        np.testing.assert_array_equal(boxes.encode(*pair, WEIGHTS[1]), empty)


# === Anchors and matching ===


def golden_anchors():
    expected = GOLDEN["anchors"]
    sizes = [32, 64, 128, 256, 512]
    size = expected["padded_image_h_w"]
    return np.concatenate(
        boxes.grid_anchors(expected["grids"], size, sizes, (0.5, 1, 2))
    )


def test_golden_anchors():
    expected = GOLDEN["anchors"]
    anchors = golden_anchors()
    assert (len(anchors), anchors.sum()) == (expected["count"], expected["sum"])
    np.testing.assert_array_equal(anchors[:7], expected["first7"])
    np.testing.assert_array_equal(anchors[-7:], expected["last7"])


def test_golden_matching():
    expected = GOLDEN["matching"]
    objects = np.array([expected["ground_truth"]], "float32")
    valid = np.array([[True] * 3])
    overlaps = boxes.iou(golden_anchors()[None], objects)
    best = np.max(overlaps, axis=(0, 1))
    rpn = expected["rpn"]
    np.testing.assert_allclose(best, rpn["best_iou_per_ground_truth"], rtol=1e-6)
    labels, matched = map(np.array, boxes.match(overlaps, valid, 0.7, 0.3, 0.0))
    positive = np.flatnonzero(labels[0] == 1)
    np.testing.assert_array_equal(positive, rpn["positive_indices"])
    np.testing.assert_array_equal(matched[0, positive], rpn["matched_of_positives"])
    assert (labels == 0).sum() == rpn["below"]
    assert (labels == -1).sum() == rpn["between"]
    # Without the restored anchors, none is positive.
    labels, _ = boxes.match(overlaps, valid, 0.7, 0.3)
    assert np.max(labels) == 0

    roi = expected["roi"]
    proposals = np.array([GOLDEN["proposals"]], "float32")
    moved = objects + np.array([1.5, -2, 3, 1], "float32")
    proposals = np.concatenate([proposals, moved, objects], axis=1)
    proposals = proposals[:, -len(roi["matches"]) :]
    overlaps = boxes.iou(proposals, objects)
    np.testing.assert_allclose(np.max(overlaps, axis=2)[0], roi["iou_max"], atol=1e-6)
    labels, matched = map(np.array, boxes.match(overlaps, valid, 0.5, 0.5))
    matches = np.where(labels == 1, matched, -1)[0]
    np.testing.assert_array_equal(matches, roi["matches"])


def test_matching_without_objects():
    overlaps = boxes.iou(random_boxes(0, 9)[None], random_boxes(1, 2)[None])
    labels, _ = boxes.match(overlaps, np.zeros((1, 2), bool), 0.7, 0.3, 0.0)
    np.testing.assert_array_equal(labels, np.zeros((1, 9)))
    # An object that no box overlaps restores none.
    far = np.array([[[1000, 1000, 1010, 1010]]], "float32")
    overlaps = boxes.iou(random_boxes(0, 9)[None], far)
    labels, _ = boxes.match(overlaps, np.ones((1, 1), bool), 0.7, 0.3, 0.0)
    np.testing.assert_array_equal(labels, np.zeros((1, 9)))


def test_golden_levels():
    expected = GOLDEN["levels"]
    found = boxes.levels_of(np.array(expected["boxes"], "float32"), [4, 8, 16, 32])
    np.testing.assert_array_equal(found, expected["level"])


# === Sampling ===


def test_sampling():
    rng = np.random.default_rng(0)
    labels = rng.choice([-1, 0, 1], (3, 50), p=[0.2, 0.5, 0.3])
    labels[1] = np.where(labels[1] == 1, 0, labels[1])
    labels[2] = np.where(labels[2] == 0, -1, labels[2])
    order = boxes.first_by_index
    indices, chosen, valid = map(np.array, boxes.sample(labels, 16, 0.25, order))
    for row in range(3):
        positive = np.flatnonzero(labels[row] == 1)[:4]
        negative = np.flatnonzero(labels[row] == 0)[: 16 - len(positive)]
        expected = [*positive, *negative]
        count = len(expected)
        np.testing.assert_array_equal(indices[row, :count], expected)
        np.testing.assert_array_equal(chosen[row, : len(positive)], 1)
        np.testing.assert_array_equal(valid[row], np.arange(16) < count)
        assert chosen[row].sum() == len(positive)
        assert indices.max() < 50
    # Fewer boxes than samples
    indices, chosen, valid = boxes.sample(np.array([[1, 0, -1]]), 8, 0.5, order)
    np.testing.assert_array_equal(np.array(indices)[np.array(valid)], [0, 1])


def test_random_sampling_takes_every_box():
    labels = np.repeat([[1, 0]], 10, axis=1).reshape(1, -1)
    rng = np.random.default_rng(0)
    seen = set()
    for _ in range(20):
        order = lambda shape: rng.uniform(size=shape).astype("float32")
        indices, _, _ = boxes.sample(labels, 6, 0.5, order)
        assert len(set(np.array(indices)[0])) == 6
        seen |= set(np.array(indices)[0])
    assert seen == set(range(20))


# === NMS ===


def loop_nms(candidates, scores, threshold):
    """The rule of `golden/dense/nms.json`."""
    kept = []
    overlaps = np.array(boxes.iou(candidates, candidates))
    for i in np.argsort(-scores):
        if all(overlaps[i, j] <= threshold for j in kept):
            kept.append(int(i))
    return kept


def run_nms(candidates, scores, threshold, groups=None):
    """Returns the indices that `suppress` keeps, from the boxes that it returns."""
    if groups is None:
        groups = np.zeros(len(scores), int)
    own = np.arange(groups.max() + 1) == groups[:, None]
    scores = np.where(own, scores[:, None], -1).astype("float32")
    repeated = np.repeat(candidates[:, None], own.shape[1], axis=1)
    found, _, _, number = suppress(repeated[None], scores[None], 100, threshold)
    found = np.array(found)[0, : number[0]]
    return [int(np.flatnonzero((candidates == box).all(1))[0]) for box in found]


def test_golden_nms():
    golden = GOLDEN["nms"]
    candidates = np.array(golden["boxes"], "float32")
    scores = np.array(golden["scores"], "float32")
    for case in golden["nms"]:
        found = run_nms(candidates, scores, case["iou_threshold"])
        assert found == case["kept"]
    for case in golden["batched_nms"]:
        classes = np.array(golden["classes"])
        found = run_nms(candidates, scores, case["iou_threshold"], classes)
        assert found == case["kept"]
    edges = golden["edges"]
    candidates = np.array(edges["boxes"], "float32")
    scores = np.array(edges["scores"], "float32")
    assert run_nms(candidates, scores, 0.5) == edges["kept_at_0.5"]


@pytest.mark.parametrize("seed", range(3))
def test_nms_is_a_loop(seed):
    candidates = random_boxes(seed, 60)
    scores = np.random.default_rng(seed).permutation(60).astype("float32") / 60
    for threshold in (0.1, 0.5, 0.9):
        expected = loop_nms(candidates, scores, threshold)
        assert run_nms(candidates, scores, threshold) == expected


# === ROI align ===


def sampling_weights(start, size, length, cells, points):
    """The weights of the pixels of one axis, by the rule of the golden numbers."""
    weights = np.zeros((cells, length))
    for i in range(cells):
        for j in range(points):
            v = start + (i + (j + 0.5) / points) * size / cells
            if v < -1 or v > length:
                continue
            v = min(max(v, 0.0), length - 1.0)
            low = min(int(v), length - 1)
            high = min(low + 1, length - 1)
            weights[i, low] += (1 - (v - low)) / points
            weights[i, high] += (v - low) / points
    return weights


def rule_matrices(box, shape, cells, scale, points, aligned):
    """Returns the weights of rows and of columns."""
    box = np.asarray(box, "float64") * scale - (0.5 if aligned else 0.0)
    sides = box[2:] - box[:2]
    if not aligned:
        sides = np.maximum(sides, 1.0)
    return [
        sampling_weights(
            box[axis],
            sides[axis],
            length,
            cells,
            points or math.ceil(sides[axis] / cells),
        )
        for axis, length in ((1, shape[0]), (0, shape[1]))
    ]


def rule_roi_align(x, box, cells, scale, points, aligned=False):
    """ROI align of one box in NumPy; `points=0` for the adaptive number."""
    rows, columns = rule_matrices(box, x.shape, cells, scale, points, aligned)
    return np.einsum("ph,hwc,qw->pqc", rows, x, columns)


def golden_features():
    x = np.random.default_rng(0).uniform(-1, 1, (2, 8, 16, 20)).astype("float32")
    return tf.constant(x.transpose(0, 2, 3, 1))


@pytest.mark.parametrize("case", GOLDEN["roi_align"]["cases"])
def test_golden_roi_align(case):
    rois = np.array(GOLDEN["roi_align"]["rois"], "float32")
    x, size = golden_features(), case["output_size"]
    scale, points = GOLDEN["roi_align"]["spatial_scale"], case["sampling_ratio"]
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = boxes.roi_align(
            x,
            rois[:, 1:],
            rois[:, 0].astype("int32"),
            size,
            scale,
            points,
            case["aligned"],
        )
        y = tf.transpose(y, (0, 3, 1, 2))
        rng = np.random.default_rng(1)
        loss = tf.reduce_sum(y * rng.uniform(-1, 1, y.shape).astype("float32"))
    sums = np.sum(y, axis=(2, 3))
    np.testing.assert_allclose(sums, case["sum_per_roi_and_channel"], atol=1e-4)
    norms = np.sqrt(np.sum(np.square(y), axis=(1, 2, 3)))
    np.testing.assert_allclose(norms, case["l2_per_roi"], rtol=1e-5)
    gradient = np.array(tape.gradient(loss, x))
    np.testing.assert_allclose(gradient[0, 5, :, 0], case["gradient_row"], atol=1e-5)
    norms = np.sqrt((gradient**2).sum((1, 2)))
    np.testing.assert_allclose(norms, case["gradient_l2"], rtol=1e-5)


@pytest.mark.parametrize("samples, aligned", [(2, False), (3, True), (1, False)])
def test_roi_align_is_the_rule(samples, aligned):
    x = golden_features()
    rois, images = random_boxes(3, 12), np.arange(12) % 2
    y = boxes.roi_align(x, rois, images.astype("int32"), 5, 0.25, samples, aligned)
    for i, roi in enumerate(rois):
        expected = rule_roi_align(x.numpy()[images[i]], roi, 5, 0.25, samples, aligned)
        np.testing.assert_allclose(y[i], expected, atol=2e-5)


@pytest.mark.parametrize("aligned", [False, True])
def test_mirrored_roi_align(aligned):
    """About the middle of the image, or, unless aligned, of the pixels' corners."""
    x = golden_features()[:1]
    rois = random_boxes(3, 12)
    rois[:, 2] = np.maximum(rois[:, 2], rois[:, 0] + 4)  # at least a feature pixel
    places, stride = np.zeros(12, "int32"), 4
    width = x.shape[2] * stride - (0 if aligned else stride)
    y = boxes.roi_align(x, rois, places, 5, 1 / stride, aligned=aligned)
    flipped = mirrored(rois, width)
    found = boxes.roi_align(
        x[:, :, ::-1], flipped, places, 5, 1 / stride, aligned=aligned
    )
    np.testing.assert_allclose(found, np.array(y)[:, :, ::-1], atol=2e-5)


def test_gradient_of_boxes_that_overlap():
    """TensorFlow's own gradient loses summands here."""
    count = 2000
    x = tf.ones((1, 8, 8, 8))
    rois = np.tile(np.array([[4, 4, 28, 28]], "float32"), (count, 1))
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = boxes.roi_align(x, rois, tf.zeros(count, tf.int32), 7, 0.25)
        loss = tf.reduce_sum(y)
    gradient = np.array(tape.gradient(loss, x))
    rows, columns = rule_matrices(rois[0], (8, 8), 7, 0.25, 2, False)
    expected = count * np.outer(rows.sum(0), columns.sum(0))
    np.testing.assert_allclose(
        gradient[0], np.repeat(expected[..., None], 8, -1), rtol=1e-3, atol=1e-3
    )


def test_pyramid_roi_align():
    rng = np.random.default_rng(0)
    strides = [4, 8]
    features = [rng.normal(size=(2, 64 // s, 80 // s, 3)) for s in strides]
    features = [x.astype("float32") for x in features]
    rois = np.stack([random_boxes(0, 6, largest=40), random_boxes(1, 6)])
    rois[1, 3] = (-40, -40, 90, 100)  # of the coarse level
    rois[0, 0] = 0
    levels = np.array(boxes.levels_of(rois, strides))
    assert set(levels.ravel()) == {0, 1}
    y = np.array(boxes.pyramid_roi_align(features, rois, strides, 7))
    for i in range(2):
        for j in range(6):
            level = levels[i, j]
            expected = rule_roi_align(
                features[level][i], rois[i, j], 7, 1 / strides[level], 2
            )
            np.testing.assert_allclose(y[6 * i + j], expected, atol=5e-5)


# === Masks ===


def golden_masks():
    height, width = GOLDEN["roi_align"]["masks"]["image_size"]
    y, x = np.mgrid[:height, :width] + 0.5
    masks = [
        ((x - cx * width) / (rx * width)) ** 2
        + ((y - cy * height) / (ry * height)) ** 2
        <= 1
        for cx, cy, rx, ry in ((0.4, 0.5, 0.3, 0.4), (0.7, 0.3, 0.2, 0.25))
    ]
    return np.stack(masks)


def test_golden_mask_targets():
    golden = GOLDEN["roi_align"]["masks"]
    masks = golden_masks()
    assert masks.sum((1, 2)).tolist() == golden["mask_areas"]
    rois = np.array([golden["boxes"]], "float32")
    matched = np.array([golden["matched"]])
    size = tuple(golden["image_size"])
    found = np.array(boxes.mask_targets(masks[None], rois, matched, size))[0]
    np.testing.assert_allclose(found.sum((1, 2)), golden["targets"]["sums"], rtol=1e-5)
    np.testing.assert_allclose(found[0], golden["targets"]["box0"], atol=1e-5)
    # Masks of another size than the images
    found = boxes.mask_targets(masks[None], rois * 2, matched, [2 * s for s in size])
    np.testing.assert_allclose(
        np.sum(found, axis=(2, 3))[0], golden["targets"]["sums"], rtol=1e-5
    )


def test_mirrored_mask_targets():
    masks = golden_masks()[None]
    rois = np.clip(random_boxes(4, 8, largest=50), 0, 63)[None]
    matched = np.arange(8)[None] % 2
    found = boxes.mask_targets(masks, rois, matched, (64, 80), 9)
    # About the middle of the pixels' corners
    flipped = mirrored(rois, 79).astype("float32")
    again = boxes.mask_targets(masks[..., ::-1], flipped, matched, (64, 80), 9)
    np.testing.assert_allclose(again, np.array(found)[..., ::-1], atol=2e-5)


@pytest.mark.parametrize("scale", [1, 2])
def test_padding_does_not_change_mask_targets(scale):
    """Also at the edge of an image, and for masks of another size than the images."""
    masks = np.ones((1, 1, 50, 61), "uint8")
    rois = np.float32([[[20, 30, 61, 50], [40, 0, 61, 50], [3, 4, 30, 20]]])
    matched = np.zeros((1, 3), "int32")
    expected = boxes.mask_targets(masks, rois, matched, (50, 61))
    np.testing.assert_allclose(expected, np.ones_like(expected), atol=1e-6)
    padded = np.pad(masks, [(0, 0), (0, 0), (0, 14), (0, 3)])
    for array, extent in ((padded, (64, 64)), (masks, (50, 61))):
        found = boxes.mask_targets(
            array,
            rois * scale,
            matched,
            [side * scale for side in extent],
            sizes=np.array([[50, 61]]) * scale,
        )
        np.testing.assert_allclose(found, expected, atol=1e-5)


def test_masks_of_255_are_masks_of_one():
    masks = np.zeros((1, 1, 8, 8), "uint8")
    masks[..., 2:6, 2:6] = 255
    box, matched = np.float32([[[1, 1, 7, 7]]]), np.zeros((1, 1), "int32")
    found = boxes.mask_targets(masks, box, matched, (8, 8))
    np.testing.assert_array_equal(
        found, boxes.mask_targets(masks // 255, box, matched, (8, 8))
    )
    assert np.max(found) == 1


def test_settings_that_cannot_work():
    for name, value, rule in (
        ("box_samples", -4, "a positive integer"),
        ("max_detections", True, "a positive integer"),
        ("rpn_candidates", 5, "two positive integers"),
        ("rpn_proposals", (5, 0), "two positive integers"),
        ("rpn_beta", 0.0, "a positive number"),
        ("box_beta", None, "a positive number"),
        ("nms_iou", 2, r"in \[0, 1\]"),
        ("score_threshold", "high", r"in \[0, 1\]"),
        ("box_positives", math.nan, r"in \[0, 1\]"),
        ("rpn_iou", (0.3, 0.7), "two numbers"),
        ("rpn_iou", 0.5, "two numbers"),
        ("aspect_ratios", (), "have at least one positive number"),
        ("anchor_sizes", (0, 8), "None, or one positive number"),
    ):
        with pytest.raises(ValueError, match=f"`{name}` must .*{rule}.*Rec.*{name}="):
            boxes.DetectionSettings(**{name: value})


def test_mask_targets_are_the_rule():
    masks = golden_masks()[None].astype("uint8")
    rois = random_boxes(4, 8, largest=120)[None]
    matched = np.arange(8)[None] % 2
    found = np.array(boxes.mask_targets(masks, rois, matched, (64, 80), 9))[0]
    for i, roi in enumerate(rois[0]):
        mask = masks[0, matched[0, i], ..., None]
        expected = rule_roi_align(mask, roi, 9, 1.0, 0)[..., 0]
        np.testing.assert_allclose(found[i], expected, atol=2e-5)


def test_mask_targets_of_a_huge_box():
    rois = np.array([[[-1e5, -1e5, 1e5, 1e5], [0, 0, 0, 0]]], "float32")
    masks = golden_masks()[None]
    found = boxes.mask_targets(masks, rois, np.zeros((1, 2), int), (64, 80))
    assert np.isfinite(found).all()


def test_golden_pasting():
    golden = GOLDEN["roi_align"]["masks"]
    rois = np.array(golden["boxes"], "float32")
    shape = (len(rois), 28, 28)
    masks = np.random.default_rng(5).uniform(0, 1, shape).astype("float32")
    pasted = np.array(boxes.paste_masks(masks, rois, golden["image_size"]))
    expected = golden["paste"]
    np.testing.assert_allclose(pasted.sum((1, 2)), expected["sums"], rtol=1e-5)
    pixels = (pasted >= 0.5).sum((1, 2)).tolist()
    assert pixels == expected["pixels_at_least_half"]
    assert (pasted[0] != 0).sum() == expected["box0_nonzero_pixels"]
