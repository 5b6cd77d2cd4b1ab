"""The task of segmentation, for the families that can carry it."""

import json
import os
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import randomize
from keras import ops

import keras_resadapt
from keras_resadapt import (
    OperatingPoint,
    backbones,
    export,
    inference,
    layers,
    losses,
    quantization,
    tasks,
    training,
)
from keras_resadapt.quantization import Int8

RESOLUTIONS = (32, 24, 16)
CLASSES = 3


def make_task(**kwargs):
    kwargs = {"channels": 8, "dropout": 0.0} | kwargs
    return tasks.Segmentation(CLASSES, **kwargs)


def make_rsnet(resolutions=RESOLUTIONS, task=None, **kwargs):
    backbone = backbones.ResNet((1, 1), (8, 16), stem="small")
    task = make_task(decoder="light_weight_refinenet") if task is None else task
    return keras_resadapt.RSNet(backbone, task, resolutions, **kwargs)


def make_mutual(resolutions=RESOLUTIONS, task=None, **kwargs):
    backbone = backbones.MobileNetV1((1, 1), (32, 64), stem="small")
    task = make_task(decoder="light_weight_refinenet") if task is None else task
    kwargs = {"num_random_widths": 1} | kwargs
    return keras_resadapt.MutualNet(backbone, task, (0.5, 1.0), resolutions, **kwargs)


FAMILIES = {"RSNet": make_rsnet, "MutualNet": make_mutual}


@pytest.fixture(params=FAMILIES)
def model(request):
    keras.utils.set_random_seed(0)
    return FAMILIES[request.param](RESOLUTIONS[:2])


def make_masks(count=8, size=(32, 32), seed=0, void=0.1):
    """Images whose colour tells the class of each pixel, and their masks."""
    rng = np.random.default_rng(seed)
    height, width = size
    labels = rng.integers(0, CLASSES, (count, -(-height // 8), -(-width // 8)))
    labels = labels.repeat(8, 1).repeat(8, 2)[:, :height, :width].astype("uint8")
    colours = np.array([[220, 40, 40], [40, 220, 40], [40, 40, 220]])
    images = (colours[labels] + rng.normal(0, 20, (*labels.shape, 3))).clip(0, 255)
    masks = labels.copy()
    masks[rng.uniform(size=masks.shape) < void] = 255
    return images.astype("float32"), masks


# === NumPy's confusion matrix and losses ===


def confusion_of(masks, predictions):
    kept = masks != 255
    index = masks[kept].astype(int) * CLASSES + predictions[kept]
    return np.bincount(index, minlength=CLASSES**2).reshape(CLASSES, CLASSES)


def scores_of(confusion):
    correct, rows, columns = (
        np.diag(confusion),
        confusion.sum(axis=1),
        confusion.sum(axis=0),
    )
    union = rows + columns - correct
    iou = [c / u for c, u in zip(correct, union) if u]
    accuracy = [c / r for c, r in zip(correct, rows) if r]
    return {
        "mean_iou": np.mean(iou),
        "pixel_accuracy": correct.sum() / rows.sum(),
        "mean_accuracy": np.mean(accuracy),
    }


def log_softmax(z):
    z = z - z.max(axis=-1, keepdims=True)
    return z - np.log(np.exp(z).sum(axis=-1, keepdims=True))


def cross_entropy(masks, logits, weights=1.0):
    """Per labelled pixel."""
    kept = masks != 255
    labels = np.where(kept, masks, 0).astype(int)[..., None]
    loss = -np.take_along_axis(log_softmax(logits), labels, axis=-1)[..., 0]
    return (loss * weights)[kept].sum() / kept.sum()


def divergence(masks, teacher, student):
    kept = masks != 255
    p, q = log_softmax(teacher), log_softmax(student)
    return (np.exp(p) * (p - q)).sum(axis=-1)[kept].mean()


# === Training ===


def test_it_trains_and_distils(model):
    images, masks = make_masks(16)
    model.compile(keras.optimizers.Adam(0.005))
    history = model.fit(images, masks, batch_size=8, epochs=12, verbose=0).history
    assert history["loss"][-1] < 0.7 * history["loss"][0]
    logs = model.evaluate(*make_masks(8, seed=1), verbose=0, return_dict=True)
    assert logs["mean_iou"] > 0.5
    points = [*model.output_names]
    names = {
        f"{point}_{score}"
        for point in points
        for score in ("mean_iou", "pixel_accuracy", "mean_accuracy")
    }
    assert names <= set(logs)
    assert logs["mean_iou"] == logs[f"{points[0]}_mean_iou"]
    assert set(logs) - names == {
        "loss",
        "mean_iou",
        "pixel_accuracy",
        "mean_accuracy",
    }


def test_loss_terms_of_an_rsnet():
    model = make_rsnet()
    images, masks = make_masks()
    views = tuple(layers.resize_bilinear(images, r) for r in RESOLUTIONS)
    outputs = {name: np.array(z) for name, z in model(views).items()}
    assert {z.shape for z in outputs.values()} == {(8, 32, 32, CLASSES)}
    points = [outputs[f"r{r}"] for r in RESOLUTIONS]
    ensemble = np.mean(points, axis=0)
    np.testing.assert_allclose(outputs["ensemble"], ensemble, atol=1e-6)

    terms = model.loss_terms(masks, outputs)
    expected = {
        "classification": sum(cross_entropy(masks, z) for z in points),
        "ensemble": cross_entropy(masks, ensemble),
        "distillation": 2
        / 4
        * sum(
            divergence(masks, [ensemble, *points][t], [ensemble, *points][s])
            for s in range(1, 4)
            for t in range(s)
        ),
    }
    for name, value in expected.items():
        np.testing.assert_allclose(terms[name], value, rtol=1e-5, atol=1e-9)
    # Logits at void pixels count for nothing.
    changed = {name: z.copy() for name, z in outputs.items()}
    for z in changed.values():
        z[masks == 255] = np.random.default_rng(0).normal(0, 9, (CLASSES,))
    for name, value in model.loss_terms(masks, changed).items():
        np.testing.assert_allclose(value, terms[name], rtol=1e-6)


def test_sub_networks_learn_nothing_of_void_pixels():
    model = make_mutual((32,))
    rng = np.random.default_rng(0)
    _, masks = make_masks(2)
    teacher, student = rng.normal(size=(2, *masks.shape, CLASSES)).astype("float32")
    loss = model.sub_network_loss(teacher, tf.constant(student), masks)
    np.testing.assert_allclose(loss, divergence(masks, teacher, student), rtol=1e-5)
    weights = np.array([1, 0], "float32")
    loss = model.sub_network_loss(teacher, tf.constant(student), masks, weights)
    kept = (masks != 255).sum(axis=(1, 2))
    expected = divergence(masks[:1], teacher[:1], student[:1]) * kept[0] / kept.sum()
    np.testing.assert_allclose(loss, expected, rtol=1e-5)


def test_forms_of_masks_and_weights():
    """Integer masks of both ranks and one-hot masks give the same loss."""
    task = make_task()
    loss = task.make_loss()
    _, masks = make_masks(4)
    logits = np.random.default_rng(0).normal(size=(*masks.shape, CLASSES))
    logits = tf.constant(logits, tf.float32)
    one_hot = (masks[..., None] == np.arange(CLASSES)).astype("float32")
    expected = cross_entropy(masks, np.array(logits))
    for form in (masks, masks[..., None], masks.astype("int64"), one_hot):
        task.check_targets(tf.constant(form))
        np.testing.assert_allclose(loss(form, logits), expected, rtol=1e-5)
    per_image = np.array([0.5, 0, 2, 1], "float32")
    per_pixel = np.random.default_rng(1).uniform(size=masks.shape).astype("float32")
    for weights in (per_image, per_image[:, None], per_pixel, per_pixel[..., None]):
        full = weights.reshape(*weights.shape[:1], -1)
        full = full.reshape(4, 1, 1) if full.size == 4 else full.reshape(masks.shape)
        expected = cross_entropy(masks, np.array(logits), full)
        got = loss(masks, logits, weights)
        np.testing.assert_allclose(got, expected, rtol=1e-5)
    for weights in (np.ones((4, 8)), np.ones((4, 8, 8)), np.ones((4, 32, 32, 2))):
        with pytest.raises(ValueError, match="`sample_weight` must have shape"):
            loss(masks, logits, weights)


def test_losses_of_keras():
    task = make_task()
    _, masks = make_masks(4)
    logits = np.random.default_rng(0).normal(size=(*masks.shape, CLASSES))
    logits = tf.constant(logits, tf.float32)
    default = task.make_loss()(masks, logits)
    one_hot = (masks[..., None] == np.arange(CLASSES)).astype("float32")
    for loss, targets in (
        ("sparse_categorical_crossentropy", masks),
        ("categorical_crossentropy", one_hot),
        (keras.losses.SparseCategoricalCrossentropy(), masks),
        (keras.losses.CategoricalCrossentropy(from_logits=True), one_hot),
    ):
        value = task.make_loss(loss)(targets, logits)
        np.testing.assert_allclose(value, default, rtol=1e-6)
    summed = keras.losses.SparseCategoricalCrossentropy(
        from_logits=True, reduction="sum"
    )
    np.testing.assert_allclose(
        task.make_loss(summed)(masks, logits),
        default * (masks != 255).sum(),
        rtol=1e-5,
    )
    with pytest.raises(ValueError, match="`loss` must be an instance"):
        task.make_loss("poisson")


def test_all_void_masks(model):
    images, masks = make_masks(8)
    masks[:] = 255
    model.compile(training.SGD(0.1), run_eagerly=True)
    before = [np.array(v) for v in model.head.trainable_variables]
    logs = model.train_on_batch(images, masks, return_dict=True)
    assert logs["loss"] == 0
    assert {v for k, v in logs.items() if k != "loss"} == {0}
    for v, value in zip(model.head.trainable_variables, before):
        np.testing.assert_array_equal(v, value)


def test_bad_targets(model):
    images, masks = make_masks(8)
    # Graphs of one family are enough.
    eager = isinstance(model, keras_resadapt.MutualNet)

    def refuses(match, error, images=images, masks=masks, **kwargs):
        model.compile(training.SGD(0.1), run_eagerly=eager)
        with pytest.raises(error, match=match):
            model.fit(images, masks, batch_size=8, verbose=0, shuffle=False, **kwargs)

    refuses("targets of 16 x 16 pixels", ValueError, masks=masks[:, :16, :16])
    refuses("an integer dtype.*float32", ValueError, masks=masks.astype("float32"))
    refuses("Masks must have shape", ValueError, masks=np.zeros(8, "int32"))
    refuses("Masks must have shape", ValueError, masks=np.zeros((8, 32, 32, 7)))
    refuses("labels", ValueError, masks=None)
    wrong = masks.copy()
    wrong[5, 3, 2] = 9
    refuses(
        r"(?s)from 0 to 2, or 255 for void.*Received: class.*9.*in image.*5",
        tf.errors.InvalidArgumentError,
        masks=wrong,
    )
    weights = np.ones((8, 3, 3), "float32")
    refuses("`sample_weight` must have shape", ValueError, sample_weight=weights)
    small = {"images": images[:, :16, :16], "masks": masks[:, :16, :16]}
    refuses("at the largest resolution", ValueError, **small)


def test_a_label_out_of_range_is_nan_without_a_check():
    task = make_task()
    _, masks = make_masks(2)
    masks[0, 0, 0] = 7
    logits = tf.zeros((*masks.shape, CLASSES))
    assert np.isnan(task.make_loss()(masks, logits))


@pytest.mark.parametrize(
    "kwargs, match",
    [
        ({"num_classes": 1}, "`num_classes` must be an integer"),
        ({"decoder": "unet"}, "`decoder` must be one of"),
        ({"ignore_class": "void"}, "`ignore_class` must be an integer or None"),
        ({"channels": 0}, "`channels` must be a positive integer"),
        ({"dropout": 1}, r"`dropout` must be in \[0, 1\)"),
    ],
)
def test_bad_arguments(kwargs, match):
    with pytest.raises(ValueError, match=match):
        tasks.Segmentation(**{"num_classes": 3, **kwargs})


# === Metrics ===


def test_scores_are_those_of_numpy():
    """Over a whole set of uneven batches, resized to the size of the masks."""
    keras.utils.set_random_seed(2)
    model = randomize(make_rsnet())
    for v in model.head.trainable_variables:
        v.assign(v + np.random.default_rng(0).normal(0, 0.1, v.shape))
    model.compile()
    images, _ = make_masks(11)
    _, masks = make_masks(11, (40, 56), seed=3)
    for absent in (False, True):  # a class that is neither labelled nor predicted
        if absent:
            masks[masks == 1] = 2
            model.head.classifier.bias.assign([0, -1e4, 0])
        logs = model.evaluate(images, masks, batch_size=4, verbose=0, return_dict=True)
        logits = []
        for r in RESOLUTIONS:
            z = model.logits(layers.resize_bilinear(images, r), f"r{r}")
            logits.append(tf.image.resize(z, (40, 56)).numpy())
        named = dict(zip([f"r{r}" for r in RESOLUTIONS], logits))
        named["ensemble"] = np.einsum("s,s...->...", model.ensemble_weights, logits)
        for name, z in named.items():
            expected = scores_of(confusion_of(masks, z.argmax(axis=-1)))
            if absent:
                assert (masks != 1).all() and (z.argmax(axis=-1) != 1).all()
            for score, value in expected.items():
                assert abs(logs[f"{name}_{score}"] - value) < 1e-6, (name, score)


def test_counts_are_exact_integers():
    metric = tasks.ConfusionScores(CLASSES)
    assert metric.confusion.dtype == "int64"
    big = 3 * 10**9
    metric.confusion.assign(np.diag([big, big, big]))
    masks = np.zeros((1, 2, 2), "uint8")
    logits = np.zeros((1, 2, 2, CLASSES), "float32")
    logits[..., 1] = 1
    metric.update_state(masks, logits)
    assert int(metric.confusion[0, 1]) == 4
    assert int(metric.confusion[0, 0]) == big
    config = keras.saving.serialize_keras_object(metric)
    assert keras.saving.deserialize_keras_object(config).scores == metric.scores
    empty = tasks.ConfusionScores(CLASSES).result()
    assert {float(v) for v in empty.values()} == {0}


def test_metrics_that_the_user_passes():
    model = make_rsnet((32, 16))
    images, masks = make_masks()
    model.compile(
        metrics=[
            "mean_iou",
            "accuracy",
            keras.metrics.SparseTopKCategoricalAccuracy(2, name="top2"),
            keras.metrics.Precision(class_id=1),
        ],
        weighted_metrics=["pixel_accuracy"],
    )
    weights = np.ones(masks.shape, "float32")
    weights[:, 16:] = 0
    logs = model.evaluate(
        images, masks, sample_weight=weights, verbose=0, return_dict=True
    )
    z = np.array(model.task.align(model.logits(images, "r32"), (32, 32)))
    predictions, kept = z.argmax(axis=-1), masks != 255
    confusion = confusion_of(masks, predictions)
    np.testing.assert_allclose(logs["mean_iou"], scores_of(confusion)["mean_iou"])
    np.testing.assert_allclose(
        logs["accuracy"], (predictions == masks)[kept].mean(), rtol=1e-5
    )
    least = z.argmin(axis=-1)
    np.testing.assert_allclose(logs["top2"], (least != masks)[kept].mean(), rtol=1e-5)
    top = confusion_of(masks[:, :16], predictions[:, :16])
    np.testing.assert_allclose(
        logs["pixel_accuracy"], scores_of(top)["pixel_accuracy"], rtol=1e-5
    )
    assert "mean_accuracy" not in logs
    with pytest.raises(ValueError):
        model.compile(metrics=["no_such_metric"])


# === Sizes of images ===


@pytest.mark.slow
def test_images_that_are_not_square(model):
    images, masks = make_masks(8, (30, 44))
    model.compile(training.SGD(0.01, 0.9))
    history = model.fit(images, masks, batch_size=8, epochs=3, verbose=0).history
    assert np.isfinite(history["loss"]).all()
    logs = model.evaluate(images, masks, verbose=0, return_dict=True)
    assert 0 <= logs["mean_iou"] <= 1
    (point, *_) = model.operating_points
    logits = model.logits(images, point)
    assert logits.shape[0] == 8 and logits.shape[-1] == CLASSES
    if isinstance(model, keras_resadapt.RSNet):
        views = model.prepare_inputs(images)
        assert [v.shape[1:3] for v in views] == [(30, 44), (22, 33)]
        outputs = model(views)
        assert {z.shape[1:3] for z in outputs.values()} == {(30, 44)}


def test_the_point_selects_the_statistics():
    model = randomize(make_rsnet())
    images, _ = make_masks(2, (20, 28))
    large, small = (np.array(model.logits(images, name)) for name in ("r32", "r16"))
    assert large.shape == small.shape == (2, 20, 28, CLASSES)
    assert np.abs(large - small).max() > 1e-4
    with pytest.raises(ValueError, match="name the operating point"):
        model(images)
    with pytest.raises(ValueError, match="takes images of 32 x 32 pixels"):
        model.logits(np.zeros((1, 24, 24, 3), "float32"), "r32")


@pytest.mark.slow
def test_images_smaller_than_the_stride():
    backbone = backbones.ResNet((1, 1, 1, 1), (8, 8, 8, 8))
    model = keras_resadapt.RSNet(backbone, make_task(), (64,))
    images = np.zeros((1, 24, 64, 3), "float32")
    with pytest.raises(ValueError, match="at least 32 pixels per side.*24 x 64"):
        model.logits(images, "r64")
    model.compile()
    with pytest.raises(ValueError, match="at least 32 pixels per side"):
        model.evaluate(images, np.zeros((1, 24, 64), "uint8"), verbose=0)
    logits = model.logits(np.zeros((1, 33, 65, 3), "float32"), "r64")
    assert logits.shape == (1, 9, 17, CLASSES)


# === What every network can do ===


@pytest.mark.slow
def test_profile_save_and_configuration(model, tmp_path):
    images, masks = make_masks()
    model.compile(
        training.SGD(0.05), metrics=["mean_iou", "accuracy"], run_eagerly=True
    )
    model.fit(images, masks, verbose=0)
    rows = model.profile()
    assert [row.madds for row in rows] == sorted(
        (row.madds for row in rows), reverse=True
    )
    model.save(tmp_path / "model.keras")
    copy = keras.saving.load_model(tmp_path / "model.keras")
    assert copy.task == model.task and repr(copy.task) == repr(model.task)
    (point, *_) = model.operating_points
    np.testing.assert_allclose(
        copy.logits(images, point), model.logits(images, point), atol=1e-5
    )
    logs = (
        m.evaluate(images, masks, verbose=0, return_dict=True) for m in (model, copy)
    )
    first, second = logs
    assert first.keys() == second.keys()
    for name, value in first.items():
        np.testing.assert_allclose(second[name], value, rtol=1e-4, err_msg=name)
    copy.fit(images, masks, verbose=0)


def test_another_task_on_the_same_backbone(model):
    model = randomize(model)
    copy = model.with_task(tasks.Segmentation(5, channels=8))
    for mine, theirs in zip(model.backbone.variables, copy.backbone.variables):
        np.testing.assert_array_equal(mine, theirs)
    assert copy.num_classes == 5


@pytest.mark.slow
def test_half_precision(model):
    images, masks = make_masks(16)
    half = type(model).from_config({**model.get_config(), "dtype": "mixed_float16"})
    assert half.head.levels[0].reduce.compute_dtype == "float16"
    assert half.logits(images, half.operating_points[0]).dtype == "float32"
    half.compile(keras.optimizers.Adam(0.005))
    history = half.fit(images, masks, batch_size=8, epochs=6, verbose=0).history
    assert history["loss"][-1] < history["loss"][0]


@pytest.mark.parametrize("make", FAMILIES.values(), ids=FAMILIES)
@pytest.mark.slow
def test_two_replicas_are_one(make):
    """Void pixels are counted over both, and scores over all pixels."""
    images, masks = make_masks(8)
    masks[:4, :20] = 255  # so that the replicas have shares of different sizes
    results = []
    data = tf.data.Dataset.from_tensor_slices((images, masks)).batch(8)
    # Random widths of two replicas are tested with classifiers.
    kwargs = {} if make is make_rsnet else {"num_random_widths": 0}
    for strategy in ("none", "mirrored"):
        keras.utils.set_random_seed(0)
        with training.strategy_scope(strategy):
            model = make(RESOLUTIONS[:2], **kwargs)
            # Running a step eagerly takes less time than tracing it.
            model.compile(training.SGD(0.01, 0.9), run_eagerly=strategy == "none")
        logs = model.fit(data, epochs=2, verbose=0).history
        if make is make_rsnet:  # evaluation is the same for both families
            scores = model.evaluate(data, verbose=0, return_dict=True)
            logs |= {f"evaluated {name}": value for name, value in scores.items()}
        results.append((logs, [np.array(v) for v in model.variables]))
    one, two = results
    assert one[0].keys() == two[0].keys()
    for name, value in one[0].items():
        np.testing.assert_allclose(two[0][name], value, rtol=1e-4, err_msg=name)
    for mine, theirs in zip(one[1], two[1]):
        np.testing.assert_allclose(theirs, mine, rtol=1e-3, atol=2e-5)


def test_saved_model(model, tmp_path):
    images, _ = make_masks()
    randomize(model)
    path = str(tmp_path / "served" / "1")
    export.export_saved_model(model, path, encoded=False)
    (point, *_) = model.operating_points
    loaded = tf.saved_model.load(path)
    signature = loaded.signatures[point.name]
    answer = signature(images=tf.constant(images))
    logits = model.task.align(model.logits(images, point), (32, 32))
    assert set(answer) == {"classes", "probabilities"}
    assert answer["classes"].dtype == tf.uint8
    expected = ops.softmax(logits)
    np.testing.assert_allclose(answer["probabilities"], expected, atol=1e-5)
    same = answer["classes"] == np.argmax(logits, axis=-1)
    assert np.mean(same) > 0.999
    empty = signature(images=tf.constant(images[:0]))
    assert empty["classes"].shape == (0, 32, 32)


def test_calibration_of_a_slimmable_decoder():
    model = make_mutual(task=make_task(channels=32))
    full, narrow = model.full_point, OperatingPoint(16, 0.5)
    images, _ = make_masks()
    inference.calibrate_batch_norm(model, [images], [narrow], verbose=False)
    view = layers.resize_bilinear(images, 16)
    assert model.logits(view, narrow).shape == (8, 16, 16, CLASSES)
    rows = {row.point: row for row in model.profile()}
    assert rows[narrow].madds < 0.15 * rows[full].madds
    assert rows[narrow].params < 0.4 * rows[full].params


def test_calibration_with_images_that_are_not_square():
    """Both sides are scaled as in `fit`."""
    model, point = make_mutual(), OperatingPoint(16, 0.5)
    images, _ = make_masks(4, (32, 48))
    views = tuple(layers.resize_bilinear(images, (r, r * 3 // 2)) for r in RESOLUTIONS)
    logits = []
    for batch in (images, (views, None)):
        inference.calibrate_batch_norm(model, [batch], [point], verbose=False)
        logits.append(np.array(model.logits(views[-1], point)))
        model.forget_statistics()
    np.testing.assert_allclose(*logits, rtol=1e-5, atol=1e-6)
    assert logits[0].shape == (4, 16, 24, CLASSES)
    with pytest.raises(ValueError, match="at least 2 pixels per side.*1 x 24"):
        inference.calibrate_batch_norm(model, [images[:, :2]], [point], verbose=False)


@pytest.mark.slow
def test_int8_of_a_slimmable_decoder():
    """Its logits are close to those of the float network at a calibrated point.

    The images of the calibration are not square.
    """
    keras.utils.set_random_seed(0)
    floating, point = randomize(make_mutual((32, 16))), OperatingPoint(16, 0.5)
    images, _ = make_masks(4)
    inference.calibrate_batch_norm(floating, [images], [point], verbose=False)
    model = quantization.quantize(floating, Int8())
    wide, _ = make_masks(4, (32, 48))
    quantization.calibrate_ranges(model, [wide], [point], verbose=False)
    view = layers.resize_bilinear(images, 16)
    expected = np.array(floating.logits(view, point))
    error = np.abs(np.array(model.logits(view, point)) - expected)
    assert 0 < error.mean() < 0.05 * expected.std()


@pytest.fixture(scope="module")
def trained():
    """A network after some training."""
    keras.utils.set_random_seed(0)
    model = make_rsnet((32, 16), make_task(decoder="light_weight_refinenet"))
    model.compile(keras.optimizers.Adam(0.005))
    model.fit(*make_masks(32), batch_size=8, epochs=8, verbose=0)
    return model


@pytest.mark.slow
def test_int8_and_litert(trained, tmp_path):
    from test_litert import CONVOLUTIONS, operators

    model = quantization.quantize(trained, Int8())
    quantization.calibrate_ranges(model, [make_masks(32)], verbose=False)
    path = tmp_path / "model.tflite"
    written = export.export_litert(model, path)
    assert written["signatures"] == [p.name for p in model.operating_points]
    for rows in operators(path).values():
        kinds = [types for name, types in rows if name in CONVOLUTIONS]
        assert all(t == ["INT8", "INT8", "INT32", "INT8"] for t in kinds), kinds
    network = inference.LiteRTNetwork(path)
    images, masks = make_masks(16, seed=5)
    for point in model.operating_points:
        view = layers.resize_bilinear(images, point.resolution)
        scores = []
        predictions = []
        for logits in (
            network.logits(view, point.name),
            model.logits(view, point),
            trained.logits(view, point),
        ):
            z = np.array(model.task.align(tf.constant(np.array(logits)), (32, 32)))
            predictions.append(z.argmax(axis=-1))
            scores.append(scores_of(confusion_of(masks, predictions[-1]))["mean_iou"])
        assert abs(scores[0] - scores[1]) < 0.01, scores
        assert abs(scores[1] - scores[2]) < 0.05, scores
        assert (predictions[0] == predictions[1]).mean() > 0.99


@pytest.mark.slow
def test_int8_trains(trained):
    model = quantization.quantize(trained, Int8(last=False))
    assert model.head.classifier.stays_in_float
    model.compile(training.SGD(0.01, 0.9), run_eagerly=True)
    images, masks = make_masks(16)
    history = model.fit(images, masks, batch_size=8, verbose=0).history
    assert np.isfinite(history["loss"]).all()


def test_alpha_divergence_of_pixels():
    model = make_mutual((32,), distillation="alpha")
    assert isinstance(model.divergence, losses.AlphaDivergence)
    model.compile(training.SGD(0.05), run_eagerly=True)
    history = model.fit(*make_masks(8), verbose=0).history
    assert np.isfinite(history["loss"]).all()


ON_JAX = """
import json, sys
import keras, numpy as np
import keras_resadapt
from keras_resadapt import backbones, tasks, training
assert keras.backend.backend() == "jax"
keras.utils.set_random_seed(0)
data = np.load(sys.argv[1])
task = tasks.Segmentation(3, decoder="light_weight_refinenet", channels=8, dropout=0)
backbone = backbones.ResNet((1, 1), (8, 16), stem="small")
model = keras_resadapt.RSNet(backbone, task, (32, 16))
model.load_weights(sys.argv[2])
model.compile(training.SGD(0.05), jit_compile=True)
model.fit(data["images"], data["masks"], batch_size=8, shuffle=False, verbose=0)
logs = model.evaluate(data["images"], data["masks"], verbose=0, return_dict=True)
print(json.dumps(logs))
"""


@pytest.mark.slow
def test_jax_trains_the_same(tmp_path):
    pytest.importorskip("jax", reason="jax is an optional extra")
    images, masks = make_masks(8)
    model = make_rsnet((32, 16))
    np.savez(tmp_path / "data.npz", images=images, masks=masks)
    model.save_weights(tmp_path / "start.weights.h5")
    model.compile(training.SGD(0.05), run_eagerly=True)
    model.fit(images, masks, batch_size=8, shuffle=False, verbose=0)
    expected = model.evaluate(images, masks, verbose=0, return_dict=True)
    run = subprocess.run(
        [sys.executable, "-c", ON_JAX, tmp_path / "data.npz"]
        + [tmp_path / "start.weights.h5"],
        env={
            **os.environ,
            "KERAS_BACKEND": "jax",
            "JAX_PLATFORMS": "cpu",
            # Compile fast, not for speed
            "XLA_FLAGS": "--xla_backend_optimization_level=0",
        },
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    logs = json.loads(run.stdout.splitlines()[-1])
    assert logs.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(logs[name], value, rtol=2e-3, atol=2e-3)
