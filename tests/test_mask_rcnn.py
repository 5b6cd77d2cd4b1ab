"""`heads.MaskRCNN` computes what torchvision's `maskrcnn_resnet50_fpn` computes."""

import dataclasses
import json
import pathlib
import re
import types

import golden
import keras
import numpy as np
import pytest
import tensorflow as tf
import torchvision_script

import keras_resadapt
from keras_resadapt import OperatingPoint, backbones, boxes, heads, inference
from keras_resadapt.convert import load_pytorch_state_dict
from keras_resadapt.convert.mask_rcnn import mask_rcnn_targets
from keras_resadapt.export.detection_signatures import detection_signatures
from keras_resadapt.layers import LayerSet, SlimmableConv2D, SlimmableDense
from keras_resadapt.points import RecordingPoint
from keras_resadapt.profile import profile_point

POINT = OperatingPoint()


def state_dict(reference):
    """The reference network's weights, by its rule."""
    weights = {}
    for key, shape in reference["state_dict"]:
        factors = [f for p, f in reference["weight_scale"] if re.match(p, key)]
        value = golden.array(key, shape)
        if factors:
            value = (value.astype("float64") * factors[0]).astype("float32")
        weights[key] = value
    return weights


def make_detector(num_classes, backbone, **kwargs):
    """A backbone and a head that have been called."""
    head = heads.MaskRCNN(num_classes, backbone.level_strides, name="head", **kwargs)
    images = np.zeros((1, 64, 64, 3), "float32")
    head(backbone.pyramid(images), point=POINT)
    return types.SimpleNamespace(backbone=backbone, head=head)


def fill(detector, weights):
    """Loads a checkpoint, and returns the variable of each of its keys."""
    targets = mask_rcnn_targets(detector, weights)
    weights = {k: v for k, v in weights.items() if not k.endswith("tracked")}
    assert targets.keys() == weights.keys()
    for key, ((variable,), to_keras) in targets.items():
        variable.assign(to_keras(weights[key]))
    return {key: variable for key, ((variable,), _) in targets.items()}


def network_input(case):
    """Normalized and padded images."""
    rng = np.random.default_rng(0)
    mean = np.array([0.485, 0.456, 0.406], "float32")
    deviation = np.array([0.229, 0.224, 0.225], "float32")
    _, _, height, width = case["evaluation"]["padded_shape"]
    images = np.zeros((len(case["image_sizes"]), height, width, 3), "float32")
    for image, (h, w) in zip(images, case["image_sizes"]):
        pixels = rng.uniform(0, 1, (3, h, w)).astype("float32").transpose(1, 2, 0)
        image[:h, :w] = (pixels - mean) / deviation
    return images


def check_summary(value, expected, rtol=6e-5):
    value = np.asarray(value, "float64")
    if value.ndim == 4:
        value = value.transpose(0, 3, 1, 2)
    assert expected["shape"] == list(value.shape)
    np.testing.assert_allclose(np.linalg.norm(value), expected["l2"], rtol=rtol)
    np.testing.assert_allclose(np.abs(value).mean(), expected["abs_mean"], rtol=rtol)
    atol = rtol * expected["abs_mean"] * value.size
    np.testing.assert_allclose(value.sum(), expected["sum"], atol=atol)


@pytest.fixture(scope="module")
def reference():
    """An extract of the reference computation."""
    path = pathlib.Path(__file__).parent / "data" / "maskrcnn_resnet50_fpn.json"
    return json.loads(path.read_text())


@pytest.fixture(scope="module")
def mask_rcnn(reference):
    backbone = backbones.ResNet((3, 4, 6, 3), bottleneck=True)
    detector = make_detector(3, backbone)
    detector.variables = fill(detector, state_dict(reference))
    variables = backbone.trainable_variables + detector.head.trainable_variables
    assert sum(np.prod(v.shape) for v in variables) == reference["num_params"]
    return detector


@pytest.mark.slow
@pytest.mark.parametrize("index", [0, 1])
def test_golden_evaluation(reference, mask_rcnn, index):
    case = reference["cases"][index]
    expected = case["evaluation"]
    head = mask_rcnn.head
    images = network_input(case)
    check_summary(images, expected["normalized_input"])
    sizes = np.array(case["image_sizes"], "int32")
    pyramid = mask_rcnn.backbone.pyramid(images)
    for x, summary in zip(pyramid.values(), expected["body"].values()):
        check_summary(x, summary)
    features = head.fpn(pyramid, point=POINT)
    for x, summary in zip(features, expected["fpn"].values()):
        check_summary(x, summary)
        x = np.array(x)
        center = x[0, x.shape[1] // 2, x.shape[2] // 2, :6]
        np.testing.assert_allclose(
            center, summary["center_channels_0_to_5"], rtol=6e-5, atol=1e-4
        )
        np.testing.assert_allclose(
            x[0, 0, :, 7][:6], summary["channel_7_row_0"], rtol=6e-5, atol=1e-4
        )

    anchors = head.anchors(features, images.shape[1:3])
    for level, summary in zip(anchors, expected["anchors"]["per_level"]):
        level = np.array(level)
        assert len(level) == summary["count"]
        for place, name in ((0, "first"), (1, "second"), (3, "fourth"), (-1, "last")):
            np.testing.assert_array_equal(level[place], summary[name])
        assert level.sum() == summary["sum"]

    objectness, deltas = head.rpn(features, point=POINT)
    for level, x, moves in zip(expected["rpn"], objectness, deltas):
        x = np.array(x)
        batch, _, height, width = level["objectness"]["shape"]
        check_summary(x.reshape(batch, height, width, -1), level["objectness"])
        np.testing.assert_allclose(
            x[0, :8], level["objectness_first8_in_anchor_order"], atol=1e-4
        )
        x = np.array(moves)
        check_summary(x.reshape(batch, height, width, -1), level["deltas"])
        np.testing.assert_allclose(
            x[0, :3], level["deltas_first3_in_anchor_order"], atol=1e-4
        )

    rois, scores, count = map(
        np.array, head.propose(objectness, deltas, anchors, sizes, False)
    )
    for i, summary in enumerate(expected["proposals"]):
        assert abs(count[i] - summary["count"]) <= 1
        np.testing.assert_allclose(rois[i, :20], summary["first20"], atol=2e-3)
        np.testing.assert_allclose(scores[i, :20], summary["first20_scores"], rtol=6e-5)
        if count[i] == summary["count"]:
            np.testing.assert_allclose(rois[i].sum(), summary["sum"], rtol=6e-5)
            np.testing.assert_allclose(
                scores[i].sum(), summary["scores_sum"], rtol=6e-5
            )

    detections = head(pyramid, point=POINT, sizes=sizes)
    detections = {name: np.array(x) for name, x in detections.items()}
    for i, summary in enumerate(expected["detections"]):
        check_detections({k: x[i] for k, x in detections.items()}, sizes[i], summary)
    if "fixed_boxes" in expected:
        check_fixed_boxes(head, features, expected["fixed_boxes"])


def check_detections(found, size, expected):
    first = slice(20)
    assert found["count"] == expected["count"]
    np.testing.assert_allclose(
        found["boxes"][first], expected["first20_boxes"], rtol=6e-5, atol=4e-3
    )
    np.testing.assert_allclose(
        found["scores"][first], expected["first20_scores"], rtol=6e-5
    )
    np.testing.assert_array_equal(
        found["classes"][first] + 1, expected["first20_labels"]
    )
    counts = np.bincount(found["classes"] + 1, minlength=4)
    np.testing.assert_array_equal(counts, expected["label_counts"])
    np.testing.assert_allclose(found["boxes"].sum(), expected["boxes_sum"], rtol=6e-5)
    np.testing.assert_allclose(found["scores"].sum(), expected["scores_sum"], rtol=6e-5)
    masks = 1 / (1 + np.exp(-found["masks"][first].astype("float64")))
    summary = expected["mask_probabilities_28"]
    np.testing.assert_allclose(masks.sum((1, 2)), summary["sum_of_first20"], rtol=1e-4)
    np.testing.assert_allclose(
        masks[0, 12:16, 12:16],
        summary["detection0_rows_12_to_15_columns_12_to_15"],
        atol=2e-4,
    )
    pasted = np.array(boxes.paste_masks(masks, found["boxes"][first], tuple(size)))
    summary = expected["pasted_masks"]
    np.testing.assert_allclose(pasted.sum((1, 2)), summary["sum_of_first20"], rtol=2e-4)
    pixels = (pasted >= 0.5).sum((1, 2))
    expected_pixels = np.array(summary["pixels_at_least_half_of_first20"])
    assert np.abs(pixels - expected_pixels).max() <= 1


def check_fixed_boxes(head, features, expected):
    rois = tf.constant(expected["boxes"], tf.float32)[None]
    strides = list(head.strides.values())
    levels = boxes.levels_of(rois, strides)[0]
    np.testing.assert_array_equal(levels, [int(x) for x in expected["fpn_level"]])
    for size in (7, 14):
        x = np.array(head.align(features, rois, size), "float64")
        summary = expected[f"roi_align_{size}"]
        np.testing.assert_allclose(
            np.sqrt((x**2).sum((1, 2, 3))), summary["l2_per_box"], rtol=6e-5
        )
        np.testing.assert_allclose(x.sum((1, 2, 3)), summary["sum_per_box"], atol=0.2)
        if size == 7:
            np.testing.assert_allclose(
                x[0, :, :, 0], summary["box0_channel0"], atol=2e-4
            )
            np.testing.assert_allclose(
                x[4, 3, :, 3], summary["box4_channel3_row3"], atol=2e-4
            )
    logits, deltas = head.classify(features, rois, POINT)
    np.testing.assert_allclose(logits[0], expected["class_logits"], atol=2e-4)
    np.testing.assert_allclose(
        np.reshape(deltas, (8, -1)), expected["box_deltas"], atol=3e-4
    )
    decoded = boxes.decode(deltas, rois[:, :, None], (10, 10, 5, 5))
    np.testing.assert_allclose(
        decoded[0], expected["decoded_boxes"], rtol=6e-5, atol=4e-3
    )
    masks = np.array(head.mask_head(head.align(features, rois, 14), point=POINT))
    summary = expected["mask_logits"]
    check_summary_of_masks(masks.transpose(0, 3, 1, 2).astype("float64"), summary)
    classes = tf.constant([[1] * 8])
    np.testing.assert_allclose(
        head.segment(features, rois, classes, POINT)[0], masks[..., 1], atol=1e-5
    )


def check_summary_of_masks(masks, expected):
    np.testing.assert_allclose(
        masks.sum((2, 3)), expected["sum_per_box_and_class"], atol=0.1
    )
    np.testing.assert_allclose(
        np.sqrt((masks**2).sum((1, 2, 3))), expected["l2_per_box"], rtol=6e-5
    )
    np.testing.assert_allclose(
        masks[0, 1, 12:16, 12:16],
        expected["box0_class1_rows_12_to_15_columns_12_to_15"],
        atol=1e-4,
    )
    np.testing.assert_allclose(masks[4, 2, 0], expected["box4_class2_row_0"], atol=1e-4)


def ellipse(box, height, width):
    y, x = np.mgrid[:height, :width] + 0.5
    x1, y1, x2, y2 = box
    x = (x - (x1 + x2) / 2) / ((x2 - x1) / 2)
    y = (y - (y1 + y2) / 2) / ((y2 - y1) / 2)
    return x**2 + y**2 <= 1


def targets_of(objects, height, width, room):
    """Targets of one image, padded to a number of objects."""
    count = len(objects)
    targets = {
        "boxes": np.full((1, room, 4), np.nan, "float32"),
        "classes": np.full((1, room), 77),
        "masks": np.ones((1, room, height, width), "uint8"),
        "count": np.array([count]),
    }
    for i, (box, label) in enumerate(objects):
        targets["boxes"][0, i] = box
        targets["classes"][0, i] = label - 1
        targets["masks"][0, i] = ellipse(box, height, width)
    return targets


LOSSES = {
    "objectness": "loss_objectness",
    "rpn_box": "loss_rpn_box_reg",
    "class": "loss_classifier",
    "box": "loss_box_reg",
    "mask": "loss_mask",
}


@pytest.mark.slow
@pytest.mark.parametrize("index", [0, 1])
def test_golden_training(reference, mask_rcnn, index):
    case = reference["cases"][0]
    expected = case["training"][index]
    images = network_input(case)
    size = images.shape[1:3]
    (objects,) = case["targets"]["per_image"]
    targets = targets_of([(o["box"], o["label"]) for o in objects], *size, room=4)
    areas = targets["masks"][0, :2].sum((1, 2))
    np.testing.assert_array_equal(areas, case["targets"]["mask_areas"][0])
    head = mask_rcnn.head
    training = expected["batch_norm"] != "running"
    watched = mask_rcnn.variables
    variables = [v for v in watched.values() if v.trainable]
    statistics = [v for v in watched.values() if not v.trainable]
    before = [np.array(v) for v in statistics]

    with tf.GradientTape() as tape:
        pyramid = mask_rcnn.backbone.pyramid(images, training=training)
        features = head.fpn(pyramid, point=POINT)
        sizes = tf.constant([size])
        order = boxes.first_by_index
        outputs = head.compare(features, POINT, size, sizes, targets, order)
        losses = boxes.detection_losses(outputs)
        total = sum(losses.values())
    gradients = tape.gradient(total, [v.value for v in variables])
    for variable, value in zip(statistics, before):
        variable.assign(value)
    for ours, theirs in LOSSES.items():
        np.testing.assert_allclose(
            losses[ours], expected["losses"][theirs], rtol=6e-5, err_msg=ours
        )
    check_sampling(outputs, expected)
    norms = {
        id(v): 0.0 if g is None else float(np.linalg.norm(tf.convert_to_tensor(g)))
        for v, g in zip(variables, gradients)
    }
    total = np.sqrt(sum(norm**2 for norm in norms.values()))
    np.testing.assert_allclose(total, expected["grad_l2_all_float64"], rtol=2.5e-4)
    for key, norm in expected["grad_l2_float64"].items():
        np.testing.assert_allclose(
            norms[id(watched[key])], norm, rtol=3e-4, atol=1e-7, err_msg=key
        )


def check_sampling(outputs, expected):
    (rpn,), (roi,) = expected["rpn_sampling"], expected["roi_sampling"]
    weights = np.array(outputs["anchor_weights"], bool)
    labels = np.array(outputs["anchor_labels"])
    assert labels[weights].sum() == rpn["sampled_positive"]
    assert (labels[weights] == 0).sum() == rpn["sampled_negative"]
    weights = np.array(outputs["box_weights"], bool)
    positive = np.array(outputs["box_classes"])[weights] > 0
    assert positive.sum() == roi["sampled_positive"]
    assert (~positive).sum() == roi["sampled_negative"]
    deltas = np.abs(outputs["box_targets"])[weights][positive].sum()
    np.testing.assert_allclose(
        deltas, roi["regression_targets_abs_sum_of_positives"], rtol=6e-5
    )
    (masks,) = expected["mask_targets"]
    found = np.array(outputs["mask_targets"])[np.array(outputs["mask_weights"]) > 0]
    assert list(found.shape) == masks["shape"]
    np.testing.assert_allclose(found.sum(), masks["sum"], rtol=6e-5)
    np.testing.assert_allclose(found[:3].sum((1, 2)), masks["first3_sums"], rtol=6e-5)


def test_costs(reference):
    """With 1000 proposals and 100 detections per image."""
    backbone = backbones.ResNet((3, 4, 6, 3), bottleneck=True)
    head = heads.MaskRCNN(3, backbone.level_strides)
    row = profile_point(
        lambda x, p: head(backbone.pyramid(x, p, training=True), point=p),
        (128, 160, 3),
        POINT,
    )
    madds = reference["madds_128x160"]
    image = madds["backbone.body"] + madds["backbone.fpn"] + madds["rpn.head"]
    proposals = 1000 * madds["box_head_and_predictor_per_box"]
    detections = 100 * madds["mask_head_and_predictor_per_box"]
    assert row.madds == image + proposals + detections
    assert row.params == reference["num_params"]


# === Small networks ===

SETTINGS = boxes.DetectionSettings(
    rpn_candidates=(40, 30),
    rpn_proposals=(40, 30),
    rpn_samples=16,
    box_samples=24,
    max_detections=8,
)
CHECKPOINT_NAMES = {  # today's and those before torchvision 0.14
    "rpn.head.conv.0.0.": "rpn.head.conv.",
    "inner_blocks.0.0.": "inner_blocks.0.",
    "inner_blocks.1.0.": "inner_blocks.1.",
    "layer_blocks.0.0.": "layer_blocks.0.",
    "layer_blocks.1.0.": "layer_blocks.1.",
    **{f"mask_head.{i}.0.": f"mask_head.mask_fcn{i + 1}." for i in range(4)},
}


def make_small(masks=True, layers=LayerSet(), filters=(8, 16), depths=(1, 1), **kwargs):
    keras.utils.set_random_seed(0)
    backbone = backbones.ResNet(depths, filters, layers=layers)
    options = {"channels": 16, "units": 16, "settings": SETTINGS} | kwargs
    head = heads.MaskRCNN(
        2, backbone.level_strides, masks, layers=layers, name="head", **options
    )
    return types.SimpleNamespace(backbone=backbone, head=head)


@pytest.fixture(scope="module")
def small():
    detector = make_small()
    detector.head(detector.backbone.pyramid(np.zeros((1, 32, 32, 3))), point=POINT)
    return detector


@pytest.fixture(scope="module")
def detect(small):
    """One graph for all sizes."""
    spec = [tf.TensorSpec((None, None, None, 3)), tf.TensorSpec((None, 2), tf.int32)]

    @tf.function(input_signature=spec)
    def detect(images, sizes):
        size = tuple(tf.unstack(tf.shape(images)[1:3]))
        pyramid = small.backbone.pyramid(images)
        return small.head(pyramid, point=POINT, image_size=size, sizes=sizes)

    return detect


@pytest.fixture(scope="module")
def train(small):
    """One graph of the losses and gradients for all sizes."""
    targets = {
        "boxes": tf.TensorSpec((None, None, 4)),
        "classes": tf.TensorSpec((None, None), tf.int32),
        "count": tf.TensorSpec((None,), tf.int32),
        "masks": tf.TensorSpec((None, None, None, None), tf.uint8),
    }
    spec = [tf.TensorSpec((None, None, None, 3)), targets]

    @tf.function(input_signature=spec)
    def train(images, targets):
        with tf.GradientTape() as tape:
            pyramid = small.backbone.pyramid(images)
            outputs = small.head(pyramid, point=POINT, targets=targets)
            losses = boxes.detection_losses(outputs)
            total = sum(losses.values())
        variables = [v.value for v in small.head.trainable_variables]
        return losses, tape.gradient(total, variables)

    return train


def random_images(batch, height, width):
    shape = (batch, height, width, 3)
    return np.random.default_rng(0).normal(size=shape).astype("float32")


def batch_of_targets(boxes_of_images, classes, count, size=(64, 96)):
    targets = {
        "boxes": np.array(boxes_of_images, "float32"),
        "classes": np.array(classes, "int32"),
        "count": np.array(count, "int32"),
    }
    shape = (*targets["classes"].shape, *size)
    return targets | {"masks": np.ones(shape, "uint8")}


def test_batches_are_padded(small, detect):
    """Images have the detections that they have alone."""
    images = random_images(2, 64, 96)
    images[1, 40:] = images[1, :, 50:] = 0
    sizes = np.array([[64, 96], [40, 50]], "int32")
    together = detect(images, sizes)
    limits = sizes[:, None, [1, 0, 1, 0]]
    assert (np.array(together["boxes"]) <= limits).all()
    assert (np.array(together["boxes"]) >= 0).all()
    for i in range(2):
        alone = detect(images[i : i + 1], sizes[i : i + 1])
        for name in ("boxes", "scores", "classes", "count", "masks"):
            np.testing.assert_allclose(
                together[name][i], alone[name][0], atol=1e-3, err_msg=name
            )
        count = int(alone["count"][0])
        assert count > 0
        assert (np.array(alone["classes"][0, count:]) == -1).all()
        assert (np.array(alone["masks"][0, count:]) == 0).all()
    eager = small.head(small.backbone.pyramid(images), point=POINT, sizes=sizes)
    np.testing.assert_allclose(eager["masks"], together["masks"], atol=1e-3)


def test_images_of_one_row(detect):
    """The sides are multiples of the strides."""
    found = detect(random_images(1, 8, 512), np.array([[1, 510]], "int32"))
    assert all(np.isfinite(x).all() for x in found.values())


def test_nothing_is_detected_in_nan(detect):
    images = np.full((1, 64, 96, 3), np.nan, "float32")
    found = detect(images, np.array([[64, 96]], "int32"))
    assert all(np.isfinite(x).all() for x in found.values())


BAD_TARGETS = {
    "no objects": ([[[0, 0, 9, 9]] * 2] * 2, [[0, 1]] * 2, [0, 0]),
    "no area": ([[[5, 5, 5, 9], [9, 9, 2, 2]]] * 2, [[0, 1]] * 2, [2, 2]),
    "outside": (
        [[[200, 200, 300, 300], [-50, -50, -9, -9]]] * 2,
        [[0, 1]] * 2,
        [2, 2],
    ),
    "class": ([[[5, 5, 50, 50]] * 2] * 2, [[-1, 2]] * 2, [2, 2]),
    "NaN": ([[[np.nan, 5, 50, 50], [0, 0, np.inf, 9]]] * 2, [[0, 1]] * 2, [2, 2]),
}


@pytest.mark.parametrize("name", BAD_TARGETS)
def test_objects_that_cannot_be_trained_on(train, name):
    """They count for nothing, and the losses are finite."""
    losses, gradients = train(
        random_images(2, 64, 96), batch_of_targets(*BAD_TARGETS[name])
    )
    assert all(np.isfinite(x) for x in losses.values())
    assert losses["rpn_box"] == losses["box"] == losses["mask"] == 0
    assert losses["objectness"] > 0 and losses["class"] > 0
    assert all(np.isfinite(tf.convert_to_tensor(g)).all() for g in gradients)


def test_targets_without_room_for_objects(train):
    """As a batch of images without objects can have."""
    objects = np.zeros((2, 0, 4)), np.zeros((2, 0)), [0, 0]
    losses, _ = train(random_images(2, 64, 96), batch_of_targets(*objects))
    expected, _ = train(
        random_images(2, 64, 96), batch_of_targets(*BAD_TARGETS["no objects"])
    )
    for name, value in expected.items():
        assert np.isfinite(value)
        if name in ("rpn_box", "box", "mask"):
            assert losses[name] == 0


def test_more_objects_than_room_and_empty_masks(train):
    targets = batch_of_targets([[[5, 5, 50, 50]]] * 2, [[0]] * 2, [3, 1])
    targets["masks"][:] = 0
    losses, gradients = train(random_images(2, 64, 96), targets)
    assert all(np.isfinite(x) and x > 0 for x in losses.values())
    assert all(np.isfinite(tf.convert_to_tensor(g)).all() for g in gradients)


def test_unusual_objects(train):
    """A huge box, a tiny one, and one image without objects."""
    objects = [[-1e5, -1e5, 1e5, 1e5], [3, 3, 3.001, 3.001]]
    targets = batch_of_targets([objects] * 2, [[0, 1]] * 2, [2, 0])
    losses, gradients = train(random_images(2, 64, 96), targets)
    assert all(np.isfinite(x) for x in losses.values())
    assert losses["mask"] > 0
    assert all(np.isfinite(tf.convert_to_tensor(g)).all() for g in gradients)


def test_padding_of_targets_changes_nothing(small):
    images = random_images(2, 64, 96)
    targets = batch_of_targets(
        [[[8, 4, 60, 50], [30, 20, 90, 60]], [[0, 0, 40, 40]] * 2],
        [[0, 1], [1, 0]],
        [2, 1],
    )
    more = {
        "boxes": np.pad(targets["boxes"], [(0, 0), (0, 3), (0, 0)]),
        "classes": np.pad(targets["classes"], [(0, 0), (0, 3)]),
        "masks": np.pad(targets["masks"], [(0, 0), (0, 3), (0, 0), (0, 0)]),
        "count": targets["count"],
    }
    half = targets | {"masks": targets["masks"][:, :, ::2, ::2]}
    expected = compare(small, images, targets)
    for other in (more, half):
        found = compare(small, images, other)
        assert found.keys() == {"objectness", "rpn_box", "class", "box", "mask"}
        for name, value in expected.items():
            np.testing.assert_allclose(found[name], value, rtol=1e-5, err_msg=name)
    weighted = compare(small, images, targets, sample_weight=np.array([1.0, 0.0]))
    assert 0 < weighted["class"] < expected["class"]


def compare(detector, images, targets, **kwargs):
    """The losses with the first boxes by index."""
    head, size = detector.head, images.shape[1:3]
    features = head.fpn(detector.backbone.pyramid(images), point=POINT)
    sizes = tf.constant([size] * len(images))
    order = boxes.first_by_index
    outputs = head.compare(features, POINT, size, sizes, targets, order)
    losses = boxes.detection_losses(outputs, **kwargs)
    return {name: float(value) for name, value in losses.items()}


# === Mirrored images ===


def test_losses_of_mirrored_images():
    """They are those of the images, for a network that is mirrored too.

    Torchvision's anchors, ROI align and mask targets have pixel i at the coordinate
    i x stride. They are symmetric about the middle of the first and the last pixel,
    and not about the middle of the image. Convolutions of stride 2 have the same
    symmetry for 2 k + 1 pixels. Here are 33 pixels at coordinates 0 to 32, and levels
    of 9 and 5 pixels. All samples are taken, because the first ones have no symmetry.
    """
    settings = dataclasses.replace(
        SETTINGS, rpn_samples=700, box_samples=60, box_positives=1.0
    )
    detector = make_small(filters=(8,), depths=(1,), settings=settings)
    last, grid = 32, (40, 40)  # 40 // 9 and 40 // 5 are the strides
    images = random_images(1, 33, 33)
    targets = batch_of_targets([[[4, 3, 20, 25], [10, 8, 30, 31]]], [[0, 1]], [2])
    masks = np.random.default_rng(0).integers(0, 2, (1, 2, 33, 33)).astype("uint8")
    masks[..., :2] = masks[..., -2:] = 0  # column 31 is repeated as that of the edge

    def losses(images, targets):
        features = detector.head.fpn(detector.backbone.pyramid(images), point=POINT)
        outputs = detector.head.compare(
            features,
            POINT,
            grid,
            tf.constant([[last, last]]),
            targets,
            boxes.first_by_index,
            mask_extent=(33, 33),
        )
        return outputs, boxes.detection_losses(outputs)

    outputs, expected = losses(images, targets | {"masks": masks})
    assert 0 < np.sum(outputs["anchor_weights"]) < 700  # all that are not ignored
    assert np.sum(outputs["anchor_labels"]) > 2 and np.sum(outputs["mask_weights"]) > 2
    mirror_kernels(detector)
    x1, y1, x2, y2 = np.moveaxis(targets["boxes"], -1, 0)
    mirrored = {
        "boxes": np.stack([last - x2, y1, last - x1, y2], axis=-1),
        "masks": masks[..., ::-1],
    }
    _, found = losses(images[:, :, ::-1], targets | mirrored)
    for name, value in expected.items():
        assert value > 0
        np.testing.assert_allclose(found[name], value, rtol=1e-4, err_msg=name)
    # Neither the network nor the targets alone are symmetric.
    _, other = losses(images[:, :, ::-1], targets | {"masks": masks})
    assert abs(sum(other.values()) - sum(expected.values())) > 1e-2


def mirror_kernels(detector):
    """Mirrors what a detector computes from left to right."""
    head = detector.head
    for variable in detector.backbone.variables + head.variables:
        if len(variable.shape) == 4:
            variable.assign(np.array(variable)[:, ::-1])
    hidden = head.box_head.hidden[0].kernel
    cells = np.reshape(hidden, (7, 7, -1, hidden.shape[-1]))
    hidden.assign(cells[:, ::-1].reshape(hidden.shape))
    for layer in (head.rpn.deltas, head.box_head.deltas):  # the shifts along x
        sign = np.tile(np.float32([-1, 1, 1, 1]), layer.bias.shape[0] // 4)
        layer.kernel.assign(layer.kernel * sign)
        layer.bias.assign(layer.bias * sign)


def test_widths_share_the_heads():
    layers = LayerSet(
        conv=SlimmableConv2D, dense=SlimmableDense, norm=norm_by_batch, slimmable=True
    )
    detector = make_small(layers=layers, filters=(16, 32))
    images = random_images(1, 32, 32)
    costs = {}
    for width in (1.0, 0.25):
        point = OperatingPoint(width=width)
        pyramid = detector.backbone.pyramid(images, point)
        found = detector.head(pyramid, point=point)
        assert found["masks"].shape == (1, 8, 28, 28)
        recorder = point.interpreted_by(RecordingPoint)
        detector.head(pyramid, point=recorder)
        costs[width] = [(x[-1], y[-1]) for _, x, y in recorder.calls]
    different = [pair for pair in zip(*costs.values()) if pair[0] != pair[1]]
    # Only the lateral convolutions have fewer inputs.
    assert len(different) == 2
    assert all(full[1] == narrow[1] == 16 for full, narrow in different)


def norm_by_batch(name, **kwargs):
    return keras.layers.Identity(name=name)


def test_half_precision():
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        detector = make_small()
    finally:
        keras.config.set_dtype_policy("float32")
    images = random_images(1, 32, 32)
    pyramid = detector.backbone.pyramid(images)
    assert all(x.dtype == tf.bfloat16 for x in pyramid.values())
    found = detector.head(pyramid, point=POINT)
    targets = batch_of_targets([[[3.3, 4, 20, 20]]], [[1]], [1], (32, 32))
    outputs = detector.head(pyramid, point=POINT, targets=targets)
    for value in (*found.values(), *outputs.values()):
        assert value.dtype in (tf.float32, tf.int32)


def test_settings_of_mmdetection(small):
    settings = dataclasses.replace(
        SETTINGS, box_beta=1.0, rpn_least_iou=0.3, inside_anchors_only=True
    )
    other = make_small(settings=settings)
    images = random_images(1, 64, 96)
    targets = batch_of_targets([[[8, 4, 60, 50]]], [[0]], [1])
    losses = compare(other, images, targets, box_beta=settings.box_beta)
    assert all(np.isfinite(x) for x in losses.values())
    with pytest.raises(ValueError, match="`anchor_sizes` must have 3 entries"):
        make_small(settings=dataclasses.replace(SETTINGS, anchor_sizes=(8, 16)))


# === Networks ===

SMALL = {
    "resolutions": (32,),
    "max_size": 32,
    "depths": (1,),
    "filters": (8,),
    "channels": 8,
    "units": 8,
    "masks": False,
    "settings": {
        "rpn_candidates": (20, 20),
        "rpn_proposals": (10, 10),
        "score_threshold": 0.0,
        "max_detections": 4,
    },
}


@pytest.fixture(scope="module")
def network():
    keras.utils.set_random_seed(0)
    return keras_resadapt.RSMaskRCNN(2, "resnet18", **SMALL)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"resolutions": ()}, "`resolutions` must contain at least one"),
        ({"resolutions": (64.5,)}, "`resolutions` must be positive integers"),
        ({"max_size": None}, "`max_size` must be a positive integer.*max_size=None"),
        ({"max_size": 0}, "`max_size` must be a positive integer.*max_size=0"),
        ({"max_size": 64.5}, "`max_size` must be a positive integer.*max_size=64.5"),
        ({"max_size": 31}, "`max_size` must be at least the largest resolution, 32 p"),
        ({"depths": 5}, "`depths` must be None or have one entry per stage.*depths=5"),
        ({"filters": (8, 8)}, "`depths`, `filters` must have one positive entry per"),
        ({"settings": {"nms": 1}}, r"`settings` must map some of \['anchor_.*'nms': 1"),
        ({"settings": [1]}, r"`settings` must map some of .*settings=\[1\]"),
        ({"settings": {"rpn_proposals": 5}}, "`rpn_proposals` must be two positive"),
        ({"backbone": "vgg"}, "`backbone` must be one of"),
    ],
)
def test_arguments_that_cannot_work(changes, message):
    for factory in (keras_resadapt.MutualMaskRCNN, keras_resadapt.RSMaskRCNN):
        with pytest.raises(ValueError, match=message):
            factory(2, **{"backbone": "resnet18", **SMALL, **changes})


def test_width_range_that_cannot_work():
    with pytest.raises(ValueError, match="`width_range` must be the smallest"):
        keras_resadapt.MutualMaskRCNN(2, "resnet18", 0.5, **SMALL)


IMAGE = np.zeros((1, 24, 30, 3), "float32")


@pytest.mark.parametrize(
    "images, options, error, message",
    [
        (IMAGE, {"batch_size": 0}, ValueError, "`batch_size` must be a positive int"),
        (IMAGE, {"batch_size": 2.5}, ValueError, "`batch_size` must be a positive"),
        (IMAGE, {"point": "r64"}, ValueError, "name of one of.*'r32'.*point='r64'"),
        (IMAGE, {"point": OperatingPoint(64)}, ValueError, "64"),
        (IMAGE, {"point": 5}, TypeError, "`point` must be an `OperatingPoint`"),
        (IMAGE[0], {}, ValueError, r"shape \(height, width, 3\). Rec.*\(30, 3\)"),
        (None, {}, TypeError, "`images` must be an array.*Received: a NoneType"),
        ("a.png", {}, TypeError, "`images` must be an array.*Received: a str"),
        (["a.png"], {}, TypeError, r"`images\[0\]` must be an array of numbers.*a str"),
        (iter(IMAGE), {}, TypeError, "`images` must be an array"),
        (IMAGE > 0, {}, TypeError, "array of numbers. Received: dtype bool"),
        (IMAGE + 0j, {}, TypeError, "array of numbers. Received: dtype complex64"),
        (IMAGE, {"sizes": [4]}, ValueError, r"`sizes` must.*\(1, 2\).*shape \(1,\)"),
        (IMAGE, {"sizes": [[4, 4.5]]}, ValueError, "`sizes` must hold the integers"),
        (IMAGE, {"sizes": [[0, 4]]}, ValueError, r"1 pixel.*\(0, 4\) for the image 0"),
        (IMAGE, {"sizes": [[25, 4]]}, ValueError, r"`sizes` must be.*\(24, 30\) pix"),
        (
            np.full_like(IMAGE, np.inf),
            {},
            ValueError,
            "`images` must hold finite pixel values",
        ),
    ],
)
def test_images_that_cannot_be_detected(network, images, options, error, message):
    with pytest.raises(error, match=message):
        network.detect(images, **options)


def test_pass_without_targets(network):
    """It is that of images which fill their canvases; points can be named."""
    images = random_images(1, 32, 32)
    (point,) = network.operating_points
    found = network.run_at(point.name, images)
    expected = network.run_at(point, images, {"size": [[32, 32]]})
    assert found["count"] > 0
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value)


@pytest.mark.parametrize(
    "arguments, error, message",
    [
        (("r64", IMAGE), ValueError, "name of one of"),
        (("r32", IMAGE[0]), ValueError, r"\(batch, height, width, 3\).*\(24, 30, 3\)"),
        (("r32", "image"), TypeError, "`images` must be an array of numbers"),
        (("r32", IMAGE, {}), ValueError, r"`targets` must be None.*the keys \[\]"),
        (("r32", IMAGE, IMAGE), ValueError, "`targets` must be None.*ndarray"),
        (
            ("r32", IMAGE, {"size": [[24, 30]] * 2}),
            ValueError,
            r"of shape \(1, 2\). Received: `size` of shape \(2, 2\)",
        ),
    ],
)
def test_passes_that_cannot_run(network, arguments, error, message):
    with pytest.raises(error, match=message):
        network.run_at(*arguments)


def test_data_that_cannot_be_scored(network):
    with pytest.raises(ValueError, match=r"`data` must have batches \(images, targ"):
        network.evaluate(IMAGE)
    with pytest.raises(ValueError, match="Received: a tuple of 3"):
        network.score_points([(IMAGE, {}, 1)])
    with pytest.raises(ValueError, match="`data` must have at least one"):
        network.score_points([])


def test_evaluation_of_unusual_images(network):
    """Without objects, of 1 x 5000 pixels, with a crowd and a box without area."""
    pytest.importorskip("pycocotools")
    targets = {
        "image_id": np.array([3, 5]),
        "size": np.array([[32, 32], [1, 32]]),
        "original_size": np.array([[64, 64], [1, 5000]]),
        "boxes": np.float32([[[0] * 4] * 2, [[0, 0, 5000, 1], [7, 1, 9, 1]]]),
        "classes": np.array([[0, 0], [1, 0]]),
        "crowd": np.array([[False, False], [True, False]]),
        "area": np.float32([[0, 0], [5000, 0]]),
        "count": np.array([0, 2]),
    }
    images = random_images(2, 32, 32)
    (scores,) = network.score_points([(images, targets)]).values()
    assert scores["box_ap"] == 0 and np.isnan(scores["box_ap_large"])
    one = {name: value[:1] for name, value in targets.items()}
    empty = {"boxes": one["boxes"][:, :0]}
    empty |= {name: one[name][:, :0] for name in ("classes", "crowd", "area")}
    scores = network.evaluate([(images[:1], one | empty)], return_dict=True)
    assert all(map(np.isnan, scores.values()))
    found = network.detect([np.zeros((1, 5000, 3), "uint8")])
    assert (found["boxes"] <= [5000, 1, 5000, 1]).all()


def test_signature_of_empty_images(network):
    (point,) = network.operating_points
    (signature,) = detection_signatures(network, [point], dict, None).values()
    with pytest.raises(tf.errors.InvalidArgumentError, match="at least one pixel"):
        signature.function(tf.zeros((1, 0, 32, 3)))


def test_frozen_statistics_are_not_calibrated():
    """Those of the full network; sub-networks are normalized by their batches."""
    model = keras_resadapt.MutualMaskRCNN(
        2, "resnet18", (0.5, 1.0), frozen_bn=True, **SMALL
    )
    norm = model.backbone.stages[0][0].bn1
    norm.moving_mean.assign(np.arange(8))
    batches = [255 * np.random.default_rng(0).random((2, 32, 32, 3), "float32")]
    points = [model.full_point, OperatingPoint(32, 0.5)]
    inference.calibrate_batch_norm(model, batches, points, verbose=False)
    np.testing.assert_array_equal(norm.moving_mean, np.arange(8))
    narrow, _ = norm.statistics(32, 0.5)
    assert np.isfinite(narrow).all() and np.abs(narrow - np.arange(8)).max() > 1
    with pytest.raises(ValueError, match=r"`frozen_bn=True`.*\['r32_w100'\]"):
        inference.calibrate_batch_norm(model, batches, model.full_point)


# === Checkpoints ===


@pytest.mark.parametrize("masks", [True, False])
def test_checkpoints_with_both_names(masks):
    detector = make_small(masks)
    detector.head(detector.backbone.pyramid(np.zeros((1, 32, 32, 3))), point=POINT)
    present = mask_rcnn_targets(detector, {})
    assert any("mask" in key for key in present) == masks
    old = mask_rcnn_targets(detector, {"rpn.head.conv.weight": np.zeros(1)})
    renamed = {}
    for key, target in present.items():
        for name, old_name in CHECKPOINT_NAMES.items():
            key = key.replace(name, old_name)
        renamed[key] = target[0]
    assert renamed == {key: target[0] for key, target in old.items()}
    assert len({id(v) for (v,), _ in present.values()}) == len(present)


def test_checkpoint_with_the_numbers_of_coco():
    """A model of 80 classes leaves out the 10 numbers that COCO does not use."""
    backbone = backbones.ResNet((1,), (8,))
    head = heads.MaskRCNN(80, backbone.level_strides, channels=4, units=4, name="head")
    head(backbone.pyramid(np.zeros((1, 32, 32, 3))), point=POINT)
    numbers = np.arange(91.0)
    checkpoint = {
        "roi_heads.box_predictor.cls_score.bias": numbers,
        "roi_heads.box_predictor.bbox_pred.weight": np.tile(
            (numbers[:, None] + np.arange(4) / 4).reshape(-1, 1), 4
        ),
        "roi_heads.mask_predictor.mask_fcn_logits.weight": np.tile(
            numbers.reshape(-1, 1, 1, 1), (1, 4, 1, 1)
        ),
    }
    detector = types.SimpleNamespace(backbone=backbone, head=head)
    targets = mask_rcnn_targets(detector, checkpoint)
    for key, value in checkpoint.items():
        (variable,), to_keras = targets[key]
        variable.assign(to_keras(value))
    # The backgrounds, person, ..., stop sign, parking meter, ..., toothbrush
    found = np.array(head.box_head.classes.bias)
    np.testing.assert_array_equal(found[[0, 1, 12, 13, 80]], [0, 1, 13, 14, 90])
    np.testing.assert_array_equal(head.mask_head.masks.kernel[0, 0, 0], found)
    deltas = np.reshape(head.box_head.deltas.kernel[0], (81, 4))
    np.testing.assert_array_equal(deltas, found[:, None] + np.arange(4) / 4)


def test_checkpoints_of_other_networks(small):
    vgg = backbones.VGG((1, 1, 1, 1, 1), (8, 8, 8, 16, 16))
    with pytest.raises(TypeError, match="must have a ResNet backbone"):
        mask_rcnn_targets(types.SimpleNamespace(backbone=vgg, head=small.head), {})
    other = types.SimpleNamespace(backbone=small.backbone, head=vgg)
    with pytest.raises(ValueError, match="must be a detector"):
        mask_rcnn_targets(other, {})


@pytest.mark.slow
def test_checkpoint_with_an_epsilon_of_zero():
    """Torchvision's own detections, from the same weights."""
    path = pathlib.Path(__file__).parent / "data" / "maskrcnn_epsilon_zero.json"
    expected = json.loads(path.read_text())
    weights = torchvision_script.weights(expected["shapes"])
    images = torchvision_script.image()[None]
    model = keras_resadapt.RSMaskRCNN(
        2,
        "resnet18",
        (64,),
        max_size=64,
        depths=(1, 1, 1, 1),
        channels=16,
        units=16,
        settings={"score_threshold": 0.0, "max_detections": 8},
    )
    load_pytorch_state_dict(model, weights, bn_epsilon=0)
    found = {name: x[0] for name, x in model.detect(images).items()}
    np.testing.assert_allclose(found["scores"], expected["scores"], rtol=1e-4)
    np.testing.assert_allclose(found["boxes"], expected["boxes"], atol=1e-2)
    np.testing.assert_array_equal(found["classes"] + 1, expected["labels"])
    masks = 1 / (1 + np.exp(-found["masks"]))
    pasted = np.array(boxes.paste_masks(masks, found["boxes"], (64, 64)))
    np.testing.assert_allclose(pasted.sum((1, 2)), expected["mask_sums"], rtol=1e-3)

    load_pytorch_state_dict(model, weights)
    other = model.detect(images)
    assert np.abs(other["scores"][0] - expected["scores"]).max() > 1e-3
    with pytest.raises(ValueError, match="`bn_epsilon` must be a finite number of at"):
        load_pytorch_state_dict(model, weights, bn_epsilon=-1)
    zeros = {"n.running_var": np.zeros(2), "n.weight": np.ones(2)}
    with pytest.raises(ValueError, match="`bn_epsilon` must be positive for"):
        load_pytorch_state_dict(model, zeros, bn_epsilon=0)
